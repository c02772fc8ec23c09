"""What a run leaves on disk, damaged, cut short, fought over or short of room: refused in one line, or resumed to the same bits."""

import dataclasses
import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from refusals import one_line
from resuming import StopAt

from uda_kit.benchmarks.feature_alignment import run_of
from uda_kit.core.errors import InputError, expect_error
from uda_kit.core.files import LOCK, WriteError
from uda_kit.core.records import to_json, write_json
from uda_kit.core.settings import override
from uda_kit.data.labels import CITYSCAPES19
from uda_kit.data.streets.dataset import StreetScenes
from uda_kit.data.streets.style import CAMERA, RENDERED
from uda_kit.experiments import demo, running
from uda_kit.experiments.lessons import check_same, report_line
from uda_kit.methods.output_space import OutputSpaceTerms
from uda_kit.methods.patch_modes import PatchModes
from uda_kit.models.segmenters import deeplab_v2
from uda_kit.models.translators import CycleTranslator, load_translator, save_translator
from uda_kit.recipes.catalogue import find_recipe
from uda_kit.results import tables
from uda_kit.results.comparisons import read_results
from uda_kit.training.fit import (
    MOST_STEPS,
    SGD,
    Interrupted,
    LoaderConfig,
    RunOptions,
    Stage,
    StopRequest,
    check_options,
    check_stage,
    fit,
    stop_signals,
)
from uda_kit.training.runs import (
    RunDirectory,
    append_log,
    config_difference,
    newest_checkpoint,
    read_checkpoint,
    read_log,
    resumable,
    rewind_log,
    save_checkpoint,
    stage_checkpoints,
    write_checkpoint,
)
from uda_kit.visual.features import COLUMNS, FeatureTable

POSIX = pytest.mark.skipif(os.name != "posix", reason="needs the limits and signals of POSIX")


def options(**more):
    return RunOptions(**{"log_every": 1, "save_every": 3, "progress": False, "accelerator": "cpu"} | more)


def make_stage(steps=6, stop_at=None):
    torch.manual_seed(0)
    net = deeplab_v2(19, "tiny")
    terms = OutputSpaceTerms(width=8).build(net)
    if stop_at:
        terms["stop"] = StopAt(stop_at)
    source, target = (
        LoaderConfig(StreetScenes(style, 4, (32, 48)), labelled=side)
        for style, side in ((RENDERED, None), (CAMERA, False))
    )
    return Stage("adapt", net, terms, source, target, steps=steps, optimizer=SGD(lr=1e-2))


CONFIG = json.loads(to_json({**make_stage().settings(), **options().deciding()}))


@contextmanager
def files_at_most(size):
    "Context in which no file may grow beyond `size` bytes, as on a disk that is full."
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    "A run that nobody disturbs."
    folder = tmp_path_factory.mktemp("alone") / "run"
    fit(make_stage(), folder, options(), CONFIG)
    return folder


def same_end(a, b):
    "Both runs end with the same bits and the same log."
    one, two = (read_checkpoint(stage_checkpoints(RunDirectory(f), "adapt")[-1]) for f in (a, b))
    assert one.info["step"] == two.info["step"]
    assert all(torch.equal(v, two.weights[k]) for k, v in one.weights.items())
    logs = [
        [
            {k: v for k, v in r.items() if k not in ("seconds", "peak_gib", "loss/stop")}
            for r in read_log(RunDirectory(f))
        ]
        for f in (a, b)
    ]
    assert logs[0] == logs[1] and [r["step"] for r in logs[0]] == list(range(1, one.info["step"] + 1))


def stopped(folder, at=4):
    "A run that was stopped after step `at`."
    with pytest.raises(Interrupted):
        fit(make_stage(stop_at=at), folder, options(), CONFIG)
    return RunDirectory(folder)


