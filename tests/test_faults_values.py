"""Values where they enter: a user's own classes, settings, options, what stops a command, and what a terminal is given. In one process."""

import errno
import io
import json
import os
import signal
import subprocess
import sys
from contextlib import redirect_stderr
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from refusals import one_line, refused_command, run_command

from uda_kit.cli import main
from uda_kit.cli.check import CheckData
from uda_kit.cli.options import read_precision
from uda_kit.cli.output import finish, never_fail, show
from uda_kit.cli.recipes import recipe_list
from uda_kit.cli.signals import Interrupts, Terminated, terminable
from uda_kit.cli.train import Train
from uda_kit.core.errors import expect_error
from uda_kit.core.files import WriteError
from uda_kit.core.settings import describe, override
from uda_kit.data.labels import label_space
from uda_kit.data.open import DATASETS, open_dataset
from uda_kit.evaluation.evaluate import evaluate
from uda_kit.evaluation.label_spaces import reconcile
from uda_kit.experiments.build import Run, build_stages, open_scored
from uda_kit.experiments.own_classes import settle
from uda_kit.experiments.running import run_recipe
from uda_kit.models.checkpoints import load_weights
from uda_kit.models.segmenters import deeplab_v2
from uda_kit.recipes.catalogue import find_recipe, listed, recipes
from uda_kit.recipes.data import data_from
from uda_kit.recipes.values import check_values
from uda_kit.training.fit import RunOptions

FIELD = ("crop", "weed", "soil")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("UDA_KIT_DATA", raising=False)


