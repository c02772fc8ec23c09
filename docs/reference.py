"""The API reference: one page for each room of the kit, from the names of `uda_kit/__init__.pyi`."""

import dataclasses
import importlib
import inspect
import re
import types
import typing
from collections.abc import Iterator
from pathlib import Path

import msgspec
from fastcore.docments import docments
from notebooks import Site, label

import uda_kit
from uda_kit.core.errors import InputError

ROOMS = {
    "core": "Errors and settings",
    "data": "Data: label spaces, data sets, street scenes",
    "models": "Networks, discriminators, weights",
    "training": "Training: batches, terms, stages, runs",
    "evaluation": "Evaluation: mIoU, predictions, reports",
    "methods": "Methods: losses and batch transforms",
    "recipes": "Recipes",
    "experiments": "Running recipes",
    "results": "Published and measured numbers",
    "visual": "Figures, maps and explorers",
}
EMPTY = inspect.Parameter.empty
IMPORT = re.compile(r"^from \.(\S+) import (\S+) as", re.M)


def public_names(stub: Path) -> dict[str, str]:
    "Name -> module under `uda_kit`, of the whole public interface."
    return {name: module for module, name in IMPORT.findall(stub.read_text(encoding="utf-8"))}


# --- types and defaults as text -----------------------------------------------------------------------------------


def type_text(hint: object) -> str:
    "A type as its reader would write it: without modules, and without the limits of settings."
    if hint is EMPTY:
        return ""
    if hint is None or hint is type(None):
        return "None"
    if isinstance(hint, str):
        return hint
    if isinstance(hint, typing.ForwardRef):
        return hint.__forward_arg__
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return type_text(parts[0])
    if origin in (typing.Union, types.UnionType):
        return " | ".join(map(type_text, parts))
    if origin is typing.Literal:
        return f"Literal[{', '.join(map(repr, parts))}]"
    if hint is Ellipsis:
        return "..."
    if isinstance(hint, list):
        return f"[{', '.join(map(type_text, hint))}]"
    name = getattr(origin or hint, "__name__", None) or str(hint).rpartition(".")[2]
    return f"{name}[{', '.join(map(type_text, parts))}]" if parts else name


def limits(hint: object) -> str:
    "Limits of a setting: '0 to 1'."
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return next(filter(None, map(limits, typing.get_args(hint))), "")
    if typing.get_origin(hint) is not typing.Annotated:
        return ""
    meta = next((m for m in typing.get_args(hint)[1:] if isinstance(m, msgspec.Meta)), None)
    if meta is None:
        return ""
    low = meta.ge if meta.ge is not None else meta.gt
    high = meta.le if meta.le is not None else meta.lt
    if low is None or high is None or high >= 1e6:
        return "" if low is None else f"at least {low:g}" if meta.ge is not None else f"above {low:g}"
    above, below = "above " if meta.ge is None else "", "below " if meta.le is None else ""
    return f"{above}{low:g} to {below}{high:g}"


def value_text(value: object) -> str:
    "A default as source code; of settings only their class."
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        changed = []
        for field in dataclasses.fields(value):
            now = getattr(value, field.name)
            if field.default is dataclasses.MISSING or now != field.default:
                changed.append(f"{field.name}={value_text(now)}")
        text = f"{type(value).__name__}({', '.join(changed)})"
        return text if len(text) <= 60 else f"{type(value).__name__}(...)"
    if inspect.isroutine(value) or inspect.isclass(value):
        return value.__name__
    text = repr(value)
    return "..." if text.startswith("<") or len(text) > 80 else text


# --- Markdown -----------------------------------------------------------------------------------------------------


def prose(text: str) -> str:
    "A docstring or comment as Markdown: outside of `code` and $formulas$ nothing is markup."
    parts = re.split(r"(`[^`\n]+`)", text)
    return "".join(part if k % 2 else re.sub(r"([\\*_<>\[\]{}|$#])", r"\\\1", part) for k, part in enumerate(parts))


