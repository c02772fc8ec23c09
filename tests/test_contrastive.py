"""Contrastive adaptation across processes and across a stop: same thresholds, prototypes, anchors, memories and losses."""

import json
import shutil
import subprocess
import sys
from collections import deque

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from uda_kit.methods.contrastive import (
    FeatureQueue,
    contrastive_loss,
    plain_contrastive_loss,
)
from uda_kit.training.runs import read_checkpoint, write_checkpoint

PARTS = """
import os, sys
import torch, torch.distributed as dist, torch.nn.functional as F
from uda_kit.methods.contrastive import FeatureQueue, class_prototypes, class_thresholds, contrastive_sum, sample_anchors
from uda_kit.methods.contrastive_terms import joint_mean
from uda_kit.methods.label_expansion import LabelExpansion
from uda_kit.methods.teacher import Teacher
from uda_kit.models.segmenters import deeplab_v2
from uda_kit.training.objective import Batch
def labelled(image, rank):
    "What a teacher with label expansion says of a share of the images, twice; the student's batch statistics differ between processes, the teacher must not."
    torch.manual_seed(0)
    net = deeplab_v2(7, "tiny", multi_level=False)
    for norm in net.norms(): norm.running_mean += rank
    teacher = Teacher(scales=(1,), share=0.3, augmentation=None, expansion=LabelExpansion(7, net.channels["features"], quantile=0.5))
    for _ in range(2): new = teacher({"target": Batch(image, None, net)}, None)["target"]
    teacher.follow(net)
    return {"said": new.label, "weight": new.weight, "sums": teacher.expansion.sums, "histogram": teacher.expansion.histogram, "mean": [m for m in teacher.net.norms()][-1].running_mean}
def parts(path, rank, world):
    "What one of `world` processes makes of its share of a joint batch."
    given = torch.load(path)
    mine = lambda x: x.chunk(world)[rank]
    p, y, f = mine(given["p"]), mine(given["y"]), mine(given["f"]).requires_grad_()
    tau = class_thresholds(p, share=0.3)
    rows = F.normalize(f, dim=-1)
    means, mass = class_prototypes(rows.reshape(-1, 6), y.reshape(-1), 7)
    chosen = sample_anchors(y, 5, 7, torch.Generator().manual_seed(3))
    queue = FeatureQueue(7, 6, 9)
    for _ in range(2):
        queue.push(rows[chosen], y[chosen])  # as many rows as this process happens to hold
        queue.push(F.normalize(means, dim=1), torch.where(mass > 0, torch.arange(7), 255), joint=True)
    loss = joint_mean(*contrastive_sum(rows[chosen], y[chosen], F.normalize(means, dim=1), torch.where(mass > 0, torch.arange(7), 255), *queue.rows()))
    loss.backward()
    return {"tau": tau, "means": means.detach(), "mass": mass, "chosen": chosen, "loss": loss.detach(), "grad": f.grad / world, **labelled(mine(given["image"]), rank), **queue.state_dict()}
def process(rank, path):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": sys.argv[2]}
    dist.init_process_group("gloo", rank=rank, world_size=2)
    torch.save(parts(path, rank, 2), f"{path}.{rank}")
    dist.destroy_process_group()
if __name__ == "__main__":
    torch.save(parts(sys.argv[1], 0, 1), sys.argv[1] + ".one")
    torch.multiprocessing.spawn(process, (sys.argv[1],), 2)
"""

STAGE = """
import sys
import torch
from uda_kit.data.streets.dataset import StreetScenes
from uda_kit.data.streets.style import CAMERA, RENDERED
from uda_kit.methods.contrastive_terms import ContrastiveTerms
from uda_kit.methods.output_space import Supervised
from uda_kit.models.segmenters import deeplab_v2
from uda_kit.training.fit import SGD, LoaderConfig, RunOptions, Stage, fit
def stage(batch, steps=6):
    torch.manual_seed(0)
    net = deeplab_v2(19, backbone="tiny", bn="frozen", multi_level=False)
    terms = {"seg": Supervised()} | ContrastiveTerms(dims=16, size=20).build(net)
    loaders = (LoaderConfig(StreetScenes(style, 8, (64, 96), seed=i), batch) for i, style in enumerate((RENDERED, CAMERA)))
    return Stage("adapt", net, terms, *loaders, steps=steps, optimizer=SGD(lr=3e-3, head_multiplier=1.0))
def run(out, devices, resume=False): return fit(stage(4 // devices), out, RunOptions(accelerator="cpu", devices=devices, progress=False, log_every=1, save_every=3), resume=resume)
if __name__ == "__main__": run(sys.argv[1], int(sys.argv[2]), len(sys.argv) > 3)
"""


def program(folder, text, *args):
    script = folder / "program.py"
    script.write_text(text)
    done = subprocess.run([sys.executable, script, *map(str, args)], capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]


def results(out, name="adapt-0000006"):
    folder = out / "checkpoints" / name
    return (
        load_file(folder / "weights.safetensors"),
        load_file(folder / "state.safetensors"),
        [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()],
    )


@pytest.mark.parametrize("seed", range(4))
def test_queues_are_deques(seed):
    g = torch.Generator().manual_seed(seed)
    C, K = int(torch.randint(1, 20, (), generator=g)), int(torch.randint(1, 30, (), generator=g))
    queue, deques = FeatureQueue(C, 2, K), [deque(maxlen=K) for _ in range(C)]
    for i in range(150):
        n = int(torch.randint(0, 4 * K if i % 10 == 0 else 20, (), generator=g))
        f, y = torch.randn(n, 2, generator=g), torch.randint(0, C + 1, (n,), generator=g)
        if i % 7 == 0:
            y[:] = i % C  # many of one class
        queue.push(f, torch.where(y == C, 255, y))
        for row, c in zip(f.tolist(), y.tolist()):
            if c < C:
                deques[c].append(row)
        if i == 75:  # a checkpoint half-way
            state = {k: v.clone() for k, v in queue.state_dict().items()}
            queue = FeatureQueue(C, 2, K)
            queue.load_state_dict(state)
        assert [queue.recent(c).tolist() for c in range(C)] == [list(d) for d in deques]