def field(folder, classes=FIELD, count=4, ids=lambda label: label):
    "A folder of images whose color is their class, with splits `train` and `test`; its name for the command line."
    for kind in ("photos", "masks"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for i in range(count):
        label = np.random.default_rng(i).integers(0, 3, (3, 6), dtype=np.uint8).repeat(16, 0).repeat(16, 1)
        Image.fromarray(ids(label)).save(folder / f"masks/{i}.png")
        Image.fromarray(np.stack([120 * label, 255 - 120 * label, 60 * label], 2)).save(folder / f"photos/{i}.png")
    pairs = 'images = "photos/*.png"\nlabels = "masks/*.png"\n'
    (folder / "field.toml").write_text(
        f'name = "field"\nclasses = {json.dumps(list(classes))}\n[splits.train]\n{pairs}[splits.test]\n{pairs}',
        encoding="utf-8",
    )
    return f"folder:{folder / 'field.toml'}"


def train(source, *more, recipe="scenes/multi-level", out="run"):
    return ["train", recipe, "--source", source, "--steps", 2, "--out", out, "--no-progress", *more]


SMALL_TARGET = ["--target", "scenes:camera?n=2&size=64x96"]


def test_classes_of_ones_own_from_check_to_prediction(tmp_path):
    own = field(tmp_path)
    assert run_command("check-data", own, "--no-progress")[0] == 0
    status, out, err = run_command(
        *train(own, *SMALL_TARGET, "--test", f"{own}?split=test", "--set", "stages.0.source.batch_size=2")
    )
    record = json.loads(out.splitlines()[-1])
    assert status == 0 and record["trained_classes"] == 3 and tuple(record["iou"]) == FIELD, err
    assert (
        "crop, weed, soil" in err and "cityscapes19" in err
    )  # it is said that other classes are trained than the recipe's
    config = json.loads(Path("run/config.json").read_text())
    assert config["recipe"]["space"]["classes"] == list(FIELD)
    net = load_weights("run/weights.safetensors")
    assert net.num_classes == 3 and net.space.classes == FIELD
    log = [json.loads(line) for line in Path("run/log.jsonl").read_text().splitlines()]
    assert all(r["loss/seg"] > 0 and r["gradient"] > 0 for r in log if "loss/seg" in r) and any(
        "loss/seg" in r for r in log
    )
    # the score again, by the command and by hand from predicted label files
    again = json.loads(
        run_command("evaluate", "run/weights.safetensors", own, "--split", "test", "--no-progress")[1].splitlines()[-1]
    )
    assert again["miou"] == record["miou"] and again["iou"] == record["iou"]
    assert run_command("predict", "run/weights.safetensors", "photos", "--out", "seen", "--no-progress")[0] == 0
    counts = np.zeros((3, 3))
    for i in range(4):
        truth, seen = (
            np.asarray(Image.open(tmp_path / folder / f"{i}.png")).ravel() for folder in ("masks", "seen/labels")
        )
        np.add.at(counts, (truth, seen), 1)
    union = counts.sum(0) + counts.sum(1) - counts.diagonal()
    assert np.allclose(counts.diagonal() / union, [again["iou"][name] for name in FIELD], atol=1e-6)
    # going on with other classes is refused, and so are weights whose classes stand in another order
    field(tmp_path, ("weed", "crop", "soil"))
    status, _, err = run_command(
        *train(own, *SMALL_TARGET, "--test", f"{own}?split=test", "--resume", "--set", "stages.0.source.batch_size=2")
    )
    assert status == 2 and "another configuration" in err
    status, _, err = run_command(
        *train(own, *SMALL_TARGET, "--test", f"{own}?split=test", "--weights", "run/weights.safetensors", out="other")
    )
    assert status == 2 and "same order" in err and not Path("other").exists()


def test_what_cannot_be_scored_is_refused_or_said(tmp_path):
    own, other = field(tmp_path / "a"), field(tmp_path / "b", ("crop", "sugar beet", "stone"))
    status, _, err = run_command(*train(own))
    assert status == 2 and "none of the classes" in err and "--test" in err and not Path("run").exists()
    recipe = find_recipe("scenes/source-only")
    mine = replace(recipe, stages=tuple(replace(s, source=data_from(own)) for s in recipe.stages))
    said = io.StringIO()
    with redirect_stderr(said):
        settled = settle(replace(mine, test=data_from(other)))
    assert (
        settled.space.classes == FIELD
        and "1 of 3 trained classes can be scored" in said.getvalue()
        and "sugar beet, stone is not trained" in said.getvalue()
    )
    mixed = replace(mine, stages=(mine.stages[0], replace(mine.stages[1], source=data_from(other))))
    assert "stages.1.source" in expect_error(settle, mixed) and "stone" in expect_error(settle, mixed)
    assert "crop" in expect_error(build_stages, Run(mine))  # not settled: no class is dropped in silence
    held = field(tmp_path / "c", ("road", "sky", "car"))
    with redirect_stderr(io.StringIO()):
        assert (
            settle(
                replace(
                    mine, stages=tuple(replace(s, source=data_from(held)) for s in recipe.stages), test=data_from(held)
                )
            ).space
            == "cityscapes19"
        )
    part = field(tmp_path / "d", ("crop", "road", "soil"))
    with redirect_stderr(io.StringIO()):
        assert settle(
            replace(mine, stages=tuple(replace(s, source=data_from(part)) for s in recipe.stages), test=data_from(part))
        ).space.classes == ("crop", "road", "soil")
    assert settle(recipe) == recipe and "camvid11" in expect_error(
        settle, replace(recipe, test=replace(recipe.test, space="camvid11"))
    )


def test_every_kind_of_recipe_follows_the_classes(tmp_path):
    own = field(tmp_path)
    for name in ("scenes/patch", "scenes/cir-ass", "scenes/contrastive", "scenes/ps", "scenes/contrastive-pspnet"):
        recipe = find_recipe(name)
        stages = tuple(
            replace(
                s,
                source=replace(s.source.with_text(own), split=None) if s.labels_given else s.source,
                modes=s.modes and replace(s.modes, k=3, patches=50),
            )
            for s in recipe.stages
        )
        with redirect_stderr(io.StringIO()):
            settled = settle(replace(recipe, stages=stages, test=data_from(own)))
        built = build_stages(Run(settled))
        assert all(getattr(stage.net, "num_classes", 3) == 3 for stage in built), name


def test_a_source_without_a_labelled_pixel(tmp_path):
    own = field(tmp_path, ids=lambda label: np.full_like(label, 255))
    status, _, err = run_command(*train(own, "--test", f"{own}?split=test", recipe="scenes/source-only"))
    assert status == 2 and "no labelled pixel" in err and err.count("\n") == 1 and not Path("run").exists()


SLIPS = """size=(1.5,64) size=64 size=ab size=(64,96,3) size=(-1,5) size=(0,0) crop=512 crop=(0,5) crop=(20000,5) scale=2 scale=(2,1) scale=(nan,1) scale=(0,1) batch_size=0 batch_size=True batch_size=1e400
batch_size=None flip=2 flip=yes name= name=5 root=/nowhere city=Rome""".split()
SLIPS = [f"stages.0.source.{s}" for s in SLIPS] + [
    f"stages.1.{s}"
    for s in """optimizer.lr=-1 optimizer.lr=nan optimizer.lr=1e400 optimizer.lr=True optimizer.lr=None optimizer.betas=(1,1) optimizer.betas=(2,2)
optimizer.betas=(.9,) optimizer.betas=.9 optimizer.weight_decay=-1 optimizer.hold=1 optimizer.power=-1 optimizer.head_multiplier=-1 schedule=x schedule=-5 schedule=0 schedule=1.5 steps=None steps=0 steps=1.5 steps=10**40
steps=True name=../../../evil name=/evil name= name=a/b name=.. name=ü terms.adv=-1 terms.adv=nan terms.adv=None terms.width=0 terms.width=1.5 terms.lr=-1 terms.betas=(1,1) terms.betas=5 terms.seg_aux=inf
net.aspp_rates=6 net.aspp_rates=(1.5,) net.multi_level=3 net=x fresh=2 fix_backbone=x modes=5 transforms=5 target=5""".split()
]
SLIPS += [
    "stages=()",
    "stages=5",
    "space=5",
    "space=cityscaps",
    "protocol=99",
    "name=evil",
    "name=../../x/y",
    "test.size=5",
    "test.batch_size=-1",
    "test.rare.temperature=1",
    "test.translated_by=warmup",
    "papers=()",
    f"stages.0.steps={'9' * 5000}",
    f"stages.0.name={'a' * 300}",
    "a",
    "=",
    "stages.²=1",
]


def test_slips_in_settings():
    recipe = find_recipe("scenes/multi-level")
    for slip in SLIPS:
        one_line(expect_error(lambda: check_values(override(recipe, [slip]))))
    assert "set twice" in expect_error(override, recipe, ["stages.0.steps=1", "stages.0.steps=2"])
    assert "first" in expect_error(override, recipe, ["stages.0.source.n=5", "stages.0.source=scenes:camera?n=9"])
    assert (
        override(recipe, ["stages.1.terms=MinEntropyTerms", "stages.1.terms.ent=1", "stages.1.optimizer=SGD"])
        .stages[1]
        .terms.ent
        == 1.0
    )
    assert (
        override(recipe, ["stages.0.target=scenes:camera?n=9", "stages.0.source.rare.temperature=0.1"])
        .stages[0]
        .target.n
        == 9
    )
    for sound in (
        "stages.0.source.size=[64, 96]",
        "stages.0.optimizer.lr=1",
        "stages.1.schedule=None",
        "stages.1.terms.betas=(0, .9)",
    ):
        check_values(override(recipe, [sound]))
    for every in recipes().values():
        check_values(every)
    assert json.dumps(describe(recipe))


@pytest.mark.parametrize(
    "more",
    [
        ["stages.0.net.backbone=resnet99"],
        ["stages.0.net.backbone=3"],
        ["stages.1.terms.kind=3"],
        ["stages.1.terms.align=x"],
        ["stages.0.net.bn=x"],
        ["stages.1.source.size=(1,1)"],
        ["stages.1.source.size=(31,31)", "stages.1.target.size=(31,31)"],
        ["stages.0.source.crop=(900,900)"],
        ["stages.0.name=../../../evil"],
    ],
    ids=str,
)
def test_slips_that_only_building_shows(more):
    refused_command(
        ["train", "scenes/multi-level", "--steps", 1, "--out", "run", "--no-progress", "--set", *more],
        untouched=Path.cwd(),
    )


def test_small_images_of_files_are_refused_before_the_warm_up(tmp_path):
    own = field(tmp_path, ("road", "sky", "car"))
    for name in ("photos", "masks"):
        for file in (tmp_path / name).iterdir():
            Image.open(file).resize((24, 24), Image.NEAREST).save(file)
    status, _, err = run_command(*train(own, *SMALL_TARGET, "--test", f"{own}?split=test"))
    assert (
        status == 2 and "24x24" in err and err.count("\n") == 1 and "five halvings" in err and not Path("run").exists()
    )


OPTIONS = [
    ["--steps", 10**40],
    ["--steps", "٣"],
    ["--seed", 2**63],
    ["--seed", 2**32],
    ["--workers", 10**6],
    ["--cache-mb", 10**12],
    ["--devices", 1000, "--accelerator", "cpu"],
    ["--devices", "²"],
    ["--devices", "①"],
    ["--accelerator", "gpu", "--accelerator", "cpu"],
    ["--source", "scenes:camera", "--source=scenes:rendered"],
    ["--set", "stages.0.steps=1", "--set", "stages.1.steps=1"],
    ["--out", ""],
    ["--out", "a" * 5000],
    ["--out", "x\0y"],
    ["--weights", ""],
    ["--roots", "camvid=" + "a" * 5000],
    ["--roots", "camvid=.", "camvid=."],
    ["--test", ""],
    ["--validate-every", 10**40],
    ["--precision", "fp8"],
]


@pytest.mark.parametrize("more", OPTIONS, ids=lambda more: str(more)[:40])
def test_options_are_checked_where_they_enter(more):
    refused_command(["train", "scenes/source-only", "--no-progress", *more], untouched=Path.cwd())


def test_options_of_other_commands():
    for argv in (
        ["demo", "--seed", 2**63],
        ["demo", "--out", ""],
        ["translate", "--source", "scenes:camera", "--target", "scenes:camera", "--out", "x", "--seed", 2**64],
        ["predict", "x", "a" * 5000, "--out", "y"],
        ["bench", "table", "scenes", "--seeds", 0, 0],
        ["bench", "table", "scenes", "--seeds", 2**64],
        ["bench", "table", "scenes", "--rows", "single-level", "single-level"],
        ["evaluate", "x", "scenes:camera", "--size", "²x²"],
        ["convert", "x", "a" * 5000 + ".safetensors"],
        ["bench", "step", "--repeats", 10**40],
        ["recipes", "show", "a" * 5000],
        ["bench", "contrastive", "loss", "--stpes", 3],
    ):
        refused_command(argv, untouched=Path.cwd())
    Path("file").touch()
    argv = ["train", "scenes/source-only", "--out", "file/run", "--no-progress"]
    refused_command(argv, "is a file", untouched=Path.cwd())


def test_slips_are_named_as_they_were_typed():
    argv = ["bench", "table", "scenes", "--seeds", 0, 0]
    refused_command(argv, "--seeds: names 0 twice", untouched=Path.cwd())
    argv = ["train", "scenes/source-only", "--no-progress", "--set", "=x"]
    refused_command(argv, "--set =x: names no setting", "path=value", untouched=Path.cwd())


def fails(monkeypatch, error):
    "Let a command raise `error`; its status and its line."
    monkeypatch.setattr(CheckData, "run", lambda self: (_ for _ in ()).throw(error))
    status, _, err = run_command("check-data", "scenes:camera")
    assert err.count("\n") == 1
    return status, err


def test_what_stops_a_command_is_one_line(monkeypatch):
    for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        assert fails(monkeypatch, OSError(code, os.strerror(code)))[0] == 2
    assert "make room" in fails(monkeypatch, RuntimeError(f"I/O error: {os.strerror(errno.ENOSPC)} (os error 28)"))[1]
    assert "start it again" in fails(monkeypatch, WriteError("run", "cannot be written", "make room"))[1]
    assert fails(monkeypatch, OSError("odd"))[0] == 2
    assert 'pip install "uda_kit[notebooks]"' in fails(monkeypatch, ModuleNotFoundError("no", name="umap.plot"))[1]
    assert (
        fails(monkeypatch, Terminated(signal.SIGHUP))[0] == 129
        and fails(monkeypatch, Terminated(signal.SIGTERM))[0] == 143
    )
    status, err = fails(monkeypatch, KeyboardInterrupt())
    assert status == 130 and "start it again" in err
    with pytest.raises(ZeroDivisionError):
        fails(monkeypatch, ZeroDivisionError())


def test_missing_optional_packages_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    err = refused_command(["train", "camvid-lite0/oracle", "--dry-run", "--steps", 1], untouched=Path.cwd())
    assert "timm" in err and 'pip install "uda_kit[pretrained]"' in err


def test_resume_is_only_advised_where_it_is_accepted():
    train = Train("scenes/source-only", out="run")
    assert "--resume" not in train.again(["train", "scenes/source-only", "--out", "run"])
    Path("run").mkdir()
    Path("run/config.json").write_text("{", encoding="utf-8")
    assert "--resume" not in train.again(["train"])
    Path("run/config.json").write_text("{}", encoding="utf-8")
    assert "--resume" in train.again(["train"])


def test_signals_outside_training():
    with terminable(Interrupts()):
        with pytest.raises(Terminated) as caught:
            signal.raise_signal(signal.SIGHUP)
    assert caught.value.status == 129
    old = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with terminable(Interrupts()):
            signal.raise_signal(signal.SIGHUP)  # nohup
    finally:
        signal.signal(signal.SIGHUP, old)


def test_any_terminal_takes_what_is_printed(tmp_path, monkeypatch):
    strange = "Weiß 草 \x1b[31m \u202e"
    for encoding in ("cp1252", "ascii", "utf-8"):
        raw = io.BytesIO()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
            never_fail(sys.stdout)
            show(f"{strange} \udcff")
            finish({"name": strange, "nan": float("nan")})
            sys.stdout.flush()
            text = raw.getvalue().decode(encoding)
        assert "\x1b" not in text and json.loads(text.splitlines()[-1]) == {"name": strange, "nan": None}, encoding
    env = {**os.environ, "PYTHONIOENCODING": "cp1252"}
    code = "import sys; from uda_kit.cli import main; s = main(['recipes']); print(sorted(set(sys.modules) & {'torch', 'numpy'})); sys.exit(s)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=env)
    last = done.stdout.decode("cp1252").splitlines()[-1]
    assert done.returncode == 0 and not done.stderr and last == "[]", (last, done.stderr)


def test_list_of_recipes_is_in_step():
    assert recipe_list() == listed(), "run python -m uda_kit.recipes.catalogue"


def test_precision_says_what_this_machine_has(monkeypatch, capsys):
    import uda_kit.doctor as doctor

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for there in (False, True):
        monkeypatch.setattr(doctor, "bf16_instructions", lambda: {"amx_tile": False, "avx512_bf16": there})
        assert (
            read_precision("auto") == ("bf16-mixed" if there else "32-true")
            and doctor.instructions() == ("" if there else "no ") + "avx512_bf16, no amx"
        )
        capsys.readouterr()
        assert read_precision("bf16-mixed") == "bf16-mixed" and ("emulated" in capsys.readouterr().err) is not there
    from uda_kit.results.tables import machine_name

    assert machine_name().endswith("avx512_bf16, no amx")


def test_explorer_of_a_run_in_ones_own_classes():
    from uda_kit.visual.explorers.training import known_space

    space = known_space(
        {"name": "field", "classes": list(FIELD), "palette": [[0, 0, 0], [1, 1, 1], [2, 2, 2]], "ignore": 255}
    )
    assert (
        space.classes == FIELD
        and known_space({"name": "x"}) is None
        and known_space("cityscapes19").name == "cityscapes19"
        and known_space("mars") is None
    )


def test_two_ways_of_naming_the_test_data(capsys):
    assert (
        main(
            ["train", "scenes/source-only", "--test", "scenes:camera?n=2", "--set", "test=scenes:rendered", "--dry-run"]
        )
        == 2
    )
    assert "--test both name the data" in capsys.readouterr().err


def test_numpy_numbers_are_refused_in_words():
    recipe = find_recipe("scenes/source-only")
    stage = replace(recipe.stages[0], steps=np.int64(5))
    assert "NumPy" in expect_error(check_values, replace(recipe, stages=(stage, *recipe.stages[1:])))


def test_images_too_small_for_a_network_are_named(tmp_path, capsys):
    from PIL import Image

    from uda_kit.models.checkpoints import save_weights
    from uda_kit.models.segmenters import deeplab_v2

    save_weights(deeplab_v2(3, "vgg16"), tmp_path / "vgg.safetensors")
    Image.fromarray(np.zeros((3, 50, 3), np.uint8)).save(tmp_path / "thin.png")
    assert (
        main(
            [
                "predict",
                str(tmp_path / "vgg.safetensors"),
                str(tmp_path / "thin.png"),
                "--out",
                str(tmp_path / "out"),
                "--no-progress",
            ]
        )
        == 2
    )
    assert "thin: is 50x3 pixels, too small" in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize("number, status", [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_while_packages_are_imported(tmp_path, number, status):
    "Torch cannot be imported a second time in a process: what to do next is said without it."
    import subprocess
    import sys

    code = f"""
import builtins, os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
ordinary = builtins.__import__
def interrupted(name, *rest, **more):
    if name == "torch" and not interrupted.sent:
        interrupted.sent = True
        try: signal.raise_signal(signal.{number})
        except BaseException as error: raise ImportError("half-way") from error
    if name == "torch" or name.startswith("torch."): raise ImportError("torch can only be initialized once")
    return ordinary(name, *rest, **more)
interrupted.sent = False
builtins.__import__ = interrupted
from uda_kit.cli import main
sys.exit(main(["train", "scenes/source-only", "--out", {str(tmp_path / "never")!r}]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == status and done.stderr.count("\n") == 1 and "stopped" in done.stderr, done.stderr[-600:]


# --- a run's score is that of `evaluate` ------------------------------------------------------------------------------

COARSE = "scenes:rendered?n=3&size=32x48"


def blocks(folder, classes, ids, labelled=True, images=None, count=3):
    "Rendered images with labels of 16x16 blocks of these raw ids; the data set's name for the command line."
    for kind in ("photos", "masks"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    scenes = open_dataset(f"scenes:camera?n={count}&size=32x48")
    for i in range(count):
        label = np.random.default_rng(i).choice(ids, (2, 3)).astype(np.uint8).repeat(16, 0).repeat(16, 1)
        Image.fromarray(label).save(folder / f"masks/{i}.png")
        Image.fromarray(scenes.image(i).permute(1, 2, 0).numpy()).save(folder / f"photos/{i}.png")
    text = f'name = "{folder.name}"\nclasses = {json.dumps(list(classes))}\nimages = "photos/*.png"\n'
    (folder / "d.toml").write_text(text + ('labels = "masks/*.png"\n' if labelled else ""), encoding="utf-8")
    return f"folder:{folder / 'd.toml'}?split=all"


def small(source=COARSE, test=None, target=None):
    "`scenes/source-only` on a few small images."
    recipe = find_recipe("scenes/source-only")
    stages = tuple(
        replace(
            s,
            steps=2,
            source=replace(
                data_from(source, size=(32, 48), batch_size=2), split=None if source.startswith("folder") else "train"
            ),
        )
        for s in recipe.stages
    )
    test = replace(recipe.test, n=3, size=(32, 48), seed=0) if test is None else data_from(test)
    return replace(recipe, stages=stages, test=test)


def twice(recipe, out, data, split=None):
    "A run's evaluation, record and lines, and the evaluation of its weights by themselves."
    said = io.StringIO()
    with redirect_stderr(said):
        mine, record = run_recipe(recipe, out, RunOptions(progress=False), report=True)
    theirs = evaluate(load_weights(Path(out) / "weights.safetensors"), open_dataset(data, split), progress=False)
    assert (
        mine.matrix == theirs.matrix
        and mine.scored == theirs.scored
        and mine.space == theirs.space
        and mine.mapping == theirs.mapping
    )
    again = theirs.record()
    kept = json.loads((Path(out) / "result.json").read_text())
    for name in ("miou", "miou_over", "classes_present", "classes_labelled", "iou", "trained_classes"):
        assert record[name] == again[name] == kept[name], name
    headline = (Path(out) / "report.md").read_text().split("\n\n")[1]
    assert f"over {theirs.counted(str(len(theirs.scored)), ' classes')} on" in headline, headline
    return theirs, record, said.getvalue()


def test_a_run_scores_the_classes_of_its_test_set_alone(tmp_path):
    test = blocks(tmp_path / "q", ("road", "car", "weed"), (0, 1, 2))
    found, record, said = twice(small(test=test), "a", test)
    assert "2 of 19 trained classes can be scored" in said and "weed is not trained" in said
    assert (
        list(record["miou_over"]) == ["2"] and set(record["iou"]) == {"road", "car"} and record["trained_classes"] == 19
    )
    counts = np.array(found.matrix)
    iou = [counts[c, c] / (counts[c].sum() + counts[:, c].sum() - counts[c, c]) for c in (0, 13)]
    assert record["miou"] == round(float(np.mean(iou)), 6)


def test_a_source_of_ones_own_scored_on_another_set(tmp_path):
    source = blocks(tmp_path / "f", ("crop", "road", "soil"), (0, 1, 2))
    _, record, said = twice(small(source), "b", "scenes:camera?n=3&size=32x48", "test")
    assert list(record["miou_over"]) == ["1"] and set(record["iou"]) == {"road"} and "1 of 3 trained classes" in said
    assert load_weights("b/weights.safetensors").space.classes == ("crop", "road", "soil")


def test_a_published_test_set_of_coarser_classes(tmp_path):
    for kind in ("images", "labels"):
        (tmp_path / "camvid" / kind).mkdir(parents=True)
    blocks(tmp_path / "x", ("a",), range(11))
    for i in range(3):
        Image.open(tmp_path / f"x/photos/{i}.png").save(tmp_path / f"camvid/images/{i}.png")
        Image.open(tmp_path / f"x/masks/{i}.png").save(tmp_path / f"camvid/labels/{i}.png")
    test = f"camvid:{tmp_path / 'camvid'}"
    found, record, said = twice(small(test=test), "c", test)
    assert (
        found.space.name == "camvid11"
        and "predictions by name" in record["mapping"]
        and list(record["miou_over"]) == ["11"]
        and "has no wall" in said
    )
    assert load_weights("c/weights.safetensors").space.name == "cityscapes19"


def test_published_recipes_are_scored_as_before():
    for name, recipe in recipes().items():
        published = DATASETS.get(recipe.test.name)
        tables = getattr(published, "tables", ())
        assert not tables or label_space(recipe.space) in [table.space for table in tables], name
    whole = open_scored(small().test, "cityscapes19")
    assert whole.space == label_space("cityscapes19") and reconcile(whole.space, whole.space).scored == tuple(range(19))


def test_a_test_set_without_a_labelled_pixel_is_refused_before_training(tmp_path):
    blank = blocks(tmp_path / "blank", ("road", "car"), (255,))
    weeds = blocks(tmp_path / "weeds", ("road", "weed"), (1,))
    for test in (blank, weeds):
        error = expect_error(run_recipe, small(test=test), "never", RunOptions(progress=False))
        assert (
            "no labelled pixel of a class that is scored in 3 label maps" in error
            and "d.toml" in error
            and not Path("never").exists()
        )
        torch.manual_seed(0)
        net = deeplab_v2(19, backbone="tiny")
        assert "no labelled pixel" in expect_error(
            evaluate, net, open_dataset(test), None, "cityscapes19", progress=False
        )
    recipe = replace(small(), val=data_from(blank))
    assert (
        "no labelled pixel" in expect_error(run_recipe, recipe, "never", RunOptions(progress=False, validate_every=1))
        and not Path("never").exists()
    )


def test_an_unlabelled_source_is_named_before_the_test_set(tmp_path):
    bare = blocks(tmp_path / "bare", ("crop", "weed"), (0, 1), labelled=False)
    other = blocks(tmp_path / "other", ("stone", "sand"), (0, 1))
    for test in (bare, other):
        error = expect_error(run_recipe, small(bare, test), "never", RunOptions(progress=False))
        assert error.startswith("stages.0.source") and "labels" in error and not Path("never").exists()
