"""The tutorials as a reader has them: in JupyterLab, in a browser, run from top to bottom; every explorer's controls are moved.

Screenshots are left in build/screenshots. Networks are trained for a handful of steps, so this says nothing about results."""

import shutil
from pathlib import Path

import browser
import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
TUTORIALS = sorted(p.relative_to(ROOT) for p in ROOT.glob("nbs/tutorials/*.ipynb"))
SHOTS = ROOT / "build" / "screenshots"
STEPS = {"UDA_KIT_LESSON_STEPS": "4", "MPLBACKEND": "agg"}
WHY = "no browser: `make browser` installs Chromium where apt-get may; the notebooks ran in a kernel alone"


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    "The notebooks, without outputs, beside an empty place for runs."
    folder = tmp_path_factory.mktemp("lab")
    shutil.copytree(ROOT / "nbs", folder / "nbs", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    for file in folder.glob("nbs/tutorials/*.ipynb"):
        book = nbformat.read(file, 4)
        for cell in book.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
        nbformat.write(book, file)
    return folder


@pytest.fixture(scope="module")
def address(copy):
    if not browser.chromium():
        yield None
    else:
        with browser.lab(copy, STEPS) as found:
            yield found


# What may move without anything being drawn anew: a menu that says what another control is about; the one checkpoint of a run of four steps.
QUIET = {("10_gap", "SceneExplorer", "class"), ("60_own_data", "TrainingExplorer", "checkpoint")}


def move_everything(explorer, name, lesson):
    "Each control, until what is drawn changes. Returns labels of those that changed nothing."
    idle = []
    for label, kind, element in browser.controls(explorer):
        if (lesson, name, label) in QUIET:
            continue
        ways = browser.moves(kind, element)
        for move in ways:
            before = browser.drawn(explorer)
            move()
            if browser.changes(explorer, before, 3):
                break
        else:
            if ways:
                idle.append(label)
        said = browser.messages(explorer)
        assert not any("Error:" in s for s in said), f"{name}, {label}: {said}"
    return idle


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda p: p.stem)
def test_tutorial(path, copy, address, monkeypatch):
    if address is None:
        for name, value in STEPS.items():
            monkeypatch.setenv(name, value)
        file = copy / path
        NotebookClient(
            nbformat.read(file, 4),
            timeout=1200,
            kernel_name="python3",
            resources={"metadata": {"path": str(file.parent)}},
        ).execute()
        pytest.skip(WHY)
    SHOTS.mkdir(parents=True, exist_ok=True)
    with browser.page() as view:
        browser.open_notebook(view, address, path)
        browser.run_all(view)
        explorers = view.locator(".uda-explorer")
        for k in range(explorers.count()):
            explorer = explorers.nth(k)
            explorer.scroll_into_view_if_needed()
            name = explorer.get_attribute("class").split("uda-")[-1].split()[0]
            explorer.screenshot(path=SHOTS / f"{path.stem}_{k}_{name}.png")
            idle = move_everything(explorer, name, path.stem)
            assert not idle, f"{name}: nothing changed when these were moved: {idle}"
            if name == "AlignmentExplorer":
                assert browser.hover_a_point(explorer, view), "the pointer found no point"
            explorer.screenshot(path=SHOTS / f"{path.stem}_{k}_{name}_moved.png")
        assert not browser.broken_widgets(view) and not browser.error(view) and not view.said
        view.screenshot(path=SHOTS / f"{path.stem}.png")
        view.goto("about:blank")
