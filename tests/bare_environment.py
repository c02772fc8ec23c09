"""An environment that holds what the base install holds and no more, made in a second from the packages of this one.

`pip install` would fetch torch once more, which takes minutes. So the distributions that the wheel requires are linked,
and pip installs the wheel alone. `make dist-check` installs everything from the package index."""

import os
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def required(requirements):
    "Distributions that some requirements need, with all that these need in turn."
    waiting, names = [(Requirement(text), "") for text in requirements], {}
    while waiting:
        requirement, extra = waiting.pop()
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": extra})
        name = canonicalize_name(requirement.name)
        wanted = {"", *requirement.extras} - names.get(name, set())
        if not applies or not wanted:
            continue
        names.setdefault(name, set()).update(wanted)
        for more in metadata.distribution(name).requires or ():
            waiting += [(Requirement(more), one) for one in wanted]
    return sorted(names)


def top_entries(name):
    "Files and folders directly in site-packages that a distribution consists of."
    distribution = metadata.distribution(name)
    tops = {file.parts[0] for file in distribution.files or () if file.parts[0] not in ("..", "__pycache__")}
    return [Path(str(distribution.locate_file(top))) for top in sorted(tops)]


def make_environment(folder, wheel, requirements):
    "Its Python. Only the distributions that `requirements` need are there, and the wheel."
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    for name in required(requirements):
        for entry in top_entries(name):
            if not (packages / entry.name).exists():
                (packages / entry.name).symlink_to(entry)
    command = ["-m", "pip", "--python", str(python), "install", "-q", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([sys.executable, *command], check=True, env=clean_variables())  # or pip sees the checkout
    return python


def clean_variables():
    "The environment of a process that does not know the checkout."
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "UDA_KIT"))}
