"""Self-training with a teacher, label expansion and strong augmentation through the kit's own loop: resumed it ends with the same bits, and labels stay where the images are."""

import pytest
import torch
from resuming import StopAt, options, same_stage

from uda_kit.core.errors import InputError
from uda_kit.data.labels import CITYSCAPES19
from uda_kit.data.streets.dataset import StreetScenes
from uda_kit.data.streets.style import CAMERA, RENDERED
from uda_kit.data.strong_augmentation import StrongAugmentation
from uda_kit.methods.label_expansion import LabelExpansion
from uda_kit.methods.output_space import SupervisedTerms
from uda_kit.methods.teacher import AugmentSource, PseudoSupervised, Teacher
from uda_kit.models.segmenters import deeplab_v2
from uda_kit.training.fit import SGD, Interrupted, LoaderConfig, Stage, fit
from uda_kit.training.objective import Batch
from uda_kit.training.runs import RunDirectory, read_log

SIZE, STEPS, SCALES = (40, 56), 5, (0.5, 1, 1.5)
SCENES = [StreetScenes(style, 6, SIZE) for style in (RENDERED, CAMERA)]
HOW = StrongAugmentation(cutout=(0, 8))


def stage(stop=0, every=2, average=None, precision="32-true", expansion=True):
    torch.manual_seed(0)
    net = deeplab_v2(19, "tiny")
    transforms = [
        Teacher(
            every=every,
            average=average,
            scales=SCALES,
            augmentation=HOW,
            precision=precision,
            expansion=LabelExpansion(19, net.channels["features"], window=2) if expansion else None,
        ),
        AugmentSource(HOW),
    ]
    terms = SupervisedTerms().build(net) | {"pseudo": PseudoSupervised(), "stop": StopAt(stop)}
    return Stage(
        "self-training",
        net,
        terms,
        LoaderConfig(SCENES[0], batch_size=2),
        LoaderConfig(SCENES[1], batch_size=2, labelled=False),
        steps=STEPS,
        optimizer=SGD(lr=1e-2),
        transforms=transforms,
    )


@pytest.mark.parametrize(
    "stop,changes",
    [(1, {}), (2, {}), (3, {}), (4, {"precision": "bf16-mixed"}), (3, {"average": 0.9}), (3, {"expansion": False})],
)
def test_stopped_and_resumed(tmp_path, stop, changes):
    "Before, at and after a copy, within and between blocks of gathered features, with either way of following."
    run = options(changes.get("precision", "32-true"))
    fit(stage(**changes), tmp_path / "whole", run)
    torch.manual_seed(5)
    with pytest.raises(Interrupted):
        fit(stage(stop, **changes), tmp_path / "stopped", run)
    torch.manual_seed(6)  # what the process drew before must not matter
    fit(stage(**changes), tmp_path / "stopped", run, resume=True)
    x = same_stage(tmp_path / "whole", tmp_path / "stopped", "self-training", STEPS)
    assert [k for k in x if "teacher" in k] and bool([k for k in x if "histogram" in k]) == changes.get(
        "expansion", True
    )
    logs = [
        [
            {k: v for k, v in r.items() if k not in ("seconds", "peak_gib")}
            for r in read_log(RunDirectory(tmp_path / name))
        ]
        for name in ("whole", "stopped")
    ]
    assert logs[0] == logs[1] and all(
        0 < r["pseudo/confident"] <= r["pseudo/labelled"] <= 1 and r["pseudo/classes_without"] >= 0 for r in logs[0]
    )


def test_other_settings_are_refused(tmp_path):
    with pytest.raises(Interrupted):
        fit(stage(2), tmp_path / "run", options())
    with pytest.raises(InputError, match="teacher|transforms"):
        fit(stage(every=3), tmp_path / "run", options(), resume=True)


def test_global_random_state_is_not_touched(tmp_path):
    s = stage()
    torch.manual_seed(7)
    before = torch.get_rng_state()
    fit(s, tmp_path / "run", options())
    assert torch.equal(before, torch.get_rng_state())


class Painter(torch.nn.Module):
    "A network that knows the palette: its classes are the nearest colours, as sure as `gain` makes it."

    def __init__(self, gain):
        super().__init__()
        self.gain, self.colors = gain, torch.nn.Parameter(torch.tensor(CITYSCAPES19.palette).float() / 255)

    def forward(self, image):
        from uda_kit.models.segmenters import Outputs

        distance = (
            torch.cdist(image.permute(0, 2, 3, 1).flatten(1, 2), self.colors)
            .transpose(1, 2)
            .unflatten(2, image.shape[2:])
        )
        return Outputs(-self.gain * distance, features=image)


def test_labels_stay_with_their_images():
    "A street painted in its label's colours, labelled by a network that reads colours, then augmented by the transform: what is painted at a pixel is its label."
    truth = torch.stack([SCENES[1].label(i) for i in range(6)]).long()
    truth[truth == 255] = 0
    net = Painter(100.0)
    paint = net.colors.detach()[truth].permute(0, 3, 1, 2)
    geometry = StrongAugmentation(jitter=(0.0, 0.0, 0.0, 0.0), gray=0.0, cutout=(0, 0))
    teacher = Teacher(scales=(1,), share=1, augmentation=geometry)
    new = teacher({"target": Batch(paint, None, net)}, torch.Generator().manual_seed(0))["target"]
    assert teacher.look(paint).confident.equal(truth)  # every pixel is confident
    seen = new.label != 255
    assert 0.3 < seen.float().mean() < 1
    read = net(new.image).logits.argmax(1)
    share = [
        (read.roll((dy, dx), (1, 2)) == new.label)[seen].float().mean().item()
        for dy, dx in ((0, 0), (0, 1), (1, 0), (0, -1), (-1, 0))
    ]
    assert share[0] > 0.92 and share[0] == max(share)  # blended colours at borders are read differently
    weight = new.weight
    assert ((weight > 0) == seen).all()


def test_crop_without_a_confident_pixel(tmp_path):
    "Nothing labelled: the loss is 0, the step goes on, and the log counts the classes."
    truth = torch.full((2, *SIZE), 255)
    net = deeplab_v2(19, "tiny")
    counts = {
        "predicted_pixels": torch.ones(19),
        "confident_pixels": torch.zeros(19),
        "expanded_pixels": torch.zeros(19),
    }
    tgt = Batch(torch.rand(2, 3, *SIZE), truth, net, counts=counts)
    term = PseudoSupervised()
    assert term(tgt) == 0 and term.update({"target": tgt})["classes_without"] == 19