def cell(text: str) -> str:
    "A text for a cell of a table."
    return re.sub(r"(?<!\\)\|", r"\\|", text.replace("\n", " "))


def signature(thing: object) -> inspect.Signature | None:
    "Of a function or a class; None where there is none."
    try:
        return inspect.signature(thing)
    except (TypeError, ValueError):
        return None


def head(name: str, thing: object) -> str:
    "The line of a directive: name, parameters, what comes back."
    described = signature(thing)
    if described is None:
        return name
    words, star = [], False
    for parameter in described.parameters.values():
        if parameter.name in ("self", "cls"):
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not star:
            words.append("*")
            star = True
        mark = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        star = star or mark == "*"
        hint = type_text(parameter.annotation) if "Unpack" not in str(parameter.annotation) else ""
        word = mark + parameter.name + (f": {hint}" if hint else "")
        if parameter.default is not EMPTY:
            word += f" = {value_text(parameter.default)}" if hint else f"={value_text(parameter.default)}"
        words.append(word)
    returned = "" if inspect.isclass(thing) else type_text(described.return_annotation)
    return f"{name}({', '.join(words)})" + (f" -> {returned}" if returned not in ("", "None") else "")


def meanings(thing: object) -> list[tuple[str, str]]:
    "Parameters and what they mean, as far as the source says it beside them, with their limits."
    try:
        notes = docments(thing, full=True, returns=True)
    except (TypeError, ValueError, OSError, SyntaxError, IndentationError):
        return []
    rows = []
    for name, note in notes.items():
        if name in ("self", "cls"):
            continue
        hint, text = note.get("anno", EMPTY), note.get("docment") or ""
        text = "; ".join(filter(None, (prose(" ".join(str(text).split())), limits(hint))))
        if text:
            rows.append(("*returns*" if name == "return" else f"`{name}`", text))
    return rows


def body(thing: object) -> list[str]:
    "Docstring, and a table of parameters."
    lines = [prose(inspect.getdoc(thing) or ""), ""]
    if rows := meanings(thing):
        lines += ["| | |", "|:--|:--|", *(f"| {cell(name)} | {cell(text)} |" for name, text in rows), ""]
    return lines


def members(thing: type) -> Iterator[tuple[str, str, object]]:
    "Methods and properties that a class defines itself: kind of directive, name, object."
    for name, value in vars(thing).items():
        if name.startswith("_"):
            continue
        if isinstance(value, property):
            yield "property", name, value.fget
        elif isinstance(value, (classmethod, staticmethod)):
            yield "method", name, value.__func__
        elif inspect.isfunction(value):
            yield "method", name, value


def member(kind: str, owner: str, name: str, value: object) -> list[str]:
    "A method or property of a class."
    if kind == "property":
        described = signature(value)
        hint = type_text(described.return_annotation) if described else ""
        first = [f":::{{py:property}} {owner}.{name}", *([f":type: {hint}"] if hint else [])]
    else:
        first = [f":::{{py:method}} {head(f'{owner}.{name}', value)}"]
    return [*first, "", *body(value), ":::", ""]


def entry(name: str, module: str, site: Site) -> list[str]:
    "One name of the public interface. `InputError` where no notebook defines it."
    thing, address = getattr(uda_kit, name), f"{module}.{name}"
    if address not in site.cells:
        raise InputError(f"uda_kit.{address}", "is defined by no notebook", "move its line in uda_kit/__init__.pyi")
    book = site.cells[address][0]
    origin = f"[{site.books[book]}](#{label(name)}), `nbs/{book}.ipynb`"
    if inspect.isclass(thing):
        first = [f"::::{{py:class}} {head(f'uda_kit.{name}', thing)}", "", *body(thing)]
    elif callable(thing):
        first = [f"::::{{py:function}} {head(f'uda_kit.{name}', thing)}", "", *body(thing)]
    else:
        first = [f"::::{{py:data}} uda_kit.{name}", f":type: {type(thing).__name__}", "", *constant(thing)]
    lines = [*first, f"Source: {origin}", ""]
    if inspect.isclass(thing):
        for kind, own, value in members(thing):
            lines += member(kind, f"uda_kit.{name}", own, value)
    return [*lines, "::::", ""]