def flips(data, places):
    "Copies of `data` with one flipped bit each."
    for place in places:
        changed = bytearray(data)
        changed[place // 8] ^= 1 << place % 8
        yield bytes(changed)


# ---- checkpoints


def test_no_flipped_bit_changes_a_checkpoint(tmp_path):
    folder = tmp_path / "a-0000004"
    state = {"groups": [{"lr": 0.01, "betas": (0.9, 1.0), "best": float("inf"), "none": None}]}
    write_checkpoint(folder, {"w": torch.arange(6.0)}, state, {"stage": "a", "step": 4})
    whole = read_checkpoint(folder)
    assert whole.state["groups"][0] == {"lr": 0.01, "betas": [0.9, 1.0], "best": float("inf"), "none": None}
    accepted = 0
    for name in ("state.json", "weights.safetensors", "state.safetensors"):
        file = folder / name
        data = file.read_bytes()
        places = range(8 * len(data)) if name == "state.json" else random.Random(0).sample(range(8 * len(data)), 200)
        for changed in flips(data, places):
            file.write_bytes(changed)
            try:
                again = read_checkpoint(folder)
            except InputError as error:
                one_line(error, name)
                continue
            accepted += 1
            assert name == "state.json" and (again.info, again.state["groups"]) == (whole.info, whole.state["groups"])
        file.write_bytes(data)
    assert accepted < 20  # an escaped letter in another case, and the like
    read_checkpoint(folder)


def test_checkpoints_of_the_version_before_and_foreign_ones(tmp_path):
    folder = tmp_path / "checkpoints/a-0000004"
    write_checkpoint(folder, {"w": torch.ones(2)}, {}, {"stage": "a", "step": 4})
    file = folder / "state.json"
    info = json.loads(file.read_text())
    unsealed = {k: v for k, v in info.items() if k != "sha256"}
    foreign = [
        [],
        3,
        None,
        "text",
        {},
        {"step": "4"},
        info | {"hashes": []},
        info | {"step": -1},
        info | {"step": 4.5},
        info | {"state": [[]]},
    ]
    for value in (unsealed, *foreign):
        file.write_text(json.dumps(value))
        one_line(expect_error(read_checkpoint, folder), file, "delete the folder")
    for value in (
        unsealed | {"step": "4"},
        unsealed | {"hashes": {}},
        unsealed | {"hashes": {"x": "y"}},
        unsealed | {"state": {"$tensor": "x"}},
        unsealed | {"state": {"x": 1}},
    ):
        write_json(file, value, seal=True)  # whole, but not ours
        one_line(expect_error(read_checkpoint, folder), file)
    file.write_text("[" * 10_000)
    one_line(expect_error(read_checkpoint, folder), file, "nested too deeply")
    file.write_text('{"a":' * 900 + "1" + "}" * 900)
    one_line(expect_error(read_checkpoint, folder), file)
    file.write_bytes(to_json(info).encode("utf-16"))
    one_line(expect_error(read_checkpoint, folder), file, "UTF-8")
    one_line(expect_error(newest_checkpoint, RunDirectory(tmp_path), "a", [].append), "no whole checkpoint")


def test_order_of_checkpoints_is_that_of_steps(tmp_path):
    run = RunDirectory(tmp_path)
    for step in (9_999_998, 9_999_999, 10_000_000):
        save_checkpoint(run, "a[1]", step, {"w": torch.ones(1)}, {})
    assert [f.name for f in stage_checkpoints(run, "a[1]")] == ["a[1]-9999999", "a[1]-10000000"]
    assert newest_checkpoint(run, "a[1]").info["step"] == 10_000_000 and stage_checkpoints(run, "a") == []


def test_readable_as_the_umask_says(tmp_path):
    old = os.umask(0o022)
    try:
        write_checkpoint(tmp_path / "a-1", {"w": torch.ones(1)}, {}, {"stage": "a", "step": 1})
    finally:
        os.umask(old)
    assert os.name != "posix" or all(f.stat().st_mode & 0o777 == 0o644 for f in (tmp_path / "a-1").iterdir())


@pytest.mark.parametrize("kind", ["modes", "translator", "table"])
def test_no_flipped_bit_changes_what_stages_keep(tmp_path, kind):
    if kind == "modes":
        modes = PatchModes(torch.rand(2, 8), ("a", "b"), (16, 16), (8, 8), 2, (0.5, 0.5), {"seed": 0})
        modes.save(tmp_path / "m.safetensors")
        files, load = [tmp_path / "m.safetensors"], lambda: PatchModes.load(tmp_path / "m.safetensors")
        value = lambda m: (m.centroids.tolist(), m.classes, m.size, m.patch, m.cells, m.shares, m.found_in)
    elif kind == "translator":
        save_translator(CycleTranslator(width=1, blocks=1), tmp_path / "t.safetensors")
        files, load = [tmp_path / "t.safetensors"], lambda: load_translator(tmp_path / "t.safetensors")
        value = lambda net: {k: v.tolist() for k, v in net.state_dict().items()}
    else:
        n, names = 4, {"domain": np.array(["s", "s", "t", "t"]), "key": np.array(list("abcd"))}
        columns = {c: names.get(c, np.arange(n)) for c in COLUMNS} | {
            "features": np.eye(n, 3, dtype=np.float32),
            "cell": np.zeros((n, 2), np.int64),
        }
        FeatureTable(*(columns[c] for c in COLUMNS), CITYSCAPES19).save(tmp_path)
        files, load = (
            [tmp_path / "features.json", tmp_path / "features.safetensors"],
            lambda: FeatureTable.load(tmp_path),
        )
        value = lambda t: (t.digest(), t.space)
    expected = value(load())
    for file in files:
        data = file.read_bytes()
        for changed in flips(data, random.Random(0).sample(range(8 * len(data)), 250)):
            file.write_bytes(changed)
            try:
                assert value(load()) == expected
            except InputError as error:
                one_line(error, tmp_path)
        file.write_bytes(data)
    assert value(load()) == expected


# ---- the log


@pytest.mark.parametrize("cut", ["half the last line", "two lines and a half", "everything", "a line in the middle"])
def test_log_is_whole_after_resuming(alone, tmp_path, capsys, cut):
    run = stopped(tmp_path / "run")
    lines = run.log.read_bytes().splitlines(keepends=True)
    assert len(lines) == 4
    left = {
        "half the last line": lines[:3] + [lines[3][:20]],
        "two lines and a half": lines[:3] + [lines[3][:1]],
        "everything": lines[:3],
        "a line in the middle": lines[:3] + [b'{"stage": "adapt", "step": "4"}\n'],
    }[cut]
    run.log.write_bytes(b"".join(left))
    fit(make_stage(), run.path, options(), CONFIG, resume=True)
    same_end(alone, run.path)
    assert ("line 4" in capsys.readouterr().err) == (cut == "a line in the middle")


def test_damaged_log_lines(tmp_path):
    run = RunDirectory(tmp_path)
    bad = [
        "[1, 2]",
        "3",
        '{"step": 1}',
        '{"stage": "a"}',
        '{"stage": 1, "step": 1}',
        '{"stage": "a", "step": "1"}',
        '{"stage": "a", "step": -1}',
        '{"stage": "a", "step": 1.5}',
        '{"stage": "a", "step": true}',
        '{"stage": "a", "step": 1, "loss": "0.5"}',
        '{"stage": "a", "step": 1, "loss": [1]}',
        '{"stage": "a", "st',
        "[" * 10_000,
        "\x00",
    ]
    run.log.write_bytes(
        "\n".join([*bad, '{"stage": "a", "step": 2, "loss": NaN}', ""]).encode() + b'{"stage": "\xff", "step": 3}\n'
    )
    append_log(run, {"stage": "a\u2028b", "step": 4, "loss": float("nan")})
    warnings = []
    records = read_log(run, warnings.append)
    assert [r["step"] for r in records] == [2, 4] and records[1] == {"stage": "a\u2028b", "step": 4, "loss": None}
    assert len(warnings) == len(bad) + 1
    for number, warning in enumerate(warnings[: len(bad)], 1):
        one_line(warning, f"log.jsonl, line {number}")
    told = []
    rewind_log(run, "a", 2, warn=told.append)
    assert len(told) == 1 and "line 1:" in told[0] and len(read_log(run)) == 2
    run.log.write_bytes(run.log.read_text().encode("utf-16"))
    one_line(expect_error(read_log, run), "UTF-8")


def test_what_killed_processes_left_is_cleared(alone, tmp_path):
    run = stopped(tmp_path / "run")
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    (run.path / f".config.json.{gone.pid}.part").write_text("{")
    (run.checkpoints / f".adapt-0000005.{gone.pid}.part").mkdir()
    (run.checkpoints / f".adapt-0000003.{gone.pid}.old").mkdir()
    fit(make_stage(), run.path, options(), CONFIG, resume=True)
    assert [f.name for f in run.path.rglob(".*")] == [LOCK]
    same_end(alone, run.path)
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    (fresh / f".config.json.{gone.pid}.part").write_text("{")
    assert RunDirectory(fresh).open({"seed": 1}) is False and not list(fresh.glob(".*.part"))


# ---- no room


@POSIX
@pytest.mark.parametrize("size", [300, 20_000])
def test_full_disk_is_one_line_and_resumes_to_the_same_bits(alone, tmp_path, size):
    run = stopped(tmp_path / "run", at=3)
    with files_at_most(max(size, 300)):
        with pytest.raises(WriteError) as error:
            fit(make_stage(), run.path, options(), CONFIG, resume=True)
    one_line(error.value, run.path, "make room on the disk", "--resume")
    assert not [f for f in run.path.rglob(".*") if f.name != LOCK]
    fit(make_stage(), run.path, options(), CONFIG, resume=True)
    same_end(alone, run.path)


@POSIX
def test_full_disk_before_there_is_a_run(tmp_path):
    with files_at_most(100), pytest.raises(WriteError) as error:
        fit(make_stage(), tmp_path / "run", options(), CONFIG)
    one_line(error.value, "config.json", "make room")
    assert "--resume" not in str(error.value) and not resumable(tmp_path / "run")
    fit(make_stage(steps=1), tmp_path / "run", options())  # and there it may begin


@POSIX
def test_full_disk_with_tensorboard(tmp_path, capsys):
    pytest.importorskip("tensorboard")
    run = RunDirectory(tmp_path / "run")
    run.open(CONFIG)
    with files_at_most(30), pytest.raises(WriteError) as error:
        fit(make_stage(), run.path, options(loggers=("tensorboard",)), CONFIG, resume=True)
    one_line(error.value, "tensorboard", "--resume")
    time.sleep(0.2)
    assert "Traceback" not in capsys.readouterr().err


@POSIX
def test_full_disk_in_the_demo(tmp_path, monkeypatch):
    with files_at_most(2000), pytest.raises(WriteError) as error:
        demo.run_demo(tmp_path / "demo", steps=1, progress=False, precision="32-true")
    one_line(error.value, "--overwrite", "make room")
    assert "--resume" not in str(error.value) and not list((tmp_path / "demo").rglob(".*.part"))
    with another_process(tmp_path / "demo"):
        one_line(expect_error(demo.run_demo, tmp_path / "demo", overwrite=True, progress=False), "another process")


# ---- stopping


@POSIX
def test_closing_the_terminal_saves(alone, tmp_path):
    class HangUp(StopAt):
        def forward(self, src):
            if self.age + 1 == self.n:
                os.kill(os.getpid(), signal.SIGHUP)
            return src.image.sum() * 0

    stage = make_stage()
    stage.terms["stop"] = HangUp(2)
    with pytest.raises(Interrupted) as error:
        fit(stage, tmp_path / "run", options(), CONFIG)
    assert error.value.status == 129 and "SIGHUP" in str(error.value) and resumable(tmp_path / "run")
    fit(make_stage(), tmp_path / "run", options(), CONFIG, resume=True)
    same_end(alone, tmp_path / "run")
    old = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        assert signal.SIGHUP not in stop_signals()
    finally:
        signal.signal(signal.SIGHUP, old)


def test_systems_without_a_hang_up_signal(monkeypatch):
    monkeypatch.delattr(signal, "SIGHUP", raising=False)
    assert stop_signals() == [signal.SIGTERM, signal.SIGINT]


def test_a_stop_during_the_last_step_and_before_the_first(alone, tmp_path):
    class Early(StreetScenes):
        def __getitem__(self, i):
            StopRequest.current.note(signal.SIGINT, None)
            return super().__getitem__(i)

    stage = make_stage()
    stage.source = dataclasses.replace(stage.source, dataset=Early(RENDERED, 4, (32, 48)))
    with pytest.raises(Interrupted) as error:
        fit(stage, tmp_path / "first", options(), CONFIG)
    assert error.value.status == 130 and "before the first step" in str(error.value) and resumable(tmp_path / "first")
    fit(make_stage(), tmp_path / "first", options(), CONFIG, resume=True)
    same_end(alone, tmp_path / "first")
    run = stopped(tmp_path / "last", at=6)
    assert stage_checkpoints(run, "adapt")[-1].name == "adapt-0000006"
    fit(make_stage(), run.path, options(), CONFIG, resume=True)
    same_end(alone, run.path)


def test_what_can_be_resumed(tmp_path):
    assert not resumable(tmp_path / "none") and not resumable(tmp_path)
    (tmp_path / "file").write_text("")
    assert not resumable(tmp_path / "file") and not resumable(tmp_path)
    run = RunDirectory(tmp_path / "run")
    with run.locked():
        assert not resumable(run.path)
    run.open(CONFIG)
    assert resumable(run.path)
    (run.path / "config.json").write_text("{")
    assert not resumable(run.path)


@pytest.mark.parametrize("steps", [10**40, MOST_STEPS + 1, 0, -1, 1.5, True, None, "3", float("inf")])
def test_steps_that_nobody_can_take(tmp_path, steps):
    one_line(expect_error(fit, make_stage(steps=steps), tmp_path / "run", options()), "whole number")
    stage = make_stage()
    stage.schedule = steps
    if steps is not None:
        one_line(expect_error(check_stage, stage), "schedule")
    assert not (tmp_path / "run").exists()


def test_options_are_checked_before_anything_is_written(tmp_path):
    for wrong in (
        {"seed": 2**63},
        {"seed": -1},
        {"seed": 0.5},
        {"log_every": 0},
        {"save_every": -3},
        {"validate_every": 1.5},
        {"precision": "fp8"},
        {"strategy": "magic"},
    ):
        one_line(expect_error(fit, make_stage(), tmp_path / "run", options(**wrong)), next(iter(wrong)))
    one_line(expect_error(demo.run_demo, tmp_path / "run", seed=2**63), "seed")
    assert not (tmp_path / "run").exists()
    check_options(options())


# ---- one process at a time


@contextmanager
def another_process(folder, name=LOCK, seconds=60):
    "Another process holds the lock of a folder."
    code = f"import time\nfrom uda_kit.core.files import locked\nwith locked({str(folder)!r}, {name!r}):\n    print('held', flush=True)\n    time.sleep({seconds})"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline().strip() == "held"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def tiny_recipe():
    scenes = "n=2&size=32x48"
    recipe = find_recipe("scenes/source-only")
    settings = [f"test=scenes:camera?{scenes}"]
    for i in range(len(recipe.stages)):
        settings += [f"stages.{i}.steps=2", f"stages.{i}.source=scenes:rendered?{scenes}"]
    return override(recipe, settings)


@POSIX
def test_full_disk_while_the_report_is_written(tmp_path, monkeypatch):
    def no_room(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(running, "write_report", no_room)
    with pytest.raises(WriteError) as error:
        running.run_recipe(tiny_recipe(), tmp_path / "run", options(), report=True)
    one_line(error.value, tmp_path / "run", "make room on the disk", "--resume")
    monkeypatch.undo()
    _, record = running.run_recipe(tiny_recipe(), tmp_path / "run", options(), report=True, resume=True)
    assert (tmp_path / "run/report.md").is_file() and record["steps"] > 0


def test_the_folder_is_locked_while_the_run_is_scored(tmp_path, monkeypatch):
    recipe, out, answers, evaluate = tiny_recipe(), tmp_path / "run", [], running.evaluate
    code = f"from uda_kit.core.files import locked\nwith locked({str(out)!r}): pass"

    def ask_and_evaluate(*args, **kwargs):
        answers.append(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr)
        return evaluate(*args, **kwargs)

    monkeypatch.setattr(running, "evaluate", ask_and_evaluate)
    with another_process(out):
        before = sorted(out.iterdir())
        one_line(expect_error(running.run_recipe, recipe, out, options()), "being written by another process")
        assert sorted(out.iterdir()) == before
    running.run_recipe(recipe, out, options(), report=True)
    assert answers and all("being written by another process" in a for a in answers)
    monkeypatch.setattr(running, "evaluate", evaluate)
    other = override(recipe, ["stages.0.optimizer.lr=0.5"])
    longer = override(recipe, ["stages.0.steps=20"])
    files = sorted(out.rglob("*"))
    one_line(
        expect_error(running.run_recipe, other, out, options(), resume=True),
        "stages.0.optimizer.lr",
        "-> 0.5",
        "same settings",
    )
    one_line(
        expect_error(running.run_recipe, longer, out, options(), resume=True),
        "stages.0.steps: 2 -> 20",
        "--weights",
        "another folder",
    )
    assert sorted(out.rglob("*")) == files
    result = out / "result.json"
    assert "NaN" not in result.read_text() and run_of(out)["recipe"] == recipe.name


def test_a_shared_stage_is_made_by_one_process(tmp_path):
    run, waits = running.Run(None, shared=tmp_path), []
    first, second = (SimpleNamespace(name=name, key=key) for name, key in (("warmup", "1"), ("adapt", "2")))

    with another_process(tmp_path, ".warmup-1.lock", seconds=1.0):
        began = time.time()
        with running.stage_lock(run, first):
            waits.append(time.time() - began)
        with running.stage_lock(run, second):
            pass
    assert waits[0] > 0.5


# ---- files that parse and are something else

NOT_OURS = ["", "{", "[]", "3", "null", '"text"', "NaN", "[" * 10_000, '{"a":' * 5_000]


def test_config_of_something_else(tmp_path):
    run = RunDirectory(tmp_path / "run")
    run.open(CONFIG)
    file = run.path / "config.json"
    wrong = [
        {"recipe": []},
        {"recipe": {"stages": {}}},
        {"recipe": {"stages": [1]}},
        {"recipe": {"stages": [{"name": 1}]}},
        {"recipe": {"stages": [{"steps": "3"}]}},
        {"shared": "x"},
        {"shared": ["../../evil"]},
        {"data": []},
        {"data": {"a": {"source": 3}}},
        {"options": []},
        {"weights": 3},
        {"stage": 3},
        {"terms": []},
        {"terms": {"a": 1}},
    ]
    for text in [*NOT_OURS, *map(json.dumps, wrong), '{"options": ' + '{"a":' * 900 + "1" + "}" * 901]:
        file.write_text(text)
        one_line(expect_error(run.check, CONFIG, True), "run" if text == "{}" else file)
        one_line(expect_error(check_same, run.path, tiny_recipe()), "config.json")
    file.write_bytes(to_json(CONFIG).encode("utf-16"))
    one_line(expect_error(run.check, CONFIG, True), file, "UTF-8")
    assert not resumable(run.path)


def test_results_of_something_else(tmp_path):
    file = tmp_path / "result.json"
    right = {"recipe": "scenes/x", "seed": 0, "miou": None, "seconds": 1.5}
    wrong = [
        {},
        {"recipe": "x"},
        right | {"recipe": 3},
        right | {"seed": "0"},
        right | {"seed": 0.5},
        right | {"miou": "0.5"},
        right | {"iou": []},
        right | {"iou": {"road": "1"}},
    ]
    for text in [*NOT_OURS, *map(json.dumps, wrong)]:
        file.write_text(text)
        one_line(expect_error(run_of, tmp_path), file, "finished run")
        one_line(expect_error(report_line, tiny_recipe(), tmp_path, True), file)
    write_json(file, right | {"seconds": float("nan")})
    assert run_of(tmp_path)["miou"] is None
    one_line(expect_error(report_line, tiny_recipe(), tmp_path, True), file, "$.seconds")


def test_label_quality_of_something_else(tmp_path):
    run, quality = RunDirectory(tmp_path), {"precision": 0.5, "coverage": None, "labelled": 0.25}
    file = tmp_path / "labels.json"
    for text in [
        *NOT_OURS,
        *map(json.dumps, ({"a": []}, {"a": {"b": 1}}, {"a": {"b": {}}}, {"a": {"b": quality | {"coverage": "1"}}})),
    ]:
        file.write_text(text)
        one_line(expect_error(running.append_labels, "b", "p", "r", 0, 1, run, "c", tmp_path), file)
    file.write_text(
        '{"initial": {"road": {"precision": 0.5, "coverage": NaN, "labelled": 0.25}, "sky": '
        + json.dumps(quality)
        + "}}"
    )
    running.append_labels("b", "p", "r", 0, 1, run, "c", tmp_path)
    lines = (tmp_path / "b_p_labels.csv").read_text().splitlines()
    assert lines[1:] == ["b,r,0,1,initial,road,0.5000,,0.2500,c", "b,r,0,1,initial,sky,0.5000,,0.2500,c"]


def test_results_tables(tmp_path):
    line = "b,r,0,10,0.5,1.0,abc,m"
    file = tmp_path / "b_p.csv"
    header = ",".join(tables.RESULT_COLUMNS)
    for bad, where in (
        ("b,r,0,10,nan,1,a,m", "line 3"),
        ("b,r,0,10,1.5,1,a,m", "line 3"),
        ("b,r,x,10,0.5,1,a,m", "line 3"),
        ("b,r,0,²,0.5,1,a,m", "line 3"),
        ("b,r,0,10,0.5,inf,a,m", "line 3"),
        ("b,r,0", "line 3"),
        ('b,"r', ""),
        ("b,r,0,1e400,0.5,1,a,m", "line 3"),
    ):
        file.write_text(f"{header}\n{line}\n{bad}\n")
        one_line(expect_error(tables.measured, "b", "p", tmp_path), file, where)
    for bad in ("b,r,x,10,0.5,1,a,m", "b,r,0", 'b,"r', "b,r,0,-1,0.5,1,a,m"):
        file.write_text(f"{header}\n{line}\n{bad}\n")
        one_line(expect_error(read_results, "b", "p", root=tmp_path), file)
    for data in (b"", b"x,y\n", (header + "\n").encode("utf-16"), (header + "\nb\xff\n").encode("latin-1")):
        file.write_bytes(data)
        one_line(
            expect_error(tables.append_result, "b", "p", "r", 0, 1, 0.5, 1.0, root=tmp_path, commit="abc", machine="m"),
            file,
        )
        assert file.read_bytes() == data
    file.unlink()
    tables.append_result("b", "p", 'r"1,2', 0, 10, 0.5, 1.0, root=tmp_path, commit="abc", machine="m")
    assert [(m.recipe, m.miou) for m in tables.measured("b", "p", tmp_path)] == [('r"1,2', 0.5)]
    with another_process(tmp_path, seconds=0.5):
        tables.append_result("b", "p", "r2", 0, 10, 0.25, 1.0, root=tmp_path, commit="abc", machine="m")  # waits
    assert len(tables.measured("b", "p", tmp_path)) == 2


# ---- what differs


def test_a_difference_names_exactly_the_settings():
    old = {
        "recipe": {
            "stages": [{"name": "a", "size": [32, 64], "optimizer": {"lr": 0.1}}, {"name": "b", "target": None}]
        },
        "data": {"a": {"source": {"seed": 1}}},
        "seed": 1,
    }
    assert config_difference(old, json.loads(json.dumps(old))) == ""

    def changed(change):
        new = json.loads(json.dumps(old))
        change(new)
        return config_difference(old, new)

    assert (
        changed(lambda c: c["recipe"]["stages"][0]["optimizer"].update(lr=0.2))
        == "recipe.stages.0.optimizer.lr: 0.1 -> 0.2"
    )
    assert (
        changed(lambda c: c["recipe"]["stages"][0].update(size=[32, 96]))
        == "recipe.stages.0.size: [32, 64] -> [32, 96]"
    )
    assert changed(lambda c: c["recipe"]["stages"][1].update(target="x")) == 'recipe.stages.1.target: null -> "x"'
    assert changed(lambda c: c.update(extra=1)) == "extra: absent -> 1"
    assert changed(lambda c: c.pop("seed")) == "seed: 1 -> absent"
    assert len(changed(lambda c: c["recipe"]["stages"].pop())) < 120
    many = {str(i): i for i in range(9)}
    assert config_difference(many, dict.fromkeys(many, -1)).endswith("and 6 more")
    both = changed(lambda c: (c["data"]["a"]["source"].update(seed=2), c.update(seed=2)))
    assert both.startswith("seed: 1 -> 2")  # what was typed first, what follows from it last


# ---- two processes that train together

PROGRAM = """
import os, signal, sys
import torch
from uda_kit.cli.status import status_of
from uda_kit.data.streets.dataset import StreetScenes
from uda_kit.data.streets.style import CAMERA, RENDERED
from uda_kit.core.errors import InputError
from uda_kit.methods.output_space import OutputSpaceTerms
from uda_kit.models.segmenters import deeplab_v2
from uda_kit.training.fit import LoaderConfig, RunOptions, Stage, fit
out, fault = sys.argv[1:]
class Images(StreetScenes):
    def __getitem__(self, i):
        second = os.environ.get("LOCAL_RANK") == "1"
        if fault == "broken" and second: raise InputError("images/5.png", "is cut short", "copy it again")
        if fault == "killed" and second: os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(i)
torch.manual_seed(0)
net = deeplab_v2(19, "tiny")
source, target = LoaderConfig(Images(RENDERED, 4, (32, 48))), LoaderConfig(StreetScenes(CAMERA, 4, (32, 48)), labelled=False)
stage = Stage("adapt", net, OutputSpaceTerms(width=8).build(net), source, target, steps=6)
try: fit(stage, out, RunOptions(accelerator="cpu", devices=2, progress=False))
except Exception as error:
    status = status_of(error, None, ["train"])
    if status is None: raise
    sys.exit(status)
"""


@POSIX
def test_two_processes_end_with_one_line(tmp_path):
    script = tmp_path / "two.py"
    script.write_text(PROGRAM)
    running_ones = {
        fault: subprocess.Popen(
            [sys.executable, script, tmp_path / fault, fault], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for fault in ("broken", "killed")
    }
    for fault, process in running_ones.items():
        _, err = process.communicate(timeout=240)
        assert process.returncode == 2 and err.count("\n") == 1, err
        assert ("images/5.png" if fault == "broken" else "another process of this run has ended") in err
