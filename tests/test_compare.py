"""Comparing runs through the command: paired differences, one page that fetches nothing, an explorer that opens it, refusals."""

import json
import re

import numpy as np
import pytest
import torch
from refusals import refused, refused_command, run_command

from uda_kit import TrainingExplorer, evaluate, open_dataset, save_weights
from uda_kit.core.records import write_json
from uda_kit.data.labels import CITYSCAPES19, SYNTHIA16
from uda_kit.evaluation.compare import (
    class_difference,
    group_table,
    grouped,
    mean_difference,
    read_run,
    read_runs,
    runs_in,
)
from uda_kit.models.segmenters import deeplab_v2

SCENES = "scenes:camera?n=3&size=64x96"


def finished_run(folder, recipe, seed, strength, space=CITYSCAPES19, data=SCENES, protocol=""):
    "What a finished run leaves behind, of a network with random weights."
    folder.mkdir()
    torch.manual_seed(100 * strength + seed)
    net = deeplab_v2(len(space))
    for conv in net.main.convs:
        conv.weight.data.mul_(strength)
    evaluate(net, open_dataset(data, "test"), space=space, progress=False).save(folder / "evaluation.json")
    save_weights(net, folder / "weights.safetensors", space)
    settings = {"name": recipe, "stages": [], "protocol": protocol}
    write_json(folder / "config.json", {"recipe": settings, "options": {"seed": seed}})
    lines = [json.dumps({"stage": "adapt", "step": k, "loss/seg": strength / k}) + "\n" for k in range(1, 6)]
    (folder / "log.jsonl").write_text("".join(lines))
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    above = tmp_path_factory.mktemp("runs")
    base = [finished_run(above / f"base{seed}", "scenes/source-only", seed, 1) for seed in (0, 1)]
    return base + [finished_run(above / f"new{seed}", "a<b>&\"c'", seed, 20) for seed in (1, 0, 2)]


def test_page_and_record(runs, tmp_path):
    page = tmp_path / "pages" / "compare.html"
    argv = ["compare", *runs, "--out", page, "--data", SCENES, "--split", "test", "--pictures", 2]
    status, out, err = run_command(*argv)
    assert status == 0, err
    base, new = json.loads(out.splitlines()[-1])["groups"]
    scores = {folder.name: read_run(folder).evaluation.miou for folder in runs}
    gains = [scores["new0"] - scores["base0"], scores["new1"] - scores["base1"]]
    assert max(map(abs, gains)) > 1e-3 and gains[0] != gains[1]
    assert new["paired_seeds"] == 2 and len(new["runs"]) == 3 and base["difference"] == 0
    assert np.isclose(new["difference"], np.mean(gains)) and np.isclose(new["spread"], np.std(gains, ddof=1))
    html = page.read_text()
    assert "a<b>" not in html and "a&lt;b&gt;" in html
    fetched = re.findall(r"""(?:src|href)=["']?([^"'> ]{0,12})""", html) + re.findall(r"url\(|@import", html)
    assert len(fetched) == 3 and all(address.startswith("data:image") for address in fetched)
    refused_command(argv, "exists", "--overwrite")
    assert run_command(*argv, "--overwrite")[0] == 0


def test_the_explorer_opens_the_page(runs, tmp_path):
    page = tmp_path / "compare.html"
    assert run_command("compare", *runs, "--out", page)[0] == 0
    explorer = TrainingExplorer(page, open_dataset(SCENES, "test"), count=1, size=None, progress=False)
    names = explorer.controls["run"].options
    assert len(names) == 5 and explorer.path.resolve() == runs[0]
    first = dict(explorer.curves.panels["loss"])
    explorer.set(run=names[2])
    assert explorer.path.resolve() == runs[2] and explorer.curves.panels["loss"] != first
    picture = explorer.parts()["prediction"]
    single = TrainingExplorer(runs[2], open_dataset(SCENES, "test"), count=1, size=None, progress=False)
    assert "run" not in single.controls and np.array_equal(picture, single.parts()["prediction"])
    (tmp_path / "other.html").write_text("<p>no comparison")
    refused(lambda: TrainingExplorer(tmp_path / "other.html"), "no comparison of runs")


def test_what_cannot_be_compared_is_refused(runs, tmp_path):
    narrow = finished_run(tmp_path / "narrow", "other", 0, 1, SYNTHIA16)
    other = finished_run(tmp_path / "other", "other", 0, 1, data="scenes:camera?n=2&size=64x96")
    reseeded = finished_run(tmp_path / "reseeded", "other", 0, 1, data="scenes:camera?n=3&size=64x96&seed=2")
    resized = finished_run(tmp_path / "resized", "other", 0, 1)
    evaluation = json.loads((resized / "evaluation.json").read_text())
    (resized / "evaluation.json").write_text(json.dumps(evaluation | {"size": [32, 48]}))
    empty = tmp_path / "empty"
    empty.mkdir()
    page = tmp_path / "page.html"

    def wrong(*folders):
        return ["compare", *folders, "--out", page]

    refused_command(wrong(runs[0], narrow), "narrow", "label space", untouched=tmp_path)
    refused_command(wrong(runs[0], other), "2 images", "same images", untouched=tmp_path)
    refused_command(wrong(runs[0], reseeded), "other images", "same images", untouched=tmp_path)
    refused_command(wrong(runs[0], resized), "32x48", "score both alike", untouched=tmp_path)
    refused_command(wrong(runs[0], runs[0]), "twice", untouched=tmp_path)
    refused_command(wrong(runs[0]), "two or more", untouched=tmp_path)
    refused_command(wrong(runs[0], empty), "evaluation.json", untouched=tmp_path)
    refused_command(wrong(runs[0], tmp_path / "none"), "no folder", untouched=tmp_path)
    argv = ["--data", "scenes:camera?n=2&size=64x96", "--split", "test"]
    refused_command([*wrong(*runs[:2]), *argv], "different data", untouched=tmp_path)


