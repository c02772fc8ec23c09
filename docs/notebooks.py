"""Pages from notebooks: what a reader of the site wants of `nbs/`, as notebooks that Sphinx reads."""

import ast
import json
import posixpath
import re
from dataclasses import dataclass, field
from pathlib import Path

from uda_kit.core.errors import InputError

DIRECTIVE = re.compile(r"^#\|.*\n?", re.M)
CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[@-Z\\-_]|\r(?!\n)|[\x00-\x08\x0b\x0c\x0e-\x1f]")
PROGRESS = re.compile(r"^.*\|.*\d+/\d+ \[[^\]]*(?:it/s|s/it|\?)[^\]]*\]\s*$", re.M)
MACHINE = re.compile(r"(?<![\w.])/(?:work|root|home/\w+|Users/\w+|mnt|workspace)/[^\s'\"<>]+")
TEMPORARY = re.compile(r"/tmp/[\w.-]+")
PICTURES = ("image/svg+xml", "image/png", "image/jpeg")
KEPT = (*PICTURES, "text/html", "text/markdown", "text/latex", "text/plain")


@dataclass
class Site:
    "What pages know of each other."

    root: Path  # of the notebooks
    books: dict[str, str] = field(default_factory=dict)  # path under root without suffix -> title
    modules: dict[str, str] = field(default_factory=dict)  # notebook -> its module
    cells: dict[str, tuple[str, str]] = field(default_factory=dict)  # "module.name" -> notebook, id of the cell
    objects: dict[str, str] = field(default_factory=dict)  # text in prose -> documented object
    labels: dict[tuple[str, str], list[str]] = field(default_factory=dict)  # notebook, id of a cell -> labels


def source(cell: dict) -> str:
    "Text of a cell."
    return "".join(cell["source"])


def directives(text: str) -> list[str]:
    "First words of a code cell's directives."
    return [line[2:].split()[0] for line in text.splitlines() if line.startswith("#|") and line[2:].split()]


def title(book: dict, name: str) -> str:
    "First line of a notebook. `InputError` where it is no title."
    first = source(book["cells"][0]).split("\n", 1)[0] if book["cells"] else ""
    if not re.match(r"# \S", first):
        raise InputError(name, "does not begin with a title", "write '# Title' in its first cell")
    return first[2:].strip()


def short_title(text: str) -> str:
    "A title for the side bar: what stands before the colon, without what stands in brackets behind it."
    short = re.split(r":\s", text, maxsplit=1)[0]
    if short.lower() in ("reproduction", "recipes"):
        short = text.split(": ", 1)[-1]
    if len(short) > 34:
        short = re.sub(r"\s*\([^)]*\)$", "", short)
    return (short[0].upper() + short[1:]).replace("`", "")


# --- has it been run? ---------------------------------------------------------------------------------------------


def prints(text: str) -> bool:
    """Does a cell show something whenever it runs?

    A `print` or `display` that no `if`, loop or function hides, or a last line that is a value: a name, an item,
    a list, a dictionary, an object that is made there."""
    body = statements(text)
    for statement in body:
        if called(statement) in ("print", "display"):
            return not any(keyword.arg == "file" for keyword in statement.value.keywords)
    last = body[-1] if body else None
    if not isinstance(last, ast.Expr) or text.rstrip().endswith(";"):
        return False
    if isinstance(last.value, ast.Call):
        return called(last)[:1].isupper()  # Table(...), HTML(...)
    return not isinstance(last.value, ast.Constant | ast.Await)


def statements(text: str) -> list[ast.stmt]:
    "Statements of a cell; none where it is not Python alone."
    try:
        return ast.parse(text).body
    except SyntaxError:  # magics
        return []


def called(statement: ast.stmt) -> str:
    "Name of the function that a statement calls, and no more than calls; or nothing."
    call = statement.value if isinstance(statement, ast.Expr) else None
    return call.func.id if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) else ""


