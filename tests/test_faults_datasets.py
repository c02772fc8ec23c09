"""Data sets as people really have them: lists, descriptions, layouts and odd names are read rightly or refused in one line; check-data judges what it counted; scores say what they average."""

import json
import os
import unicodedata

import numpy as np
import pytest
import torch
from PIL import Image
from refusals import refused

from uda_kit.core.errors import InputError
from uda_kit.data.check import check_data
from uda_kit.data.dataset import Relabelled
from uda_kit.data.file_dataset import listed, natural
from uda_kit.data.folder_dataset import FolderDataset
from uda_kit.data.labels import CITYSCAPES19, CITYSCAPES_IDS, SYNTHIA16, LabelSpace, protocols
from uda_kit.data.open import open_dataset, parse_spec
from uda_kit.evaluation.label_spaces import reconcile
from uda_kit.evaluation.metrics import subset_iou
from uda_kit.evaluation.report import comparison_table, summary
from uda_kit.evaluation.scores import Evaluation, load_evaluation

H, W = 16, 24


def image(path, value=100):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((H, W, 3), value, np.uint8)).save(path)


def label(path, value=0):
    "A label of one id, or of the ids of an array."
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.broadcast_to(np.asarray(value, np.uint8), (H, W)).copy()).save(path)


@pytest.fixture
def camvid(tmp_path):
    "Frames a and b; the ids of their labels are 3 and 4."
    for name, value in (("a", 3), ("b", 4)):
        image(tmp_path / f"images/{name}.png")
        label(tmp_path / f"labels/{name}.png", value)
    return tmp_path


def describe(folder, text='classes = ["a", "b", "c", "d", "e"]\n', images="images/*.png", labels="labels/*.png"):
    "Write a description; the spec that opens it."
    (folder / "set.toml").write_text(f'images = "{images}"\nlabels = "{labels}"\n{text}', encoding="utf-8")
    return f"folder:{folder / 'set.toml'}"


# --- lists -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text,keys",
    [
        ("b\na\n", ["b", "a"]),
        ("b.png\r\na.PNG\r\n", ["b", "a"]),
        ("images/b.png\n./images/a.png\n", ["b", "a"]),
        ("/data/camvid/images/b.png\n", ["b"]),
        ("images\\b.png\n", ["b"]),
        ("images/b.png labels/b.png\nimages/a.png\tlabels/a.png\n", ["b", "a"]),
        ("/x/images/b.png /x/labels/b.png\n", ["b"]),
        ("images/b.png, labels/b.png\n", ["b"]),
        ("\ufeffb\n\n", ["b"]),
    ],
)
def test_list_lines(camvid, text, keys):
    (camvid / "my.txt").write_text(text, encoding="utf-8", newline="")
    assert open_dataset(f"camvid:{camvid}", "my").keys == keys
    assert open_dataset(f"camvid:{camvid}", "my", labelled=False).keys == keys


@pytest.mark.parametrize(
    "text",
    [
        "images/a.png labels/b.png",
        "a b",
        "a.png b.png",
        "images/a.png images/b.png",
        "labels/a.png",
        "other/a.png",
        "a -1",
        "images/a.png labels/c.png",
        "b/a.png",
        "a\nimages/a.png",
        "images/",
        "/",
        "a,b",
    ],
)
def test_list_lines_refused(camvid, text):
    (camvid / "my.txt").write_text(text + "\n")
    refused(lambda: open_dataset(f"camvid:{camvid}", "my"), "my.txt", "line ")
    if "labels/c" not in text:
        refused(lambda: open_dataset(f"camvid:{camvid}", "my", labelled=False), "my.txt", "line ")


def test_list_of_names_with_spaces_and_same_names_in_folders(tmp_path):
    for folder in ("x", "y"):
        image(tmp_path / f"images/{folder}/plot 1.png")
    (tmp_path / "set.toml").write_text('images = "images/*/*.png"\nclasses = ["a"]\n')
    spec = f"folder:{tmp_path / 'set.toml'}"
    (tmp_path / "one.txt").write_text("y/plot 1.png\n")
    assert open_dataset(spec, "one").keys == ["y/plot 1"]
    (tmp_path / "both.txt").write_text("plot 1.png\n")
    refused(lambda: open_dataset(spec, "both"), "both.txt, line 1", "2 images are called", "paths")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "gbk"])
def test_list_and_description_in_other_encodings(camvid, encoding):
    (camvid / "my.txt").write_bytes("街道\na\n".encode(encoding))
    refused(lambda: open_dataset(f"camvid:{camvid}", "my"), "my.txt", "save it as UTF-8")
    (camvid / "set.toml").write_bytes('images = "街/*.png"\n'.encode(encoding))
    refused(lambda: open_dataset(f"folder:{camvid / 'set.toml'}"), "set.toml", "save it as UTF-8")


