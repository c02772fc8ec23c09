"""Backbones from timm in every segmenter: saved and loaded, trained by a recipe, refused where they do not fit."""

import json

import pytest
import torch
from refusals import refused, refused_command

from uda_kit import (
    RunOptions,
    deeplab_v2,
    deeplab_v3,
    find_recipe,
    load_weights,
    override,
    pspnet,
    run_recipe,
    save_weights,
)
from uda_kit.core.errors import expect_error
from uda_kit.methods.averaged_prediction import fast_copy
from uda_kit.models.pyramid_segmenters import with_synced_norms
from uda_kit.models.timm_backbones import TimmOptions, lite0_file

OPTIONS = RunOptions(accelerator="cpu", progress=False)
SHORT = [
    "stages.0.source=scenes:rendered?n=4&size=64x96",
    "stages.1.source=scenes:rendered?n=4&size=64x96",
    "test=scenes:camera?n=2&size=64x96",
    "stages.0.steps=1",
    "stages.1.steps=1",
]
PICTURE = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("make", [deeplab_v2, deeplab_v3, pspnet])
@pytest.mark.parametrize("backbone", ["lite0", "timm:mit_b0"])
def test_saved_and_loaded(make, backbone, tmp_path):
    torch.manual_seed(0)
    weights = "imagenet" if backbone == "lite0" else None
    net = make(7, backbone, weights=weights).eval()
    path = save_weights(net, tmp_path / "net.safetensors")
    again = load_weights(path).eval()
    with torch.no_grad():
        assert torch.equal(again(PICTURE).logits, net(PICTURE).logits)
    assert again.config == net.config
    trained = {id(p) for p in (*net.backbone_parameters(), *net.head_parameters())}
    assert trained == {id(p) for p in net.parameters() if p.requires_grad}


def test_a_pyramid_is_saved_and_loaded_and_folded(tmp_path):
    torch.manual_seed(0)
    net = deeplab_v2(7, "lite0", multi_level=True, timm=TimmOptions(pyramid=4))
    net(PICTURE).logits.sum().backward()
    assert all(p.grad is not None for name, p in net.named_parameters() if name.startswith(("neck.", "main.")))
    net.eval()
    again = load_weights(save_weights(net, tmp_path / "net.safetensors")).eval()
    assert again.config["timm"] == {"output_stride": 32, "any_size": False, "bn_momentum": None, "pyramid": 4}
    with torch.no_grad():
        out = net(PICTURE)
        assert out.logits.shape == (2, 7, 16, 24) and out.features.shape == (2, 64, 16, 24)
        assert torch.equal(again(PICTURE).logits, out.logits)
        torch.testing.assert_close(fast_copy(net)(PICTURE).logits, out.logits, atol=1e-3, rtol=1e-3)


def test_a_recipe_trains_it(tmp_path, capsys):
    out = tmp_path / "run"
    sets = ["backbone=lite0", "weights=imagenet", "timm.bn_momentum=0.1"]
    both = [f"stages.{stage}.net.{setting}" for stage in (0, 1) for setting in sets]
    command = ["train", "scenes/source-only", "--steps", "1", "--out", str(out)]
    wrong = [setting.replace("=lite0", "=timm:pvt_v2b0") for setting in both]
    refused_command([*command, "--set", *wrong], "timm:pvt_v2_b0")
    assert not out.exists()
    run_recipe(override(find_recipe("scenes/source-only"), [*SHORT, *both]), out, OPTIONS)
    config = json.loads((out / "config.json").read_text())
    network = config["recipe"]["stages"][0]["net"]
    assert (
        config["licences"] == {"lite0": "apache-2.0"}
        and "published weights of lite0: apache-2.0" in capsys.readouterr().err
    )
    assert network["backbone"] == "lite0" and network["timm"]["bn_momentum"] == 0.1
    assert load_weights(out / "weights.safetensors").config["licence"] == "apache-2.0"


