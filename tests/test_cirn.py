"""CIRN's stages in one run: translate, adapt, self-train; killed in any of them, shared between rows, refused where they do not fit."""

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from resuming import finish, interrupted, killed_and_resumed, same, start, undisturbed
from safetensors.torch import load_file

from uda_kit.core.errors import InputError
from uda_kit.core.records import write_json
from uda_kit.core.settings import override
from uda_kit.data.open import open_named
from uda_kit.data.translated import TranslatedImages, read_about
from uda_kit.experiments.build import Run, build_stages
from uda_kit.experiments.dry_run import dry_run
from uda_kit.experiments.running import run_recipe
from uda_kit.methods.cyclegan import SourceTranslation
from uda_kit.methods.pseudo_labels import PseudoLabelled
from uda_kit.models.segmenters import deeplab_v2
from uda_kit.models.translators import fingerprint
from uda_kit.recipes.catalogue import find_recipe
from uda_kit.training.fit import RunOptions, fit
from uda_kit.training.runs import RunDirectory, newest_checkpoint, read_log

RENDERED, CAMERA = (f"scenes:{style}?n=6&size=48x64" for style in ("rendered", "camera"))
STEPS = {"warmup": 3, "translate": 7, "adapt": 7, "self-train": 7}
SETTINGS = [
    *(f"stages.{i}.steps={n}" for i, n in enumerate(STEPS.values())),
    *(f"stages.{i}.source={RENDERED}" for i in (0, 1, 2)),
    *(f"stages.{i}.target={CAMERA}" for i in (1, 2)),
    *(f"stages.{i}.{side}.batch_size=2" for i, side in ((0, "source"), (2, "source"), (2, "target"), (3, "source"))),
    f"stages.3.source={CAMERA}",
    f"test={CAMERA}",
    "stages.1.net.width=4",
    "stages.1.net.blocks=1",
    "stages.1.terms.width=4",
    "stages.1.terms.pool=2",
]
ARGS = [
    "train",
    "scenes/cirn",
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
OPTIONS = RunOptions(accelerator="cpu", progress=False, log_every=1, save_every=3)


def small(row="cirn", *settings):
    stages = 4 if row == "cirn" else 3
    other = tuple(f"stages.{i}." for i in range(stages, 4)) + tuple(
        s.partition("=")[0] + "=" for s in settings
    )  # of no stage of the row, or given anew
    return override(find_recipe(f"scenes/{row}"), [s for s in SETTINGS if not s.startswith(other)] + list(settings))


def made(out):
    "The images that a run made, by name."
    return {
        p.relative_to(out).as_posix(): p.read_bytes()
        for folder in ("translated-translate", "labels-self-train")
        for p in Path(out, folder).glob("*.png")
    }


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    "The run that nobody disturbs."
    return undisturbed(ARGS, tmp_path_factory)


def test_what_a_run_leaves(alone):
    assert len(made(alone)) == 12 and read_about(alone / "translated-translate")["translator"]["name"] == "CycleGAN"
    about = json.loads((alone / "labels-self-train" / "summary.json").read_text())
    assert about["samples"] == 6 and about["about"]["rule"] == "median:0.9"
    assert "ancillary.maps.weight" in load_file(alone / "weights.safetensors")


def test_what_a_stage_finds(tmp_path, monkeypatch):
    "Stage 1 is judged by the trained warm-up, stage 2 goes on from it, stage 3 from stage 2 with its labels; and nobody reads a label of the target."
    found, opened = {}, []

    def look(stage, *args, **options):
        found[stage.name] = {k: v.clone() for k, v in stage.net.state_dict().items()}
        if "semantic" in stage.terms:
            assert stage.terms["semantic"].fingerprint == fingerprint(stages[0].net)
        if stage.name in ("adapt", "self-train"):
            assert type(stage.source.dataset) is {"adapt": TranslatedImages, "self-train": PseudoLabelled}[stage.name]
        return fit(stage, *args, **options)

    monkeypatch.setattr("uda_kit.experiments.running.fit", look)
    monkeypatch.setattr(
        "uda_kit.experiments.running.build_stages", lambda run: stages.extend(build_stages(run)) or stages
    )
    monkeypatch.setattr(
        "uda_kit.recipes.data.open_named",
        lambda name, root, split, space, labelled, **more: (
            opened.append((root, labelled)) or open_named(name, root, split, space, labelled, **more)
        ),
    )
    stages, recipe = [], small()
    run_recipe(replace(recipe, test=replace(recipe.test, n=2, style="lorry")), tmp_path / "run", OPTIONS)
    warmup, adapt = (newest_checkpoint(RunDirectory(tmp_path / "run"), name).weights for name in ("warmup", "adapt"))
    assert warmup.keys() < found["adapt"].keys() and all(found["adapt"][k].equal(v) for k, v in warmup.items())
    assert all(found["self-train"][k].equal(v) for k, v in adapt.items()) and not adapt["main.convs.0.weight"].equal(
        warmup["main.convs.0.weight"]
    )
    assert {labelled for name, labelled in opened if name == "camera"} == {False} and any(
        labelled for name, labelled in opened if name == "rendered"
    )


@pytest.mark.parametrize("stage", ["translate", "adapt", "self-train"])
def test_killed_at_a_random_step_of_each_stage(alone, tmp_path, stage):
    killed_and_resumed(alone, tmp_path / "run", ARGS, STEPS, stage)
    assert made(tmp_path / "run") == made(alone)


@pytest.mark.parametrize("folder", ["translated-translate", "labels-self-train"])
def test_killed_while_images_are_made(alone, tmp_path, folder):
    run = tmp_path / "run"
    interrupted(ARGS, run, signal.SIGKILL, lambda: any(Path(run, folder).glob("*.png")))
    finish(start(ARGS, run, "--resume"))
    same(alone, run, STEPS)
    assert made(run) == made(alone)


def test_two_processes(tmp_path):
    "One of two processes translates, labels and logs; both finish all stages."
    command = Path(sys.executable).with_name("uda-kit")
    if not command.exists():
        pytest.skip("the uda-kit command is not installed")
    finish(
        subprocess.Popen(
            [command, *ARGS, "--devices", "2", "--out", str(tmp_path / "run")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    )
    assert len(made(tmp_path / "run")) == 12 and [r["stage"] for r in read_log(RunDirectory(tmp_path / "run"))] == [
        name for name, n in STEPS.items() for _ in range(n)
    ]


def test_rows_share_their_stages(tmp_path):
    "The full method goes on from where the row without self-training ended, to the same bits as if it had been run by itself."
    run_recipe(small("cir-ass"), tmp_path / "cir-ass", OPTIONS, shared=tmp_path / "shared")
    kept = sorted(
        p.name.rsplit("-", 1)[0] for p in (tmp_path / "shared").iterdir() if not p.name.startswith(".")
    )  # and a lock for each
    assert kept == ["adapt", "translate", "translated-translate", "warmup"]
    run_recipe(small(), tmp_path / "cirn", OPTIONS, shared=tmp_path / "shared")
    run_recipe(small(), tmp_path / "by-itself", OPTIONS)
    assert [p.name for p in sorted((tmp_path / "cirn" / "checkpoints").iterdir())] == [
        "self-train-0000006",
        "self-train-0000007",
    ]
    x, y = (load_file(tmp_path / name / "weights.safetensors") for name in ("cirn", "by-itself"))
    assert x.keys() == y.keys() and all(x[k].equal(y[k]) for k in x)


def test_a_commit_in_between(tmp_path, monkeypatch):
    "A run that is resumed after a commit keeps the shared stages that it began with."
    share, out = tmp_path / "shared", tmp_path / "run"

    def stop(stage, *args, **options):
        if stage.name == "adapt":
            raise KeyboardInterrupt
        return fit(stage, *args, **options)

    monkeypatch.setattr("uda_kit.experiments.running.fit", stop)
    with pytest.raises(KeyboardInterrupt):
        run_recipe(small("cir-ass"), out, OPTIONS, shared=share)
    before = {p.name for p in share.iterdir()}
    monkeypatch.undo()
    monkeypatch.setattr("uda_kit.experiments.build.current_commit", lambda: "another")
    run_recipe(small("cir-ass"), out, OPTIONS, shared=share, resume=True)
    assert sorted(p.name.split("-")[0] for p in share.iterdir() if p.name not in before) == ["adapt"]
    run_recipe(small("cir-ass"), tmp_path / "new", OPTIONS, shared=share)
    assert len({p.name for p in share.iterdir()}) == 2 * len(before) + 2, (
        "a new run takes nothing over from another commit"
    )


def test_folder_with_other_translated(tmp_path):
    "A run whose folder of translated images was exchanged is refused."
    out = tmp_path / "run"
    run_recipe(small("cir-ass"), out, OPTIONS)
    about = out / "translated-translate" / "translated.json"
    about.write_text(about.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(InputError, match="translated.json: does not match the hash"):
        run_recipe(small("cir-ass"), out, OPTIONS, resume=True)
    write_json(about, json.loads(about.read_text()), seal=True)
    with pytest.raises(InputError, match="describes other translated images"):
        run_recipe(small("cir-ass"), out, OPTIONS, resume=True)


@pytest.mark.parametrize(
    "settings,problem",
    [
        (["stages.2.source.translated_by=translated"], "no translation of that name"),
        (["stages.3.rule=medain"], "is no confidence rule"),
        (["stages.2.source.translated=elsewhere"], "leave one of the two out"),
        (["stages.3.name=adapt"], "two stages of one name"),
        (["stages.3.net.ancillary=None"], "does not have"),
        (["stages.2.source.size=(32, 48)"], "wants translated images of"),
        (["stages.2.source=scenes:rendered?n=5&size=48x64"], "wants translated images of"),
        (["stages.0.steps=0"], "stages.0.steps: cannot be 0"),
        (["stages.1.terms.pool=-1"], "stages.1.terms.pool: cannot be -1"),
        (["stages.2.terms.width=0"], "stages.2.terms.width: cannot be 0"),
        (["stages.3.transforms=5"], "cannot be 5"),
    ],
)
def test_recipes_that_do_not_fit(tmp_path, settings, problem):
    with pytest.raises(InputError, match=problem):
        run_recipe(small("cirn", *settings), tmp_path / "run", OPTIONS)
    assert not (tmp_path / "run").exists(), "something was written"
    if not any(word in settings[0] for word in ("pool", "width", "transforms")):
        with pytest.raises(InputError, match=problem):
            dry_run(small("cirn", *settings), steps=1, options=OPTIONS, say=lambda text: None)


def test_small_images_and_other_classes(tmp_path):
    "Images too small for a discriminator, and a frozen segmenter of other classes, are refused by name."
    with pytest.raises(InputError, match="16x16, too small for a discriminator"):
        run_recipe(
            small(
                "cir-ass",
                *(
                    f"stages.{i}.{side}={name.replace('48x64', '16x16')}"
                    for i, side, name in ((1, "source", RENDERED), (2, "source", RENDERED), (1, "target", CAMERA))
                ),
            ),
            tmp_path / "run",
            OPTIONS,
        )
    recipe = small("cir-ass")
    run = Run(recipe)
    translation = build_stages(run)[1]
    translation.before.net = deeplab_v2(11, "tiny")
    with pytest.raises(InputError, match="11 classes, the source has 19"):
        translation.build_losses(run)


def test_translation_on_the_fly(tmp_path):
    "A recipe can redraw its source images at every step instead of reading translated images."
    plain = override(
        find_recipe("scenes/statistics-only"),
        [f"stages.{i}.steps=2" for i in (0, 1)]
        + [f"stages.{i}.source={RENDERED}" for i in (0, 1)]
        + [f"stages.1.target={CAMERA}", f"test={CAMERA}"],
    )
    run_recipe(plain, tmp_path / "plain", OPTIONS)
    redrawing = replace(plain.stages[1], transforms=(SourceTranslation("statistics"),))
    run_recipe(replace(plain, stages=(plain.stages[0], redrawing)), tmp_path / "redrawn", OPTIONS)
    unknown = replace(plain, stages=(plain.stages[0], replace(redrawing, transforms=(SourceTranslation("sepia"),))))
    with pytest.raises(InputError, match="is no translator"):
        run_recipe(unknown, tmp_path / "never", OPTIONS)
    first, second = (read_log(RunDirectory(tmp_path / name)) for name in ("plain", "redrawn"))
    assert (
        first[1]["loss/seg"] == second[1]["loss/seg"] and first[2]["loss/seg"] != second[2]["loss/seg"]
    )  # the same warm-up, other images


def test_dry_run_of_all_stages():
    found = dry_run(replace(small(), name="x/y"), steps=1, options=OPTIONS, say=lambda text: None)
    assert list(found["stages"]) == list(STEPS)
