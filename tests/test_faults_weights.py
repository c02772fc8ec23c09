"""Weight files, networks, FDA's windows and entropy minimisation: what is damaged, hostile or of another kind is refused in one line that names the file, and what is right has the right numbers."""

import os
import pickle
import random
import stat
import warnings
import zipfile

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from refusals import one_line
from torch import nn
from torchvision.models.segmentation import deeplabv3_resnet50
from torchvision.models.vgg import cfgs, make_layers

from uda_kit.cli import main
from uda_kit.core.errors import InputError, expect_error
from uda_kit.core.tensors import save_tensors
from uda_kit.methods.output_space import (
    EntropyMinimization,
    MinEntropyTerms,
    OutputAdversarial,
    Supervised,
    normalized_entropy,
)
from uda_kit.methods.translation import about_translator, fourier_transfer, swap_amplitude, translator, window_size
from uda_kit.models.backbones import load_backbone, make_backbone, read_tensors
from uda_kit.models.checkpoints import FORMAT, convert, load_released, load_weights, read_header, save_weights
from uda_kit.models.discriminators import OutputDiscriminator, PatchDiscriminator
from uda_kit.models.pyramid_segmenters import deeplab_v3, pspnet
from uda_kit.models.segmenters import deeplab_v2
from uda_kit.models.translators import CycleTranslator
from uda_kit.recipes.catalogue import find_recipe
from uda_kit.training.objective import Batch, backward_groups


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    return deeplab_v2(3, multi_level=False).eval()


@pytest.fixture(scope="module")
def released():
    "A network under AdaptSegNet's single-level names, and its tensors."
    torch.manual_seed(0)
    net = deeplab_v2(19, "resnet50", False, 2, stride_in_1x1=True, normalise="caffe").eval()
    named = {}
    for name, tensor in net.state_dict().items():
        part, rest = name.split(".", 1)
        named[rest if part == "backbone" else "layer5." + rest.replace("convs", "conv2d_list")] = tensor
    return net, named


def write_header(path, net, config=None, **about):
    "A weight file with a right checksum and whatever header."
    about = {
        "format": FORMAT,
        "kit": "1",
        "config": net.config if config is None else config,
        "space": None,
        "extra": {},
    } | about
    save_tensors(path, net.state_dict(), about)
    return path


CONFIGS = [
    {"num_classes": 10**12},
    {"num_classes": True},
    {"num_classes": "3"},
    {"num_classes": None},
    {"backbone": "resnet18"},
    {"backbone": ["tiny"]},
    {"backbone": "resnet101"},
    {"architecture": "unet"},
    {"architecture": ["x"]},
    {"architecture": "pspnet"},
    {"aspp_rates": list(range(1, 100_001))},
    {"aspp_rates": [2, 4, 8, 10**12]},
    {"aspp_rates": []},
    {"aspp_rates": "6"},
    {"aspp_branches": 10**9},
    {"aspp_branches": 3.5},
    {"foo": 1},
    {"ancillary": 10**9},
    {"ancillary": 2},
    {"bn": "x"},
    {"normalise": 7},
    {"multi_level": "yes"},
    {"multi_level": True},
    {"recompute": None},
]


def test_a_header_that_describes_no_network_of_these_tensors_is_refused_before_memory_is_taken(
    tmp_path, tiny, monkeypatch
):
    path, built = tmp_path / "h.safetensors", []
    monkeypatch.setattr(
        "uda_kit.models.segmenters.Segmenter.train",
        lambda self, mode=True: built.append(next(self.parameters()).device.type) or self,
    )
    for config in CONFIGS:
        one_line(expect_error(load_weights, write_header(path, tiny, tiny.config | config)), path.name)
    assert set(built) == {"meta"}  # whatever was built, was built without memory
    for config in (None, [], 3):
        save_tensors(path, tiny.state_dict(), {"format": FORMAT, "config": config, "space": None, "extra": {}})
        one_line(expect_error(load_weights, path), path.name)
    space = {"name": "x", "classes": ["a", "b", "c"], "palette": [], "ignore": 255}
    for wrong in (
        {"name": "a"},
        [],
        space | {"classes": 3},
        space | {"classes": ["a", "b"]},
        space | {"classes": ["a", "a", "c"]},
        space | {"palette": [[1, 2]]},
        space | {"ignore": 1},
        space | {"ignore": 10**9},
    ):
        one_line(expect_error(load_weights, write_header(path, tiny, space=wrong)), path.name)
    net = pspnet(3, "tiny")
    for config in ({"width": 10**9}, {"width": 4096}, {"bins": list(range(1, 100_000))}, {"dropout": "x"}):
        one_line(expect_error(load_weights, write_header(path, net, net.config | config)), path.name)


