"""Pseudo-labels end to end: the command, a stop at any image, folders of others, damage, and two steps of fine-tuning on them."""

import errno
import json
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from refusals import refused_command
from torch import nn

from uda_kit.cli import main
from uda_kit.core.errors import InputError
from uda_kit.data.dataset import Relabelled
from uda_kit.data.labels import CITYSCAPES19
from uda_kit.data.open import open_dataset
from uda_kit.data.streams import Stream
from uda_kit.evaluation.predict import predict
from uda_kit.methods import pseudo_labels
from uda_kit.methods.output_space import SupervisedTerms
from uda_kit.methods.pseudo_labels import PseudoLabelled, make_pseudo_labels, pseudo_label_quality
from uda_kit.models.checkpoints import load_weights, save_weights
from uda_kit.models.segmenters import Outputs, deeplab_v2
from uda_kit.training.fit import LoaderConfig, RunOptions, Stage, fit

SCENES = "scenes:camera?n=5&size=32x48"


def write_net(path, seed=0, classes=19, space=CITYSCAPES19):
    torch.manual_seed(seed)
    return save_weights(deeplab_v2(classes, multi_level=False), path, space)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_net(tmp_path_factory.mktemp("net") / "net.safetensors")


@pytest.fixture(scope="module")
def labels(weights, tmp_path_factory):
    folder = tmp_path_factory.mktemp("labels") / "median"
    make_pseudo_labels(load_weights(weights), streets(), folder, batch_size=2, progress=False)
    return folder


def streets(spec=SCENES, labelled=False):
    return open_dataset(spec, labelled=labelled)


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if not p.name.startswith(".")}


def command(weights, out, *more):
    batch = () if "--batch-size" in more else ("--batch-size", 2)
    return [str(a) for a in ("pseudo-label", weights, SCENES, "--out", out, *batch, "--no-progress", *more)]


class Colors(nn.Module):
    "Sees class c where channel c is strongest; knows one class more, which it never predicts."

    num_classes, space = 4, None

    def __init__(self, sharpness=5.0):
        super().__init__()
        self.sharpness = nn.Parameter(torch.tensor(sharpness))

    def forward(self, image):
        return Outputs(torch.cat((image, torch.full_like(image[:, :1], -1)), 1) * self.sharpness)


def test_command(capsys, weights, labels, tmp_path):
    assert main(command(weights, tmp_path / "out")) == 0
    lines = capsys.readouterr().out.splitlines()
    record = json.loads(lines[-1])
    assert {"kept_share", "without_confident_pixel", "written", "seconds", "peak_gib"} <= record.keys() and record[
        "written"
    ] == record["samples"] == 5
    assert contents(tmp_path / "out") == contents(labels)  # the function and the command agree
    summary = json.loads((labels / "summary.json").read_text())
    assert summary["without_confident_pixel"] == record["without_confident_pixel"] and any(
        "no confident pixel of" in line for line in lines
    ) == bool(record["without_confident_pixel"])
    assert (
        list(summary["classes"]) == list(CITYSCAPES19.classes)
        and 0.5 <= record["kept_share"] < 0.6
        and summary["about"]["rule"] == "median:0.9"
    )
    assert main(command(weights, tmp_path / "out")) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) | {"seconds": 0, "peak_gib": 0} == record | {
        "written": 0,
        "seconds": 0,
        "peak_gib": 0,
    }


@pytest.mark.parametrize(
    "more, parts",
    [
        (["--rule", "best"], ["best: is no confidence rule", "median"]),
        (["--rule", "top:2"], ["top:2"]),
        (["--size", "big"], ["--size big"]),
        (["--split", "trian"], ["trian"]),
        (["--batch-size", "0"], ["--batch-size 0"]),
        (["--overwrit"], ["--overwrite"]),
        (["--space", "synthia16"], ["16 classes", "19"]),
    ],
)
def test_usage_errors(weights, tmp_path, more, parts):
    refused_command(command(weights, tmp_path / "out", *more), *parts)
    assert not (tmp_path / "out").exists()


