"""The script for the day a GPU is at hand, tried on a processor: its checks run, and one that fails does not end the others."""

import csv

import gpu_check


def test_checks_run_apart_and_none_ends_the_others(monkeypatch, capsys):
    chosen = {"import": None, "broken": None, "joint batch norms": None, "contrastive loss": None}
    monkeypatch.setattr(gpu_check, "CHECKS", chosen)  # of this process: the one that each check gets knows no "broken"
    monkeypatch.setattr("sys.argv", ["gpu_check.py", "--small"])
    assert gpu_check.main() == 1
    lines = capsys.readouterr().out.splitlines()
    outcomes = {line.split(":")[0]: line.split(": ")[1].split("  ")[0] for line in lines[:-1]}
    assert outcomes["broken"].startswith("failed") and {outcomes[name] for name in chosen if name != "broken"} == {"ok"}
    assert (
        any("contrastive loss" in line and "ratio" in line for line in lines) and "1 not as they should be" in lines[-1]
    )


def test_record(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check, "ROOT", tmp_path)
    (tmp_path / "results").mkdir()
    for _ in range(2):
        gpu_check.record([{"check": "step", "case": "tiny", "seconds": "0.1", "outcome": "ok"}])
    rows = list(csv.DictReader(open(tmp_path / "results/bench_gpu.csv")))
    assert len(rows) == 2 and rows[0]["check"] == "step" and tuple(rows[0]) == gpu_check.COLUMNS and rows[0]["machine"]
