"""Bad data gets one line that names the file, says what is wrong and what to do, and never a traceback of another kind."""

import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from refusals import refused

from uda_kit.data.check import check_data
from uda_kit.data.folder_dataset import FolderDataset
from uda_kit.data.open import DATASETS, open_dataset
from uda_kit.data.samples import png
from uda_kit.data.streams import Stream

H, W = 24, 32


def picture(path, shape=(H, W, 3), value=None, kind=np.uint8):
    "Write a small PNG, noise or one value."
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 255, shape) if value is None else np.full(shape, value)
    path.write_bytes(png(noise.astype(kind)))
    return path


def read_all(spec, split=None, **kwargs):
    dataset = open_dataset(str(spec), split, **kwargs)
    return [dataset[i] for i in range(len(dataset))]


@pytest.fixture
def camvid(tmp_path):
    "Three good pairs in CamVid's layout."
    for k in range(3):
        picture(tmp_path / f"images/f{k}.png")
        picture(tmp_path / f"labels/f{k}.png", (H, W), 3)
    assert len(read_all(f"camvid:{tmp_path}")) == 3
    return tmp_path


@pytest.fixture
def gta5(tmp_path):
    for k in (1, 2):
        picture(tmp_path / f"images/{k:05d}.png")
        picture(tmp_path / f"labels/{k:05d}.png", (H, W), 7)
    return tmp_path


@pytest.fixture
def synthia(tmp_path):
    picture(tmp_path / "RGB/0000000.png")
    picture(tmp_path / "GT/LABELS/0000000.png", (H, W, 3), 3, np.uint16)
    assert (read_all(f"synthia:{tmp_path}")[0].label == 0).all()
    return tmp_path


# --- roots, names and options ------------------------------------------------------------------------------------------

LAYOUTS = [name for name in DATASETS if name != "folder"]


@pytest.mark.parametrize("name", LAYOUTS)
def test_missing_root(name, tmp_path):
    refused(
        lambda: open_dataset(f"{name}:{tmp_path / 'nowhere'}"),
        tmp_path / "nowhere",
        "no such folder",
        "give the folder that holds",
    )


@pytest.mark.parametrize("name", LAYOUTS)
def test_empty_root(name, tmp_path):
    refused(lambda: open_dataset(f"{name}:{tmp_path}"), tmp_path)


def test_root_is_a_file(tmp_path):
    refused(lambda: open_dataset(f"gta5:{picture(tmp_path / 'x.png')}"), "x.png", "no such folder")


def test_unknown_name_suggests_the_nearest():
    refused(lambda: open_dataset("citiscapes:/data"), "unknown data set 'citiscapes'", "did you mean 'cityscapes'")


@pytest.mark.parametrize("spec", ["", "cityscapes", "cityscapes:", "/data/cityscapes", ":"])
def test_shapeless_spec(spec):
    refused(lambda: open_dataset(spec), "does not name a data set", "NAME:ROOT")


def test_unknown_option(camvid):
    refused(lambda: open_dataset(f"camvid:{camvid}?mapping=edaps"), "unknown option 'mapping'")
    refused(lambda: open_dataset(f"camvid:{camvid}?splitt=day"), "unknown option 'splitt'", "did you mean 'split'")
    refused(lambda: open_dataset(f"camvid:{camvid}?split"), "no value")


@pytest.mark.parametrize(
    "query,part",
    [
        ("n=0", "'n'"),
        ("n=many", "'n'"),
        ("seed=-1", "'seed'"),
        ("size=64", "HEIGHTxWIDTH"),
        ("size=0x64", "'size'"),
        ("sise=64x64", "did you mean 'size'"),
    ],
)
def test_scene_options(query, part):
    refused(lambda: open_dataset(f"scenes:camera?{query}"), part)


def test_unknown_split_space_mapping_city(camvid):
    (camvid / "day.txt").write_text("f0\n")
    refused(lambda: open_dataset(f"camvid:{camvid}", "dya"), "has no split 'dya'", "did you mean 'day'")
    refused(
        lambda: open_dataset(f"camvid:{camvid}", space="cityscape19"),
        "is no label space",
        "did you mean 'cityscapes19'",
    )
    refused(lambda: open_dataset(f"vistas:{camvid}?mapping=edap"), "has no mapping 'edap'", "did you mean 'edaps'")
    refused(lambda: open_dataset(f"crosscity:{camvid}?city=Rom"), "has no city 'Rom'", "did you mean 'Rome'")
    refused(lambda: open_dataset("scenes:camera", "dusk"), "has no split 'dusk'")


