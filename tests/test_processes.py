"""Several processes that train together: every method takes the joint step, faults of one process end all in the same step, and other launchers than the kit's own work."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from resuming import same_tensors

from uda_kit.core.tensors import load_tensors

FAMILIES = """
import sys, torch
from uda_kit.data.labels import CITYSCAPES19
from uda_kit.data.streets.dataset import StreetScenes
from uda_kit.data.streets.style import CAMERA, RENDERED
from uda_kit.methods.ancillary_classifier import CIRNTerms
from uda_kit.methods.output_space import MinEntropyTerms, SupervisedTerms
from uda_kit.methods.patch_alignment import PatchTerms
from uda_kit.methods.patch_modes import PatchModes
from uda_kit.methods.semi_supervised import SemiSupervisedTerms
from uda_kit.training.configs import BuildContext
from uda_kit.models.segmenters import deeplab_v2
from uda_kit.training.fit import SGD, LoaderConfig, RunOptions, Stage, fit, make_fabric
out, devices = sys.argv[1], int(sys.argv[2])
size, batch = (64, 96), 2 // devices
modes = PatchModes(torch.rand(8, 76, generator=torch.Generator().manual_seed(0)), CITYSCAPES19.classes, size, (16, 16))
families = {
    "patch": lambda net: SupervisedTerms().build(net) | PatchTerms(0.1, 0.1, start=0).build(net, BuildContext(modes=modes)),
    "cirn": lambda net: CIRNTerms(adv=0.1, width=8).build(net),
    "semi": lambda net: SupervisedTerms().build(net) | SemiSupervisedTerms(self_start=0, threshold=0.01, width=8).build(net),
    "entropy": lambda net: MinEntropyTerms().build(net),
}
options = RunOptions(accelerator="cpu", devices=devices, progress=False, log_every=1)
fabric = make_fabric(options)
for name, terms in families.items():
    torch.manual_seed(0)
    net = deeplab_v2(19, backbone="tiny", bn="frozen", ancillary=2 if name == "cirn" else None)
    loaders = LoaderConfig(StreetScenes(RENDERED, 8, size), batch), LoaderConfig(StreetScenes(CAMERA, 8, size, seed=1), batch, labelled=False)
    fit(Stage("adapt", net, terms(net), *loaders, steps=3, optimizer=SGD(lr=1e-2, head_multiplier=1.0)), f"{out}/{name}", options, fabric=fabric)
"""

FAULTS = """
import json, sys, time, torch
from uda_kit.data.streets.dataset import StreetScenes
from uda_kit.data.streets.style import CAMERA, RENDERED
from uda_kit.methods.output_space import OutputAdversarial, Supervised, SupervisedTerms
from uda_kit.models.segmenters import deeplab_v2
from uda_kit.training.fit import SGD, LoaderConfig, RunOptions, Stage, fit, make_fabric
from uda_kit.training.objective import NonFiniteError, Term
out = sys.argv[1]
options = RunOptions(accelerator="cpu", devices=2, progress=False, log_every=1)
fabric = make_fabric(options)
second = fabric.global_rank == 1

class Bad(Term):
    reads = ("target",)
    def forward(self, target):
        loss = target.logits().mean() * 0
        return loss / 0 if second and self.age == 1 else loss

class Silent(Term):
    "Has nothing to say in the second process, not even a gradient."
    reads = ("target",)
    def forward(self, target): return torch.zeros(()) if second else target.logits().square().mean()

class Bare(StreetScenes):
    "In the second process, nothing is labelled."
    def __getitem__(self, i):
        sample = super().__getitem__(i)
        return sample._replace(label=torch.full_like(sample.label, 255)) if second else sample

def run(name, terms, source=StreetScenes):
    torch.manual_seed(0)
    net = deeplab_v2(19, backbone="tiny")
    loaders = LoaderConfig(source(RENDERED, 8, (64, 96)), 1), LoaderConfig(StreetScenes(CAMERA, 8, (64, 96), seed=1), 1, labelled=False)
    began = time.time()
    try: fit(Stage(name, net, terms(net), *loaders, steps=3, optimizer=SGD(lr=1e-2)), f"{out}/{name}", options, fabric=fabric)
    except NonFiniteError as error: return f"{error}", round(time.time() - began, 1)
    same = fabric.all_gather(torch.stack([p.detach().double().sum() for p in net.parameters()]))
    assert same[0].equal(same[1]), "the processes hold different weights"
    return "done", round(time.time() - began, 1)

