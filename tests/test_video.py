"""Predicting videos through the command: the written ids are those of the frames, and what is no video is refused."""

import json
import sys
from fractions import Fraction

import numpy as np
import pytest
import torch
from refusals import refused_command, run_command

from uda_kit import load_weights, save_weights
from uda_kit.data.labels import CITYSCAPES19
from uda_kit.evaluation.images import class_scores, evaluation_mode
from uda_kit.evaluation.upsampling import best_classes
from uda_kit.evaluation.video import VideoWriter, opened_video
from uda_kit.evaluation.windows import Inference
from uda_kit.models.segmenters import deeplab_v2

av = pytest.importorskip("av")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    net = deeplab_v2(19)
    for conv in net.main.convs:
        conv.weight.data.mul_(20)
    return save_weights(net, tmp_path_factory.mktemp("net") / "net.safetensors", space=CITYSCAPES19)


@pytest.fixture
def drive(tmp_path):
    "Five frames at uneven times: smooth colours that move."
    path = tmp_path / "in" / "drive.mp4"
    y, x = np.mgrid[:64, :96]
    with VideoWriter(av, path, Fraction(10)) as writer:
        for k, time in enumerate((0, 0.1, 0.2, 0.5, 0.6)):
            pixels = np.stack([y * 3, (x + 20 * k) % 256, (x + y) % 256], -1).astype(np.uint8)
            writer.write(pixels, time)
    return path


def test_ids_of_every_frame_and_their_times(weights, drive, tmp_path):
    out = tmp_path / "out"
    argv = ["predict", weights, drive, "--out", out, "--window", 48, 64, "--no-progress"]
    status, printed, err = run_command(*argv)
    assert status == 0, err
    assert json.loads(printed.splitlines()[-1])["frames"] == 5
    net, inference = load_weights(weights), Inference((48, 64))
    with opened_video(drive) as frames:
        seen = list(frames)
    with av.open(str(out / "labels" / "drive.mkv")) as container:
        written = [(f.to_ndarray(format="gray"), f.time) for f in container.decode(video=0)]
    assert [round(time, 2) for _, time in written] == [round(f.time, 2) for f in seen] == [0, 0.1, 0.2, 0.5, 0.6]
    with evaluation_mode(net):
        for frame, (ids, _) in zip(seen, written, strict=True):
            scores = class_scores(net, torch.from_numpy(frame.pixels).permute(2, 0, 1), inference)
            assert np.array_equal(ids, best_classes(scores, (64, 96))[0].numpy())
    about = json.loads((out / "predictions.json").read_text())
    assert about["frames"] == 5 and about["images"] == ["drive"] and about["classes"][0] == "road"
    refused_command(argv, "already holds files")
    assert run_command(*argv, "--overwrite")[0] == 0


def test_what_is_no_video_is_refused(weights, drive, tmp_path, monkeypatch):
    out = tmp_path / "out"
    damaged, text = tmp_path / "damaged.mp4", tmp_path / "text.MP4"
    damaged.write_bytes(drive.read_bytes()[:1500])
    text.write_text("no video")
    refused_command(["predict", weights, damaged, "--out", out, "--no-progress"], "damaged.mp4")
    refused_command(["predict", weights, text, "--out", out, "--no-progress"], "cannot be read as a video")
    refused_command(["predict", weights, drive, "--out", out, "--window", 65, 97, "--no-progress"], "drive.mp4")
    monkeypatch.setitem(sys.modules, "av", None)  # as where it is not installed
    refused_command(["predict", weights, drive, "--out", out], "av: is not installed", "drive.mp4", "uda_kit[video]")
    assert not out.exists()