def test_a_header_opens_no_files(tmp_path, tiny):
    for weights in (str(tmp_path / "none.pth"), "imagenet"):
        net = load_weights(write_header(tmp_path / "h.safetensors", tiny, tiny.config | {"weights": weights}))
        assert "weights" not in net.config and torch.equal(net.main.convs[0].weight, tiny.main.convs[0].weight)


def test_options_on_either_side_alone_make_another_network(tmp_path):
    net = deeplab_v3(3, "resnet50", multi_level=False, as_torchvision=True, width=8)
    path = save_weights(net, tmp_path / "v3.safetensors")
    message = one_line(
        expect_error(load_weights, path, deeplab_v3(3, "resnet50", multi_level=False, width=8)), path.name
    )
    assert "as_torchvision=True there" in message and "ceil_pool=False there" in message


def test_a_backbone_of_another_stride_or_input_is_refused(tmp_path):
    path = save_weights(deeplab_v2(3, normalise="caffe", stride_in_1x1=True), tmp_path / "caffe.safetensors")
    assert "normalise='caffe'" in one_line(
        expect_error(deeplab_v2, 3, stride_in_1x1=True, weights=path), path.name
    ) and "stride_in_1x1=True" in one_line(
        expect_error(pspnet, 3, "tiny", normalise="caffe", weights=str(path)), path.name
    )
    assert deeplab_v2(5, normalise="caffe", stride_in_1x1=True, weights=path).num_classes == 5


def test_every_flipped_bit_of_a_weight_file_is_noticed_and_the_umask_is_honoured(tmp_path, tiny):
    before = os.umask(0o027)
    try:
        path = save_weights(tiny, tmp_path / "w.safetensors")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    whole, rng, flipped = path.read_bytes(), random.Random(0), tmp_path / "f.safetensors"
    start = 8 + int.from_bytes(whole[:8], "little")
    for place in [rng.randrange(start, len(whole)) for _ in range(12)] + [rng.randrange(start) for _ in range(12)]:
        data = bytearray(whole)
        data[place] ^= 1 << rng.randrange(8)
        flipped.write_bytes(data)
        one_line(expect_error(load_weights, flipped), flipped.name)


def test_weights_are_finite_floats_of_any_precision(tmp_path, tiny):
    path, name, right = tmp_path / "v.safetensors", "main.convs.0.bias", tiny.state_dict()

    def line(value):
        save_tensors(path, right | {name: value}, {"format": FORMAT, "config": tiny.config, "space": None, "extra": {}})
        return one_line(expect_error(load_weights, path), path.name)

    for value in (
        torch.full((3,), torch.nan),
        torch.tensor([0.0, torch.inf, 0.0]),
        torch.full((3,), 1e300, dtype=torch.float64),
        torch.ones(3, dtype=torch.int32),
        torch.ones(3, dtype=torch.bool),
        torch.ones(3, dtype=torch.complex64),
    ):
        assert name in line(value)
    for value in (torch.ones(3, 1), torch.tensor(1.0), torch.ones(0)):
        line(value)
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        save_tensors(
            path,
            right | {name: torch.full((3,), 0.5, dtype=dtype)},
            {"format": FORMAT, "config": tiny.config, "space": None, "extra": {}},
        )
        assert load_weights(path).main.convs[0].bias.tolist() == [0.5] * 3


class Trap:
    "Makes a folder when it is unpickled by a reader that runs code."

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return os.mkdir, (self.place,)


