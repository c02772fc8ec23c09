"""KITTI semantics, as published and in one folder; its classes in CamVid's grouping, against maps that others made."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from refusals import refused_command

from uda_kit import open_dataset
from uda_kit.core.errors import expect_error

SAMPLE = Path(__file__).parent.parent / "data_samples" / "kitti"
REAL = Path(__file__).parent.parent.parent / "shared" / "kitti"


def in_one_folder(root):
    "The sample as some copies have it: all frames in one folder, splits as lists."
    shutil.copytree(SAMPLE / "training" / "image_2", root / "images")
    shutil.copytree(SAMPLE / "training" / "semantic", root / "labels_full_ids")
    (root / "val.txt").write_text("000001_10\n")
    return root


def test_one_folder_with_lists(tmp_path):
    root = in_one_folder(tmp_path / "kitti")
    val = open_dataset(f"kitti:{root}?split=val")
    assert val.keys == ["000001_10"] and val.labelled and len(open_dataset(f"kitti:{root}")) == 2
    assert open_dataset(f"kitti:{root}?frames=0-0").keys == ["000000_10"]
    assert "leave ?frames= or the split out" in expect_error(open_dataset, f"kitti:{root}?split=val&frames=0-0")
    assert val[0].label.equal(open_dataset(f"kitti:{SAMPLE}")[1].label)


def test_what_is_refused(tmp_path):
    assert "not published" in expect_error(open_dataset, f"kitti:{SAMPLE}?split=test", labelled=True)
    root = in_one_folder(tmp_path / "kitti")
    assert "no such folder" in expect_error(open_dataset, f"kitti:{root / 'images'}")
    (root / "labels_full_ids").rename(root / "labels")  # train ids, perhaps: nobody knows
    assert "labels_full_ids: no such folder" in expect_error(open_dataset, f"kitti:{root}")
    (root / "labels").rename(root / "labels_full_ids")
    path = root / "labels_full_ids" / "000000_10.png"
    Image.fromarray(np.full((128, 256, 3), (128, 64, 128), np.uint8)).save(path)
    assert "000000_10.png" in expect_error(open_dataset(f"kitti:{root}").label, 0)
    refused_command(["check-data", f"kitti:{root / 'nowhere'}"], "no such folder")


@pytest.mark.skipif(not REAL.is_dir(), reason="the real frames are not here")
def test_the_grouping_of_real_frames():
    frames = open_dataset(f"kitti:{REAL}?split=val", space="camvid11")
    own = open_dataset(f"kitti:{REAL}?split=val")
    assert len(frames) == 60 and own.space.name == "cityscapes19"
    for i in (0, 17, 59):
        key = frames.key(i)
        grouped = np.array(Image.open(REAL / "labels_camvid11" / f"{key}.png"))
        train_ids = np.array(Image.open(REAL / "labels" / f"{key}.png"))
        label = frames[i].label.numpy()
        assert (label[grouped < 11] == grouped[grouped < 11]).all() and (label[grouped > 10] == 255).all()
        assert (own[i].label.numpy() == train_ids).all()
