"""The samples in the repository are what the command writes, to the byte."""

import subprocess
import sys
from pathlib import Path

import pytest

from uda_kit.data.samples import sample_files

ROOT = Path(__file__).parent.parent
SAMPLES = ROOT / "data_samples"


def files_of(root):
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_committed_samples_are_current():
    made, there = sample_files(), files_of(SAMPLES)
    assert made.keys() == there.keys(), f"run make samples: {sorted(made.keys() ^ there.keys())}"
    differing = [p for p in made if made[p] != there[p]]
    assert not differing, f"run make samples: {differing}"
    assert sum(map(len, made.values())) < 6 * 2**20


def test_command(tmp_path):
    def run(folder):
        return subprocess.run(
            [sys.executable, "-W", "error", "-m", "uda_kit.data.samples", str(folder)],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )

    done = run(tmp_path / "samples")
    assert done.returncode == 0, done.stderr
    assert files_of(tmp_path / "samples") == files_of(SAMPLES)
    (tmp_path / "samples" / "gta5" / "images" / "old.png").write_bytes(b"from an older version")
    assert run(tmp_path / "samples").returncode == 0 and files_of(tmp_path / "samples") == files_of(SAMPLES)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_other_files_are_left_alone(tmp_path, kind):
    target = tmp_path / "mine"
    if kind == "file":
        target.write_text("keep")
        before = target.read_bytes()
    else:
        target.mkdir()
        (target / "README.md").write_text("my own")
        before = files_of(target)
    done = subprocess.run(
        [sys.executable, "-m", "uda_kit.data.samples", str(target)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and str(target) in done.stderr
    assert (target.read_bytes() if kind == "file" else files_of(target)) == before