def pickles(named, place) -> list:
    "Objects that torch.save writes and that are no state dict of the network."
    bias, one = "layer5.conv2d_list.0.bias", torch.ones(1)
    changed = [
        torch.tensor(1.0),
        torch.ones(13),
        one.expand(10**12),
        torch.full((19,), torch.nan),
        torch.ones(19, dtype=torch.int64),
        torch.ones(19, device="meta"),
        torch.ones(19).to_sparse(),
        torch.ones(19, dtype=torch.complex64),
    ]
    added = [
        "layer5.conv2d_list.x.weight",
        "layer6.conv2d_list.²",
        "layer5.conv2d_list.7.bias",
        "layer5.conv2d_list.-1.bias",
        "module.conv1.weight",
        3,
        None,
        ("a",),
    ]
    others = [
        {},
        [one],
        one,
        None,
        3,
        "text",
        {1, 2},
        {"a": {"b": {"c": one}}},
        {"G": {"a": one}, "D": {"a": one}},
        {0: one},
        {"layer6.conv2d_list.x.weight": one},
        {"layer6.conv2d_list": one},
        nn.Linear(2, 2),
    ]
    small = {
        name: tensor for name, tensor in named.items() if "conv2d_list" in name or name == "conv1.weight"
    }  # the rest would be missing, too
    return (
        [small | {bias: tensor} for tensor in changed]
        + [small | {name: one} for name in added]
        + others
        + [{"a": one, "b": Trap(place)}]
    )


@pytest.mark.filterwarnings("ignore")  # of torch, while such objects are made
def test_pickles_of_other_things_are_one_line_without_warnings(tmp_path, released):
    path, place = tmp_path / "x.pth", str(tmp_path / "sprung")
    for number, value in enumerate(pickles(released[1], place)):
        torch.save(value, path, _use_new_zipfile_serialization=number % 2 == 0)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            one_line(expect_error(load_released, path), path.name)
    for data in (
        b"",
        b"\x80",
        b"hello",
        b"<!DOCTYPE html>",
        b"version https://git-lfs.github.com/spec/v1",
        b"\x1f\x8b\x08",
        bytes(100),
        pickle.dumps(3),
        pickle.dumps(Trap(place)),
        b"PK\x03\x04aaaa",
        b"\x80\x02" + b"]" * 5000 + b"a" * 4999 + b".",
    ):
        path.write_bytes(data)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            one_line(expect_error(load_released, path), path.name)
            one_line(expect_error(deeplab_v2, 3, weights=str(path)), path.name)
    assert not os.path.exists(place)


