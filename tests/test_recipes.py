"""Recipes name data that their loaders have."""

from pathlib import Path

from uda_kit.recipes.catalogue import recipes
from uda_kit.recipes.data import open_images


def test_every_full_size_recipe_opens_its_data():
    "On the samples of each data set's layout: a split that a loader does not have would only be noticed after the download."
    samples = Path(__file__).parent.parent / "data_samples"
    roots = {f.name: str(f) for f in samples.iterdir() if f.is_dir()}
    missing = (
        "camvid/",
        "camvid-lite0/",
        "camvid-kitti/",
        "scenes-kitti/",
        "crosscity/tokyo",
        "crosscity/taipei",
    )  # the samples have other splits and frames, and two of the four cities
    for name, recipe in recipes().items():
        if name.startswith(missing):
            continue
        wanted = (
            [(s.source, True) for s in recipe.stages]
            + [(s.target, False) for s in recipe.stages if s.target]
            + [(recipe.test, True)]
        )
        for data, labelled in wanted:
            if data.name != "scenes":
                assert len(open_images(data, recipe.space, roots, labelled)), name
