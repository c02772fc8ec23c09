"""The Python in README.md runs as printed, apart from its length."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_readme_python_runs(tmp_path, monkeypatch, capsys):
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)[1]
    assert "steps=1000" in code and "StreetScenes(CAMERA, 100, seed=9)" in code
    short = code.replace("steps=1000", "steps=2").replace(
        "StreetScenes(CAMERA, 100, seed=9)", "StreetScenes(CAMERA, 4, seed=9)"
    )
    monkeypatch.chdir(tmp_path)
    exec(compile(short, "README.md", "exec"), {})
    assert "mIoU" in capsys.readouterr().out
    assert (tmp_path / "runs" / "first" / "config.json").exists()


def test_readme_names_what_exists():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target
    for target in set(re.findall(r"`make (\w+)`|^make (\w+)", text, re.M)):
        name = next(filter(None, target))
        assert re.search(rf"^{name}:", (ROOT / "Makefile").read_text(), re.M), name
