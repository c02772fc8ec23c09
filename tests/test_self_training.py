"""ClassMix, masked images, rare classes and the averaged teacher in runs: killed and resumed, on two processes, with zero weights, refused where they cannot work."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from resuming import killed_and_resumed, options, same_stage, undisturbed
from safetensors.torch import load_file

from uda_kit.core.errors import InputError
from uda_kit.core.settings import override
from uda_kit.data.dataset import Relabelled
from uda_kit.data.sampling import RareClassSampling
from uda_kit.data.streets.dataset import StreetScenes
from uda_kit.data.streets.style import CAMERA as CAMERA_STYLE
from uda_kit.evaluation.evaluate import evaluate
from uda_kit.evaluation.windows import Inference
from uda_kit.experiments.build import Run, build_stages, open_scored
from uda_kit.experiments.dry_run import dry_run
from uda_kit.experiments.running import run_recipe
from uda_kit.experiments.settings import candidate_recipe
from uda_kit.methods.classmix import ClassMix
from uda_kit.methods.feature_distance import FeatureDistanceTerms
from uda_kit.methods.output_space import SupervisedTerms
from uda_kit.models.backbones import still_statistics
from uda_kit.models.checkpoints import load_weights, save_weights
from uda_kit.models.configs import HRDA, DeepLabV2
from uda_kit.models.segmenters import deeplab_v2
from uda_kit.recipes.catalogue import find_recipe, recipes
from uda_kit.training.configs import SumOfTerms
from uda_kit.training.fit import SGD, LoaderConfig, RunOptions, Stage, fit
from uda_kit.training.runs import RunDirectory, newest_checkpoint

RENDERED, CAMERA = (f"scenes:{style}?n=6&size=48x64" for style in ("rendered", "camera"))
STEPS = {"warmup": 2, "adapt": 9}
RARE = "stages.1.source.rare=RareClassSampling(min_pixels=5)"
SETTINGS = [
    *(f"stages.{i}.steps={steps}" for i, steps in enumerate(STEPS.values())),
    *(f"stages.{i}.source={RENDERED}" for i in (0, 1)),
    *(f"stages.{i}.source.batch_size=2" for i in (0, 1)),
    f"stages.1.target={CAMERA}",
    "stages.1.target.batch_size=2",
    "stages.1.target.margins=(0.1,0.2,0,0)",
    f"test={CAMERA}",
    f"val={CAMERA}",
]


def small(row, *settings):
    "A row on the scenes with few steps; the last setting of a path counts."
    last = {setting.partition("=")[0]: setting for setting in (*SETTINGS, *settings)}
    return override(find_recipe(f"scenes/{row}"), list(last.values()))


ARGS = ["train", "scenes/dacs-mic", "--no-progress", "--save-every", "3", "--log-every", "1"]
ARGS += ["--accelerator", "cpu", "--set", *SETTINGS]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return undisturbed(ARGS, tmp_path_factory)


def test_killed_at_a_random_step(alone, tmp_path):
    killed_and_resumed(alone, tmp_path / "run", ARGS, STEPS, "adapt")


def test_what_a_checkpoint_holds(alone):
    "The teacher, which is not the student."
    state = same_stage(alone, alone, "adapt", STEPS["adapt"])
    student = newest_checkpoint(RunDirectory(alone), "adapt").weights
    teacher = {name.split("teacher.", 1)[1]: value for name, value in state.items() if "teacher." in name}
    moved = [name for name in student if name in teacher and not teacher[name].equal(student[name])]
    assert any(name.startswith("backbone.") and name.endswith("weight") for name in moved)


def test_rare_classes_and_feature_distance_train(tmp_path, capsys):
    "A stage with all parts trains, without progress bars where none are wanted, and its frozen copy is not saved."
    recipe = small("dacs-mic")
    full = find_recipe("camvid-lite0/daformer-mic").stages[1]
    last = replace(recipe.stages[1], steps=2)
    last = replace(last, terms=full.terms, transforms=full.transforms)
    last = replace(last, source=replace(last.source, rare=RareClassSampling(min_pixels=5)))
    run_recipe(replace(recipe, stages=(recipe.stages[0], last)), tmp_path / "run", options())
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert {"loss/seg", "loss/mixed", "loss/masked", "loss/feature_distance"} <= log[-1].keys()
    weights = load_file(tmp_path / "run" / "weights.safetensors")
    assert not [name for name in weights if "frozen" in name]
    assert "counting" not in capsys.readouterr().err


def test_two_resolutions_train(tmp_path):
    "HRDA's small row trains, and differs from its control in the adaptation alone."
    adapted, control = find_recipe("scenes-lite0/hrda"), find_recipe("scenes-lite0/hrda-source-only")
    assert adapted.stages[0] == control.stages[0] and adapted.stages[1].net == control.stages[1].net
    settings = [f"stages.{k}.{part}.n=4" for k, part in ((0, "source"), (1, "source"), (1, "target"))]
    settings += ["stages.0.steps=1", "stages.1.steps=1", "test.n=2", "stages.1.source.rare=None"]
    run_recipe(override(adapted, settings), tmp_path / "run", options())
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    wanted = {"loss/seg", "loss/detail_source", "loss/mixed", "loss/detail_mixed", "loss/feature_distance"}
    assert wanted <= log[-1].keys()


def without_target():
    settings = [setting for setting in SETTINGS if ".target" not in setting]
    return override(find_recipe("scenes/source-only"), settings)


def test_weight_zero_is_supervised_training(tmp_path):
    "Without their losses, mixing and masking leave no trace in the network."
    silent = ("stages.1.terms.parts.1.weight=0", "stages.1.terms.parts.2.weight=0")
    run_recipe(small("dacs-mic", *silent), tmp_path / "silent", options())
    run_recipe(without_target(), tmp_path / "supervised", options())
    silent, supervised = (load_file(tmp_path / name / "weights.safetensors") for name in ("silent", "supervised"))
    assert silent.keys() == supervised.keys()
    assert all(torch.equal(silent[name], supervised[name]) for name in silent)


PROGRAM = """
import sys
from dataclasses import replace
import torch
from uda_kit.data.labels import CITYSCAPES19
from uda_kit.data.streets.dataset import StreetScenes
from uda_kit.data.streets.style import CAMERA, RENDERED
from uda_kit.methods.feature_distance import FeatureDistanceTerms
from uda_kit.models.checkpoints import load_weights
from uda_kit.models.configs import HRDA, DeepLabV2
from uda_kit.models.segmenters import deeplab_v2
from uda_kit.recipes.catalogue import find_recipe
from uda_kit.training.configs import BuildContext
from uda_kit.training.fit import SGD, LoaderConfig, RunOptions, Stage, fit
out, devices = sys.argv[1], int(sys.argv[2])
torch.manual_seed(0)
net = deeplab_v2(19, backbone="tiny", bn="frozen", multi_level=False)
last = find_recipe("scenes/dacs-mic").stages[-1]
context = BuildContext(space=CITYSCAPES19)
teacher, mixing, masking = last.transforms
teacher = replace(teacher, precision="32-true", averaging=replace(teacher.averaging, norms="eval"))
teacher = replace(teacher, rule=replace(teacher.rule, threshold=0.09))
transforms = [part.build(net, context) for part in (teacher, replace(mixing, shared=True), masking)]
size, batch = (64, 96), 4 // devices
source, target = LoaderConfig(StreetScenes(RENDERED, 8, size), batch), LoaderConfig(StreetScenes(CAMERA, 8, size, seed=1), batch, labelled=False)
stage = Stage("adapt", net, last.terms.build(net, context), source, target, steps=4, optimizer=SGD(lr=1e-2, head_multiplier=1.0), transforms=transforms)
fit(stage, out, RunOptions(accelerator="cpu", devices=devices, progress=False, log_every=1))
"""


def test_two_processes_equal_one(tmp_path):
    "The same classes are drawn, the same blocks hidden, the same colors changed, the same share of pixels is confident."
    script = tmp_path / "run.py"
    script.write_text(PROGRAM)
    weights, logs = [], []
    for devices in (1, 2):
        out = tmp_path / f"out{devices}"
        command = [sys.executable, script, out, str(devices)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr[-3000:]
        (last,) = sorted((out / "checkpoints").glob("adapt-*"))[-1:]
        weights.append(load_file(last / "weights.safetensors"))
        logs.append([json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()])
    torch.manual_seed(0)
    start = deeplab_v2(19, backbone="tiny", bn="frozen", multi_level=False).state_dict()
    names = [name for name in start if start[name].is_floating_point()]
    moved = max(float((weights[0][name] - start[name]).abs().max()) for name in names)
    apart = max(float((weights[0][name] - weights[1][name]).abs().max()) for name in names)
    assert moved > 1e-3 and apart < moved / 100
    assert 0 < logs[0][0]["mixed/confident"] < 1


WINDOWS = """
import sys
import torch
from torch import distributed, nn
from uda_kit.models.backbones import still_statistics
from uda_kit.models.multi_resolution import random_box
rank = int(sys.argv[1])
distributed.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
torch.manual_seed(rank)
print([random_box((96, 192)) for _ in range(8)])
distributed.destroy_process_group()
"""


def test_all_processes_look_at_the_same_windows(tmp_path):
    "HRDA takes one window for the whole batch, also where processes share it."
    script = tmp_path / "windows.py"
    script.write_text(WINDOWS)
    started = [
        subprocess.Popen([sys.executable, script, str(rank), tmp_path / "meet"], stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    first, second = (process.communicate(timeout=120)[0].strip().splitlines()[-1] for process in started)
    assert first == second and len(set(eval(first))) > 1


def test_masked_images_pass_batch_norms_of_several_devices():
    "`SyncBatchNorm` refuses to work without a count of batches; the masked images must not count."
    norm = torch.nn.SyncBatchNorm(3)
    with still_statistics(norm):
        assert norm.num_batches_tracked is not None and norm.momentum == 0
        norm.num_batches_tracked.add_(1)
    assert norm.num_batches_tracked == 0 and norm.momentum == 0.1


def test_two_label_spaces_are_not_mixed(tmp_path):
    net = deeplab_v2(19, backbone="tiny", bn="frozen", multi_level=False)
    streets = StreetScenes(CAMERA_STYLE, 8, (64, 96))
    camvid = Relabelled(StreetScenes(CAMERA_STYLE, 8, (64, 96), seed=1), space="camvid11")
    stage = Stage(
        "adapt",
        net,
        SupervisedTerms().build(net),
        LoaderConfig(streets, 2),
        LoaderConfig(camvid, 2, labelled=True),
        steps=1,
        optimizer=SGD(),
        transforms=[ClassMix()],
    )
    with pytest.raises(InputError, match="cannot be mixed"):
        fit(stage, tmp_path / "run", RunOptions(progress=False))


@pytest.mark.parametrize(
    "settings,problem",
    [
        (["stages.1.transforms.2.ratio=1.0"], "ratio"),
        (["stages.1.target.margins=(0.5,0.5,0,0)"], "leave nothing of an image"),
        (["stages.1.source.crop=(48,32)"], "mixes 2 source images of 48x32 with 2 target images of 48x64"),
        (["stages.1.target.batch_size=1"], "the same batch size"),
        (["stages.1.terms.parts.1.average=some"], "no way to average"),
        (["stages.1.terms.parts.1.batch=mixt"], "which nobody makes"),
        (["stages.1.transforms.0.rule.threshold=1.5"], "threshold"),
    ],
)
def test_what_cannot_work(tmp_path, settings, problem):
    with pytest.raises(InputError, match=problem):
        run_recipe(small("dacs-mic", *settings), tmp_path / "run", options())
    assert not (tmp_path / "run").exists() or not list((tmp_path / "run").rglob("*.safetensors"))


LARGE = [setting.replace("48x64", "96x128") for setting in SETTINGS]


@pytest.mark.parametrize(
    "settings,problem",
    [
        ("stages.1.source.crop=(96,64)", "the same crop"),
        ("stages.1.target.batch_size=1", "the same batch size"),
    ],
)
def test_refused_before_the_warm_up(tmp_path, settings, problem):
    "Images are large enough for any network: nothing but a look at the settings finds the mistake."
    last = {setting.partition("=")[0]: setting for setting in (*LARGE, settings)}
    with pytest.raises(InputError, match=problem):
        run_recipe(override(find_recipe("scenes/dacs"), list(last.values())), tmp_path / "run", options())
    assert not list(tmp_path.rglob("*.safetensors"))


VIT = DeepLabV2("timm:vit_tiny_patch16_224", multi_level=False)
HALVED = HRDA("tiny", width=16)


@pytest.mark.parametrize(
    "net,settings,problem",
    [
        (HALVED, ["stages.1.target.crop=(72,96)", "stages.1.source.crop=(72,96)"], "'adapt', source: .* give 64x96"),
        (VIT, ["stages.1.target.crop=(72,96)", "stages.1.source.crop=(72,96)"], "'adapt', source: .* give 64x96"),
        (HALVED, ["test=scenes:camera?n=2&size=72x96"], "test.size: .* give 64x96"),
        (VIT, ["test=scenes:camera?n=2&size=72x96"], "test.size: .* give 64x96"),
        (VIT, ["val=scenes:camera?n=2&size=72x96"], "val.size: .* give 64x96"),
        (VIT, ["test=scenes:camera?n=2&size=100x96", "window=(64,64)", "stride=(96,96)"], "leaves gaps"),
        (VIT, ["stride=(96,96)"], "no window to move"),
        (VIT, ["window=(256,256)"], "window 256x256: is larger than the image"),
        (HALVED, ["window=(72,64)"], "window: .* give 64x64"),
        (HALVED, ["stages.1.source.scale=(1.0,1.5)"], "scales images without a crop"),
        (VIT, ["stages.0.source.size=(72,96)"], "'warmup', source: .* give 64x96"),
    ],
)
def test_sizes_that_the_network_cannot_take(tmp_path, net, settings, problem):
    "Found before the warm-up, in the images that train, those that judge, and the windows that judge."
    last = {setting.partition("=")[0]: setting for setting in (*LARGE, *settings)}
    recipe = override(find_recipe("scenes/dacs"), list(last.values()))
    recipe = replace(recipe, stages=tuple(replace(stage, net=net) for stage in recipe.stages))
    with pytest.raises(InputError, match=problem):
        run_recipe(recipe, tmp_path / "run", replace(options(), validate_every=1))
    assert not list(tmp_path.rglob("*.safetensors"))


def test_validation_images_of_a_teacher(tmp_path):
    "Its labels are judged on whole validation images after the training, also where no curve was asked for."
    recipe = override(small("dacs"), [setting.replace("48x64", "96x128") for setting in SETTINGS])
    recipe = replace(recipe, stages=tuple(replace(stage, net=VIT) for stage in recipe.stages))
    with pytest.raises(InputError, match="val.size: .* give 64x96"):
        run_recipe(override(recipe, ["val=scenes:camera?n=2&size=72x96"]), tmp_path / "run", options())
    assert not (tmp_path / "run").exists()


def test_networks_with_sizes_of_their_own(tmp_path):
    "A teacher at several scales keeps to sizes that its network takes; images to label and parts of a source fit, too."
    recipe = find_recipe("scenes/contrastive-self-train")
    sizes = [setting.replace("48x64", "96x128") for setting in SETTINGS if "margins" not in setting]
    recipe = override(recipe, [setting for setting in sizes if ".steps" not in setting])
    recipe = override(recipe, ["stages.0.steps=1", "stages.1.steps=1"])
    for net in (VIT, HALVED):
        run_recipe(
            replace(recipe, stages=tuple(replace(stage, net=net) for stage in recipe.stages)),
            tmp_path / type(net).__name__,
            options(),
        )
    few = ["stages.1.other_sources.0.data=scenes:camera?n=2&size=48x64", "stages.1.source.crop=(64,64)"]
    few += ["stages.1.other_sources.0.data.only=2", "stages.1.target.crop=(64,64)"]
    with pytest.raises(InputError, match="larger than an image of 48x64"):
        run_recipe(override(find_recipe("scenes/dacs-few-labels"), [*LARGE, *few]), tmp_path / "few", options())


def test_masked_source_images_need_a_pair(tmp_path):
    one = [f"stages.1.{side}.batch_size=1" for side in ("source", "target")]
    recipe = small("dacs-mic", *one, "stages.1.transforms.2.separate=True")
    with pytest.raises(InputError, match="needs 2"):
        run_recipe(recipe, tmp_path / "run", options())


def test_scored_in_the_windows_of_the_recipe(tmp_path):
    "Test and validation images alike; the record says so, and another score of the same network agrees."
    recipe = small("dacs", "window=(32,48)", "stride=(16,24)", "stages.0.steps=1", "stages.1.steps=1")
    after, _ = run_recipe(recipe, tmp_path / "run", replace(options(), validate_every=1))
    assert after.inference == Inference((32, 48), (16, 24))
    trained = load_weights(tmp_path / "run" / "weights.safetensors")
    test, val = (open_scored(data, recipe.space) for data in (recipe.test, recipe.val))

    def score(images, inference):
        return evaluate(trained, images, inference=inference, progress=False).miou

    assert score(test, after.inference) == after.miou != score(test, Inference())
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    logged = [line["miou"] for line in log if "miou" in line][-1]
    assert (
        logged
        == pytest.approx(score(val, after.inference), abs=1e-4)
        != pytest.approx(score(val, Inference()), abs=1e-4)
    )


def test_own_weights_and_the_feature_distance(tmp_path):
    "The first network is the user's file. What features stay near to is what the settings name."
    recipe = find_recipe("scenes-lite0/daformer")
    few = [setting.replace("48x64", "96x128") for setting in SETTINGS if "margins" not in setting]
    recipe = override(recipe, few)
    file = tmp_path / "own.safetensors"
    own = recipe.stages[0].net.build(19)
    with torch.no_grad():
        for parameter in own.parameters():
            parameter += 0.1
    save_weights(own, file)
    plain, given = (build_stages(Run(recipe, weights=weights)) for weights in (None, str(file)))

    def stem(backbone):
        return dict(backbone.named_parameters())["body.conv_stem.weight"]

    frozen = [stages[1].terms["feature_distance"].frozen[0].backbone for stages in (plain, given)]
    assert torch.equal(stem(frozen[0]), stem(frozen[1]))
    assert torch.equal(stem(frozen[1]), stem(plain[0].net.backbone))
    assert torch.equal(stem(given[0].net.backbone), stem(own.backbone)) and given[0].net is given[1].net


def test_a_class_that_never_occurs(tmp_path, capsys):
    "It is named and left out; where that is every class, nothing trains and nothing is written."
    recipe = small("dacs")
    first, last = recipe.stages

    def sampled(least):
        source = replace(last.source, rare=RareClassSampling(min_pixels=least))
        return replace(recipe, stages=(first, replace(last, source=source)))

    with pytest.raises(InputError, match="finds no image"):
        run_recipe(sampled(10**6), tmp_path / "none", options())
    assert not (tmp_path / "none").exists()
    build_stages(Run(sampled(300)))
    assert "none is drawn for them" in capsys.readouterr().err


def test_labels_come_before_what_needs_them(tmp_path):
    recipe = small("dacs")
    without_teacher = replace(recipe.stages[1], transforms=recipe.stages[1].transforms[1:])
    with pytest.raises(InputError, match="put a Teacher before it"):
        run_recipe(replace(recipe, stages=(recipe.stages[0], without_teacher)), tmp_path / "run", options())


def test_several_sources_and_a_few_labels(tmp_path):
    "Each part is drawn by its share; settings are not chosen on images whose labels are trained on."
    few = small("dacs-few-labels", "stages.1.other_sources.0.data.only=2")
    part = few.stages[1].other_sources[0]
    assert part.data.only == 2 and candidate_refused("camvid/dacs-few-labels")
    settings = ["stages.1.other_sources.0.data=" + CAMERA, "stages.1.other_sources.0.data.only=2"]
    run_recipe(small("dacs-few-labels", *settings), tmp_path / "run", options())
    assert (tmp_path / "run" / "weights.safetensors").is_file()
    of_all = "of the source as a whole"
    for wrong, problem in (("share=1.0", "share of 1"), ("data.crop=(8,8)", of_all), ("data.max_share=0.5", of_all)):
        with pytest.raises(InputError, match=problem):
            run_recipe(small("dacs-few-labels", f"stages.1.other_sources.0.{wrong}"), tmp_path / "wrong", options())


def candidate_refused(name):
    with pytest.raises(InputError, match="trains on the labels of its validation images"):
        candidate_recipe(find_recipe(name), "")
    return True


def test_rows_of_all_benchmarks_are_built():
    "Stages of every small row fit together, as far as they can be built without data on disk."
    for recipe in recipes().values():
        if recipe.papers == ("self_training",) and recipe.benchmark == "scenes":
            build_stages(Run(override(recipe, ["test.n=2", "val.n=2"])))


def test_dry_run():
    measured = dry_run(small("dacs-mic"), steps=1, options=options(), say=lambda text: None)
    assert list(measured["stages"]) == list(STEPS) and json.dumps(measured)


def test_two_resolutions_train_and_score(tmp_path):
    "HRDA's recipe on a small network: all losses are there, the saved network is read again and scored in windows."
    full = find_recipe("gta5/hrda-mic").stages[0]
    net = HRDA("tiny", width=16, dropout=0.0)
    recipe = small("dacs-mic")
    first, last = recipe.stages
    last = replace(last, net=net, fresh=True, steps=2, terms=without_distance(full.terms), transforms=full.transforms)
    sizes = [f"stages.{i}.source={RENDERED}" for i in (0, 1)]
    run_recipe(override(replace(recipe, stages=(first, last)), sizes), tmp_path / "run", options())
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert {"loss/detail_source", "loss/detail_mixed", "loss/detail_masked", "loss/masked"} <= log[-1].keys()
    trained = load_weights(tmp_path / "run" / "weights.safetensors")
    streets = StreetScenes(CAMERA_STYLE, 2, (96, 128))
    whole, windows = (evaluate(trained, streets, inference=Inference(w), progress=False) for w in (None, (48, 64)))
    assert 0 <= whole.miou <= 1 and 0 <= windows.miou <= 1


def without_distance(terms):
    "The network has no weights to stay near to."
    return SumOfTerms(tuple(part for part in terms.parts if not isinstance(part, FeatureDistanceTerms)))
