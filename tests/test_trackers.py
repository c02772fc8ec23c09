"""Trackers show the numbers of the log, go on where a stage goes on, and never end a run unless the disk is full."""

import csv
import sys

import pytest
import torch
from refusals import one_line, refused_command
from resuming import StopAt

from uda_kit.core.errors import InputError
from uda_kit.data.streets.dataset import StreetScenes
from uda_kit.data.streets.style import CAMERA, RENDERED
from uda_kit.methods.output_space import OutputSpaceTerms
from uda_kit.models.segmenters import deeplab_v2
from uda_kit.training.fit import SGD, Interrupted, LoaderConfig, RunOptions, Stage, fit
from uda_kit.training.runs import RunDirectory, read_log


def run_stage(folder, loggers, stop_at=None, resume=False):
    "Six steps of output-space adaptation on small scenes; the log of the stage."
    torch.manual_seed(0)
    net = deeplab_v2(19, "tiny")
    terms = OutputSpaceTerms(width=8).build(net) | ({"stop": StopAt(stop_at)} if stop_at else {})
    source, target = (LoaderConfig(StreetScenes(style, 4, (32, 48))) for style in (RENDERED, CAMERA))
    stage = Stage("adapt", net, terms, source, target, steps=6, optimizer=SGD(lr=1e-2))
    options = RunOptions(log_every=1, save_every=3, progress=False, accelerator="cpu", loggers=loggers)
    fit(stage, folder, options, {"name": "test"}, resume=resume)
    return read_log(RunDirectory(folder))


@pytest.fixture(scope="module")
def stopped_and_resumed(tmp_path_factory):
    "Folder and log of a run that was stopped after four steps and went on."
    pytest.importorskip("tensorboard")
    folder = tmp_path_factory.mktemp("tracked") / "run"
    with pytest.raises(Interrupted):
        run_stage(folder, ("csv", "tensorboard"), stop_at=4)
    return folder, run_stage(folder, ("csv", "tensorboard"), resume=True)


def test_csv_holds_the_log_once(stopped_and_resumed):
    folder, log = stopped_and_resumed
    rows = list(csv.DictReader((folder / "csv/adapt/metrics.csv").open()))
    assert [int(row["step"]) for row in rows] == [record["step"] for record in log] == [1, 2, 3, 4, 5, 6]
    assert [float(row["loss/seg"]) for row in rows] == [record["loss/seg"] for record in log]


def test_tensorboard_shows_the_log(stopped_and_resumed):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder, log = stopped_and_resumed
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    curve = [(event.step, event.value) for event in events.Scalars("adapt/loss/seg")]
    expected = [(record["step"], pytest.approx(record["loss/seg"], rel=1e-6)) for record in log]
    assert curve == expected


def test_wandb_offline_keeps_one_identity(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    folder = tmp_path / "run"
    with pytest.raises(Interrupted):
        run_stage(folder, ("wandb?project=streets",), stop_at=4)
    identity = (folder / "wandb/adapt.id").read_text()
    run_stage(folder, ("wandb?project=streets",), resume=True)
    runs = sorted((folder / "wandb").glob("offline-run-*"))
    assert len(runs) == 2 and all(run.name.endswith(identity) for run in runs)


def test_missing_package_is_named_before_anything_is_written(tmp_path, monkeypatch):
    for package in ("tensorboard", "wandb"):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(InputError) as error:
            run_stage(tmp_path / "run", (package,))
        one_line(error.value, package, 'pip install "uda_kit[trackers]"')
        assert not (tmp_path / "run").exists()


def test_misspelt_logger_on_the_command_line(tmp_path):
    out = tmp_path / "run"
    refused_command(["train", "scenes/source-only", "--out", out, "--logger", "tensorbord"], "did you mean tensorboard")
    refused_command(
        ["train", "scenes/source-only", "--out", out, "--logger", "csv?prefx=a"], "csv has no option 'prefx'"
    )
    assert not out.exists()
