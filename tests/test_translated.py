"""Translated images end to end: translated into a folder, joined to their sources by a recipe, read by worker processes, refused where they belong to others."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from uda_kit.core.errors import InputError
from uda_kit.core.records import write_json
from uda_kit.data.open import open_dataset
from uda_kit.data.streams import Stream
from uda_kit.data.transforms import JointTransform
from uda_kit.data.translated import TranslatedImages, join_translated
from uda_kit.experiments.running import run_recipe
from uda_kit.methods.translation import write_translated
from uda_kit.recipes.catalogue import find_recipe
from uda_kit.training.fit import RunOptions

SAMPLES = Path(__file__).parent.parent / "data_samples"
RENDERED, CAMERA = "scenes:rendered?n=4&size=64x96", "scenes:camera?n=4&size=64x96&seed=1"
QUIET = RunOptions(progress=False, log_every=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("translated") / "scenes-as-camera"
    assert (
        write_translated(
            open_dataset(RENDERED, labelled=False),
            open_dataset(CAMERA, labelled=False),
            path,
            "statistics",
            progress=False,
        )
        == 4
    )
    return path


def recipe(source=RENDERED):
    "Two steps, one in each stage; the second reads the translated images as well."
    found = find_recipe("scenes/source-only")
    data = found.stages[0].source.with_text(source)
    stages = tuple(
        replace(s, source=replace(data, translated=translated), steps=1)
        for s, translated in zip(found.stages, ("", "scenes-as-camera"))
    )
    return replace(found, stages=stages, test=found.test.with_text(CAMERA))


def test_a_run_reads_sources_and_translated(folder, tmp_path):
    found, record = run_recipe(recipe(), tmp_path / "run", QUIET, {"scenes-as-camera": str(folder)})
    assert 0 <= record["miou"] <= 1 and record["steps"] == 2
    # the same folder elsewhere is the same run
    shutil.copytree(folder, tmp_path / "elsewhere")
    again, _ = run_recipe(recipe(), tmp_path / "again", QUIET, {"scenes-as-camera": str(tmp_path / "elsewhere")})
    assert again.miou == found.miou
    assert (tmp_path / "run/weights.safetensors").read_bytes() == (tmp_path / "again/weights.safetensors").read_bytes()


def test_resumed_with_other_translated(folder, tmp_path):
    "Translated images of the same names that were made otherwise are another run's; the same translated images in another place are not."
    run_recipe(recipe(), tmp_path / "run", QUIET, {"scenes-as-camera": str(folder)})
    other, moved = shutil.copytree(folder, tmp_path / "other"), shutil.copytree(folder, tmp_path / "moved")
    about = json.loads((other / "translated.json").read_text())
    (other / "translated.json").write_text(json.dumps(about | {"seed": 99}))
    with pytest.raises(InputError, match="translated.json: does not match"):
        TranslatedImages(open_dataset(RENDERED), other)  # edited by hand
    write_json(other / "translated.json", about | {"seed": 99}, seal=True)
    with pytest.raises(InputError, match="another configuration .*data.adapt.source"):
        run_recipe(recipe(), tmp_path / "run", QUIET, {"scenes-as-camera": str(other)}, resume=True)
    run_recipe(recipe(), tmp_path / "run", QUIET, {"scenes-as-camera": str(moved)}, resume=True)


@pytest.mark.parametrize(
    "source, parts",
    [
        (RENDERED.replace("n=4", "n=5"), ["no translated image of 'seed0-000004'"]),
        (RENDERED.replace("rendered", "camera"), ["translated.json", "other images"]),
        (RENDERED.replace("64x96", "64x128"), ["other images", "scene_size"]),
    ],
    ids=["more", "style", "size"],
)
def test_translated_of_others_are_refused_before_anything_is_written(folder, tmp_path, source, parts):
    with pytest.raises(InputError) as error:
        run_recipe(recipe(source), tmp_path / "run", QUIET, {"scenes-as-camera": str(folder)})
    for part in parts:
        assert part in str(error.value), error.value
    with pytest.raises(InputError, match="--roots scenes-as-camera=FOLDER"):
        run_recipe(recipe(), tmp_path / "run", QUIET)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("options", [dict(workers=2), dict(cache_mb=50), dict(labelled=False)])
def test_streams_over_both(folder, options):
    def take(**options):
        stream = iter(
            Stream(
                join_translated(open_dataset(RENDERED), folder),
                3,
                JointTransform(flip=True, crop=(48, 64)),
                seed=2,
                **options,
            )
        )
        batches = [next(stream) for _ in range(6)]
        stream.close()
        return batches

    plain = take()
    assert {k for b in plain[:3] for k in b.keys} > {"seed0-000000", "translated/seed0-000003"}
    for a, b in zip(plain, take(**options)):
        assert (
            a.image.equal(b.image)
            and a.keys == b.keys
            and (b.label is None if "labelled" in options else a.label.equal(b.label))
        )


def test_a_broken_translated_is_named_through_a_worker(folder, tmp_path):
    path = shutil.copytree(folder, tmp_path / "cut")
    victim = path / "seed0-000002.png"
    whole = victim.read_bytes()
    victim.write_bytes(whole[:500])
    with pytest.raises(InputError, match="seed0-000002.png: has 500 bytes"):
        TranslatedImages(open_dataset(RENDERED), path)
    victim.write_bytes(whole[:500] + bytes(len(whole) - 500))
    stream = iter(Stream(TranslatedImages(open_dataset(RENDERED), path), 4, workers=1))
    with pytest.raises(InputError, match="seed0-000002.png"):
        next(stream)


def test_translated_for_files_with_folders_in_their_keys(tmp_path):
    open_source = lambda **options: open_dataset(f"crosscity:{SAMPLES / 'crosscity'}", "test", **options)
    source = open_source()
    assert write_translated(
        source, open_dataset(CAMERA), tmp_path / "translated", "fourier:0.02", progress=False
    ) == len(source)
    both = join_translated(
        open_source(space="cityscapes19"), tmp_path / "translated"
    )  # labels in another space: the same images
    assert (
        "/" in source.key(0)
        and (tmp_path / f"translated/{source.key(0)}.png").is_file()
        and both.space.name == "cityscapes19"
    )
    assert both[0].label.equal(both[len(source)].label) and not both[0].image.equal(both[len(source)].image)
    assert json.loads((tmp_path / "translated/translated.json").read_text())["translator"] == {
        "name": "fourier_transfer",
        "beta": 0.02,
    }
