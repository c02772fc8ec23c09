"""What only a GPU can show, in one go and under eight minutes on a large one: `make gpu-check`.

Each check runs in a process of its own, so that its peak memory is its own and a failure does not end the others. Figures are appended to results/bench_gpu.csv.
Needs torch and the base install alone, neither nbdev nor Jupyter. `--small` runs the same checks with small sizes on whatever device there is, and records nothing."""

import argparse
import csv
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
COLUMNS = ("check", "case", "seconds", "plain_seconds", "ratio", "peak_gib", "outcome", "commit", "machine")
FAMILIES = {
    "output space": "gta5/multi-level",
    "patch alignment": "gta5/ou-patch",
    "content-invariant": "gta5/cirn",
    "contrastive": "gta5/contrastive",
}
SMALL = {
    "output space": "scenes/multi-level",
    "patch alignment": "scenes/ou-patch",
    "content-invariant": "scenes/cirn",
    "contrastive": "scenes/contrastive",
}
TIMEOUT = 150  # seconds of one check


def device():
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def synchronize():
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds_of(step, repeats):
    "Median seconds of a step, after one that does not count."
    step()
    synchronize()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        step()
        synchronize()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def check_import(small):
    "Versions, and that the package does not need what a server lacks."
    import torch

    import uda_kit

    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return [{"case": f"uda_kit {uda_kit.__version__}, torch {torch.__version__}, {name}"}]


def check_same_as_cpu(small):
    "A network's scores and the contrastive loss with its gradient, in fp32, against the CPU."
    import torch

    from uda_kit.benchmarks.contrastive import loss_case
    from uda_kit.methods.contrastive import contrastive_loss
    from uda_kit.models.segmenters import deeplab_v2

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.manual_seed(0)
    net, image = deeplab_v2(19, "tiny" if small else "resnet50").eval(), torch.rand(1, 3, 129, 257)
    results = {}
    for place in ("cpu", device()):
        with torch.no_grad():
            scores = net.to(place)(image.to(place)).logits.cpu()
        case = loss_case(19, 20, 128, device=place)
        loss = contrastive_loss(*case)
        loss.backward()
        results[place] = scores, loss.detach().cpu(), case[0].grad.cpu()
    pairs = zip(results["cpu"], results[device()])
    worst = max(float((a - b).abs().max() / a.abs().max()) for a, b in pairs)
    assert worst < 1e-3, f"differs from the CPU by {worst:.1e}"
    return [{"case": f"largest relative difference {worst:.1e}"}]


def check_recipe(small, family):
    "A few steps of every stage of a full-size recipe in bf16: seconds and peak memory."
    from uda_kit.experiments.dry_run import dry_run
    from uda_kit.recipes.catalogue import find_recipe
    from uda_kit.training.fit import RunOptions

    name = (SMALL if small else FAMILIES)[family]
    precision = "32-true" if device() == "cpu" else "bf16-mixed"
    record = dry_run(
        find_recipe(name),
        2,
        RunOptions(precision=precision, progress=False),
        say=lambda text: print(text, file=sys.stderr),
    )
    return [
        {"case": f"{name}, {stage}", "seconds": s["seconds_per_step"], "peak_gib": record["peak_gib"]}
        for stage, s in record["stages"].items()
    ]


def check_plain_step(small):
    "The output-space paper's step by hand in fp32, and the kit's in bf16."
    from uda_kit.benchmarks.timing import same_losses
    from uda_kit.benchmarks.training_step import time_steps

    name = "tiny-smoke" if small else "resnet101-full"
    fast, plain = time_steps("fast", name, 5), time_steps("plain", name, 5)
    assert same_losses(plain["losses"], fast["losses"]), "the two steps report different losses"
    return [
        {
            "case": name,
            "seconds": fast["seconds"],
            "plain_seconds": plain["seconds"],
            "ratio": plain["seconds"] / fast["seconds"],
            "peak_gib": plain["peak_gib"],
        }
    ]


