"""The public interface: the names in `uda_kit/__init__.pyi` are there, documented and typed, and no others are exported."""

import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

import uda_kit

ROOT = Path(__file__).parent.parent
STUB = (ROOT / "uda_kit" / "__init__.pyi").read_text(encoding="utf-8")
MODULES = {name: module for module, name in re.findall(r"^from \.(\S+) import (\S+) as", STUB, re.M)}


def parameters(function):
    "Parameters that want a type: all but `self`, `cls` and those that take whatever else there is."
    signature = inspect.signature(function)
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p for p in signature.parameters.values() if p.kind not in kinds and p.name not in ("self", "cls")]


def methods(thing):
    "Public methods that a class defines itself, and its constructor."
    if not inspect.isclass(thing):
        return []
    own = [value for name, value in vars(thing).items() if not name.startswith("_") or name == "__init__"]
    return [value for value in own if inspect.isfunction(value) and value.__module__.startswith("uda_kit")]


def test_about_a_hundred_names():
    assert 80 <= len(MODULES) <= 125 and set(MODULES) == set(uda_kit.__all__)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_documented_and_typed(name):
    thing = getattr(uda_kit, name)
    assert thing is getattr(importlib.import_module(f"uda_kit.{MODULES[name]}"), name)
    if not callable(thing):
        return  # a constant
    assert inspect.getdoc(thing), f"{name} has no docstring"
    functions = [thing] if inspect.isfunction(thing) else methods(thing)
    for function in functions:
        untyped = [p.name for p in parameters(function) if p.annotation is inspect.Parameter.empty]
        assert not untyped, f"{name}: {function.__name__} leaves {', '.join(untyped)} without a type"


def test_modules_export_public_names_alone():
    "What a module does not export is for the kit itself: it can be imported, and may change."
    for info in pkgutil.walk_packages(uda_kit.__path__, "uda_kit."):
        if info.ispkg or info.name == "uda_kit._modidx":
            continue
        module = importlib.import_module(info.name)
        others = [name for name in getattr(module, "__all__", ()) if name not in MODULES]
        assert not others, f"{info.name} exports {', '.join(others)}: begin their cells with #| exporti"