results = {
    "silent": run("silent", lambda net: {"silent": Silent(), "seg": Supervised()}),
    "only-silent": run("only-silent", lambda net: {"seg": Supervised("main"), "adv": OutputAdversarial(19, width=8), "silent": Silent()}),
    "unlabelled": run("unlabelled", lambda net: SupervisedTerms().build(net), Bare),
    "bad": run("bad", lambda net: SupervisedTerms().build(net) | {"bad": Bad()}),  # the last: the first process ends the others after it
}
if not second: print(json.dumps(results))
"""


def program(folder, text, *arguments, timeout=240):
    script = folder / "program.py"
    script.write_text(text)
    done = subprocess.run(
        [sys.executable, script, *map(str, arguments)], capture_output=True, text=True, timeout=timeout
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_every_method_takes_the_step_of_the_joint_batch(tmp_path):
    for devices in (1, 2):
        program(tmp_path, FAMILIES, tmp_path / str(devices), devices)
    for name in ("patch", "cirn", "semi", "entropy"):
        checkpoints = [tmp_path / devices / name / "checkpoints/adapt-0000003/weights.safetensors" for devices in "12"]
        one, two = (load_tensors(file)[0] for file in checkpoints)
        for k in one:
            torch.testing.assert_close(
                two[k].double(), one[k].double(), rtol=1e-3, atol=2e-5, msg=lambda text: f"{name}, {k}: {text}"
            )


def test_faults_of_one_process(tmp_path):
    results = json.loads(program(tmp_path, FAULTS, tmp_path).strip().splitlines()[-1])
    said, seconds = results.pop("bad")
    assert "loss is not finite" in said and "bad" in said and "process 1" in said and seconds < 60
    stopped = json.loads((tmp_path / "bad/stopped.json").read_text())
    assert stopped["step"] == 1 and "process 1" in stopped["reason"]  # the second step, before its update
    assert {name: outcome for name, (outcome, _) in results.items()} == dict.fromkeys(results, "done")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


SCENES = [f"stages.{i}.source=scenes:rendered?n=4&size=64x96" for i in (0, 1)]
SCENES += [
    "stages.1.target=scenes:camera?n=4&size=64x96",
    "test=scenes:camera?n=3&size=64x96",
    "val=scenes:camera?n=3&size=64x96",
]
SCENES += [f"stages.{i}.{side}.batch_size=1" for i, side in ((0, "source"), (1, "source"), (1, "target"))]
TRAIN = [
    "train",
    "scenes/multi-level",
    "--steps",
    "6",
    "--save-every",
    "2",
    "--log-every",
    "1",
    "--accelerator",
    "cpu",
    "--no-progress",
    "--set",
    *SCENES,
]


def on_two_nodes(command, out, *more):
    "The processes of torchrun on two machines, both of which are this one."
    port = free_port()
    nodes = []
    for rank in (0, 1):
        launcher = [
            "--nnodes",
            "2",
            "--node-rank",
            rank,
            "--nproc-per-node",
            "1",
            "--master-addr",
            "127.0.0.1",
            "--master-port",
            port,
        ]
        argv = [sys.executable, "-m", "torch.distributed.run", *launcher, command, *TRAIN, "--out", out, *more]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        nodes.append(
            subprocess.Popen(
                [*map(str, argv)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
            )
        )
    return nodes


def kill_all_that_name(path):
    "SIGKILL for every process with the path in its command: the launchers, and what they have started in sessions of their own."
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(path).encode() in (process / "cmdline").read_bytes():
                os.kill(int(process.name), signal.SIGKILL)
        except OSError:
            pass  # it has ended meanwhile


def ended(nodes, timeout=240):
    outputs = [node.communicate(timeout=timeout) for node in nodes]
    assert all(node.returncode == 0 for node in nodes), [err[-2000:] for _, err in outputs]
    return [out for out, _ in outputs]


def test_torchrun_on_two_machines(tmp_path):
    "Trains, scores, is killed without warning and resumes to the bits of a run on one machine with two processes."
    command = Path(sys.executable).parent / "uda-kit"
    if not command.exists() or not Path("/proc").is_dir():
        pytest.skip("the command is not installed beside this Python, or this is not Linux")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    argv = [sys.executable, command, *TRAIN, "--out", whole, "--devices", "2"]
    done = subprocess.run(
        [*map(str, argv)], capture_output=True, text=True, timeout=240, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-3000:]

    nodes = on_two_nodes(command, parts)
    deadline = time.time() + 200
    while not list(parts.glob("checkpoints/adapt-0000002")):
        assert time.time() < deadline and all(node.poll() is None for node in nodes), [
            node.communicate()[1][-2000:] for node in nodes if node.poll() is not None
        ]
        time.sleep(0.02)
    kill_all_that_name(parts)
    for node in nodes:
        node.communicate()
    assert not (parts / "weights.safetensors").exists()

    outputs = ended(on_two_nodes(command, parts, "--resume"))
    record = json.loads(outputs[0].strip().splitlines()[-1])
    assert record["steps"] == 12 and record["images"] == 3 and "{" not in outputs[1]
    same_tensors(whole / "weights.safetensors", parts / "weights.safetensors")
    scores = [json.loads((run / "evaluation.json").read_text())["matrix"] for run in (whole, parts)]
    assert scores[0] == scores[1]


def test_scores_are_those_of_one_process(tmp_path):
    "The images of an evaluation, shared by two processes, are counted once each; processes with different recipes or data are refused."
    text = """
import json, sys, torch
from uda_kit.data.streets.dataset import StreetScenes
from uda_kit.data.streets.style import CAMERA
from uda_kit.models.segmenters import deeplab_v2
from uda_kit.evaluation.evaluate import evaluate
from uda_kit.core.errors import expect_error
from uda_kit.experiments.running import check_alike
from uda_kit.training.fit import RunOptions, make_fabric
fabric = make_fabric(RunOptions(accelerator="cpu", devices=int(sys.argv[1]), progress=False))
torch.manual_seed(0)
net = deeplab_v2(19, "tiny")
if fabric.global_rank: net.backbone.stem[0][1].running_mean += 1  # statistics of its own
scored = evaluate(net, StreetScenes(CAMERA, 5, (64, 96)), keep=3, progress=False)
check_alike({"seed": 0})
refused = expect_error(check_alike, {"options": {"seed": fabric.global_rank}}) if fabric.world_size > 1 else ""
if not fabric.global_rank: print(json.dumps([scored.matrix, {i: int(x.sum()) for i, x in scored.samples.items()}, scored.images, refused]))
"""
    one, two = (json.loads(program(tmp_path, text, devices).strip().splitlines()[-1]) for devices in (1, 2))
    assert one[:3] == two[:3] and one[2] == 5 and len(one[1]) == 3
    assert "process 1: has another configuration than process 0 (options.seed: 0 -> 1)" in two[3]