def test_exact_list_before_alias(tmp_path):
    image(tmp_path / "training/images/a.jpg")
    image(tmp_path / "training/images/b.jpg")
    (tmp_path / "training.txt").write_text("b\n")
    assert open_dataset(f"vistas:{tmp_path}", "training", labelled=False).keys == ["b"]


# --- names -----------------------------------------------------------------------------------------------------------


def test_names_in_two_unicode_forms_pair(tmp_path):
    image(tmp_path / f"images/{unicodedata.normalize('NFD', 'Zürich é')}.png")
    label(tmp_path / f"labels/{unicodedata.normalize('NFC', 'Zürich é')}.png", 3)
    dataset = open_dataset(f"camvid:{tmp_path}")
    assert len(dataset) == 1 and (dataset[0].label == 3).all()
    (tmp_path / "my.txt").write_text(unicodedata.normalize("NFC", "Zürich é.png"), encoding="utf-8")
    assert open_dataset(f"camvid:{tmp_path}", "my").keys == dataset.keys
    image(tmp_path / f"images/{unicodedata.normalize('NFC', 'Zürich é')}.png")
    refused(lambda: open_dataset(f"camvid:{tmp_path}"), "same name", "Unicode")


def test_digits_that_are_not_0_to_9(tmp_path):
    for name in ("①", "plot_10²", "٣", "plot_9"):
        image(tmp_path / f"images/{name}.png")
        label(tmp_path / f"labels/{name}.png", 7)
    assert len(open_dataset(f"camvid:{tmp_path}", labelled=False)) == 4
    assert len(open_dataset(f"gta5:{tmp_path}")) == 4
    assert (
        sorted(["a10", "a02", "a2", "a1"], key=natural)
        == sorted(["a1", "a2", "a02", "a10"], key=natural)
        == ["a1", "a02", "a2", "a10"]
    )
    refused(lambda: open_dataset("scenes:camera?n=²"), "'n'", "0-9")
    refused(lambda: open_dataset("scenes:camera?size=64x٦٤"), "'size'", "0-9")
    refused(lambda: open_dataset("scenes:camera?size=16384x16384"), "megapixels")


@pytest.mark.parametrize("name", ["a[1]", "what?", "100%", "~me", "two words", "x*y", "{b}", "a&b", "ü"])
def test_root_of_odd_characters_is_literal(tmp_path, name, monkeypatch):
    root = tmp_path / name
    image(root / "images/a.png")
    label(root / "labels/a.png", 3)
    image(tmp_path / "a1/images/other.png")
    assert open_dataset(f"camvid:{root}").keys == ["a"]
    assert open_dataset(describe(root)).keys == ["a"]
    (root / "my.txt").write_text("a\n")
    assert open_dataset(f"camvid:{root}?split=my").split == "my"
    if "*" not in name:
        assert open_dataset(describe(tmp_path, images=f"{name}/images/*.png", labels=f"{name}/labels/*.png")).keys == [
            "a"
        ]
    monkeypatch.chdir(tmp_path)
    assert open_dataset(f"camvid:{name}").keys == ["a"]


def test_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    image(tmp_path / "set/images/a.png")
    assert open_dataset("camvid:~/set?split=all", labelled=False).keys == ["a"]


@pytest.mark.skipif(os.name != "posix", reason="names are bytes on POSIX alone")
def test_names_that_are_not_utf8_and_escape_codes(tmp_path):
    for name in (b"caf\xe9", b"red\x1b[31m"):
        image(tmp_path / "images" / os.fsdecode(name + b".png"))
        label(tmp_path / "labels" / os.fsdecode(name + b".png"), 99)
    dataset = open_dataset(f"camvid:{tmp_path}")
    json.dumps(dataset.settings())
    text = str(check_data(f"camvid:{tmp_path}", progress=False))
    assert "unknown id 99" in text and "\x1b" not in text
    text.encode("utf-8")
    refused(lambda: dataset[0], "ids 99")


def test_hidden_and_system_files_are_skipped(camvid):
    for name in ("images/._a.png", "images/.ipynb_checkpoints/a.png", "images/@eaDir/a.png", "images/__MACOSX/a.png"):
        image(camvid / name)
    (camvid / "._my.txt").write_text("x\n")
    assert open_dataset(f"camvid:{camvid}").keys == ["a", "b"]
    assert list(listed(camvid / "images", pattern="**/*")) == ["a", "b"]


def test_linked_folders_are_followed_and_loops_end(tmp_path):
    image(tmp_path / "store/aachen/x_leftImg8bit.png")
    label(tmp_path / "ids/aachen/x_gtFine_labelIds.png", 7)
    for kind, target in (("leftImg8bit", "store"), ("gtFine", "ids")):
        (tmp_path / kind / "train").mkdir(parents=True)
        (tmp_path / kind / "train/aachen").symlink_to(tmp_path / target / "aachen", target_is_directory=True)
        (tmp_path / kind / "train/loop").symlink_to(tmp_path / kind, target_is_directory=True)
    assert open_dataset(f"cityscapes:{tmp_path}").keys == ["x"]
    (tmp_path / "set.toml").write_text('images = "leftImg8bit/**/*.png"\nclasses = ["a"]\n')
    assert open_dataset(f"folder:{tmp_path / 'set.toml'}").keys == ["train/aachen/x_leftImg8bit"]


