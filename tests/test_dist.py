"""The wheel: built, checked, installed into an environment with the base requirements alone, and used from an empty folder."""

import ast
import json
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import install_dist
import pytest
from bare_environment import clean_variables, make_environment, required
from check_dist import ARCHIVED, check_folder, settings
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from uda_kit.core.extras import OPTIONAL, WITH_NOTEBOOKS
from uda_kit.doctor import REQUIRED

ROOT = Path(__file__).parent.parent
BASE = settings(ROOT)["requirements"].split()
CANNOT_BE_BASE = {"jupyterlab", "ipywidgets", "ipython", "notebook", "nbdev", "umap-learn", "numba", "timm", "pandas"}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    "What a release is built from, apart from the checkout, so that building leaves no trace in it."
    folder = tmp_path_factory.mktemp("source")
    for name in ARCHIVED:
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "uda_kit", folder / "uda_kit", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="module")
def dist(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, source]
    done = subprocess.run(command, capture_output=True, text=True, env=clean_variables())
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "Package would be ignored" not in done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def python(dist, tmp_path_factory):
    return make_environment(tmp_path_factory.mktemp("base") / "environment", next(dist.glob("*.whl")), BASE)


@pytest.fixture
def run(python, tmp_path, monkeypatch):
    "Run a program of the environment in an empty folder."

    def program(*argv, status=0):
        command = [python.parent / argv[0], *map(str, argv[1:])]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=clean_variables())
        assert done.returncode == status, done.stdout[-2000:] + done.stderr[-2000:]
        return done

    return program


def test_what_is_built_is_as_it_should_be(dist, source):
    assert check_folder(dist, source) == []


def rewritten(wheel, change):
    "The wheel after `change` of its files, a dictionary of names and contents."
    with zipfile.ZipFile(wheel) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    change(files)
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def edited(part, old, new):
    "A change: `old` becomes `new` in the file whose name ends in `part`."

    def change(files):
        name = next(name for name in files if name.endswith(part))
        assert old in files[name]
        files[name] = files[name].replace(old, new)

    return change


@pytest.mark.parametrize(
    "change, parts",
    [
        (lambda files: files.pop("uda_kit/py.typed"), ["uda_kit/py.typed", "missing"]),
        (lambda files: files.pop("uda_kit/results/published/patch_1.csv"), ["patch_1.csv", "missing"]),
        (lambda files: files.update({"tests/test_x.py": b""}), ["tests/test_x.py", "does not belong"]),
        (lambda files: files.update({"uda_kit/old.py": b""}), ["uda_kit/old.py", "does not belong"]),
        (edited("uda_kit/__init__.py", b"import", b"import "), ["uda_kit/__init__.py", "checkout"]),
        (edited("uda_kit/__init__.py", b"import", b"import "), ["RECORD", "uda_kit/__init__.py"]),
        (lambda files: files.update({"uda_kit/big.csv": bytes(range(256)) * 2**14}), ["does not belong"]),
        (edited("METADATA", b"torch>=2.10", b"torch>=2.1"), ["base install", "torch>=2.10"]),
        (edited("METADATA", b'umap-learn>=0.5.7; extra == "notebooks"', b"umap-learn>=0.5.7"), ["umap-learn"]),
        (edited("METADATA", b"Requires-Python: >=3.11", b"Requires-Python: >=3.8"), ["requires_python", "3.11"]),
        (edited("METADATA", b"License-Expression: Apache-2.0", b"License-Expression: Apache 2"), ["not valid"]),
        (edited("METADATA", b"## Licence", b"[x](nbs/x.ipynb)\n## Licence"), ["nbs/x.ipynb", "checkout"]),
        (edited("entry_points.txt", b"uda_kit.cli:main", b"uda_kit.cli:start"), ["uda_kit.cli:main"]),
        (edited("WHEEL", b"py3-none-any", b"cp311-cp311-linux"), ["every Python 3"]),
    ],
)
def test_faults_of_a_wheel_are_named(dist, source, tmp_path, change, parts):
    shutil.copytree(dist, tmp_path / "dist")
    wheel = next((tmp_path / "dist").glob("*.whl"))
    rewritten(wheel, change)
    wrong = check_folder(tmp_path / "dist", source)
    assert any(all(part in line for part in parts) for line in wrong), wrong


def test_faults_of_a_folder_are_named(dist, source, tmp_path):
    folder = tmp_path / "dist"
    shutil.copytree(dist, folder)
    wheel, archive = next(folder.glob("*.whl")), next(folder.glob("*.tar.gz"))
    wheel.write_bytes(wheel.read_bytes()[:5000])
    (folder / "uda_kit-0.0.1-py3-none-any.whl").touch()
    archive.unlink()
    wrong = "\n".join(check_folder(folder, source))
    assert "cannot be read" in wrong and "uda_kit-0.0.1" in wrong and "source archive is missing" in wrong


