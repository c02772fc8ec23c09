"""ACDC, Dark Zurich, BDD100K and UrbanSyn: files written here by hand, read as the layouts say; what is refused, in one line."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from refusals import refused, refused_command, run_command

from uda_kit import check_data, open_dataset
from uda_kit.recipes.data import Data, data_from, open_data

SAMPLES = Path(__file__).parent.parent / "data_samples"
IDS = np.array([[0, 10, 18, 255], [7, 8, 13, 11]], np.uint8)  # train ids: a label of 4x2 pixels


def image(path, value=90):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((2, 4, 3), value, np.uint8)).save(path)


def label(path, ids=IDS):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(ids).save(path)


def opens(spec, *args, **options):
    return lambda: open_dataset(spec, *args, **options)


@pytest.fixture
def acdc(tmp_path):
    "All conditions; frames of two conditions have the same name; files beside them that are not to be read."
    root = tmp_path / "acdc"
    for value, condition in enumerate(("fog", "night", "rain", "snow")):
        for split in ("train", "val", "test"):
            frame = f"{condition}/{split}/GOPR0001/GOPR0001_frame_000041"
            image(root / f"rgb_anon/{frame}_rgb_anon.png", 10 * value)
            if split == "test":
                continue
            label(root / f"gt/{frame}_gt_labelTrainIds.png")
            label(root / f"gt/{frame}_gt_labelIds.png", np.full((2, 4), 26, np.uint8))
            label(root / f"gt/{frame}_gt_invIds.png", np.ones((2, 4), np.uint8))
            image(root / f"gt/{frame}_gt_labelColor.png")
        reference = f"{condition}/train_ref/GOPR0001_ref/GOPR0001_frame_000041"
        image(root / f"rgb_anon/{reference}_rgb_ref_anon.png")
    return root


@pytest.fixture
def darkzurich(tmp_path):
    root = tmp_path / "darkzurich"
    for value, place in enumerate(("train/night", "train/twilight", "train/day", "val/night", "test/night")):
        image(root / f"rgb_anon/{place}/GOPR0002/GOPR0002_frame_{value:06d}_rgb_anon.png", 10 * value)
    image(root / "rgb_anon/val_ref/day/GOPR0002_ref/GOPR0002_frame_000009_ref_rgb_anon.png")
    label(root / "gt/val/night/GOPR0002/GOPR0002_frame_000003_gt_labelTrainIds.png")
    return root


@pytest.fixture
def bdd100k(tmp_path):
    for split, name in (("train", "a-1"), ("val", "b-2"), ("test", "c-3")):
        image(tmp_path / f"bdd/images/10k/{split}/{name}.jpg")
        if split != "test":
            label(tmp_path / f"bdd/labels/sem_seg/masks/{split}/{name}.png")
            image(tmp_path / f"bdd/labels/sem_seg/colormaps/{split}/{name}.png")
    return tmp_path / "bdd"


@pytest.fixture
def urbansyn(tmp_path):
    for number in ("0001", "0002"):
        image(tmp_path / f"urban/rgb/rgb_{number}.png")
        label(tmp_path / f"urban/ss/ss_{number}.png", np.where(IDS == 255, 19, IDS).astype(np.uint8))
        image(tmp_path / f"urban/ss_color/ss_color_{number}.png")
    return tmp_path / "urban"


# --- layouts -----------------------------------------------------------------------------------------------------------


def test_acdc_conditions_and_splits(acdc):
    whole = open_dataset(f"acdc:{acdc}")
    assert whole.keys == [f"{c}/GOPR0001_frame_000041" for c in ("fog", "night", "rain", "snow")]
    assert whole.split == "train" and whole.space.name == "cityscapes19"
    for i in range(4):
        assert (whole[i].label.numpy() == IDS).all() and (whole[i].image == 10 * i).all()
    rain = open_dataset(f"acdc:{acdc}?condition=rain", "val")
    assert rain.keys == ["rain/GOPR0001_frame_000041"] and (rain[0].image == 20).all()
    assert rain.settings()["conditions"] == ["rain"] and len(whole.settings()["conditions"]) == 4
    test = open_dataset(f"acdc:{acdc}", "test")
    assert len(test) == 4 and test[3].label is None


def test_dark_zurich_conditions_and_splits(darkzurich):
    values = {"night": 0, "twilight": 10, "day": 20}
    for condition, value in values.items():
        images = open_dataset(f"darkzurich:{darkzurich}?condition={condition}")
        assert len(images) == 1 and not images.labelled and (images[0].image == value).all()
        assert images.settings()["condition"] == condition
    assert (open_dataset(f"darkzurich:{darkzurich}")[0].image == 0).all()  # night
    val = open_dataset(f"darkzurich:{darkzurich}", "val")
    assert val.keys == ["GOPR0002_frame_000003"] and (val[0].label.numpy() == IDS).all()
    assert not open_dataset(f"darkzurich:{darkzurich}", "test").labelled


@pytest.mark.parametrize("folder", ["", "bdd100k"])
def test_bdd100k_with_and_without_its_folder(bdd100k, tmp_path, folder):
    root = bdd100k
    if folder:
        root = tmp_path / "outer"
        shutil.copytree(bdd100k, root / folder)
    train = open_dataset(f"bdd100k:{root}")
    assert train.keys == ["a-1"] and (train[0].label.numpy() == IDS).all()
    assert open_dataset(f"bdd100k:{root}", "val").keys == ["b-2"]
    assert not open_dataset(f"bdd100k:{root}", "test").labelled


def test_urbansyn_numbers_and_unlabelled_pixels(urbansyn):
    dataset = open_dataset(f"urbansyn:{urbansyn}")
    assert dataset.keys == ["0001", "0002"] and dataset.split == "all"
    assert dataset.raw(0).max() == 19 and (dataset[0].label.numpy() == IDS).all()
    label(urbansyn / "ss/ss_0001.png")  # 255 for unlabelled is read, too
    assert (dataset[0].label.numpy() == IDS).all()


def test_list_files_choose_training_images(acdc, urbansyn):
    (acdc / "few.txt").write_text("rgb_anon/snow/train/GOPR0001/GOPR0001_frame_000041_rgb_anon.png\n")
    few = open_dataset(f"acdc:{acdc}", "few")
    assert few.keys == ["snow/GOPR0001_frame_000041"] and few.labelled
    (urbansyn / "val.txt").write_text("rgb_0002.png\n")
    assert open_dataset(f"urbansyn:{urbansyn}?split=val").keys == ["0002"]


def test_other_spaces(acdc):
    dataset = open_dataset(f"acdc:{acdc}?space=synthia16&condition=fog")
    # terrain, truck and train are left out: 10 is now 9, 11 is 10, 13 is 12, 18 is 15
    assert dataset[0].label.tolist() == [[0, 9, 15, 255], [7, 8, 12, 10]]


# --- recipes and commands ----------------------------------------------------------------------------------------------


def test_as_an_entry_of_a_recipe(acdc, darkzurich):
    entry = Data("acdc", "train", batch_size=2, condition="night")
    assert str(entry) == "acdc?condition=night"
    opened = open_data(entry, "cityscapes19", {"acdc": str(acdc)})
    assert opened.keys == ["night/GOPR0001_frame_000041"]
    line = data_from(f"darkzurich:{darkzurich}?condition=day")
    assert (line.name, line.condition, line.root) == ("darkzurich", "day", str(darkzurich))
    assert (open_data(line, None)[0].image == 20).all()
    assert entry.same_images(Data("acdc", "train")) and not entry.same_images(Data("acdc", "train", condition="fog"))


@pytest.mark.parametrize("name", ["acdc", "darkzurich", "bdd100k", "urbansyn"])
def test_check_data_of_the_samples(name):
    status, out, err = run_command("check-data", f"{name}:{SAMPLES / name}")
    assert status == 0 and "all well" in out + err


def test_check_data_of_one_condition(darkzurich):
    report = check_data(f"darkzurich:{darkzurich}?condition=day", progress=False)
    assert report.ok and [part.split for part in report.parts] == ["train"] and report.absent == ["val", "test"]


# --- what is refused ---------------------------------------------------------------------------------------------------


def test_splits_without_labels(acdc, darkzurich, bdd100k):
    refused(opens(f"acdc:{acdc}", "test", labelled=True), acdc, "'test'", "not published", "train or val")
    refused(opens(f"bdd100k:{bdd100k}", "test", labelled=True), "'test'", "not published", "train or val")
    refused(opens(f"darkzurich:{darkzurich}", labelled=True), "'train'", "not published", "use split val")


def test_conditions_that_are_not_there(acdc, darkzurich):
    refused(opens(f"acdc:{acdc}?condition=snwo"), "has no condition 'snwo'", "did you mean 'snow'?")
    refused(opens(f"acdc:{acdc}?condition=twilight"), "has no condition 'twilight'", "known: fog")
    refused(opens(f"darkzurich:{darkzurich}?condition=fog"), "has no condition 'fog'", "day, twilight, night")
    refused(opens(f"darkzurich:{darkzurich}?condition=day", "val"), "condition 'day' in split 'val'", "split train")
    refused(opens(f"bdd100k:{acdc}?condition=night"), "unknown option 'condition'")
    shutil.rmtree(acdc / "rgb_anon" / "rain")
    refused(opens(f"acdc:{acdc}"), acdc / "rgb_anon" / "rain" / "train", "no such folder")
    assert len(open_dataset(f"acdc:{acdc}?condition=fog")) == 1


def test_images_without_labels(acdc, bdd100k, urbansyn):
    cases = {
        f"acdc:{acdc}": acdc / "gt/fog/train/GOPR0001/GOPR0001_frame_000041_gt_labelTrainIds.png",
        f"bdd100k:{bdd100k}": bdd100k / "labels/sem_seg/masks/train/a-1.png",
        f"urbansyn:{urbansyn}": urbansyn / "ss/ss_0002.png",
    }
    for spec, path in cases.items():
        path.unlink()
        refused(opens(spec), "image without a label", "finish unpacking")
        assert not open_dataset(spec, labelled=False).labelled
    shutil.rmtree(acdc / "gt")
    refused(opens(f"acdc:{acdc}"), "no such folder", "_gt_labelTrainIds.png")


def test_colors_and_other_ids_in_place_of_train_ids(acdc, urbansyn):
    path = acdc / "gt/fog/train/GOPR0001/GOPR0001_frame_000041_gt_labelTrainIds.png"
    shutil.copy(path.with_name("GOPR0001_frame_000041_gt_labelColor.png"), path)
    refused(lambda: open_dataset(f"acdc:{acdc}").label(0), path, "holds colours", "id labels")
    shutil.copy(path.with_name("GOPR0001_frame_000041_gt_labelIds.png"), path)
    refused(lambda: open_dataset(f"acdc:{acdc}").label(0), path, "holds ids 26")
    label(urbansyn / "ss/ss_0001.png", np.full((2, 4), 20, np.uint8))
    refused(lambda: open_dataset(f"urbansyn:{urbansyn}").label(0), "ss_0001.png", "holds ids 20")


def test_two_files_of_one_number(urbansyn):
    image(urbansyn / "rgb/0002.png")
    refused(opens(f"urbansyn:{urbansyn}"), "has the same number as", "0002.png")


def test_commands_refuse_in_one_line(acdc, tmp_path):
    refused_command(["check-data", f"acdc:{tmp_path / 'nowhere'}"], "no such folder")
    refused_command(["check-data", f"acdc:{acdc}?condition=nigth"], "did you mean 'night'?")
