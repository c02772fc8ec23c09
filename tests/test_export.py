"""Exported networks through functions and the command: they agree with the network, run without the kit, and are refused in one line."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from refusals import refused, refused_command, run_command

from uda_kit import export_network, load_weights, save_weights
from uda_kit.data.labels import CITYSCAPES19
from uda_kit.evaluation.windows import image_logits
from uda_kit.models import export
from uda_kit.models.segmenters import deeplab_v2
from uda_kit.models.timm_backbones import TimmOptions

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

NETWORKS = {  # name: (backbone, sizes that were not among those compared)
    "tiny": ("tiny", ((1, 75, 131), (2, 160, 64))),
    "lite0": ("lite0", ((1, 64, 192), (2, 128, 32))),
    "pyramid": ("lite0", ((1, 64, 192), (2, 96, 160))),
    "vit": ("timm:vit_tiny_patch16_224", ((1, 48, 112), (2, 80, 32))),
}
OPTIONS = {"pyramid": {"weights": "imagenet", "multi_level": False, "timm": TimmOptions(pyramid=4)}}  # as in recipes


def network(backbone, seed=0, **options):
    "A network with a random classifier whose scores are not nearly equal."
    torch.manual_seed(seed)
    net = deeplab_v2(19, backbone, **options)
    for conv in net.main.convs:
        conv.weight.data.mul_(5)
    net.space = CITYSCAPES19
    return net


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_weights(network("tiny"), tmp_path_factory.mktemp("net") / "net.safetensors", space=CITYSCAPES19)


@pytest.mark.parametrize("name", NETWORKS)
def test_both_formats_agree_with_the_network_to_1e_4(name, tmp_path):
    backbone, shapes = NETWORKS[name]
    if backbone != "tiny":
        pytest.importorskip("timm")
    net = network(backbone, **OPTIONS.get(name, {}))
    flags = [module.training for module in net.modules()]
    files = [tmp_path / "net.onnx", tmp_path / "net.pt2"]
    for exported in export_network(net, *files):
        assert exported.relative <= 1e-4 and exported.sizes.fixed is None, str(exported)
    assert [module.training for module in net.modules()] == flags
    session = onnxruntime.InferenceSession(files[0])
    program = torch.export.load(files[1]).module()
    net.eval()
    for seed, shape in enumerate(shapes):
        image = export.example_image(shape, 10 + seed)
        with torch.no_grad():
            wanted = image_logits(net, image)  # the computation of `evaluate` and `predict`
            got = program(image), torch.from_numpy(session.run(["logits"], {"image": image.numpy()})[0])
        for logits in got:
            assert logits.shape == wanted.shape
            assert float((logits - wanted).abs().max()) <= 1e-4 * max(1.0, float(wanted.abs().max()))


WITHOUT_KIT = """
import json, sys
sys.modules["uda_kit"] = None  # importing it fails
import torch
inside = {"uda_kit.json": ""}
program = torch.export.load(sys.argv[1], extra_files=inside).module()
about = json.loads(inside["uda_kit.json"])
logits = program(torch.full((1, 3, 40, 56), 0.5))
print(json.dumps([list(logits.shape), about["space"]["classes"][0], round(float(logits.sum()), 2)]))
"""


def test_command_and_program_without_the_kit(weights, tmp_path):
    file = tmp_path / "net.pt2"
    status, out, err = run_command("export", weights, file)
    assert status == 0, err
    record = json.loads(out.splitlines()[-1])
    assert record["files"][0]["difference"] < 1e-4 and record["files"][0]["step"] == 1
    assert "largest difference" in out.splitlines()[0]
    done = subprocess.run([sys.executable, "-c", WITHOUT_KIT, file], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    shape, first, total = json.loads(done.stdout.splitlines()[-1])
    with torch.no_grad():
        wanted = image_logits(load_weights(weights).eval(), torch.full((1, 3, 40, 56), 0.5))
    assert shape == [1, 19, 40, 56] and first == "road" and abs(total - float(wanted.sum())) < 0.1
    refused_command(["export", weights, file], "exists", "--overwrite", untouched=tmp_path)


def test_refused_before_anything_is_read(weights, tmp_path, monkeypatch):
    file = tmp_path / "net.pt2"
    refused_command(["export", weights, tmp_path / "net.engine"], ".onnx or .pt2", untouched=tmp_path)
    refused_command(["export", weights], "no file to write")
    refused_command(["export", weights, file, file], "twice", untouched=tmp_path)
    refused_command(["export", weights, file, "--tolerance", 0], "no tolerance", untouched=tmp_path)
    refused_command(["export", weights, file, "--space", "synthia16"], "19 classes", untouched=tmp_path)
    refused_command(["export", tmp_path / "none.safetensors", file], "no such file", untouched=tmp_path)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # as where it is not installed
    refused_command(["export", weights, tmp_path / "net.onnx"], "onnxruntime", "uda_kit[export]", untouched=tmp_path)


def test_a_file_that_differs_is_refused(weights, tmp_path, monkeypatch):
    other = network("tiny", seed=1)
    monkeypatch.setattr(export, "plain_copy", lambda net: other.eval())
    message = refused(lambda: export_network(load_weights(weights), tmp_path / "net.pt2", size=(64, 96)))
    assert "differs from the network" in message and not any(tmp_path.iterdir())


def test_weights_that_are_not_finite_are_refused(tmp_path):
    broken = network("tiny")
    broken.main.convs[0].weight.data[0, 0, 0, 0] = float("nan")
    message = refused(lambda: export_network(broken, tmp_path / "net.pt2"))
    assert "main.convs.0.weight" in message and "not finite" in message and not any(tmp_path.iterdir())


def test_sizes_are_narrowed_where_a_file_cannot_hold_a_part(tmp_path, monkeypatch):
    whole = torch.export.save

    def only_one_size(program, *rest, **more):
        if program.range_constraints and len(program.range_constraints) > 1:
            raise RuntimeError("Failed serializing node round_1")  # HRDA's, whose crops depend on the size
        return whole(program, *rest, **more)

    monkeypatch.setattr(torch.export, "save", only_one_size)
    monkeypatch.setattr(export, "FALLBACK", (64, 96))
    (exported,) = export_network(network("tiny"), tmp_path / "net.pt2")
    assert exported.sizes.fixed == (64, 96)


def test_fixed_size_and_uneven_images(tmp_path):
    (exported,) = export_network(network("tiny"), tmp_path / "net.onnx", size=(48, 80))
    assert exported.sizes.fixed == (48, 80) and exported.difference < 1e-4
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    image = session.get_inputs()[0]
    assert image.name == "image" and image.shape[1:] == [3, 48, 80] and isinstance(image.shape[0], str)
    (logits,) = session.run(None, {"image": np.zeros((3, 3, 48, 80), np.float32)})
    assert logits.shape == (3, 19, 48, 80)
