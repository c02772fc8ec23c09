"""Real processes, real signals: what the tests of killed and resumed runs share."""
import signal
import subprocess
import sys
import time
from pathlib import Path

from safetensors.torch import load_file

from uda_kit.training.runs import RunDirectory, read_log, stage_checkpoints


def start(args, out, *more):
    code = "import sys; from uda_kit.cli import main; sys.exit(main())"
    return subprocess.Popen([sys.executable, "-c", code, *args, "--out", str(out), *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


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


def same(a, b, steps):
    "Weights, and the last checkpoint of each stage (`steps` by name) with optimisers and critics, bit for bit; and the logs."
    runs = RunDirectory(a), RunDirectory(b)
    pairs = [(r.path / "weights.safetensors" for r in runs)]
    for stage, n in steps.items():
        last = [stage_checkpoints(r, stage)[-1] for r in runs]
        assert all(f.name == f"{stage}-{n:07d}" for f in last)
        pairs += [(f / name for f in last) for name in ("weights.safetensors", "state.safetensors")]
    for first, second in pairs:
        x, y = load_file(first), load_file(second)
        assert x.keys() == y.keys() and x
        assert not [k for k in x if x[k].numpy().tobytes() != y[k].numpy().tobytes()]
    logs = [[{k: v for k, v in r.items() if k not in ("seconds", "peak_gib")} for r in read_log(run)] for run in runs]
    assert logs[0] == logs[1] and len(logs[0]) == sum(steps.values())
