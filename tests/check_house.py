"""House rules, checked without judgement: notebooks and modules in step, one notebook a module, sizes, imports one way, links, no leftovers.

Run by `make check`. Prints what is wrong and exits with 1; what it exported or cleaned stays that way, so running it again shows what is left."""

import ast
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
MAX_KB, MAX_NODES, MAX_COLUMNS, MAX_PARAMETERS = 300, 350, 120, 8
WIDE = {  # functions with more parameters than that: constructors whose options are explained one by one
    "deeplab_v2",
    "pspnet",
    "deeplab_v3",
    "daformer",
    "hrda",
    "predict",
    "make_pseudo_labels",
    "translation_quality",
    "from_networks",
    "paper_step",
    "contrastive_step",
    "contrastive_sum",
    "contrastive_loss",
    "__init__",
}


def files(*patterns):
    return sorted(
        f
        for p in patterns
        for f in ROOT.glob(p)
        if ".ipynb_checkpoints" not in f.parts and "__pycache__" not in f.parts
    )


def state():
    return {
        f: hashlib.sha256(f.read_bytes()).hexdigest()
        for f in files("nbs/**/*.ipynb", "uda_kit/**/*.py", "uda_kit/recipes/recipes.json")
    }


def out_of_step():
    "Files that exporting and cleaning changes."
    before = state()
    for command in (["nbdev-export"], ["nbdev-clean"], ["python", "-m", "uda_kit.recipes.catalogue"]):
        subprocess.run([BIN / command[0], *command[1:]], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    after = state()
    return [
        f"{f.relative_to(ROOT)}: was out of step with its notebook or not clean"
        for f in sorted(before.keys() | after.keys())
        if before.get(f) != after.get(f)
    ]


def too_dense(source):
    "What is packed too densely in an exported cell: syntax nodes, columns, parameters."
    tree, first = ast.parse(source), next((line for line in source.splitlines() if not line.startswith("#")), "")
    nodes = sum(1 for _ in ast.walk(tree))
    wrong = [f"exported cell of {nodes} syntax nodes: {first[:60]}"] if nodes > MAX_NODES else []
    wrong += [f"{len(x)} columns: {x.strip()[:60]}" for x in source.splitlines() if len(x) > MAX_COLUMNS]
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef) and function.name not in WIDE:
            names = [a.arg for a in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)]
            count = (
                len([a for a in names if a not in ("self", "cls")])
                + bool(function.args.vararg)
                + bool(function.args.kwarg)
            )
            if count > MAX_PARAMETERS:
                wrong.append(f"{function.name} takes {count} parameters")
    return wrong


def unused_imports():
    "Imports of modules that only cells of their notebooks use: they cost a start-up and mislead a reader."
    command = ["check", "--select", "F401", "--exclude", "*.pyi", "--output-format", "concise", "-q", "uda_kit"]
    done = subprocess.run([BIN / "ruff", *command], cwd=ROOT, capture_output=True, text=True)
    return [f"{line}: import it in the cell that uses it" for line in done.stdout.strip().splitlines()]


def style():
    "What ruff says of notebooks and tests."
    wrong = []
    for command in (["check", "--output-format", "concise", "-q"], ["format", "--check", "-q"]):
        done = subprocess.run(
            [BIN / "ruff", *command, "nbs", "tests", "docs"], cwd=ROOT, capture_output=True, text=True
        )
        if done.returncode:
            lines = done.stdout.strip().splitlines()
            wrong += lines[:10] if command[0] == "check" else ["ruff format nbs tests docs changes files"]
    return wrong


def timed_asserts(cells):
    "Cells that fail on a busy machine: an `assert` beside a timer, and not slow. A deadline against hanging has `time.monotonic`."
    timer = re.compile(r"perf_counter|process_time|\btime\.time\(")
    timed = [c for c in cells if timer.search(c) and re.search(r"^\s*assert\b", c, re.M)]
    return [f"asserts a time, mark it slow: {c.strip()[:60]!r}" for c in timed if not c.startswith("#| slow")]


def timers_in_tests():
    "Tests that time: a busy machine would fail them."
    timer = re.compile(r"perf_counter|process_time")
    return [f"{f.name}: times something" for f in files("tests/test_*.py") if timer.search(f.read_text("utf-8"))]


