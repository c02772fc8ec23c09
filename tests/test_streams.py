"""Streams: the same batches for any number of workers, with and without cache, from any start; and workers that end."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from uda_kit.data.open import open_dataset
from uda_kit.data.streams import Stream
from uda_kit.data.transforms import JointTransform

ROOT = Path(__file__).parent.parent
CAMVID = ROOT.parent / "shared" / "camvid"
STRONG = JointTransform(size=(60, 120), flip=True, scale=(0.7, 1.4), crop=(50, 90))


def take(n, dataset=None, batch_size=3, transform=STRONG, **options):
    stream = iter(
        Stream(dataset or open_dataset(f"camvid:{ROOT / 'data_samples' / 'camvid'}"), batch_size, transform, **options)
    )
    batches = [next(stream) for _ in range(n)]
    stream.close()
    return batches


def same(a, b):
    return len(a) == len(b) and all(
        torch.equal(x.image, y.image) and torch.equal(x.label, y.label) and x.keys == y.keys for x, y in zip(a, b)
    )


@pytest.fixture(scope="module")
def plain():
    return take(10, seed=3)


@pytest.mark.parametrize(
    "options",
    [dict(workers=1), dict(workers=2), dict(cache_mb=100), dict(workers=2, cache_mb=100), dict(cache_mb=0.05)],
)
def test_workers_and_cache_change_nothing(plain, options):
    assert same(plain, take(10, seed=3, **options))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("start", [1, 4, 9])
def test_start_skips(plain, start, workers):
    assert same(plain[start:], take(10 - start, seed=3, start=start, workers=workers))


def test_random_access(plain):
    stream = Stream(open_dataset(f"camvid:{ROOT / 'data_samples' / 'camvid'}"), 3, STRONG, seed=3)
    assert same([stream.batch(k) for k in (7, 2, 2)], [plain[k] for k in (7, 2, 2)])


@pytest.mark.parametrize("workers", [0, 2])
def test_global_generator_is_left_alone(workers):
    state = torch.get_rng_state()
    take(2, workers=workers)
    assert torch.equal(torch.get_rng_state(), state)


def test_seed_matters(plain):
    assert not same(plain, take(10, seed=4))


def test_images_do_not_depend_on_labels(plain):
    unlabelled = take(10, seed=3, labelled=False, workers=2)
    assert all(b.label is None and torch.equal(a.image, b.image) for a, b in zip(plain, unlabelled))


def test_epochs_visit_everything_once(plain):
    keys = sum((b.keys for b in plain), [])[:28]
    assert all(len(set(keys[e : e + 4])) == 4 for e in range(0, 28, 4))


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_one_batch(world):
    whole = take(6, batch_size=2 * world, seed=5)
    parts = [take(6, batch_size=2, seed=5, rank=r, world=world) for r in range(world)]
    for step, batch in enumerate(whole):
        assert torch.equal(batch.image, torch.cat([p[step].image for p in parts])) and batch.keys == sum(
            (p[step].keys for p in parts), []
        )


def test_batches_do_not_share_memory_with_the_cache():
    stream = Stream(
        open_dataset(f"camvid:{ROOT / 'data_samples' / 'camvid'}"), 2, JointTransform(size=(30, 40)), cache_mb=10
    )
    first = stream.batch(0)
    kept = first.image.clone()
    first.image.zero_()
    first.label.zero_()
    assert torch.equal(stream.batch(0).image, kept)


def test_cache_is_bounded():
    stream = Stream(
        open_dataset(f"camvid:{ROOT / 'data_samples' / 'camvid'}"), 4, JointTransform(size=(64, 128)), cache_mb=0.08
    )  # two samples of 32 kB
    stream.batch(0)
    assert len(stream.batches.cache.items) == 2 and stream.batches.cache.used <= 0.08 * 2**20


def test_workers_end_with_the_iteration():
    stream = iter(Stream(open_dataset("scenes:rendered?n=50&size=32x64"), 4, workers=2))
    next(stream)
    assert len(multiprocessing.active_children()) >= 2
    start = time.monotonic()
    stream.close()
    assert time.monotonic() - start < 30 and not multiprocessing.active_children()


def test_workers_leave_signals_to_the_main_process():
    "SIGINT to the whole group, as a terminal sends it: the main process alone decides, and no worker prints a traceback."
    code = """if True:
        import signal, sys
        from uda_kit.data.open import open_dataset
        from uda_kit.data.streams import Stream
        stopped = []
        for s in (signal.SIGINT, signal.SIGTERM): signal.signal(s, lambda *_: stopped.append(1))
        print("ready", flush=True)
        for k, batch in enumerate(Stream(open_dataset("scenes:rendered?n=50&size=32x64"), 2, workers=2)):
            if k == 0: print("loading", flush=True)
            if len(stopped) == 2: break
        print("saved", flush=True)"""
    run = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd=ROOT,
    )
    try:
        assert run.stdout.readline() == "ready\n" and run.stdout.readline() == "loading\n"
        os.killpg(run.pid, signal.SIGINT)
        time.sleep(0.3)
        os.killpg(run.pid, signal.SIGTERM)
        out, err = run.communicate(timeout=60)
    finally:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
    assert run.returncode == 0 and out == "saved\n" and err == ""


@pytest.mark.skipif(not (CAMVID / "day.txt").is_file(), reason="the real CamVid is not at hand")
def test_real_camvid():
    day, dusk = (open_dataset(f"camvid:{CAMVID}", s) for s in ("day", "dusk_test"))
    assert (len(day), len(dusk)) == (577, 62) and day[0].image.shape == (3, 360, 480)
    assert set(day[5].label.unique().tolist()) <= {*range(11), 255}
    a, b = (take(3, day, 2, JointTransform(size=(180, 240)), workers=w) for w in (0, 2))
    assert same(a, b) and a[0].image.shape == (2, 3, 180, 240)
