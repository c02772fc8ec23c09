"""Rendered streets stay the same to the bit, whichever style films them, and the renderer needs no torch."""

import hashlib
import subprocess
import sys
from dataclasses import replace

import pytest

from uda_kit.data.streets.dataset import StreetScenes
from uda_kit.data.streets.render import render
from uda_kit.data.streets.style import CAMERA, LIGHTS, LORRY, POLES, RENDERED, SIGNS, VAN, SceneStyle

NIGHT = replace(CAMERA, exposure=(0.25, 0.4), cast=0.3, shadow=0.9, noise=20, blur=1.0, contrast=1.3)
STORM = replace(CAMERA, fog=0.03, rain=0.8, dirt=1.0, saturation=0.4)
CROWD = replace(
    RENDERED,
    frequency={"person": 8, "rider": 5, "train": 6, "bus": 4, "fence": 3, "building": 0.3},
    signs=SIGNS,
    poles=POLES,
    lights=LIGHTS,
)


@pytest.mark.parametrize(
    "style, image_hash, label_hash",
    [
        (SceneStyle(), "3b38b72bb721f69c", "ecf338e9f8eb7d06"),
        (RENDERED, "03763e589f97e9c4", "1876e4d9f2004e91"),
        (LORRY, "79bdb8f85c6c5993", "7b91aac3f2359547"),
        (VAN, "7c727059f69b0bc9", "43c2078f2d12137d"),
        (CAMERA, "8f645ea1f51ffd98", "b0053d0731cbcdae"),
        (NIGHT, "b3db1f6391fc0936", "b0053d0731cbcdae"),
        (STORM, "9c8acee55cc56cd7", "b0053d0731cbcdae"),
        (CROWD, "d3949d2d1a027aa7", "4cbc6b7e1dfd9bdc"),
    ],
    ids=["plain", "rendered", "lorry", "van", "camera", "night", "storm", "crowd"],
)
def test_pixels_stay_the_same(style, image_hash, label_hash):
    "Images and labels of twelve scenes against hashes taken when the renderer was one module."
    images, labels = hashlib.sha256(), hashlib.sha256()
    for i in range(12):
        image, label = render(style, 0, i, (128, 256))
        images.update(image.tobytes())
        labels.update(label.tobytes())
    assert (images.hexdigest()[:16], labels.hexdigest()[:16]) == (image_hash, label_hash)


def test_the_data_set_gives_what_is_rendered():
    sample = StreetScenes(CAMERA, n=3, size=(64, 128), seed=5)[2]
    image, label = render(CAMERA, 5, 2, (64, 128))
    assert (sample.image.permute(1, 2, 0).numpy() == image).all() and (sample.label.numpy() == label).all()


def test_rendering_needs_no_torch():
    code = "import sys, uda_kit.data.streets.render; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
