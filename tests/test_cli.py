"""The command line: what it does, its exit status, and the one line it says when something is wrong."""
import json
import os
import pickle
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from uda_kit.cli import main
from uda_kit.models.checkpoints import FORMAT, read_header, save_weights
from uda_kit.models.segmenters import deeplab_v2

ROOT = Path(__file__).parent.parent
SAMPLES = ROOT/"data_samples"
SMALL = [f"stages.{i}.source.name=scenes:rendered?n=4&size=64x96" for i in (0, 1)] + ["stages.1.target.name=scenes:camera?n=4&size=64x96", "test.name=scenes:camera?n=2&size=64x96"]
SCENES = "scenes:camera?n=2&size=64x96"


@pytest.fixture
def kit(capsys, monkeypatch):
    "Run a command here; (exit status, standard output, standard error)."
    monkeypatch.delenv("UDA_KIT_DATA", raising=False)
    def run(*argv):
        try: status = main([str(a) for a in argv])
        except SystemExit as e: status = e.code
        return status or 0, *capsys.readouterr()
    return run


@pytest.fixture
def refused(kit):
    "Run a command that must end with status 2 and one line holding all of `parts`."
    def run(argv, *parts):
        status, out, err = kit(*argv)
        assert status == 2, (status, err)
        assert out == "" and len(err.splitlines()) == 1 and err.endswith("\n"), (out, err)
        for part in parts: assert str(part) in err, f"{part!r} not in {err!r}"
    return run


def weight_file(path, classes=19, space=None, **options):
    torch.manual_seed(0)
    return save_weights(deeplab_v2(classes, **options), path, space)


@pytest.fixture(scope="module")
def weights(tmp_path_factory): return weight_file(tmp_path_factory.mktemp("weights")/"tiny.safetensors")


def tree(folder): return {p.relative_to(folder).as_posix(): p.read_bytes() if p.is_file() else None for p in Path(folder).rglob("*")}


# --- commands, recipes and settings --------------------------------------------------------------------------------------

def test_unknown_command(refused):
    refused(["trian"], "trian", "is not a command", "did you mean train?")
    refused(["xyzzy"], "known: demo")


@pytest.mark.parametrize("argv,part", [(["train"], "RECIPE"), (["evaluate", "a.safetensors"], "DATA"), (["train", "scenes/oracle", "--resum"], "--resume"), (["train", "scenes/oracle", "--steps", "many"], "many"), (["doctor", "now"], "now")])
def test_arguments_that_make_no_sense(refused, argv, part): refused(argv, part)


