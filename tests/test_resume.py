"""A run that was killed and resumed ends with the same bits as one that was left alone: real processes, real signals."""
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from uda_kit.training.runs import RunDirectory, read_log, stage_checkpoints

SCENES = "n=12&size=64x96"
STEPS = (6, 18)  # warm-up, adaptation
ARGS = ["train", "scenes/multi-level", "--no-progress", "--save-every", "4", "--log-every", "1", "--accelerator", "cpu", "--set",
        *(f"stages.{i}.steps={n}" for i, n in enumerate(STEPS)), *(f"stages.{i}.source.name=scenes:rendered?{SCENES}" for i in (0, 1)), *(f"stages.{i}.source.batch_size=2" for i in (0, 1)),
        f"stages.1.target.name=scenes:camera?{SCENES}", "stages.1.target.batch_size=2", "test.name=scenes:camera?n=2&size=64x96"]


def start(out, *more):
    code = "import sys; from uda_kit.cli import main; sys.exit(main())"
    return subprocess.Popen([sys.executable, "-c", code, *ARGS, "--out", str(out), *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process, status=0):
    out, err = process.communicate(timeout=300)
    assert process.returncode == status, (process.returncode, out, err)
    return err


def logged(out):
    "Steps logged so far, over both stages."
    return len(read_log(RunDirectory(out))) if Path(out, "log.jsonl").exists() else 0


def interrupted(out, number, after, *more):
    "Start a run and send a signal once `after` steps are logged; what it said."
    process = start(out, *more)
    while logged(out) < after:
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    process.send_signal(number)
    _, err = process.communicate(timeout=300)
    assert process.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 128 + number), err
    assert not Path(out, "weights.safetensors").exists(), "the run was over before it was stopped"
    return err


def same(a, b):
    "Weights, and the last checkpoint of each stage with optimisers and critics, bit for bit."
    runs = RunDirectory(a), RunDirectory(b)
    pairs = [(r.path / "weights.safetensors" for r in runs)]
    for stage, steps in zip(("warmup", "adapt"), STEPS):
        last = [stage_checkpoints(r, stage)[-1] for r in runs]
        assert all(f.name == f"{stage}-{steps:07d}" for f in last)
        pairs += [(f / name for f in last) for name in ("weights.safetensors", "state.safetensors")]
    for first, second in pairs:
        x, y = load_file(first), load_file(second)
        assert x.keys() == y.keys() and x
        assert not [k for k in x if x[k].numpy().tobytes() != y[k].numpy().tobytes()]
    logs = [[{k: v for k, v in r.items() if k not in ("seconds", "peak_gib")} for r in read_log(run)] for run in runs]
    assert logs[0] == logs[1] and len(logs[0]) == sum(STEPS)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    "The run that nobody disturbs."
    out = tmp_path_factory.mktemp("alone") / "run"
    finish(start(out))
    return out


@pytest.mark.parametrize("workers", ["0", "2"])
def test_killed_at_a_random_step(alone, tmp_path, workers):
    step = random.SystemRandom().randint(2, sum(STEPS) - 6)
    print(f"killed after step {step}")  # shown when the test fails
    interrupted(tmp_path / "run", signal.SIGKILL, step, "--workers", workers)
    finish(start(tmp_path / "run", "--resume", "--workers", workers))
    same(alone, tmp_path / "run")


def test_asked_to_stop_and_newest_checkpoint_spoilt(alone, tmp_path):
    "SIGTERM saves and says how to go on; with what it saved spoilt, the run goes on from the checkpoint before, with other workers."
    run = RunDirectory(tmp_path / "run")
    said = interrupted(run.path, signal.SIGTERM, STEPS[0] + 9, "--workers", "2")
    assert said.count("\n") == 1 and "SIGTERM" in said and "uda-kit train scenes/multi-level" in said and said.rstrip().endswith("--resume"), said
    newest = stage_checkpoints(run, "adapt")[-1]
    spoilt = newest / "weights.safetensors"
    data = bytearray(spoilt.read_bytes())
    data[len(data) // 2] ^= 1
    spoilt.write_bytes(data)
    assert newest.name in finish(start(run.path, "--resume"))
    same(alone, run.path)


def test_ctrl_c(tmp_path):
    said = interrupted(tmp_path / "run", signal.SIGINT, 2)
    assert "SIGINT" in said and "--resume" in said and stage_checkpoints(RunDirectory(tmp_path / "run"), "warmup")
