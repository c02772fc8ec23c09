"""The patch paper's methods as recipes: everything at once, stopped anywhere, and through the command line."""

import csv

import pytest
import torch
from safetensors.torch import load_file

from uda_kit.core.errors import InputError
from uda_kit.core.settings import override
from uda_kit.experiments.running import run_benchmark, run_recipe
from uda_kit.methods.patch_modes import PatchModes
from uda_kit.methods.translation import translator, write_translated
from uda_kit.models.segmenters import deeplab_v2
from uda_kit.recipes.catalogue import find_recipe
from uda_kit.recipes.data import open_data
from uda_kit.training.fit import RunOptions, Training
from uda_kit.training.runs import RunDirectory, stage_checkpoints

SCENES = "n=8&size=64x96"
SHORT = [
    *(f"stages.{i}.source=scenes:rendered?{SCENES}" for i in (0, 1)),
    *(f"stages.{i}.source.batch_size=2" for i in (0, 1)),
    f"stages.1.target=scenes:camera?{SCENES}",
    "stages.1.target.batch_size=2",
    "test=scenes:camera?n=2&size=64x96",
    "stages.0.steps=2",
    "stages.1.steps=7",
]
PATCH = [
    "stages.1.modes.k=6",
    "stages.1.modes.patch=(8, 12)",
    "stages.1.modes.patches=300",
    "stages.1.terms.patch.start=2",
]
OPTIONS = RunOptions(accelerator="cpu", progress=False, log_every=1, save_every=2)


@pytest.fixture(scope="module")
def translated(tmp_path_factory):
    "Translated images of the eight source scenes."
    folder, recipe = tmp_path_factory.mktemp("translated") / "scenes", override(find_recipe("scenes/ou"), SHORT)
    write_translated(
        open_data(recipe.stages[1].source, recipe.space),
        open_data(recipe.stages[1].target, recipe.space, None, False),
        folder,
        translator("statistics"),
        progress=False,
    )
    return {"scenes-translated": str(folder)}


def fusion():
    return override(find_recipe("scenes/fu-patch"), [*SHORT, *PATCH, "stages.1.terms.ps.self_start=4"])


def test_stopped_at_any_step_and_resumed(tmp_path, translated, monkeypatch):
    "Waiting terms, pseudo-labels that have begun, module H and all three discriminators go on to the same bits; the modes are read, not found again."
    run_recipe(fusion(), tmp_path / "whole", OPTIONS, roots=translated)
    step = Training.step

    def fails(at):
        def failing(self, number, *batches):
            if number == at and self.stage.name == "adapt":
                raise KeyboardInterrupt
            return step(self, number, *batches)

        return failing

    for at in (3, 5):
        out = tmp_path / f"stopped-{at}"
        monkeypatch.setattr(Training, "step", fails(at))
        with pytest.raises(KeyboardInterrupt):
            run_recipe(fusion(), out, OPTIONS, roots=translated)
        monkeypatch.setattr(Training, "step", step)
        monkeypatch.setattr(PatchModes, "fit", None)
        run_recipe(fusion(), out, OPTIONS, roots=translated, resume=True)
        monkeypatch.undo()
        for name in ("weights.safetensors", "state.safetensors"):
            a, b = (
                load_file(stage_checkpoints(RunDirectory(f), "adapt")[-1] / name) for f in (tmp_path / "whole", out)
            )
            assert a.keys() == b.keys() and not [k for k in a if a[k].numpy().tobytes() != b[k].numpy().tobytes()]
        assert any(".space.H." in k for k in b) and {"patch_adv", "adv", "ps"} <= {
            k.split(".")[1] for k in b if k.startswith("discriminators.")
        }


def test_the_saved_network_is_a_plain_segmenter(tmp_path, translated):
    run_recipe(fusion(), tmp_path / "run", OPTIONS, roots=translated)
    assert load_file(tmp_path / "run" / "weights.safetensors").keys() == deeplab_v2(19, "tiny").state_dict().keys()
    assert len(list((tmp_path / "run").glob("modes-*.safetensors"))) == 1


def test_modes_are_shared_by_a_table(tmp_path, monkeypatch):
    found = []
    fit = PatchModes.fit.__func__
    monkeypatch.setattr(PatchModes, "fit", classmethod(lambda cls, *a, **k: found.append(1) or fit(cls, *a, **k)))
    small = {name: override(find_recipe(f"scenes/{name}"), [*SHORT, *PATCH]) for name in ("patch", "discriminative")}
    monkeypatch.setattr("uda_kit.experiments.running.find_recipe", lambda name: small[name.split("/")[1]])
    run_benchmark("scenes", list(small), [0], tmp_path / "runs", OPTIONS, tmp_path / "results", paper="patch_alignment")
    with open(tmp_path / "results" / "scenes_patch_alignment.csv") as f:
        assert [r["recipe"] for r in csv.DictReader(f)] == list(small)
    assert len(found) == 1


def test_what_does_not_fit_is_said_before_anything_is_written(tmp_path, translated):
    for wrong in ("stages.1.modes.k=5000", "stages.1.modes.patch=(7, 12)"):
        with pytest.raises(InputError):
            run_recipe(override(fusion(), [wrong]), tmp_path / "run", OPTIONS, roots=translated)
    with pytest.raises(InputError, match="scenes-translated"):
        run_recipe(fusion(), tmp_path / "run", OPTIONS)
    with pytest.raises(InputError):
        run_recipe(override(fusion(), ["stages.1.terms.ps.threshold=1.5"]), tmp_path / "run", OPTIONS, roots=translated)
    assert not (tmp_path / "run").exists()


def test_terms_run_on_other_grids_of_the_target():
    "A target of another size has its own patches; a batch of one image works."
    from uda_kit.methods.patch_alignment import PatchTerms
    from uda_kit.training.configs import BuildContext
    from uda_kit.training.objective import Batch

    net, modes = (
        deeplab_v2(5, "tiny", multi_level=False),
        PatchModes(torch.rand(4, 20), tuple("abcde"), (64, 96), (8, 12)),
    )
    batches = {
        "source": Batch(torch.rand(1, 3, 64, 96), torch.randint(0, 5, (1, 64, 96)), net),
        "target": Batch(torch.rand(1, 3, 96, 128), None, net),
    }
    cut = {side: b.detach() for side, b in batches.items()}
    for term in PatchTerms(target_patch=(12, 32), start=0).build(net, BuildContext(modes=modes)).values():
        assert torch.isfinite(term.loss(batches)) and isinstance(term.update(cut), dict)