def test_unknown_recipe(refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(["train", "scenes/multilevel"], "scenes/multilevel: is not a recipe", "did you mean scenes/multi-level")
    refused(["recipes", "show", "gta5/multilevel"], "gta5/multi-level")
    refused(["recipes", "shwo", "gta5/multi-level"], "shwo")
    refused(["recipes", "show"], "which recipe")
    assert not tree(tmp_path)


@pytest.mark.parametrize("setting,part", [
    ("stages.0.optimiser.lr", "write path=value"), ("stages.0.optimiser.rate=1", "known here: lr"), ("stages.7.steps=1", "known here: 0, 1"),
    ("stages.0.steps=many", "cannot be 'many'"), ("stages.0.net.backbon=tiny", "backbone"), ("stages.0.optimiser=3", "stages.0.optimiser")])
def test_bad_setting(refused, tmp_path, setting, part):
    refused(["train", "scenes/oracle", "--out", tmp_path/"run", "--set", setting], setting.split("=")[0], part)
    assert not tree(tmp_path)


@pytest.mark.parametrize("argv,part", [
    (["--steps", "0"], "--steps"), (["--roots", "camvid"], "NAME=VALUE"), (["--set", "space=cityscape19"], "cityscapes19"),
    (["--set", "stages.0.source.name=scenes:camara"], "camera"), (["--set", *(f"stages.{i}.net.backbone=resnet18" for i in (0, 1))], "resnet50"),
    (["--set", "stages.0.net.aspp_branches=2"], "its stages have different networks"), (["--seed", "-1"], "--seed"), (["--devices", "none"], "--devices"), (["--resume"], "holds no run")])
def test_bad_value(refused, tmp_path, argv, part):
    refused(["train", "scenes/oracle", "--out", tmp_path/"run", *argv], part)
    assert not tree(tmp_path)


def test_recipes(kit):
    status, out, err = kit("recipes")
    assert status == 0 and {"scenes/multi-level", "camvid/oracle", "gta5/multi-level", "synthia/single-level", "synscapes/least-squares"} <= {l.split()[0] for l in out.splitlines()}
    status, out, err = kit("recipes", "show", "gta5/multi-level")
    shown = json.loads(out)
    assert status == 0 and shown["stages"][0]["terms"]["adv"] == 1e-3 and shown["stages"][0]["optimiser"]["lr"] == 2.5e-4 and shown["rows"]


# --- data ----------------------------------------------------------------------------------------------------------------

def test_data_nobody_located(refused, tmp_path):
    refused(["train", "gta5/multi-level", "--out", tmp_path/"run"], "cityscapes", "nobody said where", "--roots cityscapes=FOLDER")
    refused(["train", "camvid/oracle", "--out", tmp_path/"run", "--roots", f"camvid={tmp_path/'nowhere'}"], tmp_path/"nowhere")
    refused(["evaluate", tmp_path/"none.safetensors", SCENES], tmp_path/"none.safetensors", "no such file")
    assert not tree(tmp_path)


@pytest.mark.parametrize("name", ["gta5", "synthia/RAND_CITYSCAPES", "camvid"])
def test_check_data_on_good_samples(kit, name):
    status, out, err = kit("check-data", f"{name.split('/')[0]}:{SAMPLES/name}", "--no-progress")
    assert status == 0 and "all well" in out.splitlines()[0] and "label format" in out, out + err


def test_check_data_on_broken_samples(kit, tmp_path):
    broken = Path(shutil.copytree(SAMPLES/"camvid", tmp_path/"camvid"))
    cut, label = broken/"images"/"0001TP_000001.jpg", broken/"labels"/"0001TP_000002.png"
    cut.write_bytes(cut.read_bytes()[:200]); label.write_bytes(b"")
    status, out, err = kit("check-data", f"camvid:{broken}", "--no-progress")
    assert status == 1 and "problems" in out.splitlines()[0] and str(cut) in out and str(label) in out, out + err


def test_check_data_on_nonsense(refused, tmp_path):
    refused(["check-data", "nonsense"], "NAME:ROOT")
    refused(["check-data", "citiscapes:/data"], "did you mean 'cityscapes'")
    refused(["check-data", f"gta5:{tmp_path/'nowhere'}"], tmp_path/"nowhere", "no such folder")


# --- output folders ------------------------------------------------------------------------------------------------------

def test_folders_that_are_taken(kit, refused, tmp_path):
    run, full, file = tmp_path/"run", tmp_path/"full", tmp_path/"file"
    full.mkdir(); (full/"notes.txt").write_text("mine"); file.write_text("mine")
    train = ["train", "scenes/source-only", "--steps", "1", "--no-progress", "--set", *SMALL[:2], "test.name=" + SCENES, "--out"]
    status, out, err = kit(*train, run)
    record = json.loads(out.splitlines()[-1])
    assert status == 0 and record["steps"] == 2 and 0 <= record["miou"] <= 1 and {"iou", "seconds", "peak_gib"} <= record.keys(), err
    before = tree(tmp_path)
    refused([*train, run], run, "already holds a run", "--resume")
    refused([*train, run, "--seed", "1", "--resume"], run, "another configuration", "seed")
    refused([*train, full], full, "is not empty and holds no run")
    refused([*train, full, "--resume"], full, "holds no run")
    refused([*train, file], file, "is a file")
    refused(["demo", "--out", full], full)
    assert tree(tmp_path) == before


def test_dry_run_writes_nothing(kit, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, err = kit("train", "scenes/multi-level", "--dry-run", "--steps", "1", "--no-progress", "--set", *SMALL)
    record = json.loads(out.splitlines()[-1])
    assert status == 0 and record["dry_run"] and record["seconds_per_step"] > 0 and record["peak_gib"] > 0, err
    assert not tree(tmp_path)


# --- weight files --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("options,part", [(dict(classes=11), "11 classes, not 19"), (dict(multi_level=False), "multi_level is False there, True here"), (dict(backbone="vgg16", multi_level=False), "backbone is vgg16 there, tiny here")])
def test_training_from_weights_of_another_network(refused, tmp_path, options, part):
    file = weight_file(tmp_path/"w.safetensors", **options)
    refused(["train", "scenes/oracle", "--weights", file, "--out", tmp_path/"run"], file, part)
    assert not (tmp_path/"run").exists()


def rewritten(weights, path, **config):
    "A weight file whose header tells of another network."
    header = {k: v if isinstance(v, str) else json.dumps(v) for k, v in read_header(weights).items()}
    save_file(load_file(weights), path, header | {"format": FORMAT, "config": json.dumps(read_header(weights)["config"] | config)})
    return path


def test_evaluating_weights_that_do_not_fit(refused, weights, tmp_path):
    file = tmp_path/"w.safetensors"
    refused(["evaluate", rewritten(weights, file, num_classes=11), SCENES], file, "19 classes, not 11")
    refused(["evaluate", rewritten(weights, file, backbone="resnet50"), SCENES], file, "another network")
    refused(["evaluate", rewritten(weights, file, backbone="hugenet"), SCENES], "hugenet", "choose tiny")
    refused(["evaluate", weight_file(file, 7), SCENES], "7")  # of no label space
    refused(["evaluate", weights, SCENES, "--size", "64"], "HEIGHTxWIDTH")


@pytest.mark.parametrize("command", [["evaluate", SCENES], ["predict", str(SAMPLES/"camvid"/"images")], ["train", "scenes/oracle"]])
@pytest.mark.parametrize("kept", [0, 5, 300, -1])
def test_truncated_weights(refused, weights, tmp_path, command, kept):
    cut, out = tmp_path/"cut.safetensors", tmp_path/"out"
    cut.write_bytes(weights.read_bytes()[:kept])
    word, what = command
    argv = {"evaluate": [word, cut, what], "predict": [word, cut, what, "--out", out], "train": [word, what, "--weights", cut, "--out", out]}[word]
    refused(argv, cut, "not a whole safetensors file")
    assert not out.exists()


class Malicious:
    def __init__(self, trace): self.trace = trace
    def __reduce__(self): return os.system, (f"touch {shlex.quote(str(self.trace))}",)


@pytest.mark.parametrize("write", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))], ids=["torch.save", "pickle"])
def test_malicious_pickle(refused, tmp_path, write):
    bad, trace, out = tmp_path/"bad.pth", tmp_path/"trace", tmp_path/"out.safetensors"
    write({"layer5.conv2d_list.0.weight": torch.zeros(19, 8, 3, 3), "more": Malicious(trace)}, bad)
    refused(["convert", bad, out], bad, "nothing in it was run")
    assert not trace.exists() and not out.exists() and {p.name for p in tmp_path.iterdir()} == {"bad.pth"}


