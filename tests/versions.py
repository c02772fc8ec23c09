"""The lowest versions of every requirement, and the newest, each in an environment of its own and tried by part of the tests.

    python tests/versions.py lowest      # make test-lowest
    python tests/versions.py newest      # make test-newest
    python tests/versions.py lowest --python python3.12
    python tests/versions.py lowest --print

What is tried needs no browser, and not the extra docs: names, recipes, data, networks, training, figures, export, videos, trackers, command line."""

import argparse
import re
import subprocess
import sys

from bare_environment import clean_variables
from check_dist import ROOT, settings

KINDS = ("", "pretrained_", "notebook_", "export_", "video_", "tracker_")
TESTERS = ("pytest", "torchmetrics")  # of the extra dev
TESTS = (
    "public recipes streams streets timm windows faults_pictures faults_visual kitti samples teacher "
    "patch_alignment faults_values self_training resume cyclegan faults_weights export video trackers cli"
).split()


def lowest(requirement):
    "A requirement at the lowest version that it allows."
    match = re.match(r"([\w-]+)>=([\w.]+)(?:,|$)", requirement)
    if not match:
        sys.exit(f"settings.ini: {requirement} states no lowest version; write NAME>=VERSION")
    return f"{match[1]}=={match[2]}"


def requirements(which, root=ROOT):
    "What pip has to install."
    config = settings(root)
    stated = [line for kind in KINDS for line in config[f"{kind}requirements"].split()]
    stated += [line for line in config["dev_requirements"].split() if re.split("[>=<]", line)[0] in TESTERS]
    return list(map(lowest, stated)) if which == "lowest" else stated


def make(folder, which, interpreter):
    "A new environment with these versions, and the checkout. Its Python."
    subprocess.run([interpreter, "-m", "venv", "--clear", folder], check=True)
    python = folder / "bin" / "python"
    command = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    subprocess.run([*command, *requirements(which)], check=True, env=clean_variables())
    subprocess.run([*command, "--no-deps", "-e", str(ROOT)], check=True, env=clean_variables())
    return python


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("which", choices=["lowest", "newest"])
    parser.add_argument("--print", action="store_true", help="print the requirements, install nothing")
    parser.add_argument("--python", default=sys.executable, help="the interpreter that makes the environment")
    options = parser.parse_args()
    if options.print:
        print("\n".join(requirements(options.which)))
        return 0
    python = make(ROOT / "build" / options.which, options.which, options.python)
    tests = [ROOT / "tests" / f"test_{name}.py" for name in TESTS]
    command = [python, "-m", "pytest", "-p", "no:cacheprovider", "--durations=5", *tests]
    return subprocess.run(command, cwd=ROOT, env=clean_variables() | {"OMP_NUM_THREADS": "1"}).returncode


if __name__ == "__main__":
    sys.exit(main())
