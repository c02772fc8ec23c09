"""A run that is killed, stopped, or finds its newest checkpoint broken ends with the same bits as one left alone."""
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

STEPS = 12
TRAIN = ["train", "scenes/multi-level", "--steps", STEPS, "--save-every", 4, "--log-every", 1, "--no-progress", "--set",
         *(f"stages.{i}.source.name=scenes:rendered?n=5&size=64x96" for i in (0, 1)), "stages.1.target.name=scenes:camera?n=5&size=64x96", "test.name=scenes:camera?n=2&size=64x96",
         "stages.0.source.batch_size=2", "stages.1.source.batch_size=2", "stages.1.target.batch_size=2"]
SEED = int(os.environ.get("UDA_KIT_TEST_SEED") or random.SystemRandom().randrange(10**6))
RUNNING = {"OMP_NUM_THREADS": "1", "COLUMNS": "200", "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def start(folder, *more, shell=None):
    "The command in a session of its own."
    argv = shell or ["uda-kit", *map(str, TRAIN), "--out", str(folder), *map(str, more)]
    return subprocess.Popen(argv, shell=bool(shell), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | RUNNING, start_new_session=True, cwd=folder.parent)


def finish(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return json.loads(out.splitlines()[-1]), err


def logged(folder):
    "Stage and step of the whole lines of the log."
    file = folder/"log.jsonl"
    return [(r["stage"], r["step"]) for r in map(json.loads, file.read_text().split("\n")[:-1])] if file.exists() else []


def wait_for(folder, process, total):
    "Return as soon as `total` steps are in the log, counted over both stages."
    while len(logged(folder)) < total:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.002)


def bits(folder):
    "All that must not depend on interruptions: weights, all checkpoints of the last steps, losses."
    found = {"weights": (folder/"weights.safetensors").read_bytes(), "evaluation": json.loads((folder/"evaluation.json").read_text())}
    found["evaluation"].pop("seconds", None)
    for stage in ("warmup", "adapt"):
        last = folder/"checkpoints"/f"{stage}-{STEPS:07d}"
        found |= {f"{stage}/{name}": (last/name).read_bytes() for name in ("weights.safetensors", "state.safetensors")}
        state = json.loads((last/"state.json").read_text())
        found[f"{stage}/state.json"] = {k: v for k, v in state.items() if k != "seconds"}
    found["log"] = [{k: v for k, v in json.loads(line).items() if k not in ("seconds", "peak_gib")} for line in (folder/"log.jsonl").read_text().splitlines()]
    return found


def same(one, other):
    one, other = bits(one), bits(other)
    differing = [k for k in one if one[k] != other[k]]
    assert one.keys() == other.keys() and not differing, f"{differing} differ (UDA_KIT_TEST_SEED={SEED})"
    assert len(one["log"]) == 2 * STEPS


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    "A run left alone."
    folder = tmp_path_factory.mktemp("whole")/"run"
    finish(start(folder))
    return folder


@pytest.mark.parametrize("workers", [0, 2])
def test_killed_at_a_random_step(whole, tmp_path, workers):
    step = random.Random(f"{SEED} {workers}").randint(1, 2 * STEPS - 3)
    print(f"UDA_KIT_TEST_SEED={SEED}: killed after step {step} of {2 * STEPS}")
    process = start(tmp_path/"run", "--workers", workers)
    wait_for(tmp_path/"run", process, step)
    process.kill(); process.communicate()
    assert process.returncode == -signal.SIGKILL and not (tmp_path/"run"/"weights.safetensors").exists()
    record, _ = finish(start(tmp_path/"run", "--workers", workers, "--resume"))
    same(whole, tmp_path/"run")


@pytest.mark.parametrize("number,workers", [(signal.SIGTERM, 0), (signal.SIGINT, 2)])
def test_asked_to_stop(whole, tmp_path, number, workers):
    "SIGTERM goes to the process, Ctrl-C to all in its group; the last line is a command that goes on, as it can be pasted into a shell."
    stage = random.Random(f"{SEED} {number}").randint(0, 1)
    process = start(tmp_path/"run", "--workers", workers)
    wait_for(tmp_path/"run", process, stage * STEPS + 5)
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
    out, err = process.communicate(timeout=120)
    last = err.splitlines()[-1]
    assert process.returncode == 128 + number and "Traceback" not in err, err
    assert last.startswith(f"uda-kit: stopped by {number.name} after step ") and str(tmp_path/"run") in last, err
    stopped = int(last.split("after step ")[1].split(",")[0])
    assert (tmp_path/"run"/"checkpoints"/f"{('warmup', 'adapt')[stage]}-{stopped:07d}").is_dir()
    again = last[last.index("uda-kit train"):]
    assert again.endswith("--resume")
    finish(start(tmp_path/"run", shell=again))
    same(whole, tmp_path/"run")


@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_broken_checkpoint_is_named_and_skipped(whole, tmp_path, damage):
    run = tmp_path/"run"
    shutil.copytree(whole, run)
    for name in ("weights.safetensors", "evaluation.json", "result.json"): (run/name).unlink()
    newest = run/"checkpoints"/f"adapt-{STEPS:07d}"
    file = newest/{"cut": "weights.safetensors", "changed": "state.safetensors", "gone": "state.json"}[damage]
    data = bytearray(file.read_bytes())
    if damage == "cut": file.write_bytes(data[:len(data) // 2])
    elif damage == "changed": data[-9] ^= 1; file.write_bytes(data)
    else: file.unlink()
    _, err = finish(start(run, "--resume"))
    assert "skipped a broken checkpoint" in err and str(newest) in err
    same(whole, run)


def test_all_checkpoints_broken(whole, tmp_path):
    "Then nothing is guessed: one line, status 2, the folder as it was."
    run = tmp_path/"run"
    shutil.copytree(whole, run)
    for file in (run/"checkpoints").glob("adapt-*/state.json"): file.write_text("{")
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    process = start(run, "--resume")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 2 and "holds no whole checkpoint of stage 'adapt'" in err.splitlines()[-1]
    after = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    assert {p.name for p in before.keys() ^ after.keys()} <= {".lock"} and all(after[p] == b for p, b in before.items() if p in after)