def test_convert_refuses_what_is_no_checkpoint(refused, tmp_path):
    refused(["convert", tmp_path/"none.pth", tmp_path/"o.safetensors"], "none.pth", "no such file")
    torch.save({"a": torch.zeros(2)}, tmp_path/"a.pth")
    refused(["convert", tmp_path/"a.pth", tmp_path/"o.safetensors"], "a.pth", "no classifiers")
    assert not (tmp_path/"o.safetensors").exists()


# --- commands that end well ----------------------------------------------------------------------------------------------

def test_evaluate(kit, refused, weights, tmp_path):
    status, out, err = kit("evaluate", weights, SCENES, "--no-progress", "--report", tmp_path/"report", "--oracle", "0.9")
    record = json.loads(out.splitlines()[-1])
    assert status == 0 and 0 <= record["miou"] <= 1 and record["images"] == 2 and len(record["iou"]) == 19, err
    assert {"19", "16", "13"} <= record["miou_over"].keys() and {"seconds", "peak_gib", "mapping"} <= record.keys()
    assert (tmp_path/"report"/"report.md").is_file() and abs(record["miou"] - 0.9 - record["gap"]) < 1e-5
    before = tree(tmp_path)
    refused(["evaluate", weights, SCENES, "--report", tmp_path/"report"], tmp_path/"report", "already holds files")
    refused(["evaluate", weights, SCENES, "--oracle", "65.1"], "--oracle 65.1", "0.651")
    assert tree(tmp_path) == before


def test_predict(kit, refused, weights, tmp_path):
    argv = ["predict", weights, SAMPLES/"camvid"/"images", "--out", tmp_path/"out", "--size", "64x96", "--space", "cityscapes19", "--no-progress"]
    status, out, err = kit(*argv)
    written = [p for p in (tmp_path/"out").rglob("*") if p.is_file()]
    assert status == 0 and "4 images" in out and len(written) >= 16, err
    before = tree(tmp_path)
    refused(argv, tmp_path/"out")
    assert tree(tmp_path) == before
    refused([*argv[:3], "--out", tmp_path/"other"], "19 classes and no names")
    refused(["predict", weights, tmp_path/"nowhere", "--out", tmp_path/"other"], tmp_path/"nowhere")
    assert not (tmp_path/"other").exists()


def test_doctor(kit):
    status, out, err = kit("doctor")
    assert status == 0 and all(word in out for word in ("torchvision", "threads", "python")), out + err


# --- what loading costs --------------------------------------------------------------------------------------------------

def python(code):
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return time.perf_counter() - began, done.stdout


def test_importing_the_kit_is_quick():
    pairs = [(python("pass")[0], python("import uda_kit")[0]) for _ in range(3)]
    bare, kit = (min(times) for times in zip(*pairs))
    assert kit - bare < 0.2, f"{kit:.2f} s, bare Python {bare:.2f} s"


@pytest.mark.parametrize("argv", [["--help"], ["train", "--help"], ["recipes", "--help"]])
def test_help_loads_nothing_heavy(argv):
    code = f"import sys\nfrom uda_kit.cli import main\ntry: main({argv!r})\nexcept SystemExit as e: assert not e.code\n" \
           "print('LOADED', *sorted({'umap', 'sklearn', 'IPython', 'nbdev', 'jupyterlab', 'matplotlib', 'torch', 'torchvision', 'lightning_fabric'} & set(sys.modules)))"
    out = python(code)[1]
    assert "uda-kit" in out and out.splitlines()[-1].strip() == "LOADED"


def test_training_modules_load_no_extras():
    code = "import sys, uda_kit.papers.running, uda_kit.training.evaluation, uda_kit.data.check\n" \
           "print(*sorted({'umap', 'sklearn', 'IPython', 'nbdev', 'jupyterlab'} & set(sys.modules)))"
    assert python(code)[1].strip() == ""


def test_console_script():
    done = subprocess.run([Path(sys.executable).parent/"uda-kit", "trian"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.splitlines() == ["uda-kit: trian: is not a command; did you mean train?"]
