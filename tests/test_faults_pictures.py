"""Faults met with real folders: what is an image, how every kind of image and label file is read, and readers that die."""

import json
import multiprocessing
import os
import signal
import struct
import subprocess
import sys
import time
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision.io import ImageReadMode, decode_image

from uda_kit.core.errors import InputError, expect_error
from uda_kit.data.check import check_split
from uda_kit.data.images import image_files, image_size, label_format, read_ids, read_image
from uda_kit.data.open import open_dataset
from uda_kit.data.streams import Stream
from uda_kit.data.translated import read_about
from uda_kit.data.workers import read_in_order
from uda_kit.evaluation.images import SizedImages, read_all
from uda_kit.evaluation.predict import predict, predictions_of
from uda_kit.methods.label_folder import FORMAT, read_summary
from uda_kit.methods.pseudo_labels import make_pseudo_labels
from uda_kit.methods.translation import write_translated
from uda_kit.models.segmenters import deeplab_v2


# ---------------------------------------------------------------- worker processes
class Deadly:
    "Rendered scenes; reading number 5 kills the worker that does it."

    def __init__(self, signal_number=signal.SIGKILL):
        self.inner, self.signal_number = open_dataset("scenes:rendered?n=12&size=16x32"), signal_number

    def __getattr__(self, name):
        return getattr(self.__dict__["inner"], name)

    def __len__(self):
        return len(self.inner)

    def image(self, i):
        if i == 5 and multiprocessing.parent_process():
            os.kill(os.getpid(), self.signal_number)
        return self.inner.image(i)

    def __getitem__(self, i):
        return self.inner[i]._replace(image=self.image(i))


@pytest.mark.parametrize("number, word", [(signal.SIGKILL, "SIGKILL"), (signal.SIGUSR1, "SIGUSR1")])
@pytest.mark.parametrize("way", ["check", "evaluate", "stream"])
def test_a_dead_worker_is_one_line_at_once(way, number, word):
    start = time.monotonic()
    if way == "check":
        error = expect_error(check_split, Deadly(number), 2, False)
    elif way == "evaluate":
        error = expect_error(list, read_all(SizedImages(Deadly(number), None), 2, False, "evaluate"))
    else:
        error = expect_error(list, Stream(Deadly(number), 2, workers=2))
    assert word in error and "--workers" in error and "\n" not in error
    assert time.monotonic() - start < 30 and not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_as_many_processes_as_asked_for(workers):
    seen, dataset = [], open_dataset("scenes:rendered?n=12&size=16x32")
    for reader in (
        read_all(SizedImages(dataset, None), workers, True, "evaluate"),
        read_in_order(dataset, range(12), workers),
        Stream(dataset, workers=workers),
    ):
        reader = iter(reader)
        next(reader)
        seen.append(len(multiprocessing.active_children()))
        reader.close()
    assert seen == [workers] * 3 and not multiprocessing.active_children()


LEAVING = """
import itertools, os, signal, sys
from uda_kit.data.open import open_dataset
from uda_kit.data.workers import read_in_order
reader = read_in_order(open_dataset("scenes:rendered?n=9&size=16x32"), itertools.cycle(range(9)), 2)
next(reader)
import multiprocessing
print(*(p.pid for p in multiprocessing.active_children()), flush=True)
if sys.argv[1] == "kill": os.kill(os.getpid(), signal.SIGKILL)
for p in multiprocessing.active_children(): os.kill(p.pid, signal.SIGSTOP)  # as if they waited for a slow disk
"""


def running(pid):
    try:
        return open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="looks at processes as Linux lists them")
def test_no_worker_outlives_its_process():
    runs = [
        subprocess.Popen([sys.executable, "-c", LEAVING, how], stdout=subprocess.PIPE, text=True)
        for how in ("leave", "kill")
    ]
    pids = [int(pid) for run in runs for pid in run.communicate(timeout=60)[0].split()]
    assert len(pids) == 4
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and any(map(running, pids)):
        time.sleep(0.05)
    assert not any(map(running, pids))


