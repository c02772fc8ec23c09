"""Hashes of the weights of five short runs, one for each method family: `python tests/short_runs.py FOLDER`.

A change that shall not change arithmetic leaves them as they are. Compare two commits on one machine: other processors round otherwise."""

import hashlib
import sys
from dataclasses import replace
from pathlib import Path

import torch

from uda_kit.core.tensors import load_tensors
from uda_kit.experiments.dry_run import capped
from uda_kit.experiments.running import run_recipe
from uda_kit.recipes.catalogue import find_recipe
from uda_kit.training.fit import RunOptions

RECIPES = (
    "scenes/multi-level",
    "scenes/ou-patch",
    "scenes/cirn",
    "scenes/contrastive",
    "scenes/ass-st",
)  # the last: pseudo-labels


def smaller(data, size):
    "A recipe's scenes, six of them, in small batches and crops."
    if data is None:
        return None
    crop = None if data.crop is None else tuple(min(side, 64) for side in data.crop)
    return replace(data, n=6, size=size, batch_size=min(data.batch_size, 2), crop=crop)


def short(name):
    "The recipe with three steps in each stage."
    recipe, size = find_recipe(name), (96, 192) if "patch" in name else (64, 96)
    stages = tuple(replace(s, source=smaller(s.source, size), target=smaller(s.target, size)) for s in recipe.stages)
    return capped(replace(recipe, stages=stages, test=smaller(recipe.test, size), val=smaller(recipe.val, size)), 3)


def main():
    torch.set_num_threads(1)
    for name in RECIPES:
        folder = Path(sys.argv[1]) / name.replace("/", "-")
        _, record = run_recipe(short(name), folder, RunOptions(progress=False, log_every=1))
        weights, _ = load_tensors(folder / "weights.safetensors")
        digest = hashlib.sha256()
        for key in sorted(weights):
            digest.update(key.encode())
            digest.update(weights[key].contiguous().flatten().view(torch.uint8).numpy())
        print(name, digest.hexdigest()[:16], round(record["miou"], 6), flush=True)


if __name__ == "__main__":
    main()