def test_question_mark_in_a_real_path(camvid):
    odd = camvid / "what?is=this"
    odd.mkdir()
    (camvid / "images").rename(odd / "images")
    (camvid / "labels").rename(odd / "labels")
    assert len(open_dataset(f"camvid:{odd}")) == 3


def test_windows_path():
    refused(lambda: open_dataset(r"gta5:C:\data\gta5"), r"C:\data\gta5", "no such folder")


# --- files that are missing or do not pair up ---------------------------------------------------------------------------


def test_missing_label_folder(camvid):
    (camvid / "labels").rename(camvid / "elsewhere")
    refused(lambda: open_dataset(f"camvid:{camvid}"), camvid / "labels", "no such folder")
    assert read_all(f"camvid:{camvid}", labelled=False)[0].label is None


def test_image_without_label(camvid):
    (camvid / "labels/f1.png").unlink()
    refused(
        lambda: open_dataset(f"camvid:{camvid}"), camvid / "images/f1.png", "image without a label", "labelled=False"
    )
    assert len(open_dataset(f"camvid:{camvid}", labelled=False)) == 3


def test_label_without_image(camvid):
    for k in (0, 1):
        (camvid / f"images/f{k}.png").unlink()
    refused(lambda: open_dataset(f"camvid:{camvid}"), camvid / "labels/f0.png", "label without an image", "1 more")


def test_unlabelled_split_never_opens_labels(camvid):
    for f in (camvid / "labels").iterdir():
        f.write_bytes(b"")
    assert len(read_all(f"camvid:{camvid}", labelled=False)) == 3
    assert next(iter(Stream(open_dataset(f"camvid:{camvid}"), labelled=False))).label is None


def test_same_name_twice(camvid):
    picture(camvid / "images/f0.png").rename(camvid / "images/f0.jpg")
    picture(camvid / "images/f0.png")
    refused(lambda: open_dataset(f"camvid:{camvid}"), "f0", "same name")


def test_empty_split(camvid):
    (camvid / "none.txt").write_text("\n\n")
    refused(lambda: open_dataset(f"camvid:{camvid}", "none"), "none.txt", "holds no images")
    for f in (camvid / "images").iterdir():
        f.unlink()
    refused(lambda: open_dataset(f"camvid:{camvid}"), "holds no images", "expected images/*.jpg")


def test_list_names_an_absent_or_repeated_image(camvid):
    (camvid / "day.txt").write_text("f0\nf9\n")
    (camvid / "twice.txt").write_text("f0\r\nf0\r\n")
    refused(lambda: open_dataset(f"camvid:{camvid}", "day"), camvid / "day.txt", "line 2", "'f9'")
    refused(lambda: open_dataset(f"camvid:{camvid}", "twice"), "line 2", "a second time")


def test_labels_wanted_where_there_are_none(tmp_path):
    picture(tmp_path / "leftImg8bit/test/berlin/berlin_0_leftImg8bit.png")
    dataset = open_dataset(f"cityscapes:{tmp_path}", "test")
    assert not dataset.labelled
    refused(lambda: Stream(dataset, labelled=True), "'test' has no labels")
    refused(lambda: open_dataset(f"cityscapes:{tmp_path}", "test", labelled=True), "gtFine", "no such folder")


# --- files that cannot be used ------------------------------------------------------------------------------------------