def constant(value: object) -> list[str]:
    "What a constant holds."
    if hasattr(value, "classes"):
        return [f"{len(value.classes)} classes: {', '.join(value.classes)}.", ""]
    fields = []
    for field in dataclasses.fields(value) if dataclasses.is_dataclass(value) else ():
        fields.append(f"| `{field.name}` | `{getattr(value, field.name)!r}` |")
    return ["| | |", "|:--|:--|", *fields, ""] if fields else [f"`{value!r}`", ""]


def kind_of(value: object) -> str:
    "A constant in a few words."
    classes = getattr(value, "classes", None)
    return f"label space of {len(classes)} classes" if classes else f"a {type(value).__name__}"


def documented(names: dict[str, str]) -> dict[str, str]:
    "What prose may call each object -> its full name under `uda_kit`."
    objects = {}
    for name in names:
        objects[name], thing = name, getattr(uda_kit, name)
        if inspect.isclass(thing):
            objects |= {f"{name}.{own}": f"{name}.{own}" for _, own, _ in members(thing)}
    return objects


def labels(names: dict[str, str], site: Site) -> dict[tuple[str, str], list[str]]:
    "Which cells of notebooks the reference leads to."
    at = {}
    for name, module in names.items():
        if f"{module}.{name}" in site.cells:
            at.setdefault(site.cells[f"{module}.{name}"], []).append(label(name))
    return at


def pages(names: dict[str, str], site: Site) -> dict[str, str]:
    "Path of each page of the reference -> its Markdown."
    rooms = {room: [n for n, module in names.items() if module.split(".")[0] == room] for room in ROOMS}
    missing = names.keys() - {name for group in rooms.values() for name in group}
    if missing:
        raise InputError("docs/reference.py", f"has no page for {', '.join(sorted(missing))}", "add its room to ROOMS")
    written = {}
    for room, group in rooms.items():
        lines = [f"# {ROOMS[room]}", "", *summary(group), ""]
        for name in group:
            importlib.import_module(f"uda_kit.{names[name]}")
            lines += entry(name, names[name], site)
        written[f"reference/{room}.md"] = "\n".join(lines)
    first = [
        "# API reference",
        "",
        f"The {len(names)} names that stay: `from uda_kit import ...` loads each one when it is asked for. "
        "Everything else in the modules is for the kit itself, may change, and is explained in its notebook.",
        "",
    ]
    for room, group in rooms.items():
        listed = " · ".join(f"{{py:obj}}`{name} <uda_kit.{name}>`" for name in group)
        first += [f"**[{ROOMS[room]}](/reference/{room}.md)**: {listed}", ""]
    toctree = ["```{toctree}", ":hidden:", "", *(f"{room}" for room in rooms), "```", ""]
    written["reference/index.md"] = "\n".join(first + toctree)
    return written


def summary(group: list[str]) -> list[str]:
    "First lines of the docstrings of a page's names, with links."
    lines = [":::{container} summary", "| | |", "|:--|:--|"]
    for name in group:
        thing = getattr(uda_kit, name)
        text = (inspect.getdoc(thing) or "") if callable(thing) else kind_of(thing)
        first = re.split(r"(?<=[.:])\s|\n\n", text.strip(), maxsplit=1)[0].replace("\n", " ").rstrip(":")
        lines.append(f"| {{py:obj}}`{name} <uda_kit.{name}>` | {cell(prose(first))} |")
    return [*lines, ":::"]
