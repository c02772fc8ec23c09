"""A run that was killed and resumed ends with the same bits as one that was left alone."""

import random
import signal

import pytest
from resuming import finish, interrupted, same, start, undisturbed

from uda_kit.training.runs import RunDirectory, stage_checkpoints

SCENES = "n=12&size=64x96"
STEPS = {"warmup": 6, "adapt": 18}
ARGS = [
    "train",
    "scenes/multi-level",
    "--no-progress",
    "--save-every",
    "4",
    "--log-every",
    "1",
    "--accelerator",
    "cpu",
    "--set",
    *(f"stages.{i}.steps={n}" for i, n in enumerate(STEPS.values())),
    *(f"stages.{i}.source=scenes:rendered?{SCENES}" for i in (0, 1)),
    *(f"stages.{i}.source.batch_size=2" for i in (0, 1)),
    f"stages.1.target=scenes:camera?{SCENES}",
    "stages.1.target.batch_size=2",
    "test=scenes:camera?n=2&size=64x96",
]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    "The run that nobody disturbs."
    return undisturbed(ARGS, tmp_path_factory)


@pytest.mark.parametrize("workers", ["0", "2"])
def test_killed_at_a_random_step(alone, tmp_path, workers):
    step = random.SystemRandom().randint(2, sum(STEPS.values()) - 6)
    print(f"killed after step {step}")  # shown when the test fails
    interrupted(ARGS, tmp_path / "run", signal.SIGKILL, step, "--workers", workers)
    finish(start(ARGS, tmp_path / "run", "--resume", "--workers", workers))
    same(alone, tmp_path / "run", STEPS)


def test_asked_to_stop_and_newest_checkpoint_spoilt(alone, tmp_path):
    "SIGTERM saves and says how to go on; with what it saved spoilt, the run goes on from the checkpoint before, with other workers."
    run = RunDirectory(tmp_path / "run")
    said = interrupted(ARGS, run.path, signal.SIGTERM, STEPS["warmup"] + 9, "--workers", "2")
    assert (
        said.count("\n") == 1
        and "SIGTERM" in said
        and "uda-kit train scenes/multi-level" in said
        and said.rstrip().endswith("--resume")
    ), said
    newest = stage_checkpoints(run, "adapt")[-1]
    spoilt = newest / "weights.safetensors"
    data = bytearray(spoilt.read_bytes())
    data[len(data) // 2] ^= 1
    spoilt.write_bytes(data)
    assert newest.name in finish(start(ARGS, run.path, "--resume"))
    same(alone, run.path, STEPS)


def test_ctrl_c(tmp_path):
    said = interrupted(ARGS, tmp_path / "run", signal.SIGINT, 2)
    assert "SIGINT" in said and "--resume" in said and stage_checkpoints(RunDirectory(tmp_path / "run"), "warmup")
