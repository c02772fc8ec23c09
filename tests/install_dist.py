"""The wheel of dist/, installed from the package index into an empty environment and used from an empty folder.

    python tests/install_dist.py                 # the base install: make dist-check
    python tests/install_dist.py notebooks       # an extra
    python tests/install_dist.py --twice         # once more, from pip's cache

Prints seconds, megabytes fetched and megabytes on disk. Takes minutes and 7 GB: it is for releases, not for the tests."""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bare_environment import clean_variables
from check_dist import ROOT, settings

UNITS = {"bytes": 1e-6, "kB": 1e-3, "MB": 1, "GB": 1e3}


def ran(command, folder):
    "Output and seconds of a command that has to succeed."
    began = time.perf_counter()
    done = subprocess.run(list(map(str, command)), cwd=folder, capture_output=True, text=True, env=clean_variables())
    if done.returncode:
        sys.exit(
            f"{' '.join(map(str, command))}\nended with {done.returncode}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        )
    return done.stdout, time.perf_counter() - began


def megabytes(folder):
    "What the files of a folder take."
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file() and not f.is_symlink()) / 1e6


def fetched(log):
    "Megabytes and number of the archives that pip took from the index, its cache or a folder, by its log."
    lines = re.findall(r"(\S+) \(([\d.]+) (bytes|kB|MB|GB)\)$", log, re.M)
    sizes = [float(size) * UNITS[unit] for name, size, unit in lines if not name.endswith(".metadata")]
    return sum(sizes), len(sizes)


def install(work, wheel, extra, options):
    "A new environment with the wheel. What it cost, in words, and its Python."
    environment = work / "environment"
    shutil.rmtree(environment, ignore_errors=True)
    _, seconds_made = ran([sys.executable, "-m", "venv", environment], work)
    python = environment / "bin" / "python"
    before = megabytes(environment)
    target = f"{wheel}[{extra}]" if extra else wheel
    log, seconds = ran([python, "-m", "pip", "install", "--no-input", *options, target], work)
    size, count = fetched(log)
    on_disk = megabytes(environment) - before
    print(
        f"uda_kit{f'[{extra}]' if extra else ''}: environment {seconds_made:.0f} s, pip install {seconds:.0f} s, "
        f"{size:,.0f} MB in {count} archives, {on_disk:,.0f} MB on disk",
        flush=True,
    )
    return python


def largest(python, count=5):
    "The distributions that take most room, in words."
    code = (
        "import json; from importlib.metadata import distributions\n"
        "print(json.dumps({d.name: sum(f.size or 0 for f in d.files or ()) / 1e6 for d in distributions()}))"
    )
    sizes = json.loads(ran([python, "-c", code], python.parent)[0])
    top = sorted(sizes.items(), key=lambda item: -item[1])[:count]
    return ", ".join(f"{name} {size:,.0f} MB" for name, size in top)


def use(python, work):
    "One command from an empty folder; the pieces of its answer that say that it worked."
    folder = work / "empty"
    folder.mkdir(exist_ok=True)
    command = python.parent / "uda-kit"
    ran([command, "doctor"], folder)
    output, seconds = ran([command, "demo", "--steps", 5, "--no-progress", "--overwrite"], folder)
    record = json.loads(output.splitlines()[-1])
    if not (folder / "runs/demo/report.md").is_file() or record["steps"] != 10:
        sys.exit(f"the demo left no report, or took other steps: {output}")
    print(
        f"uda-kit demo --steps 5: {seconds:.0f} s, network {record['network']}, mIoU {record['miou']:.3f}", flush=True
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("extra", nargs="?", default="", choices=["", "pretrained", "notebooks"])
    parser.add_argument("--twice", action="store_true", help="install once more, from pip's cache")
    options = parser.parse_args()
    wheel = ROOT / "dist" / f"uda_kit-{settings(ROOT)['version']}-py3-none-any.whl"
    if not wheel.is_file():
        sys.exit(f"{wheel}: is missing: make dist")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        cache = ["--cache-dir", work / "cache"]
        python = install(work, wheel, options.extra, cache if options.twice else ["--no-cache-dir"])
        print(f"largest: {largest(python)}", flush=True)
        if options.twice:
            python = install(work, wheel, options.extra, cache)
        use(python, work)


if __name__ == "__main__":
    main()