def test_equal_folder_names_and_other_weights_stay_apart(tmp_path):
    folders = []
    for above in ("first", "second"):
        (tmp_path / above).mkdir()
        folders.append(finished_run(tmp_path / above / "seed0", "scenes/source-only", 0, 1 + len(folders)))
    config = json.loads((folders[1] / "config.json").read_text())
    write_json(folders[1] / "config.json", config | {"weights": "other.safetensors"})
    groups = grouped([read_run(folder) for folder in folders])
    assert [group.name for group in groups] == [f"scenes/source-only ({above}/seed0)" for above in ("first", "second")]
    page = tmp_path / "page.html"
    assert run_command("compare", *folders, "--out", page)[0] == 0
    assert len(runs_in(page)) == 2


def test_networks_that_were_scored_alone_stay_apart(tmp_path):
    folders = []
    for above in ("first", "second"):
        (tmp_path / above).mkdir()
        folders.append(finished_run(tmp_path / above / "report", "any", 0, 1 + len(folders)))
        (folders[-1] / "config.json").unlink()
    groups = grouped(read_runs(folders))
    assert [group.name for group in groups] == ["report (first/report)", "report (second/report)"]
    assert mean_difference(*groups).seeds == 0


def test_the_mean_is_that_of_the_protocol(runs, tmp_path):
    over = {"base0": "13", "base1": "13", "new0": "13", "new1": "13"}
    folders = []
    for name, protocol in over.items():
        group, seed = name[:-1], int(name[-1])
        folders.append(finished_run(tmp_path / name, group, seed, 1 + 19 * (group == "new"), protocol=protocol))
    groups = grouped(read_runs(folders))
    expected = [[run.evaluation.means()["13"] for run in group.runs] for group in groups]
    assert any(run.evaluation.miou != run.miou for group in groups for run in group.runs)
    gains = np.subtract(expected[1], expected[0])
    gain = mean_difference(*groups)
    assert gain.seeds == 2 and np.isclose(gain.mean, gains.mean()) and np.isclose(gain.spread, gains.std(ddof=1))
    assert len(class_difference(*groups).mean) == 19 and "mIoU over 13" in str(group_table(groups))
    status, out, err = run_command("compare", *folders, "--out", tmp_path / "page.html")
    record = json.loads(out.splitlines()[-1])["groups"]
    assert status == 0 and [entry["over"] for entry in record] == [13, 13], err
    assert np.allclose([entry["miou"] for entry in record], np.mean(expected, axis=1))
    # another mean is refused; a network that was scored alone is averaged as the runs beside it
    refused(lambda: read_runs([folders[0], runs[0]]), "over 19 classes", "over 13")
    (folders[3] / "config.json").unlink()
    alone = grouped(read_runs([folders[3], folders[0]]))
    assert [group.runs[0].over for group in alone] == [13, 13]
    assert np.isclose(mean_difference(*alone).mean, expected[0][0] - expected[1][1])
    write_json(folders[0] / "config.json", {"recipe": {"name": "x", "protocol": "7"}})
    refused(lambda: read_run(folders[0]), "averages over 7 classes", "19, 16, 13")


def test_a_run_on_another_drive(runs, tmp_path, monkeypatch):
    def on_windows(path, start):
        raise ValueError("path is on mount 'D:', start on mount 'C:'")

    monkeypatch.setattr("os.path.relpath", on_windows)
    page = tmp_path / "page.html"
    assert run_command("compare", *runs, "--out", page)[0] == 0
    assert [folder.resolve() for folder in runs_in(page).values()] == [run.resolve() for run in runs]


def test_the_explorer_shows_the_runs_that_have_a_log(tmp_path):
    folders = [finished_run(tmp_path / f"seed{seed}", "scenes/source-only", seed, 1) for seed in (0, 1, 2)]
    page = tmp_path / "page.html"
    assert run_command("compare", *folders, "--out", page)[0] == 0
    (folders[0] / "log.jsonl").unlink()  # scored, and its log thrown away
    explorer = TrainingExplorer(page, progress=False)
    first, second = explorer.controls["run"].options
    (folders[2] / "log.jsonl").unlink()
    refused(lambda: explorer.set(run=second), "has no log")
    assert explorer.values.run == first and explorer.path.resolve() == folders[1]
    (folders[1] / "log.jsonl").unlink()
    refused(lambda: TrainingExplorer(page, progress=False), "has no log")