def check_contrastive_loss(small):
    "The loss in blocks against the whole matrix, and with bf16 products."
    import torch

    from uda_kit.benchmarks.contrastive import WAYS, loss_and_gradients, loss_case

    case = loss_case(19, 20 if small else 1000, 128, device=device())
    times = {way: seconds_of(lambda: loss_and_gradients(way, case), 3) for way in WAYS}
    peak = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else None
    rows = [("in blocks", "kit"), ("bf16 products", "bf16")]
    return [
        {
            "case": text,
            "seconds": times[way],
            "plain_seconds": times["plain"],
            "ratio": times["plain"] / times[way],
            "peak_gib": peak,
        }
        for text, way in rows
    ]


def check_teacher(small):
    "The teacher's six scales against the student's own step, and what following costs."
    import torch

    from uda_kit.methods.averaged_prediction import average_prediction
    from uda_kit.methods.teacher import Teacher
    from uda_kit.models.segmenters import deeplab_v2

    size = (97, 97) if small else (713, 713)
    net = deeplab_v2(19, "tiny" if small else "resnet101").to(device(), memory_format=torch.channels_last).train()
    image = torch.rand(2, 3, *size, device=device()).contiguous(memory_format=torch.channels_last)
    teacher = Teacher(average=0.999, precision="bf16-mixed" if device() == "cuda" else "32-true")
    teacher.predictor(net)

    def student():
        net.zero_grad()
        with torch.autocast(device(), torch.bfloat16, enabled=device() == "cuda"):
            out = net(image)
        (out.logits.float().mean() + (0 if out.aux is None else out.aux.float().mean())).backward()

    own = seconds_of(student, 3)
    labels = seconds_of(
        lambda: average_prediction(teacher.predictor(None), image, teacher.scales, teacher.precision), 3
    )
    follow = seconds_of(lambda: teacher.follow(net, 0.999), 5)
    return [
        {"case": "six scales", "seconds": labels, "plain_seconds": own, "ratio": labels / own},
        {"case": "follow", "seconds": follow},
    ]


def check_sync_bn(small):
    "Batch norms become joint ones, with the same weights."
    import torch

    from uda_kit.models.segmenters import deeplab_v2

    net = deeplab_v2(19, "tiny", bn="train")
    norms = sum(isinstance(m, torch.nn.BatchNorm2d) for m in net.modules())
    before = net.state_dict()
    converted = torch.nn.SyncBatchNorm.convert_sync_batchnorm(net)
    joint = sum(isinstance(m, torch.nn.SyncBatchNorm) for m in converted.modules())
    assert joint == norms and all(v.equal(before[k]) for k, v in converted.state_dict().items())
    return [{"case": f"{joint} norms"}]


def check_compile(small):
    "A forward and backward pass as it is, and through torch.compile."
    import torch

    from uda_kit.models.segmenters import deeplab_v2

    net = deeplab_v2(19, "tiny" if small else "resnet101").to(device(), memory_format=torch.channels_last).train()
    image = torch.rand(1, 3, *((65, 97) if small else (512, 1024)), device=device()).contiguous(
        memory_format=torch.channels_last
    )

    def stepper(model):
        def step():
            net.zero_grad()
            with torch.autocast(device(), torch.bfloat16, enabled=device() == "cuda"):
                loss = model(image).logits.float().mean()
            loss.backward()

        return step

    plain = seconds_of(stepper(net), 5)
    backend = "inductor" if device() == "cuda" else "aot_eager"  # a CPU may have no compiler
    compiled = seconds_of(stepper(torch.compile(net, backend=backend)), 5)
    return [{"case": "torch.compile", "seconds": compiled, "plain_seconds": plain, "ratio": plain / compiled}]