def test_folders_of_others_are_refused(weights, labels, tmp_path):
    out = shutil.copytree(labels, tmp_path / "out")
    before = contents(out)
    other = write_net(tmp_path / "other.safetensors", seed=1)
    refused_command(command(other, out), "summary.json", "another checkpoint")
    refused_command(
        command(write_net(tmp_path / "small.safetensors", classes=13, space=None), out, "--space", "synthia13"),
        "another checkpoint, another class set",
    )
    refused_command(command(weights, out, "--rule", "fixed:0.9"), "another rule")
    refused_command(command(weights, out, "--split", "val"), "another data set")
    refused_command(command(weights, other), "is a file")
    shutil.copy(weights, tmp_path / "renamed.safetensors")
    assert (
        main(command(tmp_path / "renamed.safetensors", out)) == 0 and contents(out) == before
    )  # the network counts, not its file's name
    assert (
        main(command(other, out, "--overwrite")) == 0
        and contents(out).keys() == before.keys()
        and contents(out) != before
    )
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years")
    for more in ([], ["--overwrite"]):
        refused_command(command(weights, tmp_path / "mine", *more), "mine")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


class Stops:
    "A data set whose images can be read a number of times; then someone presses Ctrl-C."

    def __init__(self, dataset, reads):
        self.dataset, self.reads = dataset, reads

    def __getattr__(self, name):
        return getattr(self.__dict__["dataset"], name)

    def __len__(self):
        return len(self.dataset)

    def image(self, i):
        self.reads -= 1
        if self.reads < 0:
            raise KeyboardInterrupt
        return self.dataset.image(i)


@pytest.mark.parametrize(
    "rule, reads", [("median", 3), ("median", 8), ("fixed:0.1", 3)], ids=["first-pass", "second-pass", "only-pass"]
)
def test_stopped_anywhere_it_goes_on_to_the_same_bytes(weights, tmp_path, rule, reads):
    net, options = load_weights(weights), dict(rule=rule, batch_size=2, cache_mb=0, progress=False, say=str)
    make_pseudo_labels(net, streets(), tmp_path / "whole", **options)
    passes = 1 if rule.startswith("fixed") else 2
    with pytest.raises(KeyboardInterrupt):
        make_pseudo_labels(net, Stops(streets(), reads), tmp_path / "cut", **options)
    there = len(list((tmp_path / "cut").glob("*.png")))
    assert there == max(0, reads - 5 * (passes - 1)) // 2 * 2 and (tmp_path / "cut/summary.json").exists()
    with pytest.raises(InputError, match="has not finished"):
        PseudoLabelled(streets(), tmp_path / "cut")
    assert make_pseudo_labels(net, streets(), tmp_path / "cut", **options)["written"] == 5 - there
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_full_disk(weights, labels, tmp_path, monkeypatch):
    net, options, written = load_weights(weights), dict(batch_size=2, progress=False), []

    def write(path, data):
        if len(written) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(path)
        real(path, data)

    real = pseudo_labels.atomic_write
    monkeypatch.setattr(pseudo_labels, "atomic_write", write)
    with pytest.raises(InputError, match="No space left on device.*make room"):
        make_pseudo_labels(net, streets(), tmp_path / "out", **options)
    monkeypatch.undo()
    assert all(contents(labels)[p.name] == p.read_bytes() for p in written)  # what is there is whole
    assert make_pseudo_labels(net, streets(), tmp_path / "out", **options)["written"] == 2 and contents(
        tmp_path / "out"
    ) == contents(labels)


def test_neither_cache_nor_workers_change_a_byte(weights, labels, tmp_path):
    net = load_weights(weights).train()
    for name, options in (("plain", dict(cache_mb=0)), ("workers", dict(cache_mb=0, workers=2))):
        state = torch.get_rng_state()
        make_pseudo_labels(net, streets(), tmp_path / name, batch_size=2, progress=False, **options)
        assert contents(tmp_path / name) == contents(labels) and net.training and torch.get_rng_state().equal(state)