def may_show(text: str) -> bool:
    "Does a cell print or draw somewhere, perhaps in a loop, or end in a call?"
    body = statements(text)
    names = {node.id for statement in body for node in ast.walk(statement) if isinstance(node, ast.Name)}
    ends_in_a_value = (
        bool(body) and isinstance(body[-1], ast.Expr) and not called(body[-1]).startswith(("test_", "check"))
    )
    return bool(names & SHOWING) or ends_in_a_value


SHOWING = {"print", "display", "plt", "fig", "figure", "ax", "axes"}


def check_executed(book: dict, name: str) -> None:
    "`InputError` where a cell that prints holds no output, one ended in an error, or a notebook that draws holds none."
    remedy = f"run it and keep its outputs: make notebooks NB=nbs/{name}.ipynb"
    cells = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    shown = [cell for cell in cells if "hide" not in directives(source(cell))]
    for cell in shown:
        outputs = cell.get("outputs", [])
        if any(output["output_type"] == "error" for output in outputs):
            raise InputError(f"nbs/{name}.ipynb", f"cell {cell.get('id')} ended in an error", remedy)
        if not outputs and prints(source(cell)):
            raise InputError(f"nbs/{name}.ipynb", "has not been executed", remedy)
    silent = {"export", "exporti", "exports", "default_exp"}
    looks = [cell for cell in shown if not silent & set(directives(source(cell)))]
    if any(may_show(source(cell)) for cell in looks) and not any(cell.get("outputs") for cell in shown):
        raise InputError(f"nbs/{name}.ipynb", "has not been executed", remedy)


# --- outputs ------------------------------------------------------------------------------------------------------


def clean_text(text: str, name: str) -> str:
    "A text without control codes, progress bars and temporary folders. `InputError` where it names a folder of a machine."
    text = TEMPORARY.sub("/tmp/…", PROGRESS.sub("", CONTROL.sub("", text)))
    if place := MACHINE.search(text):
        raise InputError(f"nbs/{name}.ipynb", f"an output names {place[0]!r}", "print names, not whole paths")
    return text


def clean_output(output: dict, name: str) -> dict | None:
    "An output as the site shows it; None for warnings, progress bars and widgets without a picture."
    if output["output_type"] == "stream":
        text = clean_text("".join(output["text"]), name)
        return {**output, "text": text} if output["name"] == "stdout" and text.strip() else None
    data = {kind: value for kind, value in output.get("data", {}).items() if kind in KEPT}
    if any(kind in data for kind in (*PICTURES, "text/html")):
        data.pop("text/plain", None)
    pictures = sorted((kind for kind in PICTURES if kind in data), key=lambda kind: len("".join(data[kind])))
    for kind in pictures[1:]:  # the same picture in another format
        del data[kind]
    for kind in data.keys() - set(PICTURES):
        data[kind] = clean_text("".join(data[kind]), name)
    data = {kind: value for kind, value in data.items() if "".join(value).strip()}
    if not data or set(data) == {"text/plain"} and data["text/plain"].startswith("<Figure size"):
        return None
    return {**output, "data": data, "metadata": {}}


# --- prose --------------------------------------------------------------------------------------------------------

CODE = re.compile(r"(?<![`\[])`([^`\n]+)`(?!`|\]\()")


def link_code(text: str, name: str, site: Site) -> str:
    "Prose whose `code` leads to the API reference, or to the notebook of that name."
    parts = re.split(r"(^```.*?^```|^#+ .*?$)", text, flags=re.M | re.S)
    here = posixpath.dirname(name)

    def linked(match: re.Match) -> str:
        words = match[1]
        book = words.removeprefix("nbs/").removesuffix(".ipynb").strip("/")
        alone = [
            path for path in site.books if path.endswith(f"/{book}")
        ]  # its name says which, where it is the only one
        for path in (book, posixpath.join(here, book), *(alone if len(alone) == 1 else ())):
            if "_" in book and path in site.books and path != name:
                return f"[`{words}`](/{path}.ipynb)"
        target = site.objects.get(words.removeprefix("uda_kit.").removesuffix("()"))
        if target is None or (words.islower() and here == "cli"):  # a command's name there
            return match[0]
        return f"{{py:obj}}`{words} <uda_kit.{target}>`"

    return "".join(part if k % 2 else CODE.sub(linked, part) for k, part in enumerate(parts))


