"""Recipes name data that their loaders have."""
from dataclasses import replace
from pathlib import Path

from uda_kit.papers.catalogue import recipes
from uda_kit.papers.stages import locate


def test_every_full_size_recipe_opens_its_data():
    "On the samples of each data set's layout: a split that a loader does not have would only be noticed after the download."
    samples = Path(__file__).parent.parent / "data_samples"
    roots = {f.name: str(f) for f in samples.iterdir() if f.is_dir()}
    missing = ("camvid/", "crosscity/tokyo", "crosscity/taipei")  # the samples have other splits, and two of the four cities
    for name, recipe in recipes().items():
        if name.startswith(missing): continue
        wanted = [(s.source, True) for s in recipe.stages] + [(s.target, False) for s in recipe.stages if s.target] + [(recipe.test, True)]
        for data, labelled in wanted:
            if ":" not in data.name: assert len(locate(replace(data, twins="", pseudo=""), recipe.space, roots, labelled)), name
