"""Types, checked by mypy in the rooms of the public modules; run by `make check`.

Notebooks add methods to their classes cell by cell with fastcore's `patch`, which a type checker does not see.
So mypy reads a copy of the package in which every patched method stands inside its class."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
COPY = ROOT / "build" / "types"  # always the same place, so that mypy's cache holds


def is_patch(decorator):
    "Is it `@patch` or `@patch(...)`?"
    function = decorator.func if isinstance(decorator, ast.Call) else decorator
    return isinstance(function, ast.Name) and function.id == "patch"


def decorator_lines(decorator):
    "What a method's decorator is inside the class."
    if not is_patch(decorator):
        return ["@" + ast.unparse(decorator)]
    options = {option.arg for option in decorator.keywords} if isinstance(decorator, ast.Call) else set()
    kinds = {"as_prop": "@property", "cls_method": "@classmethod", "static_method": "@staticmethod"}
    return [kinds[option] for option in sorted(options)]


def as_method(function, source):
    "The lines of a patched function as a method: decorators, and a first parameter without its type."
    lines = source.splitlines()[function.lineno - 1 : function.end_lineno]
    first = function.args.args[0]
    row = first.lineno - function.lineno
    lines[row] = lines[row].replace(ast.get_source_segment(source, first), first.arg, 1)
    decorators = [line for decorator in function.decorator_list for line in decorator_lines(decorator)]
    return [""] + ["    " + line if line else line for line in [*decorators, *lines]]


def with_methods(source):
    "A module's text with its patched methods inside their classes."
    tree = ast.parse(source)
    ends = {node.name: node.end_lineno for node in tree.body if isinstance(node, ast.ClassDef)}
    methods, moved = {}, set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and any(is_patch(decorator) for decorator in node.decorator_list):
            names = [part.id for part in ast.walk(node.args.args[0].annotation) if isinstance(part, ast.Name)]
            owner = next(name for name in names if name in ends)
            methods.setdefault(ends[owner], []).extend(as_method(node, source))
            moved.update(range(node.decorator_list[0].lineno, node.end_lineno + 1))
    lines = []
    for number, line in enumerate(source.splitlines(), 1):
        if number not in moved:
            lines.append(line)
        lines += methods.get(number, [])
    return "\n".join(lines) + "\n"


def write_copy():
    "The package with its methods inside their classes, below `COPY`."
    shutil.rmtree(COPY / "uda_kit", ignore_errors=True)
    for file in (ROOT / "uda_kit").rglob("*.py"):
        if file.name != "_modidx.py":
            copy = COPY / file.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(with_methods(file.read_text(encoding="utf-8")), encoding="utf-8")
    shutil.copy(ROOT / "uda_kit" / "__init__.pyi", COPY / "uda_kit")


def notebooks_of():
    "Module -> the notebook it is written in."
    firsts = {file: file.read_text(encoding="utf-8")[:500] for file in (ROOT / "uda_kit").rglob("*.py")}
    named = {file: re.search(r"File to edit: (?:\.\./)*(\S+\.ipynb)", text) for file, text in firsts.items()}
    return {str(file.relative_to(ROOT)): match[1] for file, match in named.items() if match}


def check():
    "What mypy says, each line with its notebook."
    write_copy()
    options = ["--config-file", str(ROOT / "pyproject.toml"), "--hide-error-context", "--no-error-summary"]
    command = [sys.executable, "-m", "mypy", *options, "-p", "uda_kit"]
    done = subprocess.run(command, cwd=COPY, capture_output=True, text=True)
    if done.returncode > 1 or done.stderr:  # also where mypy is not installed
        sys.exit(done.stderr or done.stdout)
    notebooks = notebooks_of()
    return [f"{notebooks.get(line.partition(':')[0], '')}: {line}" for line in done.stdout.splitlines()]


if __name__ == "__main__":
    wrong = [line for line in check() if not sys.argv[1:] or any(room in line for room in sys.argv[1:])]
    print("\n".join(wrong) or "types: all well")
    sys.exit(bool(wrong))