def check_resume(small):
    "Four steps, and two steps resumed for two more: how far apart are the weights?"
    import torch

    from uda_kit.core.tensors import load_tensors
    from uda_kit.data.streets.dataset import StreetScenes
    from uda_kit.data.streets.style import CAMERA, RENDERED
    from uda_kit.methods.output_space import OutputSpaceTerms
    from uda_kit.models.segmenters import deeplab_v2
    from uda_kit.training.fit import Interrupted, LoaderConfig, RunOptions, Stage, StopRequest, fit

    def run(folder, stop=None, resume=False):
        torch.manual_seed(0)
        net = deeplab_v2(19, "tiny")
        terms = OutputSpaceTerms(width=8).build(net)
        if stop:
            after = terms["seg"].forward

            def stopping(*batches):
                if terms["seg"].age + 1 == stop:
                    StopRequest.current.note(15, None)
                return after(*batches)

            terms["seg"].forward = stopping
        scenes = (
            LoaderConfig(StreetScenes(RENDERED, 8, (64, 96)), 2),
            LoaderConfig(StreetScenes(CAMERA, 8, (64, 96)), 2, labelled=False),
        )
        fit(Stage("adapt", net, terms, *scenes, steps=4), folder, RunOptions(progress=False), resume=resume)

    with tempfile.TemporaryDirectory() as folder:
        whole, parts = Path(folder) / "whole", Path(folder) / "parts"
        run(whole)
        try:
            run(parts, stop=2)
        except Interrupted:
            run(parts, resume=True)
        a, b = (load_tensors(f / "checkpoints/adapt-0000004/weights.safetensors")[0] for f in (whole, parts))
    worst = max(float((a[k].float() - b[k].float()).abs().max()) for k in a)
    assert worst < 1e-3 and (worst == 0 or device() == "cuda"), f"resumed weights differ by {worst:.1e}"
    return [{"case": f"largest difference {worst:.1e}"}]


CHECKS = {
    "import": check_import,
    "same as on a CPU": check_same_as_cpu,
    "joint batch norms": check_sync_bn,
    "resume": check_resume,
    "step": check_plain_step,
    "contrastive loss": check_contrastive_loss,
    "teacher": check_teacher,
    "compile": check_compile,
    **{f"recipe: {family}": (lambda small, family=family: check_recipe(small, family)) for family in FAMILIES},
}


def run_apart(name, small):
    "A check in a process of its own: (rows, outcome)."
    command = [sys.executable, __file__, "--one", name, *(["--small"] if small else [])]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, cwd=ROOT)
    except subprocess.TimeoutExpired:
        return [{"case": ""}], f"took more than {TIMEOUT} s"
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        return [{"case": ""}], "failed: " + lines[-1][:200]
    return json.loads(done.stdout.strip().splitlines()[-1]), "ok"


def record(rows):
    "Append to results/bench_gpu.csv."
    from uda_kit.results.tables import current_commit, machine_name

    path = ROOT / "results" / "bench_gpu.csv"
    fresh = not path.exists()
    with open(path, "a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if fresh:
            writer.writeheader()
        for row in rows:
            writer.writerow(row | {"commit": current_commit(), "machine": machine_name()})


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="small sizes, on any device; nothing is recorded")
    parser.add_argument("--one", choices=CHECKS, help="run one check in this process and print its figures as JSON")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(CHECKS[options.one](options.small)))
        return 0
    began, every = time.time(), []
    for name in CHECKS:
        rows, outcome = run_apart(name, options.small)
        for row in rows:
            figures = {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items() if v is not None}
            every.append({"check": name, "outcome": outcome} | figures)
            numbers = ", ".join(f"{k} {v}" for k, v in figures.items() if k != "case")
            print(f"{name}: {outcome}  {row['case']}  {numbers}".rstrip(), flush=True)
    if not options.small:
        record(every)
    bad = sum(row["outcome"] != "ok" for row in every)
    print(f"{len(CHECKS)} checks in {time.time() - began:.0f} s, {bad} not as they should be")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
