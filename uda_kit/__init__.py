"""Unsupervised domain adaptation of semantic segmentation, method by method, in notebooks.

The names in `__init__.pyi` are the public interface. Each is loaded from its module when it is asked for."""

import lazy_loader

_load, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def _version():
    "The installed package's version; in a plain copy of the tree the one in settings.ini; else 'unknown'."
    from configparser import ConfigParser, Error
    from importlib.metadata import PackageNotFoundError, version
    from pathlib import Path

    try:
        return version("uda_kit")
    except PackageNotFoundError:
        pass
    settings = ConfigParser(interpolation=None)
    try:
        settings.read(Path(__file__).resolve().parent.parent / "settings.ini", encoding="utf-8")
    except (Error, OSError, UnicodeDecodeError):
        return "unknown"
    ours = settings.defaults()
    is_ours = ours.get("lib_name") == "uda_kit"  # the folder above may be anybody's
    return ours.get("version", "unknown") if is_ours else "unknown"


def __getattr__(name):
    return _version() if name == "__version__" else _load(name)
