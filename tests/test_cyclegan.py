"""A translation stage of the kit's own loop, with checkpoints in between and in both precisions: stopped and resumed it ends with the same bits."""

import pytest
import torch
from resuming import StopAt, options, same_stage

from uda_kit.core.errors import InputError
from uda_kit.data.streets.dataset import StreetScenes
from uda_kit.data.streets.style import CAMERA, RENDERED
from uda_kit.data.translated import TranslatedImages
from uda_kit.methods.cyclegan import CYCLEGAN_ADAM, CycleGANTerms, TranslateSource
from uda_kit.methods.output_space import SupervisedTerms
from uda_kit.methods.translation import translator, write_translated
from uda_kit.models.segmenters import deeplab_v2
from uda_kit.models.translators import CycleTranslator, fingerprint, load_translator, save_translator
from uda_kit.training.configs import BuildContext
from uda_kit.training.fit import Interrupted, LoaderConfig, Stage, fit

SIZE, STEPS = (32, 48), 4
SCENES = [StreetScenes(style, 4, SIZE) for style in (RENDERED, CAMERA)]


def stage(stop=0, size=SIZE, net=None, **changes):
    torch.manual_seed(0)
    net, judge = net or CycleTranslator(width=4, blocks=1), deeplab_v2(19, "tiny")
    source, target = SCENES[0], StreetScenes(CAMERA, 4, size)
    terms = CycleGANTerms(pool=2, **changes).build(net, BuildContext(segmenter=judge, space=source.space)) | {
        "stop": StopAt(stop)
    }
    return Stage(
        "translate",
        net,
        terms,
        LoaderConfig(source),
        LoaderConfig(target, labelled=False),
        steps=STEPS,
        optimizer=CYCLEGAN_ADAM,
    )


@pytest.mark.parametrize("precision,stop", [("32-true", 1), ("32-true", 3), ("bf16-mixed", 2)])
def test_stopped_and_resumed(tmp_path, precision, stop):
    fit(stage(), tmp_path / "whole", options(precision))
    torch.manual_seed(5)
    with pytest.raises(Interrupted):
        fit(stage(stop), tmp_path / "stopped", options(precision))
    torch.manual_seed(6)  # what the process drew before must not matter
    fit(stage(), tmp_path / "stopped", options(precision), resume=True)
    state = same_stage(tmp_path / "whole", tmp_path / "stopped", "translate", STEPS)
    pools = [v for k, v in state.items() if k.endswith("pools.source.images")]
    assert len(pools) == 1 and pools[0].shape == (2, 3, *SIZE)
    assert not any("judge" in k or "segmenter" in k or "_frozen" in k for k in state)


def test_global_random_state_is_not_touched(tmp_path):
    s = stage()
    torch.manual_seed(7)
    before = torch.get_rng_state()
    fit(s, tmp_path / "run", options())
    assert torch.equal(before, torch.get_rng_state())


def test_images_of_two_sizes(tmp_path):
    "A pool holds images of one size: mixed ones are refused in one line."

    class Mixed:
        def __init__(self, *sets):
            self.sets = sets

        def __getattr__(self, name):
            return getattr(self.sets[0], name)

        def __len__(self):
            return 2

        def key(self, i):
            return str(i)

        def image(self, i):
            return self.sets[i].image(0)

    s = stage()
    s.target = LoaderConfig(Mixed(SCENES[1], StreetScenes(CAMERA, 1, (40, 48))), labelled=False)
    with pytest.raises(InputError, match="image pool"):
        fit(s, tmp_path / "run", options())


def test_too_small(tmp_path):
    with pytest.raises(InputError, match="24x48 or more"):
        fit(stage(size=(16, 48)), tmp_path / "run", options())


def test_from_stage_to_translated_to_training(tmp_path):
    "A trained translator is saved, fills a folder of translated images that a loader joins with the labels, and works on the fly."
    trained = stage()
    fit(trained, tmp_path / "run", options())
    path = save_translator(trained.net, tmp_path / "t.safetensors")
    net = load_translator(path)
    assert fingerprint(net) == fingerprint(trained.net)
    name = f"cyclegan:{path}"
    assert write_translated(*SCENES, tmp_path / "translated", name, progress=False) == 4
    assert write_translated(*SCENES, tmp_path / "translated", translator(name), progress=False) == 0
    translated = TranslatedImages(SCENES[0], tmp_path / "translated")
    assert translated.image(2).equal(net.translate(SCENES[0].image(2)))
    save_translator(CycleTranslator(width=4, blocks=1), path)
    with pytest.raises(InputError, match="other translated images"):
        write_translated(*SCENES, tmp_path / "translated", name, progress=False)
    torch.manual_seed(0)
    segmenter = deeplab_v2(19, "tiny")
    adapt = Stage(
        "seg",
        segmenter,
        SupervisedTerms().build(segmenter),
        LoaderConfig(SCENES[0]),
        LoaderConfig(SCENES[1], labelled=False),
        steps=1,
        transforms=[TranslateSource(net)],
    )
    assert fit(adapt, tmp_path / "seg", options())["loss/seg"] > 0
