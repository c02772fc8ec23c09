"""Two processes that share a batch take the same steps as one process with the whole batch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

PROGRAM = """
import sys
import torch
from uda_kit.data.streets.dataset import StreetScenes
from uda_kit.data.streets.style import CAMERA, RENDERED
from uda_kit.methods.output_space import OutputSpaceTerms
from uda_kit.models.segmenters import deeplab_v2
from uda_kit.training.fit import SGD, LoaderConfig, RunOptions, Stage, fit
class Uneven(StreetScenes):
    "Scenes of which every second has no labels in its upper half: processes count different numbers of pixels."
    def scene(self, i):
        image, label = super().scene(i)
        label = label.copy()
        label[: 32 * (i % 2)] = 255
        return image, label
out, devices, multi_level = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "multi"
torch.manual_seed(0)
net = deeplab_v2(19, backbone="tiny", bn="frozen", multi_level=multi_level)
terms = OutputSpaceTerms(adv=0.1, adv_aux=0.02 if multi_level else 0, width=8).build(net)
size, batch = (64, 96), 2 // devices
source, target = LoaderConfig(Uneven(RENDERED, 8, size), batch), LoaderConfig(StreetScenes(CAMERA, 8, size, seed=1), batch, labelled=False)
stage = Stage("adapt", net, terms, source, target, steps=4, optimizer=SGD(lr=1e-2, head_multiplier=1.0))
fit(stage, out, RunOptions(accelerator="cpu", devices=devices, progress=False, log_every=1))
"""


def run(folder, devices, levels="multi"):
    script = folder / f"run{devices}.py"
    script.write_text(PROGRAM)
    out = folder / f"out{devices}{levels}"
    done = subprocess.run(
        [sys.executable, script, out, str(devices), levels], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (last,) = sorted((out / "checkpoints").glob("adapt-*"))[-1:]
    assert last.name == "adapt-0000004"
    return (
        load_file(last / "weights.safetensors"),
        load_file(last / "state.safetensors"),
        [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()],
    )


def test_same_weights_as_the_joint_batch(tmp_path):
    (one, one_state, one_log), (two, two_state, two_log) = run(tmp_path, 1), run(tmp_path, 2)
    assert [r["step"] for r in one_log] == [r["step"] for r in two_log] == [1, 2, 3, 4], "one process logs"
    for mine, theirs in zip(one_log, two_log, strict=True):  # and what it logs is the loss of the joint batch
        losses = [name for name in mine if name.startswith(("loss/", "adv"))]
        assert losses and [theirs[name] for name in losses] == pytest.approx([mine[name] for name in losses], rel=2e-3)
    for a, b in (
        (one, two),
        (
            {k: v for k, v in one_state.items() if "discriminator" in k},
            {k: v for k, v in two_state.items() if "discriminator" in k},
        ),
    ):
        assert a.keys() == b.keys() and a
        for k in a:
            assert torch.allclose(a[k].double(), b[k].double(), rtol=1e-3, atol=2e-5), (
                k,
                (a[k].double() - b[k].double()).abs().max(),
            )
    torch.manual_seed(0)
    from uda_kit.models.segmenters import deeplab_v2

    start = deeplab_v2(19, backbone="tiny", bn="frozen").state_dict()
    moved = max((one[k] - start[k]).abs().max().item() for k in start if one[k].is_floating_point())
    apart = max((one[k] - two[k]).abs().max().item() for k in start if one[k].is_floating_point())
    assert moved > 1e-3 and apart < moved / 100


def test_command_line_on_two_devices(tmp_path):
    "One run folder, one line of JSON, one process that speaks."
    program = Path(sys.executable).parent / "uda-kit"
    if not program.exists():
        pytest.skip("the command is not installed beside this Python")
    scenes = [f"stages.{i}.source=scenes:rendered?n=4&size=64x96" for i in (0, 1)] + [
        "stages.1.target=scenes:camera?n=4&size=64x96",
        "test=scenes:camera?n=2&size=64x96",
    ]
    argv = [
        program,
        "train",
        "scenes/multi-level",
        "--steps",
        "2",
        "--out",
        tmp_path / "run",
        "--devices",
        "2",
        "--accelerator",
        "cpu",
        "--no-progress",
        "--set",
        *scenes,
        "stages.0.source.batch_size=1",
    ]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=240, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count('{"miou"') == 1 and json.loads(done.stdout.splitlines()[-1])["steps"] == 4
    assert (tmp_path / "run/weights.safetensors").is_file() and (tmp_path / "run/report.md").is_file()
    again = subprocess.run(argv, capture_output=True, text=True, timeout=240, cwd=tmp_path)
    assert again.returncode == 2 and again.stderr.count("uda-kit: ") == 1 and "already holds a run" in again.stderr, (
        again.stderr
    )