# --- descriptions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text,parts",
    [
        ("classes = [0, 1, 2]\n", ["class name", "'0'"]),
        ('classes = ["a", 1]\n', ["class name"]),
        ('classes = [["a"], ["b"]]\n', ["class name"]),
        ('classes = ["a", ""]\n', ["class name", "''"]),
        ("classes = []\n", ["0 classes"]),
        ("classes = true\n", ["'classes'"]),
        ('classes = ["a", 2020-01-01]\n', ["class name"]),
        ('classes = ["\\u001b[31m"]\n', ["control codes"]),
        ('classes = ["pavement", "car", "sidewalk"]\n', ["named twice", "'pavement' and 'sidewalk'"]),
        ('classes = ["Car", "car "]\n', ["named twice", "'Car' and 'car '"]),
        ('classes = ["a", "b"]\npalette = ["#ff0000", "#00ff00"]\n', ["'#ff0000'", "no color"]),
        ('classes = ["a", "b"]\npalette = ["red", "green"]\n', ["'red'"]),
        ('classes = ["a", "b"]\npalette = [1, 2]\n', ["'1'"]),
        ('classes = ["a", "b"]\npalette = [[nan, 1, 2], [1, 2, 3]]\n', ["no color"]),
        ('classes = ["a", "b"]\npalette = [[0.5, 1, 2], [1, 2, 3]]\n', ["no color"]),
        ('classes = ["a", "b"]\npalette = [[true, 1, 2], [1, 2, 3]]\n', ["no color"]),
        ('classes = ["a", "b"]\npalette = [[256, 1, 2], [1, 2, 3]]\n', ["no color"]),
        ('classes = ["a", "b"]\npalette = [[1, 2], [1, 2, 3]]\n', ["no color"]),
        ('classes = "cityscapes19"\npalette = [[1, 2, 3]]\n', ["1 colors for 19 classes"]),
        ('classes = ["a"]\nname = ""\n', ["'name'"]),
        ('classes = ["a"]\nname = "\\u001b[31m"\n', ["'name'"]),
        ('classes = ["a"]\nignore = [0]\n', ["id 0 is under ignore", "'a'"]),
        ('classes = ["a"]\nignore = [true]\n', ["'ignore'"]),
        ('classes = ["a"]\nignore = ["255"]\n', ["'ignore'"]),
        ('classes = ["a"]\nignore = [0x' + "f" * 5000 + "]\n", ["'ignore'"]),
        ('classes = ["a"]\nignore = [255]\n[ids]\n0 = "a"\n255 = "a"\n', ["id 255 is under ignore"]),
        ('classes = ["a"]\n[ids]\n"²" = "a"\n', ["'²'", "0-9"]),
        ('classes = ["a"]\n[ids]\n"-1" = "a"\n', ["'-1'"]),
        ('classes = ["a"]\n[ids]\n65536 = "a"\n', ["'65536'"]),
        ('classes = ["a", "b"]\n[ids]\n0 = "a"\n00 = "b"\n', ["id 0 is given twice", "00"]),
        ('classes = ["a", "b"]\n[ids]\n0 = true\n', ["id 0 stands for class True"]),
        ('classes = ["a", "b"]\n[ids]\n0 = 1.0\n', ["id 0 stands for class 1.0"]),
        ('classes = ["a"]\nids = "kitti"\n', ["no known numbering"]),
        ('classes = ["a"]\n[splits.all]\nimages = "images/*.png"\n', ["'all' twice"]),
        ('classes = ["a"]\n[splits.night]\nlabels = "labels/*.png"\n', ["[splits.night]", "images"]),
        ('classes = ["a"]\n[splits]\nnight = "images/*.png"\n', ["[splits.night]"]),
        ('classes = ["a"]\nsplits = 3\n', ["'splits'"]),
        ('classes = ["a"]\nseed = 0x' + "f" * 5000 + "\n", ["'seed'"]),
        ('classes = ["a"]\nname = ' + "9" * 5000 + "\n", ["not valid TOML"]),
        ("classes = " + "[" * 5000 + "]" * 5000 + "\n", ["TOML"]),
    ],
)
def test_descriptions_refused(camvid, text, parts):
    refused(lambda: open_dataset(describe(camvid, text)), camvid / "set.toml", *parts)


@pytest.mark.parametrize(
    "images",
    [
        ".",
        "..",
        "",
        " ",
        "images",
        "images/",
        "**",
        "images/**",
        "/images/*.png",
        "~/*.png",
        "images/***.png",
        "a\\u0000b",
        "x" * 5000,
    ],
)
def test_patterns_refused(camvid, images):
    refused(lambda: open_dataset(describe(camvid, images=images)), camvid)


