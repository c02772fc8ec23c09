"""What the tests of stopped and resumed runs share: real processes with real signals, and a term that stops the loop from inside."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from safetensors.torch import load_file

from uda_kit.training.fit import RunOptions, StopRequest
from uda_kit.training.objective import Term
from uda_kit.training.runs import RunDirectory, read_log, stage_checkpoints


class StopAt(Term):
    "Asks the loop to stop after step n, as a SIGTERM would."

    reads = ("source",)

    def __init__(self, n):
        super().__init__()
        self.n = n

    def forward(self, src):
        if self.age + 1 == self.n:
            StopRequest.current.note(15, None)
        return src.image.sum() * 0


def options(precision="32-true"):
    return RunOptions(precision=precision, log_every=1, save_every=1, progress=False, accelerator="cpu")


def start(args, out, *more):
    code = "import sys; from uda_kit.cli import main; sys.exit(main())"
    return subprocess.Popen(
        [sys.executable, "-c", code, *args, "--out", str(out), *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process, status=0):
    out, err = process.communicate(timeout=300)
    assert process.returncode == status, (process.returncode, out, err)
    return err


def logged(out):
    "Steps logged so far, over all stages."
    return len(read_log(RunDirectory(out))) if Path(out, "log.jsonl").exists() else 0


def interrupted(args, out, number, due, *more):
    "Start a run and send a signal once `due()`, or once that many steps are logged; what it said."
    process, ripe = start(args, out, *more), due if callable(due) else lambda: logged(out) >= due
    while not ripe():
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    process.send_signal(number)
    _, err = process.communicate(timeout=300)
    assert process.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 128 + number), err
    assert not Path(out, "weights.safetensors").exists(), "the run was over before it was stopped"
    return err


def undisturbed(args, tmp_path_factory):
    "Folder of a run that nobody stops."
    out = tmp_path_factory.mktemp("alone") / "run"
    finish(start(args, out))
    return out


def same_tensors(first, second):
    "Two safetensors files bit for bit; returns the first's tensors."
    x, y = load_file(first), load_file(second)
    assert x.keys() == y.keys() and x
    assert not [k for k in x if x[k].numpy().tobytes() != y[k].numpy().tobytes()]
    return x


def same_stage(a, b, stage, steps):
    "The last checkpoint of a stage in two runs, bit for bit; returns its state."
    last = [stage_checkpoints(RunDirectory(run), stage)[-1] for run in (a, b)]
    assert all(f.name == f"{stage}-{steps:07d}" for f in last)
    same_tensors(*(f / "weights.safetensors" for f in last))
    return same_tensors(*(f / "state.safetensors" for f in last))


def same(a, b, steps):
    "Weights, and the last checkpoint of each stage (`steps` by name) with optimizers and discriminators, bit for bit; and the logs."
    runs = RunDirectory(a), RunDirectory(b)
    same_tensors(*(r.path / "weights.safetensors" for r in runs))
    for stage, n in steps.items():
        same_stage(a, b, stage, n)
    logs = [[{k: v for k, v in r.items() if k not in ("seconds", "peak_gib")} for r in read_log(run)] for run in runs]
    assert logs[0] == logs[1] and len(logs[0]) == sum(steps.values())


def killed_and_resumed(alone, run, args, steps, stage):
    "Kill a run after a random step of a stage (`steps` by name), resume it, and compare it with the run that nobody stopped."
    names = list(steps)
    step = sum(steps[name] for name in names[: names.index(stage)]) + random.SystemRandom().randint(1, steps[stage] - 2)
    print(f"killed after step {step}")  # shown when the test fails
    interrupted(args, run, signal.SIGKILL, step)
    finish(start(args, run, "--resume"))
    same(alone, run, steps)
