"""Prediction in windows and mirrored, through functions and commands: against windows cut by hand, in records, and refused in one line."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from refusals import refused, refused_command, run_command

from uda_kit import ConfusionMatrix, Inference, PseudoLabelled, evaluate, make_pseudo_labels, predict
from uda_kit.data.open import open_dataset
from uda_kit.evaluation.images import class_scores
from uda_kit.evaluation.report import load_report
from uda_kit.evaluation.scores import load_evaluation
from uda_kit.methods.label_folder import read_summary
from uda_kit.models.checkpoints import load_weights, save_weights
from uda_kit.models.segmenters import deeplab_v2

SCENES = "scenes:camera?n=3&size=64x96"
OPTIONS = ["--window", 40, 56, "--stride", 24, 40, "--mirror"]
SETTINGS = {"window": [40, 56], "stride": [24, 40], "mirror": True}
MAIN = "import sys; from uda_kit.cli import main; sys.exit(main())"
PLAIN = {"window": None, "stride": None, "mirror": False}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    net = deeplab_v2(19, backbone="tiny")
    with torch.no_grad():
        for branch in net.main.convs:
            branch.weight.mul_(20)  # untrained scores are nearly equal: rounding would decide
    return save_weights(net, tmp_path_factory.mktemp("net") / "net.safetensors")


@pytest.fixture
def net(weights):
    return load_weights(weights).eval()


def last_line(*argv):
    status, out, err = run_command(*argv, "--no-progress")
    assert status == 0, err
    return json.loads(out.splitlines()[-1])


def scores_by_hand(net, image):  # uint8 [3,64,96] -> [19,64,96]
    "Mean of the four windows of `OPTIONS` and those of the mirror image, mirrored back."
    x = image.float()[None] / 255
    mean = torch.zeros(19, 64, 96)
    for side in (x, x.flip(-1)):
        total, counts = torch.zeros(19, 64, 96), torch.zeros(64, 96)
        for top in (0, 24):
            for left in (0, 40):
                with torch.no_grad():
                    small = net(side[..., top : top + 40, left : left + 56]).logits
                part = F.interpolate(small, (40, 56), mode="bilinear", align_corners=True)[0]
                total[:, top : top + 40, left : left + 56] += part
                counts[top : top + 40, left : left + 56] += 1
        part = total / counts
        mean += (part if side is x else part.flip(-1)) / 2
    return mean


def test_evaluate_counts_what_windows_say(weights, net):
    record = last_line("evaluate", weights, SCENES, *OPTIONS, "--report", "report")
    by_hand = ConfusionMatrix(19)
    for sample in open_dataset(SCENES):
        by_hand.update(sample.label, scores_by_hand(net, sample.image).argmax(0))
    after = load_evaluation(Path("report/evaluation.json"))
    different = (after.confusion.matrix - by_hand.matrix).abs().sum() // 2
    assert different <= 3  # pixels with two equal scores
    assert record["inference"] == SETTINGS and after.inference == Inference((40, 56), (24, 40), True)
    assert load_report("report")["after"].inference == after.inference
    assert "windows of 40x56 every 24x40, averaged with the mirror image" in Path("report/report.md").read_text()


def test_whole_images_are_predicted_as_before(weights, net):
    "The scores are those of one forward pass, to the last bit; files do not mention windows."
    for sample in open_dataset(SCENES):
        with torch.no_grad():
            assert class_scores(net, sample.image).equal(net(sample.image[None].float() / 255).logits[0])
    record = last_line("evaluate", weights, SCENES, "--report", "report")
    assert record["inference"] == PLAIN
    assert "inference" not in json.loads(Path("report/evaluation.json").read_text())
    predict(net, open_dataset(SCENES), "seen", progress=False)
    assert "inference" not in json.loads(Path("seen/predictions.json").read_text())
    make_pseudo_labels(net, open_dataset(SCENES), "labels", progress=False, say=str)
    assert "inference" not in read_summary("labels")["about"]


def test_predict_paints_what_windows_say(weights, net):
    record = last_line("predict", weights, SCENES, "--out", "seen", *OPTIONS)
    assert record["images"] == 3 and record["inference"] == SETTINGS
    assert json.loads(Path("seen/predictions.json").read_text())["inference"] == SETTINGS
    streets = open_dataset(SCENES)
    for i in range(3):
        probability, ids = scores_by_hand(net, streets.image(i)).softmax(0).max(0)
        seen = np.array(Image.open(f"seen/labels/{streets.key(i)}.png"))
        assert (seen != ids.numpy()).sum() <= 3
        sure = np.array(Image.open(f"seen/confidence/{streets.key(i)}.png"))
        assert np.abs(sure - 255 * probability.numpy()).max() <= 1


def test_pseudo_labels_of_windows(weights, net):
    "Ids of `predict`; neither cache nor batch size change a byte; another prediction needs another folder."
    argv = ["pseudo-label", weights, SCENES, "--out", "labels", "--rule", "top:1"]
    record = last_line(*argv, *OPTIONS)
    assert record["inference"] == SETTINGS and record["written"] == 3
    assert read_summary("labels")["about"]["inference"] == SETTINGS
    streets = open_dataset(SCENES, labelled=False)
    how = Inference((40, 56), (24, 40), mirror=True)
    predict(net, streets, "seen", inference=how, progress=False)
    for sample in PseudoLabelled(streets, "labels"):
        seen = np.array(Image.open(f"seen/labels/{sample.key}.png"))
        assert (sample.label.numpy() == seen).all()
    assert last_line(*argv, *OPTIONS)["written"] == 0
    for more in ([], ["--mirror"], ["--window", 40, 56, "--mirror"]):
        refused_command([*argv, *more, "--no-progress"], "labels/summary.json", "windows or mirrored")
    make_pseudo_labels(net, streets, "again", "top:1", inference=how, batch_size=1, cache_mb=0, progress=False, say=str)
    for sample in PseudoLabelled(streets, "labels"):
        assert Path(f"again/{sample.key}.png").read_bytes() == Path(f"labels/{sample.key}.png").read_bytes()


def test_windows_are_cut_from_the_resized_image(net):
    "With a size, a window of that size is the whole image; smaller ones change the counts, scored at full size."
    scenes = open_dataset(SCENES)
    whole = evaluate(net, scenes, (48, 64), progress=False)
    one_window = evaluate(net, scenes, (48, 64), inference=Inference((48, 64)), progress=False)
    assert (whole.confusion.matrix - one_window.confusion.matrix).abs().sum() // 2 <= 0.03 * 3 * 64 * 96
    assert whole.confusion.matrix.sum() == one_window.confusion.matrix.sum()
    windows = evaluate(net, scenes, (48, 64), inference=Inference((32, 40)), progress=False)
    assert windows.matrix != whole.matrix and windows.size == (48, 64)


def test_images_of_several_sizes(net):
    "The first is larger than the window, others are lower, narrower, or smaller in both sides: all are predicted."
    sizes = [(64, 80), (32, 80), (64, 40), (32, 40)]
    g = np.random.default_rng(0)
    Path("photos").mkdir()
    for i, size in enumerate(sizes):
        Image.fromarray(g.integers(0, 256, (*size, 3), np.uint8)).save(f"photos/{i}.png")
    names = predict(net, "photos", "windows", inference=Inference((48, 56)), progress=False)
    predict(net, "photos", "whole", progress=False)
    for name, size in zip(names, sizes, strict=True):
        windows, whole = (np.array(Image.open(f"{out}/labels/{name}.png")) for out in ("windows", "whole"))
        assert windows.shape == size
        if name == "3":
            assert (windows != whole).mean() < 0.01  # predicted whole


@pytest.mark.parametrize(
    "more, parts",
    [
        (["--stride", 8, 8], ["--stride 8x8", "no window"]),
        (["--window", 32, 32, "--stride", 0, 16], ["--stride", "(0, 16)", "from 1 to"]),
        (["--window", 32, 32, "--stride", 16, 33], ["--stride 16x33", "gaps", "32x32"]),
        (["--window", 0, 32], ["--window", "(0, 32)"]),
        (["--window", -1, 32], ["--window"]),
        (["--window", 32], ["--window"]),
        (["--window", "32x64"], ["--window"]),
        (["--window", 96, 128], ["window 96x128", "larger than the image", "64x96"]),
        (["--window", 64, 48, "--size", "48x64"], ["window 64x48", "does not fit", "48x64"]),
    ],
)
@pytest.mark.parametrize("command", ["evaluate", "predict", "pseudo-label"])
def test_mistakes_get_one_line_and_nothing_is_written(weights, tmp_path, command, more, parts):
    out = [] if command == "evaluate" else ["--out", "out"]
    refused_command([command, weights, SCENES, *out, *more, "--no-progress"], *parts)
    assert not list(tmp_path.iterdir())


def test_a_window_of_which_a_network_leaves_nothing():
    "PyTorch's error about a small window, in one line."

    class Pools(torch.nn.Module):
        def forward(self, image):
            raise RuntimeError("Output size is too small")

    image = torch.zeros(3, 64, 96, dtype=torch.uint8)
    how = Inference((8, 8))
    refused(lambda: class_scores(Pools(), image, how, "street"), "a window of street", "8x8", "larger windows")


def test_scores_that_are_not_finite_are_refused(net):
    with torch.no_grad():
        net.main.convs[0].bias.fill_(torch.nan)
    for how in (Inference((40, 56)), Inference(mirror=True)):
        refused(lambda how=how: evaluate(net, open_dataset(SCENES), inference=how, progress=False), "not finite")


def test_a_large_image_needs_under_three_gigabytes(weights, tmp_path):
    "2048x1024 pixels in windows of 1024x1024, by the command in a process of its own."
    pixels = np.random.default_rng(0).integers(0, 255, (128, 256, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((2048, 1024)).save(tmp_path / "large.png")
    argv = ["predict", weights, "large.png", "--out", "out", "--window", "1024", "1024", "--no-progress"]
    done = subprocess.run([sys.executable, "-c", MAIN, *map(str, argv)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout.splitlines()[-1])
    assert 0 < record["peak_gib"] * 2**30 < 3e9
    with Image.open("out/labels/large.png") as labels:
        assert labels.size == (2048, 1024)
