"""The command line: exit statuses, one-line complaints, the JSON at the end, and a quick start. In this process where that is enough."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from refusals import refused_command, run_command

from uda_kit.cli import main
from uda_kit.models.checkpoints import save_weights
from uda_kit.models.segmenters import deeplab_v2

ROOT = Path(__file__).parent.parent
SAMPLES = ROOT / "data_samples"
QUICK = [
    "--no-progress",
    "--set",
    *(f"stages.{i}.source=scenes:rendered?n=4&size=64x96" for i in (0, 1)),
    "test=scenes:camera?n=2&size=64x96",
    *(f"stages.{i}.source.batch_size=1" for i in (0, 1)),
]

TRANSLATE = [
    "translate",
    "--source",
    "scenes:rendered?n=4&size=64x96",
    "--target",
    "scenes:camera?n=4&size=64x96",
    "--out",
    "translated",
    "--no-progress",
]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("UDA_KIT_DATA", raising=False)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    return save_weights(deeplab_v2(19, backbone="tiny"), tmp_path_factory.mktemp("net") / "net.safetensors")


def run(capsys, *argv):
    "Run; the lines of standard output."
    assert main([str(a) for a in argv]) == 0, capsys.readouterr()
    return capsys.readouterr().out.splitlines()


def program(*argv, **kwargs):
    return subprocess.run(
        [sys.executable, "-c", "import sys; from uda_kit.cli import main; sys.exit(main())", *map(str, argv)],
        capture_output=True,
        text=True,
        **kwargs,
    )


@pytest.mark.parametrize(
    "argv, parts",
    [
        (["trian", "x"], ["trian", "did you mean train?"]),
        (["train", "gta5/multilevel"], ["gta5/multi-level"]),
        (["train"], ["RECIPE"]),
        (["train", "scenes/oracle", "--stpes", "3"], ["--stpes", "did you mean --steps?"]),
        (["train", "scenes/oracle", "--steps", "many"], ["--steps", "many"]),
        (["train", "scenes/oracle", "--steps", "0"], ["--steps 0"]),
        (["train", "scenes/oracle", "--precision", "16"], ["--precision"]),
        (["train", "scenes/oracle", "--log-every", "0"], ["--log-every 0"]),
        (["train", "scenes/oracle", "--seed", "-1"], ["--seed"]),
        (["train", "scenes/oracle", "--devices", "none"], ["--devices none"]),
        (["train", "scenes/oracle", "--set", "stages.0.stps=3"], ["stages.0.stps", "steps"]),
        (["train", "scenes/oracle", "--weights", "none.safetensors"], ["none.safetensors"]),
        (["train", "scenes/oracle", "--resume"], ["runs/scenes-oracle-seed0", "no run"]),
        (["train", "scenes/oracle", "--target", "scenes:camera"], ["--target"]),
        (["train", "scenes/oracle", "--record", "--set", "stages.0.steps=3"], ["--record", "--set"]),
        (["train", "gta5/oracle"], ["cityscapes", "--roots cityscapes="]),
        (["train", "gta5/oracle", "--roots", "cityscapes=none"], ["none", "does not exist"]),
        (["train", "gta5/oracle", "--roots", "cityscaps=."], ["did you mean cityscapes?"]),
        (["train", "camvid/oracle", "--roots", "camvid=."], ["dusk_test"]),
        (["recipes", "show", "scenes/multi"], ["scenes/multi-level"]),
        (["recipes", "list", "zebra"], ["zebra"]),
        (["evaluate", "none.safetensors", "scenes:camera"], ["none.safetensors"]),
        (["evaluate", "x", "scenes:camera", "--size", "large"], ["--size large", "HEIGHTxWIDTH"]),
        (["evaluate", "x", "scenes:camera", "--oracle", "65"], ["0.651"]),
        (["evaluate", "x", "scenes:camera", "--oracle", "none.json"], ["none.json"]),
        (["predict", "x", "none", "--out", "y"], ["none", "does not exist"]),
        (
            ["predict", "x", str(SAMPLES / "camvid/images"), "--out", "y", "--split", "val"],
            ["--split val", "no data set"],
        ),
        (["compare", "a", "b", "--split", "val"], ["--split", "--data"]),
        (["compare", "a", "b", "--pictures", "2"], ["--pictures", "--data"]),
        (["train", "scenes/oracle", "--dry-run", "--out", "run"], ["--out", "dry run"]),
        (["train", "scenes/oracle", "--dry-run", "--record"], ["--record", "dry run"]),
        (["train", "scenes/oracle", "--dry-run", "--validate-every", "5"], ["--validate-every", "dry run"]),
        (["predict", "x", "*.bmp", "--out", "y"], ["matches no file"]),
        (["check-data", "camvid"], ["NAME:ROOT"]),
        (["check-data", "camvid:none"], ["none"]),
        (["check-data", f"camvid:{SAMPLES / 'camvid'}", "--split", "evening"], ["evening"]),
        (["convert", "none.pth", "out.safetensors"], ["none.pth"]),
        (["convert", "none.pth", "out.pth"], [".safetensors"]),
        (["convert", "none.pth", "."], ["is a folder", ".safetensors"]),
        (["demo", "--steps", "0"], ["--steps 0"]),
        (["bench", "table", "scene"], ["did you mean scenes?"]),
        (["bench", "table", "scenes", "--rows", "multilevel"], ["multi-level"]),
        (["bench", "step", "fast"], ["fast"]),
        (["bench", "table", "scenes", "--paper", "patch_alignmnt"], ["patch_alignmnt", "patch_alignment"]),
        (
            ["bench", "table", "scenes", "--rows", "fu-patch", "--paper", "output_space"],
            ["fu-patch", "patch_alignment"],
        ),
        (["train", "scenes/pi", "--steps", "1", "--out", "run"], ["scenes-translated", "--roots scenes-translated="]),
        (["train", "scenes/pi", "--roots", "scenes-translate=."], ["did you mean scenes-translated?"]),
        ([*TRANSLATE, "--how", "statistic"], ["statistic", "did you mean 'statistics'?"]),
        ([*TRANSLATE, "--how", "fourier:2"], ["fourier:2", "0.5"]),
        ([*TRANSLATE, "--seed", "-1"], ["--seed -1"]),
        ([*TRANSLATE, "--source-split", "evening"], ["evening", "train"]),
        (["translate", "--source", "gta5:none", "--target", "scenes:camera", "--out", "translated"], ["none"]),
        (["translate", "--source", "scenes:rendered", "--out", "translated"], ["--target"]),
    ],
    ids=lambda v: (
        " ".join(v)
        if v
        and v[0]
        in ("train", "demo", "recipes", "evaluate", "predict", "check-data", "convert", "bench", "trian", "translate")
        else ""
    ),
)
def test_mistakes_get_one_line_and_nothing_is_written(tmp_path, argv, parts):
    refused_command(argv, *parts)
    assert not list(tmp_path.iterdir())


def test_help_and_version(capsys):
    assert "train" in "".join(run(capsys, "--help")) and "check-data" in "".join(run(capsys))
    assert run(capsys, "--version")[0].startswith("uda-kit ")


def test_recipes(capsys):
    lines = run(capsys, "recipes")
    assert any(line.startswith("gta5/multi-level ") and "Table 1" in line for line in lines)
    assert json.loads("\n".join(run(capsys, "recipes", "show", "scenes/multi-level")))["name"] == "scenes/multi-level"


def test_train_then_use_the_weights(capsys, tmp_path):
    out = tmp_path / "a" / "run"
    lines = run(capsys, "train", "scenes/multi-level", "--steps", 2, "--out", out, "--log-every", 1, *QUICK)
    record = json.loads(lines[-1])
    assert (
        {"miou", "miou_before", "iou", "seconds", "peak_gib"} <= record.keys()
        and 0 <= record["miou"] <= 1
        and "road" in record["iou"]
    )
    for name in (
        "config.json",
        "log.jsonl",
        "weights.safetensors",
        "evaluation.json",
        "report.md",
        "figures/samples.png",
    ):
        assert (out / name).is_file(), name
    settings = ["train", "scenes/multi-level", "--steps", 2, "--out", out, *QUICK]
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    refused_command(settings, "already holds a run", "--resume")
    refused_command([*settings, "--resume", "--seed", 1], "another configuration", "seed")
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before
    # score
    lines = run(
        capsys,
        "evaluate",
        out / "weights.safetensors",
        "scenes:camera?n=2&size=64x96",
        "--split",
        "test",
        "--oracle",
        out / "evaluation.json",
        "--report",
        "report",
        "--no-progress",
    )
    again = json.loads(lines[-1])
    assert (
        again["miou"] == record["miou"]
        and again["gap"] == 0
        and Path("report/report.md").is_file()
        and Path("report/evaluation.json").is_file()
    )
    refused_command(
        ["evaluate", out / "weights.safetensors", "scenes:camera?n=2", "--report", "report"],
        "already holds files",
    )
    # predict
    assert (
        json.loads(
            run(
                capsys,
                "predict",
                out / "weights.safetensors",
                SAMPLES / "camvid/images",
                "--out",
                "seen",
                "--size",
                "64x96",
                "--no-progress",
            )[-1]
        )["images"]
        == 4
    )
    sizes = {Image.open(p).size for p in Path("seen/labels").glob("*.png")}
    assert sizes == {Image.open(p).size for p in (SAMPLES / "camvid/images").iterdir()}
    refused_command(
        ["predict", out / "weights.safetensors", SAMPLES / "camvid/images", "--out", "seen"],
        "already holds files",
    )
    # other classes
    refused_command(
        [
            "evaluate",
            out / "weights.safetensors",
            f"camvid:{SAMPLES / 'camvid'}",
            "--space",
            "camvid11",
            "--no-progress",
        ],
        "11 classes",
        "19",
    )
    refused_command(
        ["train", "camvid/source-only", "--weights", out / "weights.safetensors", "--dry-run"],
        "19 classes, not 11",
    )


def test_translate_goes_on_and_guards_its_folder(capsys, tmp_path):
    record = json.loads(run(capsys, *TRANSLATE)[-1])
    assert (record["written"], record["translated"]) == (4, 4) and {"seconds", "peak_gib"} <= record.keys()
    files = {p.name: p.read_bytes() for p in (tmp_path / "translated").iterdir()}
    assert sorted(files) == [*(f"seed0-{i:06d}.png" for i in range(4)), "translated.json"]
    (tmp_path / "translated/seed0-000002.png").unlink()
    assert json.loads(run(capsys, *TRANSLATE, "--how", "statistics")[-1])["written"] == 1
    for more in (["--how", "fourier:0.05"], ["--seed", 1], ["--source-split", "val"]):
        refused_command([*TRANSLATE, *more], "translated.json", "other translated images")
    assert {p.name: p.read_bytes() for p in (tmp_path / "translated").iterdir()} == files
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/me.jpg").touch()
    refused_command(["photos" if word == "translated" else word for word in TRANSLATE], "me.jpg")
    refused_command(["photos/me.jpg" if word == "translated" else word for word in TRANSLATE], "is a file")
    assert [p.name for p in (tmp_path / "photos").iterdir()] == ["me.jpg"]


def test_foreign_folder_is_left_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years")
    refused_command(["train", "scenes/oracle", "--steps", 1, "--out", "mine", *QUICK], "mine", "holds no run")
    for more in ([], ["--overwrite"]):
        refused_command(["demo", "--steps", 1, "--out", "mine", *more], "mine")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_own_data_by_spec(capsys, tmp_path):
    argv = [
        "train",
        "camvid/source-only",
        "--dry-run",
        "--steps",
        1,
        "--source",
        f"camvid:{SAMPLES / 'camvid'}?split=all",
    ]
    assert not any("stand in" in line for line in run(capsys, *argv))


def test_dry_run_writes_nothing(capsys, tmp_path):
    lines = run(capsys, "train", "camvid/multi-level", "--steps", 1, "--dry-run")
    record = json.loads(lines[-1])
    assert record["dry_run"] and record["peak_gib"] > 0 and record["seconds_per_step"] > 0 and "stand in" in lines[0]
    assert not list(tmp_path.iterdir())


def test_not_finite(tmp_path):
    argv = ["train", "scenes/source-only", "--steps", 6, "--out", "run", *QUICK, "stages.0.optimizer.lr=1e6"]
    refused_command(argv, "not finite", "stopped.json", status=1)
    assert json.loads((tmp_path / "run/stopped.json").read_text())["stage"] == "warmup"


def test_check_data_status(capsys, tmp_path):
    import shutil

    assert main(["check-data", f"camvid:{SAMPLES / 'camvid'}", "--no-progress"]) == 0
    shutil.copytree(SAMPLES / "camvid", tmp_path / "camvid")
    victim = next((tmp_path / "camvid/labels").iterdir())
    victim.write_bytes(victim.read_bytes()[:50])
    assert main(["check-data", "camvid:camvid", "--no-progress"]) == 1
    assert victim.name in capsys.readouterr().out


def test_malicious_pickle_is_not_run(tmp_path):
    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "pwned"),)

    torch.save({"layer5.conv2d_list.0.weight": Attack()}, "bad.pth")
    refused_command(["convert", "bad.pth", "out.safetensors"], "bad.pth")
    assert [p.name for p in tmp_path.iterdir()] == ["bad.pth"]


def test_broken_weight_file(tmp_path, weights):
    Path("cut.safetensors").write_bytes(weights.read_bytes()[:1000])
    refused_command(["evaluate", "cut.safetensors", "scenes:camera?n=1"], "cut.safetensors")
    Path("empty.safetensors").touch()
    refused_command(["predict", "empty.safetensors", SAMPLES / "camvid/images", "--out", "seen"], "empty.safetensors")
    assert not Path("seen").exists()


def test_memory_and_disk(monkeypatch):
    import uda_kit.experiments.demo as demo

    def fails(error):
        def run_demo(*args, **settings):
            raise error

        monkeypatch.setattr(demo, "run_demo", run_demo)

    fails(MemoryError())
    refused_command(["demo"], "memory", "--precision bf16-mixed", status=1)
    fails(
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
        )
    )
    refused_command(["demo"], "memory", status=1)
    fails(PermissionError(13, "Permission denied", "/there"))
    refused_command(["demo"], "/there: Permission denied")
    fails(KeyboardInterrupt())
    refused_command(["demo"], "uda-kit demo --overwrite", status=130)
    fails(ZeroDivisionError("a mistake of the kit"))
    with pytest.raises(ZeroDivisionError):
        main(["demo"])


def test_reader_is_gone(tmp_path):
    code = "import sys; from uda_kit.cli import main; sys.exit(main(['recipes']))"
    reader = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.close()"], stdin=subprocess.PIPE)
    reader.wait()
    writer = subprocess.run([sys.executable, "-c", code], stdout=reader.stdin, stderr=subprocess.PIPE, text=True)
    assert writer.returncode == 141 and not writer.stderr


def test_results_are_recorded_once_per_run(capsys, tmp_path):
    "bench table appends, and does not run again what is there."
    argv = [
        "bench",
        "table",
        "scenes",
        "--rows",
        "source-only",
        "--out",
        "bench",
        "--results",
        "results",
        "--no-progress",
    ]
    (tmp_path / "results").mkdir()
    steps = sum(
        s["steps"] for s in json.loads("\n".join(run(capsys, "recipes", "show", "scenes/source-only")))["stages"]
    )
    (tmp_path / "results/scenes_output_space.csv").write_text(
        f"benchmark,recipe,seed,steps,miou,seconds,commit,machine\nscenes,source-only,0,{steps},0.25,9.0,abc,here\n"
    )
    record = json.loads(run(capsys, *argv)[-1])
    assert (
        record["rows"]["source-only"] == {"miou": 0.25, "std": None, "seeds": [0]} and not (tmp_path / "bench").exists()
    )


def test_train_records_what_a_table_records(tmp_path, monkeypatch):
    from types import SimpleNamespace

    from uda_kit.cli.train import record_score
    from uda_kit.experiments import running
    from uda_kit.recipes.catalogue import find_recipe
    from uda_kit.results import tables
    from uda_kit.results.tables import read_csv
    from uda_kit.training.fit import RunOptions

    for module in (running, tables):
        monkeypatch.setattr(module, "results_folder", lambda: tmp_path / "results")
    out = tmp_path / "run"
    out.mkdir()
    line = {"stage": "adapt", "step": 1, "adversarial/discriminator": 0.5}
    (out / "log.jsonl").write_text(json.dumps(line) + "\n")
    quality = {"precision": 0.5, "coverage": 0.5, "labelled": 0.5}
    (out / "labels.json").write_text(json.dumps({"initial": {"all": quality}}))
    scores = SimpleNamespace(iou=lambda: {"road": 0.25})
    record = {"miou": 0.25, "seconds": 3.0, "steps": 2, "commit": "abc"}
    options = RunOptions(seed=3, precision="bf16-mixed")
    record_score(find_recipe("scenes/multi-level"), options, out, scores, record)
    (row,) = read_csv(tmp_path / "results/scenes_output_space.csv")
    assert row["seed"] == "3" and row["machine"].endswith("bf16-mixed")
    for table in ("classes", "discriminators", "labels"):
        assert read_csv(tmp_path / f"results/scenes_output_space_{table}.csv")


def test_earlier_evaluations(tmp_path, weights):
    score = ["--split", "test", "--space", "cityscapes19", "--no-progress"]
    scenes = "scenes:camera?n=2&size=64x96"
    assert run_command("evaluate", weights, scenes, *score, "--report", "old")[0] == 0
    earlier = ["--before", "old/evaluation.json", "--oracle", "old/evaluation.json"]
    assert run_command("evaluate", weights, scenes, *score, *earlier, "--report", "new")[0] == 0
    assert Path("new/figures/samples.png").is_file() and "| before |" in Path("new/report.md").read_text()
    saved = json.loads(Path("old/evaluation.json").read_text())
    Path("narrow.json").write_text(json.dumps(saved | {"scored": saved["scored"][:-1]}))
    for option, file, other, part in (
        ("--before", "old/evaluation.json", "scenes:camera?n=3&size=64x96", "2 images"),
        ("--oracle", "old/evaluation.json", "scenes:camera?n=2&size=64x96&seed=2", "other images"),
        ("--before", "narrow.json", scenes, "over 18 classes"),
    ):
        argv = ["evaluate", weights, other, *score, option, file, "--report", "wrong"]
        status, out, err = run_command(*argv)
        assert status == 2 and not out and f"{option} {file}" in err and part in err, err
        assert err.count("\n") == 1 and not Path("wrong").exists()


def test_doctor_without_packages(tmp_path):
    block = "\n".join(
        [
            "import sys",
            "class Block:",
            "    def find_spec(self, name, path=None, target=None):",
            "        if name.split('.')[0] in ('torch', 'torchvision', 'tyro', 'numpy'): raise ImportError(name + ' is blocked')",
            "sys.meta_path.insert(0, Block())",
            "from uda_kit.cli import main",
            "sys.exit(main())",
        ]
    )
    done = subprocess.run([sys.executable, "-c", block, "doctor"], capture_output=True, text=True)
    assert (
        done.returncode == 1 and not done.stderr and "FAIL    tyro" in done.stdout and "fix: pip install" in done.stdout
    )
    done = subprocess.run([sys.executable, "-c", block, "train", "x"], capture_output=True, text=True)
    assert (
        done.returncode == 2
        and done.stderr == "uda-kit: tyro: is not installed; pip install tyro, and see `uda-kit doctor`\n"
    )


def test_start_is_light():
    heavy = {"umap", "sklearn", "IPython", "nbdev", "matplotlib", "jupyter_core", "ipywidgets"}
    probe = "import sys; from uda_kit.cli import main; {}; print(sorted({{m.split('.')[0] for m in sys.modules}} & {}))"

    def loaded(code, names):
        return subprocess.run(
            [sys.executable, "-c", probe.format(code, names)], capture_output=True, text=True
        ).stdout.splitlines()[-1]

    assert loaded("main(['--help'])", heavy | {"torch", "numpy", "PIL"}) == "[]"
    assert loaded("main(['recipes', 'list', 'gta5'])", heavy) == "[]"


def test_program_end_to_end(tmp_path):
    "As users run it: statuses, and what goes to which stream."
    done = program("train", "scenes/nothing", cwd=tmp_path)
    assert (
        done.returncode == 2 and not done.stdout and done.stderr.startswith("uda-kit: scenes/nothing: is not a recipe")
    )
    done = program("check-data", f"gta5:{SAMPLES / 'gta5'}", cwd=tmp_path)
    assert done.returncode == 0 and "all well" in done.stdout, done.stdout + done.stderr


def wait_until_caught(process, number):
    "Wait until the process has a handler for a signal, as Linux lists it; elsewhere give it six seconds."
    status = Path(f"/proc/{process.pid}/status")
    if not status.exists():
        time.sleep(6)
        return
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        caught = int(re.search(r"SigCgt:\s*(\w+)", status.read_text())[1], 16)
        if caught >> (number - 1) & 1:
            return
        time.sleep(0.05)
    raise AssertionError("no handler in a minute")


def test_sigterm_outside_training(tmp_path):
    "Scoring has nothing to save: stop at once, say so."
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from uda_kit.cli import main; sys.exit(main())",
            "check-data",
            "scenes:camera?n=100000&size=512x1024",
            "--no-progress",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    try:
        wait_until_caught(process, signal.SIGTERM)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 143 and err.startswith("uda-kit: stopped") and err.count("\n") == 1, err
