"""Unsupervised domain adaptation of semantic segmentation, method by method, in notebooks."""


def __getattr__(name):
    if name == "__version__":  # asked for seldom, and importlib.metadata is slow to import
        from importlib.metadata import version
        return version("uda_kit")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
