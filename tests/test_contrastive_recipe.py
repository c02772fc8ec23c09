"""The contrastive paper's stages in one run: killed in any of them, shared between rows, the backbone fixed where it shall be, no label of the target ever read."""

import json

import pytest
import torch
from resuming import killed_and_resumed, options, same_stage, undisturbed

from uda_kit.core.errors import InputError
from uda_kit.core.settings import override
from uda_kit.data.open import open_named
from uda_kit.experiments.build import Run, build_stages
from uda_kit.experiments.dry_run import dry_run, open_or_stand_in
from uda_kit.experiments.running import run_benchmark, run_recipe
from uda_kit.recipes.catalogue import find_recipe
from uda_kit.training.fit import fit
from uda_kit.training.runs import RunDirectory, newest_checkpoint, read_log

RENDERED, CAMERA = (f"scenes:{style}?n=6&size=48x64" for style in ("rendered", "camera"))
STEPS = {"translate": 2, "supervised": 3, "contrast": 6, "head": 6, "self-train": 8}
SETTINGS = [
    *(f"stages.{i}.steps={n}" for i, n in enumerate(STEPS.values())),
    *(f"stages.{i}.source={RENDERED}" for i in range(5)),
    *(f"stages.{i}.target={CAMERA}" for i in (0, 2, 4)),
    *(
        f"stages.{i}.{side}.batch_size=2"
        for i, side in ((1, "source"), (2, "source"), (2, "target"), (3, "source"), (4, "source"), (4, "target"))
    ),
    f"test={CAMERA}",
    f"val={CAMERA}",
    "stages.0.net.width=4",
    "stages.0.net.blocks=1",
    "stages.0.terms.width=4",
    "stages.4.transforms.0.every=3",
    "stages.4.transforms.0.expansion.window=2",
    "stages.4.transforms.0.scales=(0.5, 1)",
    "stages.2.transforms.0.scales=(1, 1.5)",
]
ARGS = [
    "train",
    "scenes/contrastive-cyclegan",
    "--no-progress",
    "--save-every",
    "3",
    "--log-every",
    "1",
    "--accelerator",
    "cpu",
    "--set",
    *SETTINGS,
]


def small(row="contrastive-cyclegan", *settings):
    "A row with few steps; rows without a translation stage have their stages one place earlier."
    shift = 0 if row == "contrastive-cyclegan" else 1
    recipe, moved = find_recipe(f"scenes/{row}"), []
    for s in SETTINGS:
        place = int(s.split(".")[1]) - shift if s.startswith("stages.") else None
        if place is None:
            moved.append(s)
        elif 0 <= place < len(recipe.stages) and recipe.stages[place].name == list(STEPS)[place + shift]:
            moved.append(s.replace(f"stages.{place + shift}", f"stages.{place}", 1))
    if row == "contrastive-cond6":
        moved = [s for s in moved if ".expansion." not in s]  # it has none
    moved += [
        f"stages.{i}.target={CAMERA}" for i, s in enumerate(recipe.stages) if s.target is not None
    ]  # instant transfer looks at the target, too
    return override(
        recipe, list({s.partition("=")[0]: s for s in (*moved, *settings)}.values())
    )  # the last of each path


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return undisturbed(ARGS, tmp_path_factory)


@pytest.mark.parametrize("stage", ["contrast", "head", "self-train"])
def test_killed_at_a_random_step(alone, tmp_path, stage):
    killed_and_resumed(alone, tmp_path / "run", ARGS, STEPS, stage)


def test_what_a_checkpoint_holds(alone):
    "Teacher, memories and the expansion's prototypes, with something in them."
    state = same_stage(alone, alone, "self-train", STEPS["self-train"])
    for word in (
        "teacher",
        "queues.source_pixel.features",
        "queues.target_prototype.features",
        "expansion",
        "histogram",
    ):
        found = [v for k, v in state.items() if word in k]
        assert found and any(v.any() for v in found), word


def test_what_is_fixed(alone):
    "Between contrast and head the backbone stays, weights and statistics; the classifier stays in contrast, in which nothing trains it."
    weights = {
        name: newest_checkpoint(RunDirectory(alone), name).weights
        for name in ("supervised", "contrast", "head", "self-train")
    }
    moved = lambda a, b, part: {k for k, v in weights[a].items() if k.startswith(part) and not v.equal(weights[b][k])}
    assert (
        not moved("contrast", "head", "backbone.")
        and moved("contrast", "head", "main.")
        and moved("contrast", "head", "aux.")
    )
    assert not moved("supervised", "contrast", "main.") and moved("supervised", "contrast", "backbone.")
    assert any("running_mean" in k for k in moved("supervised", "contrast", "backbone.")) and moved(
        "head", "self-train", "backbone."
    )


def test_what_stages_read(tmp_path, monkeypatch):
    "No stage opens a label of the target, the contrastive stage opens no source image."
    opened, seen = [], {}
    monkeypatch.setattr(
        "uda_kit.recipes.data.open_named",
        lambda name, root, split, space, labelled, **more: (
            opened.append((root, split, labelled)) or open_named(name, root, split, space, labelled, **more)
        ),
    )

    def look(stage, *args, **more):
        from uda_kit.data.streams import Stream

        sides = {id(stage.source.dataset): "source", id(stage.target.dataset): "target"}
        with monkeypatch.context() as m:
            begin = Stream.__iter__
            m.setattr(
                Stream,
                "__iter__",
                lambda self: seen.setdefault(stage.name, set()).add(sides[id(self.dataset)]) or begin(self),
            )
            return fit(stage, *args, **more)

    monkeypatch.setattr("uda_kit.experiments.running.fit", look)
    run_recipe(small("contrastive"), tmp_path / "run", options())
    assert {labelled for name, split, labelled in opened if name == "camera" and split == "train"} == {False}
    both = {"source", "target"}  # instant transfer looks at the target, too
    assert seen == {"supervised": both, "contrast": {"target"}, "head": both, "self-train": both}