@pytest.mark.parametrize("backbone", ["lite0", "timm:mobilenetv3_small_050", "timm:resnet18", "timm:mit_b0"])
def test_activations_behind_batch_norms_stay(backbone):
    "timm keeps activations inside its batch norms: a copy with folded norms, or with SyncBN, has them, too."
    torch.manual_seed(0)
    net = deeplab_v2(5, backbone, weights="imagenet" if backbone == "lite0" else None)
    net(PICTURE)  # batch statistics other than 0 and 1
    net.eval()
    with torch.no_grad():
        features, folded = net(PICTURE).features, fast_copy(net)(PICTURE).features
        synced = with_synced_norms(net).eval()(PICTURE).features
    assert (features - folded).norm() < 1e-3 * features.norm()
    assert torch.allclose(features, synced, atol=1e-5)


def test_refusals(tmp_path, monkeypatch):
    torch.manual_seed(0)
    vit = deeplab_v2(5, "timm:vit_tiny_patch16_224")
    assert "patches of 16x16" in expect_error(vit, torch.zeros(1, 3, 50, 96))
    refused(lambda: deeplab_v2(5, "timm:mit_b0", timm=TimmOptions(8)), "mit_b0", "cannot keep an output stride of 8")
    refused(lambda: deeplab_v2(5, "timm:convnext_atto", weights="imagenet"), "imagenet", "convnext_atto")
    refused(lambda: deeplab_v2(5, "timm:vit_tiny_patch16_224", timm=TimmOptions(8)), "cannot keep an output stride")
    refused(lambda: deeplab_v2(5, "timm:resnet18.bogus"), "is no network of timm")
    refused(lambda: deeplab_v2(5, "lite0", timm=TimmOptions(pyramid=5)), "pyramid=5", "maps of strides 2, 4, 8, 16, 32")
    refused(lambda: deeplab_v2(5, "timm:vit_tiny_patch16_224", timm=TimmOptions(pyramid=4)), "maps of strides 16")
    refused(lambda: pspnet(5, "lite0", timm=TimmOptions(pyramid=4)), "has a neck of its own")
    refused(lambda: deeplab_v2(5, "lite0", weights=5), "names no file")
    refused(lambda: deeplab_v2(5, "lite0", timm={"bogus": 1}), "has no option 'bogus'")
    save_weights(deeplab_v2(5, "tiny"), tmp_path / "tiny.safetensors")
    refused(lambda: deeplab_v2(5, "lite0", weights=tmp_path / "tiny.safetensors"), "weights of another network")
    torch.save(deeplab_v2(5, "timm:resnet18").backbone.body.state_dict(), tmp_path / "r18.pth")
    refused(lambda: deeplab_v2(5, "timm:convnext_atto", weights=tmp_path / "r18.pth"), "weights of another network")
    assert "non-commercial" in deeplab_v2(5, "timm:mit_b0").backbone.licence
    monkeypatch.setattr("uda_kit.models.timm_backbones.LITE0_SHA256", "0" * 64)
    refused(lite0_file, "is not the file that was published")
    monkeypatch.setattr("uda_kit.models.timm_backbones.LITE0_PACKAGE", "no-such-package")
    refused(lite0_file, "not installed", "pretrained")


def test_gradients_of_dilated_depthwise_convolutions_in_bf16():
    "torch's own are noise there, on processors and in channels-last: at stride 8 lite0 would learn nothing in them."
    torch.manual_seed(0)
    net = deeplab_v2(5, "lite0", weights="imagenet", timm=TimmOptions(8)).to(memory_format=torch.channels_last).eval()
    picture = torch.rand(1, 3, 184, 240).contiguous(memory_format=torch.channels_last)
    dilated = [m for m in net.modules() if isinstance(m, torch.nn.Conv2d) and m.groups > 1 and m.dilation[0] > 1]
    assert len(dilated) > 4

    def gradients(half):
        net.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            logits = net(picture).logits
        logits.float().square().sum().backward()
        return [module.weight.grad.clone() for module in dilated]

    for half, whole in zip(gradients(True), gradients(False), strict=True):
        assert torch.cosine_similarity(half.flatten(), whole.flatten(), 0) > 0.9
