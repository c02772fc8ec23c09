"""Unsupervised domain adaptation of semantic segmentation, method by method, in notebooks."""


def _version():
    "The installed package's version; in a plain copy of the tree the one in settings.ini; else 'unknown'."
    from configparser import ConfigParser, Error
    from importlib.metadata import PackageNotFoundError, version
    from pathlib import Path
    try: return version("uda_kit")
    except PackageNotFoundError: pass
    settings = ConfigParser(interpolation=None)
    try: settings.read(Path(__file__).resolve().parent.parent / "settings.ini", encoding="utf-8")
    except (Error, OSError, UnicodeDecodeError): return "unknown"
    ours = settings.defaults()
    return ours.get("version", "unknown") if ours.get("lib_name") == "uda_kit" else "unknown"  # the folder above may be anybody's


def __getattr__(name):
    if name == "__version__": return _version()  # asked for seldom, and importlib.metadata is slow to import
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