def test_size_mismatch(camvid):
    picture(camvid / "labels/f1.png", (H, W // 2), 3)
    refused(lambda: read_all(f"camvid:{camvid}"), camvid / "labels/f1.png", camvid / "images/f1.png", "16x24", "32x24")


def test_known_gta5_mismatches_are_dropped(gta5):
    picture(gta5 / "images/04635.png")
    picture(gta5 / "labels/04635.png", (H, W - 1), 7)
    dataset = open_dataset(f"gta5:{gta5}")
    assert len(dataset) == 2 and dataset.dropped == ["04635"]
    refused(lambda: read_all(f"gta5:{gta5}?drop_mismatched=false"), "04635", "31x24")


def test_ids_outside_the_table(camvid, gta5):
    picture(camvid / "labels/f1.png", (H, W), 40)
    refused(lambda: read_all(f"camvid:{camvid}"), camvid / "labels/f1.png", "ids 40", "camvid table")
    picture(gta5 / "labels/00002.png", (H, W), 99)
    refused(lambda: open_dataset(f"gta5:{gta5}").label(1), "ids 99", "gta5 table")


def test_colors_where_ids_are_expected(gta5):
    picture(gta5 / "labels/00001.png", (H, W, 3))
    refused(lambda: read_all(f"gta5:{gta5}"), gta5 / "labels/00001.png", "colours (RGB)", "id labels")


def test_jpeg_label(tmp_path):
    picture(tmp_path / "images/f0.png")
    (tmp_path / "labels").mkdir()
    Image.fromarray(np.full((H, W), 3, np.uint8)).save(tmp_path / "labels/f0.jpg")
    refused(lambda: read_all(f"camvid:{tmp_path}"), "f0.jpg", "JPEG", "PNG")


@pytest.mark.parametrize("shape", [(H, W), (H, W, 3)])
def test_eight_bit_synthia_labels(synthia, shape):
    picture(synthia / "GT/LABELS/0000000.png", shape, 3)
    refused(lambda: read_all(f"synthia:{synthia}"), "0000000.png", "8-bit labels where 16-bit", "GT/LABELS")


def test_synthia_id_outside_the_table(synthia):
    picture(synthia / "GT/LABELS/0000000.png", (H, W, 3), 3 + 256, np.uint16)  # would pass as 3 if cut to 8 bits
    refused(lambda: read_all(f"synthia:{synthia}"), "ids 259")


@pytest.mark.parametrize("what", ["images/f1.png", "labels/f1.png"])
@pytest.mark.parametrize("size", [0, 7, 30, 60, 200])
def test_truncated_or_empty(camvid, what, size):
    (camvid / what).write_bytes((camvid / what).read_bytes()[:size])
    refused(lambda: read_all(f"camvid:{camvid}"), camvid / what)


@pytest.mark.parametrize("size", [0, 7, 30, 60, 1000, 4600])
def test_truncated_sixteen_bit(synthia, size):
    path = synthia / "GT/LABELS/0000000.png"
    assert path.stat().st_size > 4600
    path.write_bytes(path.read_bytes()[:size])
    refused(lambda: read_all(f"synthia:{synthia}"), path)


def test_truncated_jpeg(camvid):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (H, W, 3)).astype(np.uint8)).save(camvid / "x.jpg")
    (camvid / "images/f1.png").unlink()
    (camvid / "images/f1.jpg").write_bytes((camvid / "x.jpg").read_bytes()[:-200])
    refused(lambda: read_all(f"camvid:{camvid}"), "f1.jpg", "cut short")


def test_not_an_image(camvid):
    (camvid / "images/f1.png").write_text("<html>404</html>")
    refused(lambda: read_all(f"camvid:{camvid}"), "f1.png", "is not an image")


def huge(path, width, height, bits=8, color=0):
    "A PNG that claims an enormous size in a few bytes."
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    body = zlib.compress(bytes(10_000_000))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0))
        + chunk(b"IDAT", body)
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [9500, 12000, 20000, 2**31 - 1])
@pytest.mark.parametrize("what", ["images/f1.png", "labels/f1.png"])
def test_enormous_png(camvid, what, side):
    huge(camvid / what, side, side)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a warning beside the one line would be a second line
        refused(lambda: read_all(f"camvid:{camvid}"), camvid / what, "80 megapixels")


def test_enormous_sixteen_bit_png(synthia):
    huge(synthia / "GT/LABELS/0000000.png", 20000, 20000, 16, 2)
    refused(lambda: read_all(f"synthia:{synthia}"), "0000000.png", "80 megapixels")


def test_folder_named_like_an_image(camvid):
    (camvid / "images/f1.png").unlink()
    (camvid / "images/f1.png").mkdir()
    refused(lambda: read_all(f"camvid:{camvid}"), "f1.png")


def test_hidden_files_are_skipped(camvid):
    (camvid / "images/._f0.png").write_bytes(b"mac")
    (camvid / "labels/.DS_Store").write_bytes(b"mac")
    (camvid / "images/Thumbs.db").write_bytes(b"win")
    assert len(open_dataset(f"camvid:{camvid}")) == 3


# --- folders of one's own -----------------------------------------------------------------------------------------------

GOOD = 'images = "images/*.png"\nlabels = "labels/*.png"\nclasses = ["a", "b", "c", "d"]\n'