# --- whole notebooks ----------------------------------------------------------------------------------------------


def defined(text: str) -> list[str]:
    "Names that a cell defines at its top level."
    names = []
    for node in ast.parse(text).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.append(node.name)
        elif isinstance(node, ast.Assign):
            names += [target.id for target in node.targets if isinstance(target, ast.Name)]
    return names


def survey(root: Path) -> Site:
    "Titles, modules and definitions of all notebooks under `root`."
    site = Site(root)
    for file in sorted(root.rglob("*.ipynb")):
        if ".ipynb_checkpoints" in file.parts:
            continue
        name, book = file.relative_to(root).with_suffix("").as_posix(), json.loads(file.read_text(encoding="utf-8"))
        site.books[name] = title(book, name)
        codes = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
        module = re.search(r"^#\|\s*default_exp\s+(\S+)", "\n".join(map(source, codes)), re.M)
        if module is None:
            continue
        site.modules[name] = module[1]
        for cell in codes:
            if {"export", "exporti"} & set(directives(source(cell))):
                for name_of_cell in defined(source(cell)):
                    site.cells.setdefault(f"{module[1]}.{name_of_cell}", (name, cell["id"]))
    return site


def label(name: str) -> str:
    "Label of the cell that defines an object of the public interface."
    return "source-" + name.lower().replace("_", "-")


def banner(name: str, site: Site) -> str:
    "The line under a title: which file the page is, which module, how to open it."
    parts = [f"Notebook `nbs/{name}.ipynb`"]
    if module := site.modules.get(name):
        parts.append(f"module `uda_kit.{module.removesuffix('.__init__')}`")
    if name.startswith("visual/explorers/") and not name.endswith("00_explorers"):
        parts = [
            f"A still picture: open `nbs/{name}.ipynb` in JupyterLab (`make lab`) to move its controls",
            *parts[1:],
        ]
    return ":::{container} nb-source\n" + " · ".join(parts) + "\n:::"


def with_banner(text: str, line: str) -> str:
    "The first cell with the banner below its title and the sentences quoted there."
    head = re.match(r"# .*\n*(?:>.*(?:\n|$))*", text)[0]
    return f"{head.rstrip()}\n\n{line}\n\n{text[len(head) :].lstrip()}"


def only_imports(text: str) -> bool:
    "Does a cell do nothing but import?"
    try:
        return all(isinstance(node, (ast.Import, ast.ImportFrom, ast.If)) for node in ast.parse(text).body)
    except SyntaxError:
        return False


def tags(text: str, marks: list[str], outputs: list[dict]) -> list[str]:
    "Tags of a code cell: whether it goes into the module, and whether it is folded up."
    exported = {"export", "exporti"} & set(marks)
    folded = not outputs and only_imports(text)
    return ["export"] * bool(exported) + ["hide-input"] * folded


def page(book: dict, name: str, site: Site) -> dict:
    "A notebook as the site shows it."
    check_executed(book, name)
    cells = []
    for number, cell in enumerate(book["cells"]):
        if cell["cell_type"] == "markdown":
            text = link_code(source(cell), name, site)
            cells.append({**cell, "source": text if number else with_banner(text, banner(name, site))})
            continue
        marks = directives(source(cell))
        text = DIRECTIVE.sub("", source(cell)).strip("\n")
        if "hide" in marks or not text:
            continue
        for target in site.labels.get((name, cell["id"]), ()):
            cells.append({"cell_type": "markdown", "id": f"t{len(cells)}", "metadata": {}, "source": f"({target})="})
        outputs = [kept for output in cell.get("outputs", ()) if (kept := clean_output(output, name))]
        cells.append({**cell, "source": text, "outputs": outputs, "metadata": {"tags": tags(text, marks, outputs)}})
    language = {"name": "python", "pygments_lexer": "ipython3"}
    return {**book, "cells": cells, "metadata": {**book["metadata"], "language_info": language}}