def test_loss_at_size():
    "Value and gradients at 1e-5 of the plain computation, where a class is large, one small, and one alone."
    g = torch.Generator().manual_seed(0)
    unit = lambda n: F.normalize(torch.randn(n, 128, generator=g), dim=1)
    v, y = unit(900).requires_grad_(), torch.randint(0, 19, (900,), generator=g)
    k, ky, m, my = (
        unit(19).requires_grad_(),
        torch.arange(19),
        unit(3000),
        (19 * torch.rand(3000, generator=g) ** 2).long(),
    )
    fast, plain = (
        contrastive_loss(v, y, k, ky, m, my, chunk=64),
        plain_contrastive_loss(v, y, torch.cat((k, m)), torch.cat((ky, my))),
    )
    torch.testing.assert_close(fast, plain, rtol=1e-5, atol=0)
    for a, b in zip(torch.autograd.grad(fast, (v, k)), torch.autograd.grad(plain, (v, k))):
        assert (a - b).norm() < 1e-5 * b.norm()


def test_parts_over_two_processes(tmp_path):
    "Thresholds, prototypes, anchors, memory, loss and gradient of a joint batch, a teacher's labels and its expansion; the second process has no pixel of some classes."
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    g = torch.Generator().manual_seed(0)
    y = torch.randint(0, 7, (2, 8, 9), generator=g)
    y[1][y[1] > 3] = 255
    y[y == 2] = 255  # nobody has this one
    torch.save(
        {
            "p": (3 * torch.randn(2, 7, 8, 9, generator=g)).softmax(1),
            "y": y,
            "f": torch.randn(2, 8, 9, 6, generator=g),
            "image": torch.rand(2, 3, 40, 48, generator=g),
        },
        tmp_path / "given",
    )
    program(tmp_path, PARTS, tmp_path / "given", port)
    one, *two = (torch.load(tmp_path / f"given.{n}") for n in ("one", 0, 1))
    for k in one:
        if k == "said":
            assert (torch.cat([t[k] for t in two]) == one[k]).float().mean() > 0.999
        elif k == "histogram":
            assert (two[0][k] - one[k]).abs().sum() <= 4  # a distance on the edge of two bins
        elif k in ("chosen", "grad", "weight"):
            torch.testing.assert_close(torch.cat([t[k] for t in two]), one[k], rtol=1e-4, atol=1e-7)
        else:
            for t in two:
                torch.testing.assert_close(t[k], one[k], rtol=1e-5, atol=1e-6)
    assert one["chosen"].sum() == 5 * 6 and one["counts"].tolist() == [9, 9, 0, 9, 9, 9, 9] and one["grad"].any()


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    program(folder, STAGE, folder / "run", 1)
    return folder / "run"


def test_same_run_as_the_joint_batch(alone, tmp_path):
    program(tmp_path, STAGE, tmp_path / "run", 2)
    (one, one_state, one_log), (two, two_state, two_log) = results(alone), results(tmp_path / "run")
    for a, b in zip(one_log, two_log, strict=True):
        for k in a:
            if k.startswith(("loss/in_", "loss/cross", "in_", "cross")):
                assert a[k] == pytest.approx(b[k], rel=1e-3, abs=1e-5), (a["step"], k)
    queues = [k for k in one_state if "queues" in k and k.startswith("terms.in_source")]
    assert len(queues) >= 6 and {k for k in one_state if "random" not in k} == {
        k for k in two_state if "random" not in k
    }
    for k in queues:
        torch.testing.assert_close(two_state[k], one_state[k], rtol=0, atol=0 if "features" not in k else 2e-2)
    for k in one:
        torch.testing.assert_close(two[k], one[k], rtol=1e-3, atol=1e-4)


def test_resumed_to_the_same_bits(alone, tmp_path):
    "From the checkpoint after three steps, which holds the memories, to the same memories, weights and losses."
    shutil.copytree(alone, tmp_path / "run")
    shutil.rmtree(tmp_path / "run/checkpoints/adapt-0000006")
    program(tmp_path, STAGE, tmp_path / "run", 1, "resume")
    (one, one_state, one_log), (two, two_state, two_log) = results(alone), results(tmp_path / "run")
    assert (
        all(one[k].equal(two[k]) for k in one)
        and one_state.keys() == two_state.keys()
        and all(one_state[k].equal(two_state[k]) for k in one_state)
    )
    timeless = lambda log: [{k: v for k, v in r.items() if k not in ("seconds", "peak_gib")} for r in log]
    assert timeless(one_log) == timeless(two_log)
    assert any("queues" in k and v.any() for k, v in one_state.items())


def test_round_trip(tmp_path):
    queue = FeatureQueue(5, 3, 4)
    queue.push(torch.randn(23, 3), torch.arange(23) % 6)
    read = read_checkpoint(write_checkpoint(tmp_path / "c", {}, {"q": queue.state_dict()}, {"stage": "c", "step": 1}))
    other = FeatureQueue(5, 3, 4)
    other.load_state_dict(read.state["q"])
    assert [other.recent(c).tolist() for c in range(5)] == [queue.recent(c).tolist() for c in range(5)]
