"""Faults met with real folders: what is an image, how every kind of image and label file is read, and readers that die."""
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest

from uda_kit.data.check import check_split
from uda_kit.data.datasets import open_dataset
from uda_kit.data.files import image_files
from uda_kit.data.streams import Stream
from uda_kit.data.workers import read_in_order
from uda_kit.errors import InputError, expect_error
from uda_kit.training.evaluation import _Items, _read_all


# ---------------------------------------------------------------- worker processes
class Deadly:
    "Rendered scenes; reading number 5 kills the worker that does it."

    def __init__(self, signal_number=signal.SIGKILL):
        self.inner, self.signal_number = open_dataset("scenes:rendered?n=12&size=16x32"), signal_number

    def __getattr__(self, name):
        return getattr(self.__dict__["inner"], name)

    def __len__(self):
        return len(self.inner)

    def image(self, i):
        if i == 5 and multiprocessing.parent_process():
            os.kill(os.getpid(), self.signal_number)
        return self.inner.image(i)

    def __getitem__(self, i):
        return self.inner[i]._replace(image=self.image(i))


@pytest.mark.parametrize("number, word", [(signal.SIGKILL, "SIGKILL"), (signal.SIGSEGV, "SIGSEGV")])
@pytest.mark.parametrize("way", ["check", "evaluate", "stream"])
def test_a_dead_worker_is_one_line_at_once(way, number, word):
    start = time.perf_counter()
    if way == "check":
        error = expect_error(check_split, Deadly(number), 2, False)
    elif way == "evaluate":
        error = expect_error(list, _read_all(_Items(Deadly(number), None), 2, False, "evaluate"))
    else:
        error = expect_error(list, Stream(Deadly(number), 2, workers=2))
    assert word in error and "--workers" in error and "\n" not in error
    assert time.perf_counter() - start < 10 and not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_as_many_processes_as_asked_for(workers):
    seen, dataset = [], open_dataset("scenes:rendered?n=12&size=16x32")
    for reader in (_read_all(_Items(dataset, None), workers, True, "evaluate"), read_in_order(dataset, range(12), workers), Stream(dataset, workers=workers)):
        reader = iter(reader)
        next(reader)
        seen.append(len(multiprocessing.active_children()))
        reader.close()
    assert seen == [workers] * 3 and not multiprocessing.active_children()


LEAVING = """
import itertools, os, signal, sys
from uda_kit.data.datasets import open_dataset
from uda_kit.data.workers import read_in_order
reader = read_in_order(open_dataset("scenes:rendered?n=9&size=16x32"), itertools.cycle(range(9)), 2)
next(reader)
import multiprocessing
print(*(p.pid for p in multiprocessing.active_children()), flush=True)
if sys.argv[1] == "kill": os.kill(os.getpid(), signal.SIGKILL)
for p in multiprocessing.active_children(): os.kill(p.pid, signal.SIGSTOP)  # as if they waited for a slow disk
"""


@pytest.mark.parametrize("how", ["leave", "kill"])
def test_no_worker_outlives_its_process(how):
    run = subprocess.run([sys.executable, "-c", LEAVING, how], capture_output=True, text=True, timeout=60)
    pids = [int(pid) for pid in run.stdout.split()]
    assert len(pids) == 2, run.stderr
    deadline = time.time() + 5
    while time.time() < deadline and any(os.path.exists(f"/proc/{pid}") and "Z" not in open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1][:3] for pid in pids):
        time.sleep(0.05)
    assert time.time() < deadline


def test_what_a_worker_raises_arrives():
    class Odd:
        def __getitem__(self, k):
            raise [InputError("a.png", "is damaged", "get it again"), MemoryError(), KeyError("k")][k]
    for k, (kind, text) in enumerate([(InputError, "a.png: is damaged"), (InputError, "out of memory"), (KeyError, "k")]):
        with pytest.raises(kind, match=text):
            next(read_in_order(Odd(), [k], 1))