def test_a_tiny_case_against_everything_kept(tmp_path):
    "Images of several sizes, a class that is never predicted: sorted confidences decide."
    rng = np.random.default_rng(0)
    for i, (h, w) in enumerate([(20, 30), (20, 30), (24, 16)]):
        Image.fromarray(rng.integers(0, 256, (h, w, 3), np.uint8)).save(tmp_path / f"im{i}.png")

    class Noise:
        name, split, labelled, space = "noise", "train", False, type(CITYSCAPES19)("rgb", ("r", "g", "b", "none"))

        def __len__(self):
            return 3

        def key(self, i):
            return f"city/{i}"

        def image(self, i):
            return torch.from_numpy(np.array(Image.open(tmp_path / f"im{i}.png"))).permute(2, 0, 1)

        def settings(self):
            return {"name": self.name, "samples": 3}

    data, net, said = Noise(), Colors(), []
    made = make_pseudo_labels(net, data, tmp_path / "out", progress=False, say=said.append)
    assert (
        made["without_confident_pixel"] == ["none"]
        and len(said) == 1
        and "none" in said[0]
        and made["classes"]["none"]["threshold"] is None
    )
    p = [net(data.image(i)[None].float() / 255).logits[0].detach().softmax(0).max(0) for i in range(3)]
    taught = PseudoLabelled(data, tmp_path / "out")
    for c, name in enumerate("rgb"):
        m = torch.cat([v[k == c] for v, k in p]).sort(descending=True).values
        tau = min(0.9, m[(len(m) + 1) // 2 - 1].item())
        row = made["classes"][name]
        assert row["predicted"] == len(m) and -1e-6 <= tau - row["threshold"] <= (1 - tau) / 512 + 1e-6
        for (v, k), y in zip(p, (taught.label(i) for i in range(3))):
            assert (
                not ((y == c) & ((k != c) | (v < row["threshold"] - 1e-6))).any()
                and (y[(k == c) & (v > row["threshold"] + 1e-6)] == c).all()
            )
    assert (tmp_path / "out/city/2.png").is_file()
    with pytest.raises(InputError, match="city/0.*not finite"):
        make_pseudo_labels(Colors(float("nan")), data, tmp_path / "nan", progress=False)


def test_ids_are_those_of_predict(weights, tmp_path):
    net = load_weights(weights)
    predict(net, streets(), tmp_path / "seen", size=(48, 64), progress=False)
    make_pseudo_labels(net, streets(), tmp_path / "all", "top:1", size=(48, 64), batch_size=1, progress=False)
    for _, label, key in PseudoLabelled(streets(), tmp_path / "all"):
        assert (label.numpy() == np.array(Image.open(tmp_path / f"seen/labels/{key}.png"))).all()


def test_damage_is_named(labels, tmp_path):
    out = shutil.copytree(labels, tmp_path / "out")
    victim, neighbour = out / f"{streets().key(2)}.png", out / f"{streets().key(3)}.png"
    whole = victim.read_bytes()
    for data in (whole[:-40], whole[:50], b"", neighbour.read_bytes()[:-60] + whole[-60:]):
        victim.write_bytes(data)
        with pytest.raises(InputError, match=victim.name):
            next(iter(Stream(PseudoLabelled(streets(), out), 5, workers=0)))
    Image.new("L", (48, 32)).save(victim)
    with pytest.raises(InputError, match=f"{victim.name}.*no pseudo-label"):
        PseudoLabelled(streets(), out)[2]
    victim.unlink()
    with pytest.raises(InputError, match=f"{victim.name}: is missing"):
        PseudoLabelled(streets(), out)
    victim.write_bytes(whole)
    (out / "stray.png").write_bytes(whole)
    with pytest.raises(InputError, match="stray.png"):
        PseudoLabelled(streets(), out)


def test_other_images_and_classes_are_refused(labels, tmp_path):
    for data, text in (
        (Relabelled(streets(), space="synthia16"), "cityscapes19"),
        (streets("scenes:rendered?n=5&size=32x48"), "other images"),
        (streets(SCENES + "&seed=3"), "other images"),
    ):
        with pytest.raises(InputError, match=text):
            PseudoLabelled(data, labels)
    with pytest.raises(InputError, match="no pseudo-labels"):
        PseudoLabelled(streets(), tmp_path)


def test_fine_tuning(weights, labels, tmp_path):
    taught = PseudoLabelled(streets(), labels)
    runs = []
    for name, workers in (("a", 0), ("b", 1)):
        net = load_weights(weights)
        stage = Stage(
            "self-training",
            net,
            SupervisedTerms().build(net),
            LoaderConfig(taught, batch_size=2, workers=workers),
            steps=2,
        )
        assert fit(stage, tmp_path / name, RunOptions(progress=False))["step"] == 2
        runs.append(net.state_dict())
    start = load_weights(weights).state_dict()
    assert all(a.equal(b) for a, b in zip(runs[0].values(), runs[1].values())) and any(
        not a.equal(b) for a, b in zip(runs[0].values(), start.values())
    )
    written = json.loads((tmp_path / "a/config.json").read_text())["source"]["pseudo_labels"]
    assert written["rule"] == "median:0.9" and written["summary"] == taught.settings()["pseudo_labels"]["summary"]


def test_quality(weights, labels):
    found = pseudo_label_quality(streets(labelled=None), labels)
    assert 0 <= found["overall"][0] <= 1 and found["overall"][2] == pytest.approx(
        json.loads((labels / "summary.json").read_text())["kept_share"], abs=1e-6
    )