def test_damaged_and_packed_archives_are_one_line(tmp_path):
    path, rng = tmp_path / "x.pth", random.Random(0)
    for modern in (True, False):
        torch.save({"a": torch.ones(10), "b": torch.ones(5)}, path, _use_new_zipfile_serialization=modern)
        whole = path.read_bytes()
        for _ in range(100):
            data = bytearray(whole)
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            path.write_bytes(data)
            one_line(expect_error(load_released, path), path.name)
        path.write_bytes(whole[: len(whole) // 2])
        one_line(expect_error(load_released, path), path.name)
    torch.save({"a": torch.ones(10), "b": torch.ones(5)}, path)
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:  # a storage that is shorter than its tensor
        for name, data in records.items():
            archive.writestr(name, data[:8] if name.endswith("data/0") else data)
    one_line(expect_error(load_released, path), path.name)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", bytes(10**7))
    assert path.stat().st_size < 20_000 and "would unpack to 10,000,000 bytes" in one_line(
        expect_error(load_released, path), path.name
    )


def test_a_file_under_another_name_is_said(tmp_path, tiny):
    torch.save({"a": torch.ones(2)}, tmp_path / "a.safetensors")
    assert "torch.save" in one_line(
        expect_error(read_tensors, tmp_path / "a.safetensors"), "a.safetensors"
    ) and "torch.save" in one_line(expect_error(load_weights, tmp_path / "a.safetensors"), "a.safetensors")
    (tmp_path / "b.pth").write_bytes(save_weights(tiny, tmp_path / "b.safetensors").read_bytes())
    assert "safetensors under another name" in one_line(expect_error(load_released, tmp_path / "b.pth"), "b.pth")
    assert "already" in one_line(expect_error(load_released, tmp_path / "b.safetensors"), "b.safetensors")
    for name in ("x" * 300 + ".pth", "a\0.pth", ""):
        assert "no such file" in expect_error(read_tensors, name)


def test_wrong_options_of_networks_are_one_line_at_construction():
    for make in (deeplab_v2, deeplab_v3, pspnet):
        for classes in (0, -1, 1.5, "19", None, True, 10**12):
            assert "num_classes" in expect_error(make, classes, "tiny")
        for options in (
            {"backbone": "resnet18"},
            {"backbone": None},
            {"bn": "half"},
            {"recompute": ()},
            {"normalise": 1},
            {"multi_level": "no"},
            {"stride_in_1x1": 1},
            {"ceil_pool": "up", "backbone": "vgg16"},
            {"weights": 3},
        ):
            expect_error(make, 3, **({"backbone": "tiny"} | options))
    for options in (
        {"aspp_branches": 3.5},
        {"aspp_branches": 3},
        {"aspp_branches": "4"},
        {"aspp_rates": ()},
        {"aspp_rates": (6,)},
        {"aspp_rates": 6},
        {"aspp_rates": (2, 4, 8, -1)},
        {"ancillary": 1.5},
        {"ancillary": 2, "centred_attention": "no"},
    ):
        expect_error(deeplab_v2, 3, **options)
    for options in ({"width": 0}, {"width": 1.5}, {"dropout": 1}, {"dropout": float("nan")}, {"dropout": "x"}):
        for make in (deeplab_v3, pspnet):
            expect_error(make, 3, "tiny", **options)
    (
        expect_error(deeplab_v3, 3, "tiny", rates=()),
        expect_error(deeplab_v3, 3, "tiny", as_torchvision=True),
        expect_error(pspnet, 3, "tiny", bins=(0,)),
    )
    for make, args in (
        (OutputDiscriminator, (0,)),
        (OutputDiscriminator, (19, 0)),
        (OutputDiscriminator, (19, 1.5)),
        (PatchDiscriminator, ("50",)),
        (PatchDiscriminator, (50, ())),
    ):
        expect_error(make, *args)
    for options in (
        {"lr": -1},
        {"lr": "high"},
        {"lr": float("nan")},
        {"betas": 2},
        {"betas": (1, 1)},
        {"betas": (0.9,)},
        {"channels": 0},
        {"level": "middle"},
    ):
        expect_error(OutputAdversarial, **({"channels": 3} | options))
    for options in ({"width": 0}, {"width": "4"}, {"blocks": 1.5}, {"blocks": 10**9}, {"residual": "no"}):
        expect_error(CycleTranslator, **options)
    (
        expect_error(Supervised, "middle"),
        expect_error(EntropyMinimization, "middle"),
        expect_error(make_backbone, "resnet50", recompute="some"),
    )
    deeplab_v2(np.int64(3), aspp_rates=[1, 2, 3, 4])


def released_vgg() -> nn.ModuleDict:
    "VGG-16 in the layers of the released code, from torchvision's: no fourth and fifth pooling, dilations, two 3x3 filters for the fully connected layers, four branches."
    layers = list(make_layers(cfgs["D"]))
    layers = (
        layers[:23]
        + layers[24:30]
        + [
            nn.Conv2d(512, 1024, 3, padding=4, dilation=4),
            nn.ReLU(),
            nn.Conv2d(1024, 1024, 3, padding=4, dilation=4),
            nn.ReLU(),
        ]
    )
    for i in (23, 25, 27):
        layers[i].dilation = layers[i].padding = (2, 2)
    branches = nn.ModuleList(nn.Conv2d(1024, 19, 3, padding=r, dilation=r) for r in (6, 12, 18, 24))
    return nn.ModuleDict(
        {"features": nn.Sequential(*layers), "classifier": nn.ModuleDict({"conv2d_list": branches})}
    ).eval()


@torch.no_grad()
def test_released_vgg_checkpoints_give_the_released_scores(tmp_path, capsys):
    torch.manual_seed(0)
    theirs = released_vgg()
    torch.save(theirs.state_dict(), tmp_path / "vgg.pth")
    assert main(["convert", str(tmp_path / "vgg.pth"), str(tmp_path / "vgg.safetensors")]) == 0
    assert "deeplab_v2 on vgg16, 19 classes, the sum of 2 branches" in capsys.readouterr().out
    ours, image = load_weights(tmp_path / "vgg.safetensors").eval(), torch.rand(1, 3, 61, 84)
    bgr = image.flip(1) * 255 - torch.tensor([104.00699, 116.66877, 122.67892]).view(1, 3, 1, 1)
    features, branches = theirs["features"](bgr), theirs["classifier"]["conv2d_list"]
    assert features.shape[-2:] == (7, 10) and ours.space.name == "cityscapes19"
    torch.testing.assert_close(ours(image).logits, branches[0](features) + branches[1](features), rtol=1e-4, atol=1e-4)
    backbone = load_backbone(make_backbone("vgg16"), tmp_path / "vgg.pth", "vgg16")
    assert torch.equal(backbone.fc[2].weight, ours.backbone.fc[2].weight)
    config = {
        key: value for key, value in ours.config.items() if key != "ceil_pool"
    }  # as such files were written before
    assert read_header(write_header(tmp_path / "old.safetensors", ours, config))["config"]["ceil_pool"] is True


@torch.no_grad()
def test_advents_single_level_file_sums_four_branches(tmp_path):
    torch.manual_seed(0)
    net, image = (
        deeplab_v2(19, "resnet50", False, 4, stride_in_1x1=True, normalise="caffe").eval(),
        torch.rand(1, 3, 65, 65),
    )
    named = {}
    for name, tensor in net.state_dict().items():
        part, rest = name.split(".", 1)
        named[rest if part == "backbone" else "layer6." + rest.replace("convs", "conv2d_list")] = tensor
    torch.save(named, tmp_path / "advent.pth")
    ours = load_weights(convert(tmp_path / "advent.pth", tmp_path / "advent.safetensors")).eval()
    assert ours.config["aspp_branches"] == 4 and ours.aux is None and torch.equal(ours(image).logits, net(image).logits)
    for options in (
        {"num_classes": 0},
        {"num_classes": "19"},
        {"num_classes": 13},
        {"aspp_branches": 3},
        {"aspp_branches": "2"},
        {"aspp_branches": 0},
    ):
        expect_error(load_released, tmp_path / "advent.pth", **options)
    assert ".safetensors" in expect_error(convert, tmp_path / "advent.pth", tmp_path / "advent.bin")


@torch.no_grad()
def test_torchvisions_deeplab_v3_gives_torchvisions_scores(tmp_path):
    torch.manual_seed(0)
    theirs = deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=5, aux_loss=True).eval()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1), module.running_var.uniform_(0.5, 2)
    torch.save(theirs.state_dict(), tmp_path / "tv.pth")
    ours = load_weights(convert(tmp_path / "tv.pth", tmp_path / "tv.safetensors", 5)).eval()
    image = torch.rand(1, 3, 70, 90)  # the first pooling rounds, and so does the stride
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    maps, out = theirs.backbone((image - mean) / std), ours(image)
    torch.testing.assert_close(out.logits, theirs.classifier(maps["out"]), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(out.aux, theirs.aux_classifier(maps["aux"]), rtol=1e-5, atol=1e-5)
    torch.save(
        {name: tensor for name, tensor in theirs.state_dict().items() if not name.startswith("aux_")},
        tmp_path / "tv.pth",
    )
    assert load_released(tmp_path / "tv.pth", 5).aux is None and [
        m.p for m in theirs.classifier.modules() if isinstance(m, nn.Dropout)
    ] == [0.5]
    assert "aspp_branches" in expect_error(load_released, tmp_path / "tv.pth", 5, 2)


def numpy_transfer(x, r, beta, window):
    "FDA over the whole spectrum, one channel at a time: frequencies by their number, the window by its definition."
    H, W = x.shape[-2:]
    u, v = np.abs(np.rint(np.fft.fftfreq(H) * H)), np.abs(np.rint(np.fft.fftfreq(W) * W))
    if window == "square":
        rows, columns = (axis <= np.floor(np.amin((H, W)) * beta) for axis in (u, v))
    else:
        rows, columns = u < beta * H, v < beta * W
    inside, a, b = rows[:, None] & columns[None], np.fft.fft2(x), np.fft.fft2(r)
    return np.fft.ifft2(np.where(inside, np.abs(b), np.abs(a)) * np.exp(1j * np.angle(a))).real


def test_both_windows_of_fda_are_those_of_numpy():
    g = torch.Generator().manual_seed(0)
    for H, W in ((24, 36), (25, 33), (40, 12), (16, 31)):
        x, r = torch.rand(2, 3, H, W, generator=g, dtype=torch.float64)
        for beta in (0.0, 0.01, 0.05, 0.09, 0.3, 0.5):
            for window in ("rectangle", "square"):
                assert np.allclose(
                    swap_amplitude(x, r, beta, window).numpy(), numpy_transfer(x.numpy(), r.numpy(), beta, window)
                ), (H, W, beta, window)
    assert (
        window_size(512, 1024, 0.01) == (6, 11)
        and window_size(512, 1024, 0.01, "square") == (6, 6)
        and window_size(720, 1280, 0.09, "square") == (65, 65)
    )


def test_a_window_is_named_and_written_down():
    x, r = torch.randint(0, 256, (2, 3, 20, 40), dtype=torch.uint8)
    assert translator("fourier:0.09:square")(x, r).equal(
        fourier_transfer(x, r, 0.09, "square")
    ) and not fourier_transfer(x, r, 0.09, "square").equal(fourier_transfer(x, r, 0.09))
    assert about_translator(translator("fourier:0.01:square")) == {
        "name": "fourier_transfer",
        "beta": 0.01,
        "window": "square",
    }
    assert (
        about_translator(translator("fourier:0.01:rectangle"))
        == about_translator(translator("fourier:0.01"))
        == about_translator(translator("fourier"))
        == {"name": "fourier_transfer", "beta": 0.01}
    )
    for name in (
        "fourier:0.01:",
        "fourier:0.01:cube",
        "fourier::square",
        "fourier:square",
        "fourier:²",
        "fourier:nan",
        "fourier:0.6:square",
        "fourier:0.01:square:1",
    ):
        assert name in expect_error(translator, name)
    with pytest.raises(InputError):
        fourier_transfer(x, r, 0.01, "circle")


def test_entropy_is_that_of_the_formula_and_stable_where_a_probability_is_zero():
    torch.manual_seed(0)
    z = torch.randn(2, 7, 3, 4, dtype=torch.float64, requires_grad=True)
    p = z.softmax(1)
    naive = -(p * p.log()).sum(1).mean() / np.log(7)
    torch.testing.assert_close(normalized_entropy(z).mean(), naive)
    torch.testing.assert_close(*(torch.autograd.grad(loss, z)[0] for loss in (normalized_entropy(z).mean(), naive)))
    assert torch.autograd.gradcheck(lambda v: normalized_entropy(v).mean(), z)
    sure = torch.tensor([[0.0, 1e4, -torch.inf], [0.0, 0.0, -torch.inf], [0.0, 0.0, 0.0]], requires_grad=True)
    entropy = normalized_entropy(sure)
    torch.testing.assert_close(entropy, torch.tensor([0.0, np.log(2) / np.log(3), 1.0], dtype=torch.float32))
    assert (
        torch.autograd.grad(entropy.sum(), sure)[0].isfinite().all()
        and normalized_entropy(torch.zeros(1, 1, 2)).eq(0).all()
    )


def test_entropy_minimisation_reads_the_target_alone_and_is_a_recipe(tiny):
    image = torch.rand(1, 3, 32, 32)
    target = Batch(image, net=tiny)
    term = EntropyMinimization(weight=1e-3)
    torch.testing.assert_close(
        term(target),
        normalized_entropy(F.interpolate(tiny(image).logits, (32, 32), mode="bilinear", align_corners=True)).mean(),
    )
    assert backward_groups(MinEntropyTerms().build(deeplab_v2(3))) == [["seg", "seg_aux"], ["ent", "ent_aux"]] and set(
        MinEntropyTerms().build(tiny)
    ) == {"seg", "ent"}
    for name in ("scenes/min-entropy", "camvid/min-entropy", "gta5/min-entropy"):
        recipe = find_recipe(name)
        assert recipe.about.startswith("not in the paper: Vu et al. 2019") and {
            k: t.weight for k, t in recipe.stages[-1].terms.build(deeplab_v2(3)).items()
        } == {"seg": 1, "seg_aux": 0.1, "ent": 1e-3, "ent_aux": 2e-4}


def test_vgg_recipes_follow_the_released_code():
    for name in ("gta5/vgg-single-level", "synthia/vgg-oracle"):
        recipe = find_recipe(name)
        assert (
            recipe.stages[0].optimizer.head_multiplier == 1
            and recipe.stages[0].net.aspp_branches == 2
            and "as released" in recipe.about
        )