def test_what_a_worker_raises_arrives():
    class Odd:
        def __getitem__(self, k):
            raise [InputError("a.png", "is damaged", "get it again"), MemoryError(), KeyError("k")][k]

    for k, (kind, text) in enumerate(
        [(InputError, "a.png: is damaged"), (InputError, "out of memory"), (KeyError, "k")]
    ):
        with pytest.raises(kind, match=text):
            next(read_in_order(Odd(), [k], 1))


# ---------------------------------------------------------------- pictures
def gradient(h=24, w=40):
    "A picture whose pixels are all different, uint8 [h,w,3]."
    y, x = np.mgrid[:h, :w]
    return np.stack([y * 10, x * 6, (y + x) * 4], -1).astype(np.uint8)


def seen(path):
    "uint8 [H,W,3] as the kit reads it."
    return read_image(path).permute(1, 2, 0).numpy()


def exif(how):
    note = Image.Exif()
    note[0x0112] = how
    return note


@pytest.mark.parametrize("how", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "webp", "tif", "jpg"])
def test_pictures_are_turned_as_viewers_turn_them(tmp_path, suffix, how):
    path, options = (
        tmp_path / f"a.{suffix}",
        {"webp": {"lossless": True}, "jpg": {"quality": 100, "subsampling": 0}}.get(suffix, {}),
    )
    Image.fromarray(gradient()).save(path, exif=exif(how), **options)
    wanted = np.array(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
    assert (seen(path) == wanted).all()
    assert image_size(path) == wanted.shape[:2] == ((24, 40) if how < 5 else (40, 24))


@pytest.mark.parametrize("how", [1, 3, 6, 8])
def test_image_and_label_stay_together(tmp_path, how):
    "A pair that is stored lying and seen upright, and a label drawn on what is seen."
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    label = (gradient()[..., 0] // 10 % 3).astype(np.uint8)
    Image.fromarray(gradient()).save(tmp_path / "images/a.png", exif=exif(how))
    Image.fromarray(label).save(tmp_path / "labels/a.png", exif=exif(how))
    Image.fromarray(gradient()).save(tmp_path / "images/b.png", exif=exif(how))
    Image.fromarray(np.array(ImageOps.exif_transpose(Image.open(tmp_path / "labels/a.png")))).save(
        tmp_path / "labels/b.png"
    )
    (tmp_path / "d.toml").write_text('images = "images/*.png"\nlabels = "labels/*.png"\nclasses = ["x", "y", "z"]\n')
    for sample in (open_dataset(f"folder:{tmp_path / 'd.toml'}")[i] for i in range(2)):
        assert sample.image.shape[1:] == sample.label.shape
        assert (sample.image[0] // 10 % 3 == sample.label).all()
    assert label_format(tmp_path / "labels/a.png").size == image_size(tmp_path / "images/a.png")
    assert check_split(open_dataset(f"folder:{tmp_path / 'd.toml'}"), progress=False).ok


def test_a_turn_noted_behind_the_pixels_and_a_damaged_note(tmp_path):
    Image.fromarray(gradient()).save(tmp_path / "a.png", exif=exif(6))
    data = (tmp_path / "a.png").read_bytes()
    at = data.index(b"eXIf") - 4
    chunk = data[at : at + 12 + int.from_bytes(data[at : at + 4], "big")]
    (tmp_path / "a.png").write_bytes(data.replace(chunk, b"")[:-12] + chunk + data[-12:])
    assert image_size(tmp_path / "a.png") == (40, 24) == seen(tmp_path / "a.png").shape[:2]
    Image.fromarray(gradient()).save(tmp_path / "b.png", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert (seen(tmp_path / "b.png") == gradient()).all()


def test_every_mode_of_picture(tmp_path):
    gray, rgb = gradient()[..., 0], gradient()
    ramp = np.tile(np.linspace(0, 65535, 40), (24, 1)).astype(np.uint16)
    three = lambda g: np.repeat(np.asarray(g)[..., None], 3, 2)
    cases = {
        "L.png": (Image.fromarray(gray), three(gray)),
        "1.png": (
            Image.fromarray(gray).convert("1"),
            three(np.array(Image.fromarray(gray).convert("1")) * np.uint8(255)),
        ),
        "LA.png": (Image.merge("LA", [Image.fromarray(gray), Image.fromarray(gray)]), three(gray)),
        "RGBA.png": (Image.fromarray(np.dstack([rgb, gray])), rgb),
        "RGBA.webp": (Image.fromarray(np.dstack([rgb, gray | 1])), rgb),
        "P.png": (Image.fromarray(rgb).quantize(8), np.array(Image.fromarray(rgb).quantize(8).convert("RGB"))),
        "I16.png": (Image.fromarray(ramp), three(np.rint(ramp / 257))),
        "I16.tif": (Image.fromarray(ramp), three(np.rint(ramp / 257))),
        "CMYK.tif": (Image.fromarray(rgb).convert("CMYK"), rgb),
        "L.tif": (Image.fromarray(gray), three(gray)),
    }
    for name, (image, wanted) in cases.items():
        image.save(tmp_path / name, **({"lossless": True, "exact": True} if name.endswith("webp") else {}))
        assert (seen(tmp_path / name) == wanted).all(), name
    big_endian = (
        b"MM\0*\0\0\0\x08\0\x08"
        + b"".join(
            struct.pack(">HHI", tag, kind, 1) + value
            for tag, kind, value in (
                (256, 3, struct.pack(">HH", 40, 0)),
                (257, 3, struct.pack(">HH", 24, 0)),
                (258, 3, struct.pack(">HH", 16, 0)),
                (259, 3, struct.pack(">HH", 1, 0)),
                (262, 3, struct.pack(">HH", 1, 0)),
                (273, 4, struct.pack(">I", 110)),
                (278, 3, struct.pack(">HH", 24, 0)),
                (279, 4, struct.pack(">I", ramp.nbytes)),
            )
        )
        + bytes(4)
    )
    (tmp_path / "B.tif").write_bytes(big_endian + ramp.astype(">u2").tobytes())
    assert (seen(tmp_path / "B.tif") == three(np.rint(ramp / 257))).all()


def test_pictures_without_defined_colors_are_refused(tmp_path):
    gray, frames = gradient()[..., 0], [Image.fromarray(np.roll(gradient(), k, 0)) for k in range(2)]
    cases = {
        "int32.tif": Image.fromarray(gray.astype(np.int32) * 250),
        "float.tif": Image.fromarray(gray.astype(np.float32) / 255),
        "dark.png": Image.fromarray(gray.astype(np.uint16)),
        "lab.tif": Image.new("LAB", (8, 8)),
    }
    for name, image in cases.items():
        image.save(tmp_path / name)
        assert f"{name}: holds" in expect_error(read_image, tmp_path / name) and "bits" in expect_error(
            read_image, tmp_path / name
        )
    for name in ("pages.tif", "moving.png", "moving.webp"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        for read in (read_image, image_size, read_ids):
            assert f"{name}: holds 2 pictures" in expect_error(read, tmp_path / name)


def test_labels_are_read_exactly_or_refused(tmp_path):
    ids = (gradient()[..., 0] // 10).astype(np.uint8)
    exact = {
        "u8.png": ids,
        "u16.png": ids.astype(np.uint16) * 2000,
        "u16.tif": ids.astype(np.uint16) * 2000,
        "i32.tif": ids.astype(np.int32) * 2000,
        "f32.tif": ids.astype(np.float32),
        "u8.bmp": ids,
    }
    for name, values in exact.items():
        Image.fromarray(values).save(tmp_path / name)
        assert (read_ids(tmp_path / name) == values).all(), name
    for name, value in {
        "large.tif": np.int32(65543),
        "minus.tif": np.int32(-1),
        "half.tif": np.float32(1.5),
        "nan.tif": np.float32("nan"),
        "inf.tif": np.float32("inf"),
    }.items():
        values = np.zeros((8, 8), value.dtype)
        values[2, 3] = value
        Image.fromarray(values).save(tmp_path / name)
        assert f"{name}: holds the number {value}" in expect_error(read_ids, tmp_path / name)
    for name, options in {"a.jpg": {}, "a.webp": {}, "jpeg.tif": {"compression": "jpeg"}}.items():
        Image.fromarray(gradient()).save(tmp_path / name, **options)
        assert "blurs class ids" in expect_error(read_ids, tmp_path / name, "channel0")
    inverted = Image.fromarray(ids)
    inverted.save(tmp_path / "white.tif", tiffinfo={262: 0})
    assert "stores white as 0" in expect_error(read_ids, tmp_path / "white.tif")


def sixteen(values, filters, interlaced=False):
    "A PNG of uint16 [h,w,c], row y filtered with filters[y % len(filters)] (0 none, 1 left, 2 above, 3 mean, 4 Paeth)."

    def filtered(part):
        h, w, c = part.shape
        raw, step, rows = part.astype(">u2").view(np.uint8).reshape(h, -1).astype(int), 2 * c, []
        padded = np.pad(raw, ((1, 0), (step, 0)))
        for y in range(h):
            now, left, up, corner = padded[y + 1, step:], padded[y + 1, :-step], padded[y, step:], padded[y, :-step]
            p = left + up - corner
            distance = np.abs(np.stack([p - left, p - up, p - corner]))
            paeth = np.choose(distance.argmin(0), [left, up, corner])
            kind = filters[y % len(filters)]
            rows.append(
                bytes([kind])
                + ((now - [0 * now, left, up, (left + up) // 2, paeth][kind]) % 256).astype(np.uint8).tobytes()
            )
        return b"".join(rows)

    passes = (
        [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
        if interlaced
        else [(0, 0, 1, 1)]
    )
    h, w, c = values.shape
    data = b"".join(filtered(values[y::dy, x::dx]) for y, x, dy, dx in passes if values[y::dy, x::dx].size)
    chunk = lambda kind, body: struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    header = struct.pack(">IIBBBBB", w, h, 16, {3: 2, 4: 6}[c], 0, 0, int(interlaced))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("filters", [[0], [1], [2], [3], [4], [4, 0, 3, 1, 2]])
def test_sixteen_bits_are_exact_for_every_filter(tmp_path, filters, channels, interlaced):
    values = np.random.default_rng(0).integers(0, 65536, (13, 19, channels)).astype(np.uint16)
    (tmp_path / "a.png").write_bytes(sixteen(values, filters, interlaced))
    assert (read_ids(tmp_path / "a.png", "channel0_16bit") == values[..., 0]).all()
    other = decode_image(str(tmp_path / "a.png"), ImageReadMode.UNCHANGED)[0].to(torch.int32).numpy()
    assert (other == values[..., 0]).all()


FUZZ = """
import sys
import numpy as np
from pathlib import Path
from uda_kit.data.images import image_size, label_format, read_ids, read_image
from uda_kit.core.errors import InputError
folder = Path(sys.argv[1])
goods = {p: p.read_bytes() for p in sorted(folder.iterdir())}
rng, counts = np.random.default_rng(0), {"right": 0, "refused": 0}
for path, good in goods.items():
    truth = None if path.suffix != ".png" or not path.stem.startswith("wide") else read_ids(path, "channel0_16bit")
    for k in range(60):
        data = bytearray(good)
        if k % 3 == 0: data = data[:rng.integers(len(data))]
        elif k % 3 == 1: data[rng.integers(len(data))] ^= 1 << rng.integers(8)
        else: data[rng.integers(min(60, len(data)))] = rng.integers(256)
        path.write_bytes(data)
        for read in (image_size, read_image, label_format, read_ids, lambda p: read_ids(p, "channel0"), lambda p: read_ids(p, "channel0_16bit")):
            try:
                value = read(path)
                counts["right"] += 1
            except InputError as error:
                assert str(path) in str(error)
                counts["refused"] += 1
        try: assert truth is None or (read_ids(path, "channel0_16bit") == truth).all()
        except InputError: pass
print(counts["right"] > 100, counts["refused"] > 300)
"""


def test_damaged_files_are_one_line_and_end_no_process(tmp_path):
    values = np.arange(24 * 16 * 3).reshape(24, 16, 3).astype(np.uint16) * 50
    (tmp_path / "wide.png").write_bytes(sixteen(values, [4, 0, 3, 1, 2]))
    (tmp_path / "wide2.png").write_bytes(sixteen(values, [1], True))
    for name, options in {
        "a.jpg": {"exif": exif(6)},
        "a.png": {"exif": exif(6)},
        "a.webp": {},
        "a.bmp": {},
        "lzw.tif": {"compression": "tiff_lzw"},
        "raw.tif": {},
        "zip.tif": {"compression": "tiff_deflate"},
    }.items():
        Image.fromarray(gradient()).save(tmp_path / name, **options)
    run = subprocess.run([sys.executable, "-c", FUZZ, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert (run.returncode, run.stdout.strip(), run.stderr) == (0, "True True", "")


def test_a_chunk_before_the_header(tmp_path):
    Image.fromarray(gradient()[..., 0] // 10).save(tmp_path / "a.png")
    data, text = (tmp_path / "a.png").read_bytes(), b"tEXtComment\0first"
    chunk = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
    (tmp_path / "a.png").write_bytes(data[:8] + chunk + data[8:])
    for encoding in ("ids", "channel0", "channel0_16bit"):
        assert "a.png: is damaged" in expect_error(read_ids, tmp_path / "a.png", encoding)


# ---------------------------------------------------------------- folders
def test_which_files_are_images(tmp_path):
    for name in (
        "a.png",
        "._a.png",
        ".ipynb_checkpoints/a.png",
        "@eaDir/a.png",
        "__MACOSX/a.png",
        "b [1]?%~ c/d.JPG",
        "Thumbs.db",
        "note.txt",
        os.fsdecode(b"caf\xe9.tif"),
        "n" * 240 + ".png",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "circle").symlink_to(tmp_path)
    (tmp_path / "gone.png").symlink_to("nowhere")
    names = {p.relative_to(tmp_path).as_posix() for p in image_files(tmp_path)}
    assert names == {"a.png", "b [1]?%~ c/d.JPG", os.fsdecode(b"caf\xe9.tif"), "n" * 240 + ".png", "gone.png"}


def test_what_is_no_file_is_refused_and_waits_for_nobody(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "gone.png").symlink_to("nowhere")
    (tmp_path / "self.png").symlink_to("self.png")
    (tmp_path / "folder.png").mkdir()
    lines = {
        name: expect_error(read_image, tmp_path / name)
        for name in ("pipe.png", "gone.png", "self.png", "folder.png", "absent.png", "n" * 300 + ".png")
    }
    for (name, line), word in zip(
        lines.items(), ("pipe", "does not exist", "symbolic links", "is a folder", "does not exist", "too long")
    ):
        assert name in line and word in line


class Painter(torch.nn.Module):
    "A network of three classes by brightness."

    num_classes, space = 3, None

    def forward(self, x):
        return SimpleNamespace(logits=torch.cat([-x[:, :1], x[:, :1] - 0.5, x[:, :1]], 1))


def labels_in(folder):
    return sorted(p.relative_to(folder / "labels").as_posix() for p in (folder / "labels").rglob("*.png"))


def test_predict_into_the_folder_of_images_and_again(tmp_path):
    folder = tmp_path / "my [1] ~photos"
    (folder / "sub").mkdir(parents=True)
    for name in ("a.png", "sub/b.png", "n" * 240 + ".png", os.fsdecode(b"caf\xe9.png")):
        Image.fromarray(gradient()).save(folder / name)
    before = {p: p.read_bytes() for p in folder.rglob("*.png")}
    for _ in range(2):
        names = predict(Painter(), folder, folder / "out", overwrite=True, progress=False)
        assert len(names) == 4 and labels_in(folder / "out") == sorted(f"{n}.png" for n in names)
    assert all(p.read_bytes() == data for p, data in before.items()) and not list(folder.rglob("*.part"))
    assert sorted(predictions_of(folder / "out")) == sorted(names)


def test_predict_never_writes_into_other_folders(tmp_path):
    data = tmp_path / "cv"
    for kind, pixels in (("images", gradient()), ("labels", gradient()[..., 0] // 10)):
        (data / kind).mkdir(parents=True)
        Image.fromarray(pixels).save(data / kind / "a.png")
    before = {p: p.read_bytes() for p in data.rglob("*.png")}
    for out in (data, data / "labels", data / "images"):
        for overwrite in (False, True):
            assert "no predictions" in expect_error(
                predict, Painter(), data / "images", out, overwrite=overwrite, progress=False
            )
    (data / "predictions.json").write_text('{"images": "NaN"}')
    assert "predictions.json" in expect_error(predict, Painter(), data / "images", data, overwrite=True, progress=False)
    assert {p: p.read_bytes() for p in data.rglob("*.png")} == before
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / f".out.{dead.pid}.part" / "labels").mkdir(parents=True)
    predict(Painter(), data / "images", tmp_path / "out", progress=False)
    assert not list(tmp_path.glob(".*")) and labels_in(tmp_path / "out") == ["a.png"]


# ---------------------------------------------------------------- half-made folders
def damage(path, whole):
    "Four ways in which a file is no longer what was written."
    for data in (whole[: len(whole) // 2], b"", whole[:60] + bytes(len(whole) - 60), whole[:-1]):
        path.write_bytes(data)
        yield


def test_damaged_translated_are_made_again(tmp_path):
    source, target, out = (
        open_dataset("scenes:rendered?n=2&size=32x64"),
        open_dataset("scenes:camera?n=2&size=32x64"),
        tmp_path / "t",
    )
    options = dict(progress=False)
    assert (
        write_translated(source, target, out, "statistics", **options) == 2
        and write_translated(source, target, out, "statistics", **options) == 0
    )
    path = out / "seed0-000001.png"
    whole, about = path.read_bytes(), (out / "translated.json").read_bytes()
    for _ in damage(path, whole):
        assert write_translated(source, target, out, "statistics", **options) == 1
        assert path.read_bytes() == whole and (out / "translated.json").read_bytes() == about
    path.write_bytes((out / "seed0-000000.png").read_bytes())  # another whole image
    assert write_translated(source, target, out, "statistics", **options) == 1 and path.read_bytes() == whole
    path.write_bytes(whole[:200])
    (out / "translated.json").write_text(
        json.dumps({k: v for k, v in json.loads(about).items() if k not in ("files", "sha256")})
    )  # stopped before the end
    assert (
        write_translated(source, target, out, "statistics", **options) == 1
        and (out / "translated.json").read_bytes() == about
    )


def test_damaged_pseudo_labels_are_written_again(tmp_path):
    torch.manual_seed(0)
    net, data, out = deeplab_v2(19, "tiny"), open_dataset("scenes:camera?n=2&size=32x64"), tmp_path / "p"
    make = lambda: make_pseudo_labels(net, data, out, progress=False, say=str)["written"]
    assert make() == 2 and make() == 0
    path = out / "seed0-000001.png"
    whole, summary = path.read_bytes(), (out / "summary.json").read_bytes()
    for _ in damage(path, whole):
        assert make() == 1 and path.read_bytes() == whole and (out / "summary.json").read_bytes() == summary


TRANSLATED = [
    '{"seed": NaN}',
    '{"seed": "1"}',
    '{"source": []}',
    '{"files": {"a": 1}}',
    "[]",
    "3",
    "{",
    '{"a": ' * 5000,
    '{"a": ' + "[" * 300 + "]" * 300 + "}",
    '{"sha256": "0"}',
]


@pytest.mark.parametrize("text", TRANSLATED, ids=range(len(TRANSLATED)))
def test_translated_json_of_other_shapes(tmp_path, text):
    (tmp_path / "translated.json").write_text(text)
    line = expect_error(read_about, tmp_path)
    assert "translated.json" in line and "\n" not in line and len(line) < 500


def test_summary_json_of_other_shapes(tmp_path):
    good = {
        "about": {
            "format": FORMAT,
            "network": "n",
            "space": {"name": "s", "classes": ["a", "b"]},
            "rule": "median:0.9",
            "size": None,
            "precision": "32-true",
            "images": {},
        },
        "thresholds": {"a": 0.5, "b": None},
    }
    (tmp_path / "summary.json").write_text(json.dumps(good))
    assert read_summary(tmp_path) == good
    changes = [
        ("about", 3),
        ("about", {}),
        ("thresholds", []),
        ("thresholds", {"a": "x", "b": None}),
        ("thresholds", {"a": 0.5}),
        ("thresholds", {"a": float("nan"), "b": 0.1}),
        ("classes", {"a": 1, "b": 2}),
        ("about", good["about"] | {"size": "ab"}),
        ("about", good["about"] | {"space": {"name": 1, "classes": ["a", "b"]}}),
        ("about", good["about"] | {"format": "x"}),
        ("files", []),
    ]
    for field, value in changes:
        (tmp_path / "summary.json").write_text(json.dumps(good | {field: value}))
        line = expect_error(read_summary, tmp_path)
        assert "summary.json" in line and (field in line or "format" in line), line


# --- 10 and 12 bits in files of 16 ------------------------------------------------------------------------------------


def wide_png(values, file):
    "A 16-bit PNG of uint16 [h,w], or [h,w,c] with 2, 3 or 4 channels."
    if values.ndim == 2:
        Image.fromarray(values).save(file)
        return file
    h, w, c = values.shape
    header = struct.pack(">IIBBBBB", w, h, 16, {2: 4, 3: 2, 4: 6}[c], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    chunks = [(b"IHDR", header), (b"sBIT", bytes([12] * c)), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return file


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_numbers_of_fewer_bits_in_a_16_bit_png(tmp_path, channels):
    ramp = np.tile(np.linspace(0, 1, 40), (24, 1))
    values = ramp if channels == 1 else np.repeat(ramp[..., None], channels, 2)
    for bits, factor in ((8, 256), (10, 64), (12, 16)):
        stored = np.rint(values * (2**bits - 1)).astype(np.uint16)
        if channels in (2, 4):
            stored[..., -1] = 65535  # transparency does not count
        error = expect_error(read_image, wide_png(stored, tmp_path / "few.png"))
        assert (
            f"at most {2**bits - 1} of 65535" in error and f"of {bits} bits" in error and f"(times {factor})" in error
        )
        scaled = read_image(
            wide_png(stored * factor if channels == 1 else (values * 65535).astype(np.uint16), tmp_path / "whole.png")
        )
        assert int(scaled.max()) >= 254 and int(scaled.min()) == 0
    dark = np.rint(values * 4096).astype(np.uint16)
    assert int(read_image(wide_png(dark, tmp_path / "dark.png")).max()) == 16
    if channels != 2:
        assert int(read_image(wide_png(np.zeros_like(dark), tmp_path / "black.png")).max()) == 0