@pytest.mark.parametrize(
    "text,parts",
    [
        ("images = \n", ["not valid TOML", "line 1"]),
        (GOOD + "imagse = 3\n", ["unknown option 'imagse'", "did you mean 'images'"]),
        ('labels = "x"\nclasses = ["a"]\n', ["where the images are"]),
        ('images = "images/*.png"\n', ["what the classes are"]),
        ("images = 3\n", ["'images' is 3", "give a str"]),
        ('images = "images/*.png"\nclasses = "cityscape19"\n', ["did you mean 'cityscapes19'"]),
        ('images = "images/*.png"\nclasses = ["a", "a"]\n', ["named twice"]),
        ('images = "images/*.png"\nclasses = ["a", "b"]\npalette = [[1, 2, 3]]\n', ["palette"]),
        (GOOD + "[ids]\nx = 'a'\n", ["'x'", "no id"]),
        (GOOD + "[ids]\n3 = 'z'\n", ["no class 'z'"]),
        (GOOD + "[ids]\n3 = 9\n", ["id 3", "class 9"]),
        (GOOD + "ignore = [-1]\n", ["'ignore'"]),
        (GOOD + "encoding = 'id'\n", ["unknown encoding", "did you mean 'ids'"]),
        (GOOD.replace("images/", "imgs/"), ["matches no image files"]),
        (GOOD + "[splits.night]\nimage = 'x'\n", ["unknown option 'image'"]),
        ('images = "**/*.png"\nclasses = ["a"]\n', ["pairs like"]),
        ('images = "/images/*.png"\nclasses = ["a"]\n', ["no usable pattern", "relative"]),
        ('images = "**x/*.png"\nclasses = ["a"]\n', [""]),
    ],
)
def test_folder_description(camvid, text, parts):
    (camvid / "town.toml").write_text(text)
    refused(lambda: open_dataset(f"folder:{camvid / 'town.toml'}"), *parts)


def test_good_folder(camvid):
    (camvid / "town.toml").write_text(GOOD)
    dataset = open_dataset(f"folder:{camvid / 'town.toml'}")
    assert len(dataset) == 3 and (dataset[0].label == 3).all() and dataset.space.classes == ("a", "b", "c", "d")


def test_missing_or_bare_folder(camvid):
    refused(lambda: open_dataset(f"folder:{camvid / 'absent.toml'}"), "absent.toml", "does not exist")
    refused(lambda: open_dataset(f"folder:{camvid}"), "without a description")
    refused(lambda: FolderDataset(camvid, images="images/*.png", classes=["a"], labelled=True), "names none")


def test_ids_of_a_folder(camvid):
    refused(lambda: FolderDataset(camvid, images="images/*.png", labels="labels/*.png", classes=["a", "b"])[0], "ids 3")


# --- what training would meet ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_stream_raises_the_same_line(camvid, workers):
    picture(camvid / "labels/f1.png", (H, W), 40)

    def run():
        stream = iter(Stream(open_dataset(f"camvid:{camvid}"), workers=workers))
        for _ in range(4):
            next(stream)

    refused(run, camvid / "labels/f1.png", "ids 40")


def test_check_reports_all_of_it(camvid):
    picture(camvid / "labels/f0.png", (H, W), 40)
    (camvid / "images/f1.png").write_bytes(b"")
    (camvid / "labels/f2.png").unlink()
    report = check_data(f"camvid:{camvid}", progress=False)
    text = str(report)
    assert not report.ok and "unknown id 40" in text and "empty file" in text and "image without a label" in text
    refused(lambda: check_data("camvid:/nowhere", progress=False), "/nowhere")


def test_check_of_an_unlabelled_or_partial_cityscapes(tmp_path):
    picture(tmp_path / "leftImg8bit/val/bonn/bonn_0_leftImg8bit.png")
    report = check_data(f"cityscapes:{tmp_path}", progress=False)
    assert report.absent == ["train", "test"] and not report.ok and "gtFine" in str(report)
    picture(tmp_path / "gtFine/val/bonn/bonn_0_gtFine_labelIds.png", (H, W), 7)
    assert check_data(f"cityscapes:{tmp_path}", progress=False).ok


def test_reading_leaves_nothing_open(camvid):
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        samples = read_all(f"camvid:{camvid}")
    assert all(isinstance(s.image, torch.Tensor) for s in samples)