def notebook_rules():
    "One notebook a module; size, saved widget state, density of exported cells."
    wrong, owner = [], {}
    for file in files("nbs/**/*.ipynb"):
        name, book = file.relative_to(ROOT), json.loads(file.read_text(encoding="utf-8"))
        if file.stat().st_size > MAX_KB * 1000:
            wrong.append(f"{name}: {file.stat().st_size // 1000} kB, more than {MAX_KB}")
        if "widgets" in book["metadata"]:
            wrong.append(f"{name}: holds saved widget state")
        cells = ["".join(c["source"]) for c in book["cells"] if c["cell_type"] == "code"]
        for cell in cells:
            if found := re.search(r"#\|\s*default_exp\s+(\S+)", cell):
                owner.setdefault(found[1], []).append(str(name))
            if re.search(r"^#\|\s*export", cell, re.M):
                wrong += [f"{name}: {text}" for text in too_dense(cell)]
        wrong += [f"{name}: {text}" for text in timed_asserts(cells)]
        exported = [c for c in cells if re.search(r"^#\|\s*export", c, re.M)]
        if exported and not any("assert" in c for c in cells if c not in exported):
            wrong.append(f"{name}: exports and asserts nothing")
    modules = {
        ".".join(f.relative_to(ROOT / "uda_kit").with_suffix("").parts)
        for f in files("uda_kit/**/*.py")
        if f.name not in ("__init__.py", "_modidx.py")
    }
    wrong += [f"module {m} has {len(n)} notebooks: {', '.join(n)}" for m, n in owner.items() if len(n) > 1]
    wrong += [f"uda_kit/{m.replace('.', '/')}.py has no notebook" for m in sorted(modules - owner.keys())]
    return wrong


ROOMS = (
    "core",
    "data",
    "models",
    "training",
    "evaluation",
    "methods",
    "visual",
    "recipes",
    "results",
    "experiments",
    "benchmarks",
    "cli",
)
ALLOWED = {  # room: what it may import beside itself and `core`
    "core": (),
    "data": (),
    "models": ("data",),
    "training": ("data", "models"),
    "evaluation": ("data", "models", "training"),
    "methods": ("data", "models", "training", "evaluation"),
    "visual": ("data", "models", "training", "evaluation", "methods"),
    "recipes": ("data", "models", "training", "evaluation", "methods"),
    "results": (),
    "experiments": ("data", "models", "training", "evaluation", "methods", "recipes", "results"),
    "benchmarks": tuple(room for room in ROOMS if room != "cli"),
    "cli": ROOMS,
}


def imports():
    "Imports point one way: from a room to those before it."
    wrong = []
    for room in ROOMS:
        for file in files(f"uda_kit/{room}/**/*.py"):
            for_types = False
            for line in file.read_text(encoding="utf-8").splitlines():
                for_types = line.startswith("if TYPE_CHECKING") or for_types and line[:1] in ("", " ")
                if for_types:  # never imported when the kit runs
                    continue
                found = re.match(r"\s*from (?:uda_kit|\.\.|\.\.\.)\.?(\w+)(?:\.| import)", line)
                if "visual.style" in line:  # a leaf: how every figure looks, also a report's
                    continue
                if found and found[1] in ROOMS and found[1] not in (room, "core", *ALLOWED[room]):
                    wrong.append(f"{file.relative_to(ROOT)}: imports from {found[1]}, which comes after {room}")
    return wrong


def links():
    "Links between notebooks lead somewhere."
    wrong = []
    for file in [*files("nbs/**/*.ipynb"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]:
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".ipynb":
            text = "\n".join("".join(c["source"]) for c in json.loads(text)["cells"] if c["cell_type"] == "markdown")
        for target in re.findall(r"\]\(([^)\s#:]+\.ipynb)", text):
            if not (file.parent / target).exists():
                wrong.append(f"{file.relative_to(ROOT)}: links to {target}, which is not there")
    return wrong


def leftovers():
    "Machine paths in tracked text."
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split("\n")
    bad, wrong = re.compile(r"/(work|farm|root|home/\w+)/[a-z.]", re.I), []
    for name in tracked:
        file = ROOT / name
        if (
            not name
            or not file.is_file()
            or file.suffix in (".png", ".jpg", ".safetensors")
            or name == "tests/check_house.py"
        ):
            continue
        if found := bad.search(file.read_text(encoding="utf-8", errors="ignore")):
            wrong.append(f"{name}: holds a machine path ({found[0]}...)")
    return wrong


def main():
    wrong = (
        out_of_step()
        + notebook_rules()
        + timers_in_tests()
        + imports()
        + links()
        + style()
        + unused_imports()
        + leftovers()
    )
    print("\n".join(wrong) or "house in order")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