def test_faults_of_a_source_archive_are_named(dist, source, tmp_path):
    folder = tmp_path / "dist"
    shutil.copytree(dist, folder)
    archive = next(folder.glob("*.tar.gz"))
    with tarfile.open(archive) as file:
        file.extractall(tmp_path, filter="data")
    top = tmp_path / archive.name.removesuffix(".tar.gz")
    (top / "settings.ini").unlink()
    (top / "notes.txt").touch()
    with tarfile.open(archive, "w:gz") as file:
        file.add(top, top.name)
    wrong = "\n".join(check_folder(folder, source))
    assert "settings.ini is missing" in wrong and "notes.txt does not belong" in wrong


def test_base_install_is_small():
    names = set(required(BASE))
    assert {"torch", "scikit-learn"} <= names and not names & CANNOT_BE_BASE


def test_demo_from_an_empty_folder(run, python, tmp_path):
    where = run("python", "-c", "import uda_kit; print(uda_kit.__file__, uda_kit.__version__)").stdout.split()
    assert where[0].startswith(str(python.parent.parent)) and where[1] == settings(ROOT)["version"]
    done = run("uda-kit", "demo", "--steps", 5, "--no-progress")
    record = json.loads(done.stdout.splitlines()[-1])
    assert (record["network"], record["steps"]) == ("tiny", 10) and 0 <= record["miou"] <= 1
    assert 'pip install "uda_kit[pretrained]"' in done.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["runs"]
    assert (tmp_path / "runs/demo/report.md").is_file() and (tmp_path / "runs/demo/figures/samples.png").is_file()


def test_base_install_says_which_extra_is_missing(run, tmp_path):
    text = run("uda-kit", "doctor").stdout
    assert "all required parts work" in text
    for _, extra, _ in OPTIONAL.values():
        assert f'fix: pip install "uda_kit[{extra}]"' in text
    refusal = run("uda-kit", "demo", "--network", "lite0", status=2).stderr
    assert refusal == (
        "uda-kit: timm: is not installed, and the demo's lite0 needs it; "
        'install it with: pip install "uda_kit[pretrained]"\n'
    )
    assert not list(tmp_path.iterdir())


MISSING = """
import importlib, pkgutil
import numpy as np
import uda_kit
from uda_kit.core.errors import expect_error

for module in pkgutil.walk_packages(uda_kit.__path__, "uda_kit."):
    importlib.import_module(module.name)  # none needs an extra
names = [getattr(uda_kit, name) for name in uda_kit.__all__]

from uda_kit.visual.embedding import place_pca, place_umap
from uda_kit.visual.explorers.scenes import SceneExplorer

points = np.random.default_rng(0).normal(size=(30, 5)).astype(np.float32)
assert place_pca(points, 0, False).shape == (30, 2)
print(expect_error(place_umap, points, 0, False))
explorer = SceneExplorer()
print(expect_error(explorer.show))
print(expect_error(uda_kit.deeplab_v2, 19, "lite0"))
"""


def test_features_of_the_library_say_it_too(run):
    lines = run("python", "-c", MISSING).stdout.splitlines()
    extras = [re.search(r'pip install "uda_kit\[(\w+)\]"', line)[1] for line in lines]
    assert extras == ["notebooks", "notebooks", "pretrained"], lines


def third_party():
    "Modules of others that the package imports, whether at once or when asked for."
    tops = set()
    for file in (ROOT / "uda_kit").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                tops |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                tops.add(node.module.split(".")[0])
    return tops - set(sys.stdlib_module_names) - {"uda_kit"}


def test_every_import_is_required_or_belongs_to_an_extra():
    elsewhere = {"lazy_loader", "google", "jupyter_client"}  # in the package's first lines; in Colab; with jupyterlab
    assert third_party() - elsewhere <= {*REQUIRED, *OPTIONAL, *WITH_NOTEBOOKS}
    required_names = {canonicalize_name(Requirement(text).name) for text in BASE}
    assert {canonicalize_name(name) for name, _ in REQUIRED.values()} == required_names - {"lazy-loader"}


def test_extras_install_what_they_are_said_to():
    config = settings(ROOT)
    extras = {
        "pretrained": config["pretrained_requirements"].split(),
        "notebooks": config["notebook_requirements"].split(),
        "export": config["export_requirements"].split(),
        "video": config["video_requirements"].split(),
        "trackers": config["tracker_requirements"].split(),
        "dev": config["dev_requirements"].split(),
    }
    for distribution, extra, _ in OPTIONAL.values():
        assert any(canonicalize_name(Requirement(text).name) == distribution for text in extras[extra]), distribution
    brought = required(extras["notebooks"])
    assert {name.lower() for name in WITH_NOTEBOOKS} <= set(brought)


def test_megabytes_of_an_installation_are_read_from_pips_log():
    log = """Collecting torch
  Downloading torch-2.15.0-cp311-cp311-manylinux_2_28_x86_64.whl.metadata (31 kB)
  Downloading torch-2.15.0-cp311-cp311-manylinux_2_28_x86_64.whl (1.1 GB)
  Using cached tqdm-4.70.1-py3-none-any.whl (78.5 kB)
Downloading nvidia_cudnn-9.whl (889.2 MB)
   -------- 889.2/889.2 MB 31.0 MB/s  0:00:28
Successfully installed nvidia-cudnn-9 torch-2.15.0 tqdm-4.70.1
"""
    size, count = install_dist.fetched(log)
    assert count == 3 and abs(size - (1100 + 0.0785 + 889.2)) < 1e-6