def test_rows_share_pre_training(tmp_path):
    "A table: pre-training is done once, pseudo-labels are judged by kind and class."
    import uda_kit.experiments.running as running

    known = {f"scenes/{row}": small(row) for row in ("contrastive-cond3", "contrastive-cond6", "contrastive")}
    original, running.find_recipe = running.find_recipe, lambda name: known[name]
    try:
        run_benchmark(
            "scenes",
            ["contrastive-cond3", "contrastive-cond6", "contrastive"],
            [0],
            tmp_path / "runs",
            options(),
            tmp_path / "results",
        )
    finally:
        running.find_recipe = original
    logs = {
        row: {r["stage"] for r in read_log(RunDirectory(tmp_path / "runs" / "scenes" / f"{row}-seed0"))}
        for row in ("contrastive-cond3", "contrastive-cond6", "contrastive")
    }
    assert logs == {
        "contrastive-cond3": {"supervised", "contrast", "head"},
        "contrastive-cond6": {"self-train"},
        "contrastive": {"self-train"},
    }
    lines = [
        line.split(",") for line in (tmp_path / "results" / "scenes_contrastive_labels.csv").read_text().splitlines()
    ]
    assert len(lines) == 1 + 2 * 3 * 20
    total = {(line[1], line[4]): line[6:9] for line in lines if line[5] == "all"}
    assert total["contrastive-cond6", "confident"] == total["contrastive-cond6", "expanded"]
    assert float(total["contrastive", "expanded"][2]) >= float(total["contrastive", "confident"][2])


@pytest.mark.parametrize(
    "name",
    [f"gta5/{row}" for row in ("contrastive", "contrastive-fourier", "vistas-contrastive")] + ["synthia/contrastive"],
)
def test_stand_ins_of_full_size(name):
    "Where data is not there, a dry run finds images large enough for every crop."
    recipe = find_recipe(name)
    for config in recipe.stages:
        for data in filter(None, (config.source, config.target)):
            image, label = data.transform(
                *open_or_stand_in(data, recipe.space, data is config.source)[0][:2], torch.Generator().manual_seed(0)
            )
            assert image.shape[1:] == data.crop and (label is None or label.shape == data.crop)


@pytest.mark.parametrize(
    "settings,problem",
    [
        (["stages.4.terms.weight=0.2"], "has no 'weight'"),
        (["stages.2.transforms.0.every=-1"], "every: cannot be -1"),
        (["stages.4.transforms.0.augmentation.cutout=(0, 60)"], "does not fit into a crop"),
        (["stages.4.transforms.0.scales=()"], "scales"),
        (["stages.4.transforms.0.expansion.quantile=0"], "quantile 0"),
        (["stages.4.terms.cross=pixles"], "level"),
        (["stages.4.terms.size=0"], "size: cannot be 0"),
        (["stages.4.terms.temperature=0.0"], "temperature: cannot be 0"),
        (["stages.4.transforms.0.caps=0.5"], "has no 'caps'"),
        (["stages.3.net=None"], "cannot be None"),
    ],
)
def test_recipes_that_do_not_fit(tmp_path, settings, problem):
    with pytest.raises(InputError, match=problem):
        run_recipe(small("contrastive-cyclegan", *settings), tmp_path / "run", options())


def test_dry_run_of_all_stages():
    found = dry_run(small(), steps=1, options=options(), say=lambda text: None)
    assert list(found["stages"]) == list(STEPS) and json.dumps(found)


def test_resized_images():
    "Recipes that resize their images, as CamVid's do, are built like the others."
    recipe = small(
        "contrastive", *(f"stages.{i}.{side}.size=(40, 56)" for i in range(4) for side in ("source", "target"))
    )
    assert [s.name for s in build_stages(Run(recipe))] == list(STEPS)[1:]


def test_target_that_cannot_be_used(tmp_path):
    "A crop larger than an image, and an unreadable image of an unlabelled folder, are named in one line."
    with pytest.raises(InputError, match="crop"):
        run_recipe(small("contrastive", "stages.3.target.crop=(64, 64)"), tmp_path / "crop", options())
    from PIL import Image

    folder = tmp_path / "folder" / "images"
    folder.mkdir(parents=True)
    for i in range(4):
        Image.new("RGB", (64, 48), (40 * i, 90, 60)).save(folder / f"{i}.png")
    (folder / "2.png").write_bytes((folder / "2.png").read_bytes()[:60])
    (folder.parent / "set.toml").write_text('images = "images/*.png"\nclasses = ["road"]\n')
    recipe = small(
        "contrastive",
        *(f"stages.{i}.target=folder:{folder.parent / 'set.toml'}" for i in range(4)),
        *(f"stages.{i}.target.split=all" for i in range(4)),
        "stages.0.steps=1",
    )
    with pytest.raises(InputError, match=r"2\.png"):
        run_recipe(recipe, tmp_path / "run", options())