def test_old_mac_line_ends(camvid):
    (camvid / "set.toml").write_bytes(
        b'images = "images/*.png"\rlabels = "labels/*.png"\rclasses = ["a", "b", "c", "d", "e"]\r'
    )
    spec = f"folder:{camvid / 'set.toml'}"
    try:
        assert len(open_dataset(spec)) == 2
    except InputError as error:
        assert "not valid TOML" in str(error)


def test_labels_without_images_are_not_dropped(camvid):
    (camvid / "set.toml").write_text(
        'labels = "labels/*.png"\nclasses = ["a"]\n[splits.day]\nimages = "images/*.png"\n'
    )
    refused(lambda: open_dataset(f"folder:{camvid / 'set.toml'}"), "labels without images")


def test_an_image_is_not_its_own_label(camvid):
    refused(lambda: open_dataset(describe(camvid, labels="images/*.png")), "as an image and as a label")


def test_published_numbering_and_palette_of_a_known_space(tmp_path):
    image(tmp_path / "images/a.png")
    label(tmp_path / "labels/a.png", np.array([[7, 26, 0]] * H).repeat(W // 3, 1))
    dataset = open_dataset(
        describe(
            tmp_path, 'classes = "cityscapes19"\nids = "cityscapes"\n' + f"palette = {[[i, i, i] for i in range(19)]}\n"
        )
    )
    assert dataset[0].label.unique().tolist() == [0, 13, 255] and dataset.space.palette[5] == (5, 5, 5)


def test_same_frame_names_in_several_folders(tmp_path):
    for sequence, value in (("seq1", 0), ("seq2", 1)):
        for frame in ("0001", "0002"):
            image(tmp_path / f"frames/{sequence}/rgb/frame{frame}_img.png", 50 + value)
            label(tmp_path / f"masks/{sequence}/frame{frame}_mask.png", value)
    spec = describe(tmp_path, 'classes = ["a", "b"]\n', "frames/*/rgb/frame*_img.png", "masks/*/frame*_mask.png")
    dataset = open_dataset(spec)
    assert dataset.keys == ["seq1/0001", "seq1/0002", "seq2/0001", "seq2/0002"]
    assert (
        [int(dataset[i].label.unique()) for i in range(4)]
        == [0, 0, 1, 1]
        == [int(dataset[i].image.unique()) - 50 for i in range(4)]
    )
    assert open_dataset(spec, labelled=False).keys == dataset.keys
    deep = describe(tmp_path, 'classes = ["a", "b"]\n', "frames/**/rgb/frame*_img.png", "masks/**/frame*_mask.png")
    assert open_dataset(deep).keys == dataset.keys
    refused(
        lambda: open_dataset(describe(tmp_path, 'classes = ["a"]\n', "frames/*/rgb/*.png", "masks/seq1/*.png")),
        "pairs like",
    )


def test_keys_of_one_folder_stay(tmp_path):
    for name in ("img_1_x", "img_2_x"):
        image(tmp_path / f"images/{name}.png")
        label(tmp_path / f"labels/{name}.png")
    assert open_dataset(describe(tmp_path, 'classes = ["a"]\n', "images/img_*_x.png", "labels/img_*_x.png")).keys == [
        "1",
        "2",
    ]
    assert open_dataset(describe(tmp_path, 'classes = ["a"]\n', "images/*_[xy].png", "labels/*_?.png")).keys == [
        "img_1_x",
        "img_2_x",
    ]
    assert open_dataset(describe(tmp_path, 'classes = ["a"]\n', "images/*", "labels/*.p*")).keys == [
        "img_1_x",
        "img_2_x",
    ]
    assert open_dataset(describe(tmp_path, 'classes = ["a"]\n', "images/*png", "labels/*.png")).keys == [
        "img_1_x",
        "img_2_x",
    ]


# --- layouts ---------------------------------------------------------------------------------------------------------


def test_copies_of_other_kits_are_skipped(tmp_path):
    image(tmp_path / "images/00001.png")
    label(tmp_path / "labels/00001.png", 7)
    label(tmp_path / "labels/00001_labelTrainIds.png", 0)
    dataset = open_dataset(f"gta5:{tmp_path}")
    assert dataset.keys == ["00001"] and (dataset[0].label == 0).all()
    image(tmp_path / "leftImg8bit/val/bonn/x_leftImg8bit.png")
    for kind, value in (("labelIds", 26), ("labelTrainIds", 13), ("color", 3), ("instanceIds", 26)):
        label(tmp_path / f"gtFine/val/bonn/x_gtFine_{kind}.png", value)
    assert (open_dataset(f"cityscapes:{tmp_path}", "val")[0].label == 13).all()
    image(tmp_path / "RGB/1.png")
    label(tmp_path / "GT/LABELS/1.png")
    label(tmp_path / "GT/LABELS/1_labelTrainIds.png")
    assert open_dataset(f"synthia:{tmp_path}").keys == ["1"]


def test_gta5_parts(tmp_path):
    for part, frame in (("01", "00001"), ("02", "02501")):
        image(tmp_path / f"{part}_images/images/{frame}.png")
        label(tmp_path / f"{part}_labels/labels/{frame}.png", 7)
    image(tmp_path / "03_images/05001.png")
    label(tmp_path / "03_labels/05001.png", 7)
    assert open_dataset(f"gta5:{tmp_path}").keys == ["00001", "02501", "05001"]
    image(tmp_path / "03_images/00001.png")
    refused(lambda: open_dataset(f"gta5:{tmp_path}"), "same name")


def test_segnet_camvid(tmp_path):
    for part in ("train", "val", "test"):
        for k in range(2):
            image(tmp_path / f"{part}/{part}{k}.png")
            label(tmp_path / f"{part}annot/{part}{k}.png", 3)
        (tmp_path / f"{part}.txt").write_text(
            "".join(f"/SegNet/CamVid/{part}/{part}{k}.png /SegNet/CamVid/{part}annot/{part}{k}.png\n" for k in range(2))
        )
    (tmp_path / "few.txt").write_text("/SegNet/CamVid/val/val1.png /SegNet/CamVid/valannot/val1.png\n")
    assert open_dataset(f"camvid:{tmp_path}", "train").keys == ["train0", "train1"]
    assert (
        open_dataset(f"camvid:{tmp_path}", "val").keys == ["val0", "val1"]
        and len(open_dataset(f"camvid:{tmp_path}")) == 6
    )
    assert open_dataset(f"camvid:{tmp_path}", "few").keys == ["val1"]
    refused(lambda: open_dataset(f"camvid:{tmp_path / 'train'}"), "images/*.jpg and labels/*.png", "trainannot")


def test_vistas_foggy_cityscapes_acdc(tmp_path):
    image(tmp_path / "v/training/images/a.jpg")
    label(tmp_path / "v/training/v2.0/labels/a.png", 13)
    refused(lambda: open_dataset(f"vistas:{tmp_path / 'v'}"), "version 2.0", "1.2")
    label(tmp_path / "v/training/v1.2/labels/a.png", 13)
    assert (open_dataset(f"vistas:{tmp_path / 'v'}")[0].label == 0).all()
    for beta in ("0.005", "0.01", "0.02"):
        image(tmp_path / f"f/leftImg8bit_foggy/val/bonn/x_leftImg8bit_foggy_beta_{beta}.png", round(1000 * float(beta)))
    label(tmp_path / "f/gtFine/val/bonn/x_gtFine_labelIds.png", 7)
    refused(lambda: open_dataset(f"cityscapes:{tmp_path / 'f'}", "val"), "?beta=0.02")
    refused(lambda: open_dataset(f"cityscapes:{tmp_path / 'f'}?beta=0.2", "val"), "0.02")
    foggy = open_dataset(f"cityscapes:{tmp_path / 'f'}?beta=0.02", "val")
    assert foggy.keys == ["x"] and int(foggy[0].image.max()) == 20 and foggy.settings()["beta"] == "0.02"
    image(tmp_path / "acdc/rgb_anon/fog/train/G/G_1_rgb_anon.png")
    label(tmp_path / "acdc/gt/fog/train/G/G_1_gt_labelIds.png", 7)
    refused(lambda: open_dataset(f"cityscapes:{tmp_path / 'acdc'}"), "acdc:FOLDER", "darkzurich:FOLDER")
    images, labels = "rgb_anon/*/train/*/*_rgb_anon.png", "gt/*/train/*/*_gt_labelIds.png"
    described = open_dataset(
        describe(tmp_path / "acdc", 'classes = "cityscapes19"\nids = "cityscapes"\n', images, labels)
    )
    assert described.keys == ["fog/G/G_1"] and (described[0].label == 0).all()


def test_options_are_not_dropped(camvid):
    refused(lambda: open_dataset(f"camvid:{camvid}?split=all&split=day"), "'split' is given twice")
    refused(lambda: open_dataset(f"gta5:{camvid}?drop_mismatched=maybe"), "true or false")
    dataset = open_dataset(f"camvid:{camvid}")
    assert open_dataset(dataset) is dataset and not open_dataset(dataset, labelled=False).labelled
    assert open_dataset(dataset, space="cityscapes19").space == CITYSCAPES19 and isinstance(
        open_dataset(dataset, space="cityscapes19"), Relabelled
    )
    refused(lambda: open_dataset(dataset, "dusk"), "'all', not 'dusk'")
    assert open_dataset(f"camvid:{camvid}", labelled=False).labelled is False
    refused(lambda: open_dataset(f"camvid:{'x' * 5000}"), "no such folder")
    assert parse_spec("scenes:camera?n=3")[2] == {"n": "3"}


# --- check-data ------------------------------------------------------------------------------------------------------


def halves(low, high):
    return np.where(np.arange(W) < W // 2, low, high)[None].repeat(H, 0)


def checked(spec):
    report = check_data(spec, progress=False)
    return report, str(report)


def test_masks_of_0_and_255(tmp_path):
    for k in range(3):
        image(tmp_path / f"images/{k}.png")
        label(tmp_path / f"labels/{k}.png", halves(0, 255))
    report, text = checked(describe(tmp_path, 'classes = ["ground", "road"]\n'))
    assert not report.ok and "all well" not in text and 'write 255 = "road"' in text and "50.0 %" in text
    assert (
        checked(describe(tmp_path, 'classes = ["ground", "road"]\n[ids]\n0 = "ground"\n255 = "road"\n'))[1]
        .split("\n")[0]
        .endswith("all well")
    )
    report, text = checked(describe(tmp_path, 'classes = ["ground", "road"]\nignore = [255]\n'))
    assert report.ok and "all well" not in text and "never seen: road" in text
    assert not checked(describe(tmp_path, 'classes = "cityscapes19"\n'))[0].ok


def test_mostly_unscored(tmp_path):
    image(tmp_path / "images/0.png")
    label(tmp_path / "labels/0.png", np.where(np.arange(W) < 4, 1, 0)[None].repeat(H, 0))
    text = 'classes = ["crop"]\nignore = [{}]\n[ids]\n1 = "crop"\n'
    assert checked(describe(tmp_path, text.format("0")))[0].ok  # the description says that it is meant
    label(tmp_path / "labels/0.png", halves(255, 0))
    assert not checked(describe(tmp_path, text.format("0")))[0].ok  # not one pixel of a class
    image(tmp_path / "g/images/1.png")
    label(tmp_path / "g/labels/1.png", np.where(np.arange(W) < 4, 7, 4)[None].repeat(H, 0))
    report, text = checked(f"gta5:{tmp_path / 'g'}")
    assert not report.ok and "83.3 % of the pixels are not scored" in text and "id 4 83.3 %" in text


@pytest.mark.parametrize("ids", [(0, 1, 2, 8, 10, 13), (0, 2, 255, 18), (0, 1, 2)])
def test_train_ids_where_label_ids_are_expected(tmp_path, ids):
    image(tmp_path / "images/00001.png")
    label(tmp_path / "labels/00001.png", np.array(ids)[np.arange(H * W).reshape(H, W) % len(ids)])
    report, text = checked(f"gta5:{tmp_path}")
    assert not report.ok and "all well" not in text and report.as_dict()["ok"] is False
    if len(ids) > 3:
        assert "train ids" in text and "00001.png" in text
    right = np.array(sorted(CITYSCAPES_IDS.ids))[np.arange(H * W).reshape(H, W) % 19]
    label(tmp_path / "labels/00001.png", right)
    assert checked(f"gta5:{tmp_path}")[1].split("\n")[0].endswith("all well")


def test_a_split_that_fails_is_a_problem_not_absent(tmp_path):
    image(tmp_path / "leftImg8bit/val/bonn/x_leftImg8bit.png")
    label(tmp_path / "gtFine/val/bonn/x_gtFine_labelIds.png", 7)
    for city in ("bonn", "koeln"):
        image(tmp_path / f"leftImg8bit/train/{city}/x_leftImg8bit.png")
    report, text = checked(f"cityscapes:{tmp_path}")
    assert report.absent == ["test"] and not report.ok and "same name" in text
    image(tmp_path / "i/a.png")
    (tmp_path / "set.toml").write_text('images = "i/*.png"\nclasses = ["a"]\n[splits.night]\nimages = "nihgt/*.png"\n')
    report, text = checked(f"folder:{tmp_path / 'set.toml'}")
    assert not report.ok and "matches no image files" in text and not report.absent
    refused(lambda: checked(describe(tmp_path, "classes = 3\n")), "set.toml")


# --- scores ----------------------------------------------------------------------------------------------------------


def evaluation(matrix, space=CITYSCAPES19, scored=None, **more):
    matrix = tuple(map(tuple, np.asarray(matrix).tolist()))
    fields = dict(
        dataset="set",
        split="val",
        space=space,
        scored=tuple(range(len(space))) if scored is None else scored,
        matrix=matrix,
        trained=space.name,
        width=len(space),
        mapping="same classes",
        size=None,
        images=3,
        seconds=1.5,
    )
    return Evaluation(**fields | more)


def test_means_count_or_drop_pixels_of_other_classes():
    counts = np.random.default_rng(0).integers(1, 100, (19, 19)) + 500 * np.eye(19, dtype=int)
    one, sixteen = evaluation(counts), protocols(CITYSCAPES19)["16"]
    iou = np.array([counts[c, c] / (counts[c].sum() + counts[:, c].sum() - counts[c, c]) for c in sixteen])
    rows = counts[sixteen]  # pixels of the sixteen alone
    alone = np.array([rows[i, c] / (rows[i].sum() + rows[:, c].sum() - rows[i, c]) for i, c in enumerate(sixteen)])
    assert (
        np.isclose(one.means()["16"], iou.mean())
        and np.isclose(one.means("dropped")["16"], alone.mean())
        and alone.mean() > iou.mean()
    )
    assert one.means("dropped")["19"] == one.means()["19"]
    record = one.record()
    assert (
        record["missing_classes"] == "counted"
        and record["miou_over_dropped"]["16"] == round(alone.mean(), 6)
        and list(record["miou_over"]) == ["19", "16", "13"]
    )
    text = str(one)
    assert "mIoU over 16 (others dropped)" in text and "mIoU over 19 (" not in text
    with pytest.raises(ValueError):
        subset_iou(counts, sixteen, "ignored")


def test_means_say_how_many_classes_are_present():
    matrix = np.zeros((19, 19), int)
    matrix[0, 0], matrix[1, 1], matrix[1, 0] = 50, 40, 10
    one = evaluation(matrix)
    assert "mIoU over 2 of 19 classes present" in str(one) and "mIoU over 19" not in str(one) and "2 of 19" in repr(one)
    assert (
        one.record()["classes_present"] == {"19": 2, "16": 2, "13": 2} and one.record()["miou_over"]["19"] is not None
    )
    empty = evaluation(np.zeros((19, 19), int))
    assert (
        empty.record()["miou"] is None
        and empty.record()["classes_present"]["19"] == 0
        and "NaN" not in json.dumps(empty.record())
    )
    assert "mIoU over 19" in str(evaluation(np.eye(19, dtype=int))) and "present" not in str(
        evaluation(np.eye(19, dtype=int))
    )


def test_classes_that_are_not_scored_are_named():
    own = LabelSpace("field", ("crop", "road", "soil"))
    assert "not scored: crop, soil" in reconcile(CITYSCAPES19, own).mapping
    assert "not scored" not in reconcile(CITYSCAPES19, SYNTHIA16).mapping
    refused(lambda: reconcile(CITYSCAPES19, LabelSpace("field", ("crop", "soil"))), "shares no class")


def test_saved_evaluations_come_back_and_others_are_refused(tmp_path):
    one, path = evaluation(np.eye(19, dtype=int)), tmp_path / "evaluation.json"
    assert load_evaluation(one.save(path)) == one == load_evaluation(one.to_dict())
    good = json.loads(path.read_text())
    space = good["space"]
    nested = "[" * 20000 + "]" * 20000
    cases = [
        {"matrix": good["matrix"][:-1]},
        {"matrix": [*good["matrix"][:-1], [1]]},
        {"matrix": "many"},
        {"matrix": [["1"] * 19] * 19},
        {"matrix": [[-1] * 19] * 19},
        {"matrix": [[2**60] * 19] * 19},
        {"matrix": [[1.5] * 19] * 19},
        {"matrix": [[True] * 19] * 19},
        {"matrix": []},
        {"matrix": None},
        {"matrix": [[float("nan")] * 19] * 19},
        {"scored": [0, 0]},
        {"scored": [19]},
        {"scored": [-1]},
        {"scored": []},
        {"scored": "all"},
        {"size": [1]},
        {"size": [0, 5]},
        {"size": "big"},
        {"images": -1},
        {"images": "3"},
        {"seconds": float("nan")},
        {"seconds": float("inf")},
        {"seconds": "1"},
        {"width": 0.5},
        {"dataset": 3},
        {"dataset": None},
        {"mapping": []},
        {"space": "cityscapes19"},
        {"space": None},
        {"space": space | {"palette": [[1, 2]] * 19}},
        {"space": space | {"palette": ["#ff0000"] * 19}},
        {"space": space | {"palette": [[1, 2, 300]] * 19}},
        {"space": space | {"classes": ["a"] * 19}},
        {"space": space | {"classes": space["classes"][:5]}},
        {"space": space | {"classes": [1] * 19}},
        {"space": space | {"ignore": 7}},
        {"space": {"name": "x"}},
        {"space": space | {"name": ""}},
    ]
    for change in cases:
        path.write_text(json.dumps(good | change))
        refused(lambda: load_evaluation(path), path)
        refused(lambda: load_evaluation(good | change))
    for field in ("matrix", "space", "scored", "split"):
        path.write_text(json.dumps({k: v for k, v in good.items() if k != field}))
        refused(lambda: load_evaluation(path), path, field)
    for text in (
        "",
        "[]",
        "3",
        "null",
        "{",
        nested,
        '{"matrix": ' + nested + "}",
        "\ufeff{}",
        '{"matrix": ' + "9" * 5000 + "}",
    ):
        path.write_text(text)
        refused(lambda: load_evaluation(path), path)
    path.write_bytes(b"\xff\xfe{}")
    refused(lambda: load_evaluation(path), path, "UTF-8")
    refused(lambda: load_evaluation(tmp_path), tmp_path)
    odd = evaluation(np.eye(19, dtype=int), split="caf\udce9\x1b")  # as a list file may be called
    assert load_evaluation(odd.save(path)).split == "caf\\xe9\\x1b" and "\x1b" not in str(odd) + repr(odd) + json.dumps(
        odd.record()
    )
    path.write_text(json.dumps(good | {"scores": "anything", "more": 1}))
    assert load_evaluation(path) == one


def test_folder_by_keywords(camvid):
    dataset = FolderDataset(
        camvid, images="images/*.png", labels="labels/*.png", classes=("a", "b"), ids={3: "a", "4": 1}
    )
    assert [int(dataset[i].label.unique()) for i in range(2)] == [0, 1] and torch.equal(
        dataset.label(0), dataset[0].label
    )


def test_lists_of_files_beside_the_list(tmp_path):
    for name in "ab":
        image(tmp_path / f"{name}_rgb.png")
        label(tmp_path / f"{name}_ids.png", ord(name) - ord("a"))
    spec = describe(tmp_path, 'classes = ["a", "b"]\n', "*_rgb.png", "*_ids.png")
    for text in (
        "a",
        "a_rgb.png",
        "a_rgb.png a_ids.png",
        f"{tmp_path}/a_rgb.png {tmp_path}/a_ids.png",
        "./a_rgb.png\t./a_ids.png",
    ):
        (tmp_path / "my.txt").write_text(text + "\n")
        assert open_dataset(spec, "my").keys == ["a"], text
    for text in ("a_rgb.png x/b_rgb.png", "x/a_rgb.png", "a_rgb.png b_ids.png", "a_rgb.png x/a_ids.png"):
        (tmp_path / "my.txt").write_text(text + "\n")
        refused(lambda: open_dataset(spec, "my"), "my.txt, line 1")


def test_pattern_in_another_unicode_form(tmp_path):
    image(tmp_path / unicodedata.normalize("NFD", "Straße ü") / "é1.png")
    for form in ("NFC", "NFD"):
        text = unicodedata.normalize(form, 'images = "Straße ü/é*.png"\nclasses = ["a"]\n')
        (tmp_path / "set.toml").write_text(text, encoding="utf-8")
        assert open_dataset(f"folder:{tmp_path / 'set.toml'}").keys == ["1"]


def test_means_say_how_many_classes_are_labelled():
    matrix = np.zeros((3, 3), int)
    matrix[0] = [50, 1, 1]  # one class is labelled, all three are predicted
    one = evaluation(matrix, LabelSpace("field", ("crop", "road", "soil")))
    assert one.record()["classes_present"] == {"3": 3} and one.record()["classes_labelled"] == {"3": 1}
    assert (
        "mIoU over 3 (1 labelled)" in str(one)
        and "over 3 classes (1 labelled)" in repr(one)
        and "over 3 classes (1 labelled) on" in summary(one)
    )
    wide = np.zeros((19, 19), int)
    wide[0, :5] = 10
    other = evaluation(wide)
    assert "mIoU over 5 of 19 classes present (1 labelled)" in str(
        other
    ) and "over 5 of 19 classes present (1 labelled) on" in summary(other)
    assert comparison_table(one, one).rows[-1][0] == "mIoU over 3 (1 labelled)"


def test_a_description_without_splits_says_what_to_write(tmp_path):
    image(tmp_path / "images/a.png")
    label(tmp_path / "labels/a.png")
    refused(
        lambda: open_dataset(describe(tmp_path, 'classes = ["a"]\n'), "train"),
        "no split 'train'",
        "known: all",
        "?split=all",
    )
    (tmp_path / "day.txt").write_text("a\n")
    assert "?split" not in refused(lambda: open_dataset(describe(tmp_path, 'classes = ["a"]\n'), "train"), "all, day")


def test_lists_of_names_with_spaces(tmp_path):
    for name in ("a", "a b", "c.png d"):
        image(tmp_path / f"images/{name}.png")
        label(tmp_path / f"labels/{name}.png")
    spec = describe(tmp_path, 'classes = ["a"]\n')
    for text, keys in (
        ("images/a b.png labels/a b.png\n", ["a b"]),
        ("images/a.png labels/a.png\nimages/a b.png\tlabels/a b.png\n", ["a", "a b"]),
        ("a b\na\n", ["a b", "a"]),
        ("images/a labels/a.png\n", ["a"]),
    ):
        (tmp_path / "day.txt").write_text(text)
        assert open_dataset(spec, "day").keys == keys
    (tmp_path / "day.txt").write_text("images/a b.png labels/a b.png\n")
    assert open_dataset(spec, "day", labelled=False).keys == ["a b"]
    for wrong in ("images/a b.png labels/a.png", "images/a.png labels/a b.png", "images/a.png b.png"):
        (tmp_path / "day.txt").write_text(wrong + "\n")
        refused(lambda: open_dataset(spec, "day"), "line 1")
