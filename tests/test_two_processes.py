"""Two processes with one image each learn what one process learns from both; run as a script, this file is such a process."""
import os
import subprocess
import sys
from pathlib import Path

import torch

STEPS = 3
ROOT = Path(__file__).parent.parent


class Blocks:
    "Coloured blocks, every pixel labelled: then the mean over both images is the mean of the two means."
    name, split, labelled = "blocks", "train", True
    def __init__(self, seed):
        from uda_kit.data.labels import CITYSCAPES19
        self.space, self.seed = CITYSCAPES19, seed
    def __len__(self): return 8
    def key(self, i): return f"block{i}"
    def label(self, i): return torch.randint(0, 19, (4, 6), generator=torch.Generator().manual_seed(100 * self.seed + i)).repeat_interleave(12, 0).repeat_interleave(12, 1).byte()
    def image(self, i):
        noise = torch.randint(0, 40, (3, 48, 72), generator=torch.Generator().manual_seed(100 * self.seed + i))
        return (torch.stack([self.label(i).int() * k % 200 for k in (11, 23, 57)]) + noise).byte()
    def __getitem__(self, i):
        from uda_kit.data.datasets import Sample
        return Sample(self.image(i), self.label(i), self.key(i))
    def settings(self): return {"name": self.name, "seed": self.seed}


def train(devices, batch_size, out):
    "Three steps of the multi-level objective; every process writes down its network and critics."
    from uda_kit.methods.output_space import output_space_terms
    from uda_kit.models.segmenters import deeplab_v2
    from uda_kit.training.fit import SGD, Feed, RunOptions, Stage, fit, make_fabric
    torch.set_num_threads(1)
    options = RunOptions(seed=3, accelerator="cpu", devices=devices, log_every=1, progress=False)
    fabric = make_fabric(options)
    torch.manual_seed(fabric.global_rank)  # the first process's weights must win
    net = deeplab_v2(19, bn="frozen")
    terms = output_space_terms(net, adv=0.1, adv_aux=0.02, width=8, lr=1e-3)
    parts = {"net": net, **{k: t.critic for k, t in terms.items() if hasattr(t, "critic")}}
    flat = lambda m: torch.cat([v.detach().flatten().float() for v in m.state_dict().values()])
    begin = {k: flat(m) for k, m in parts.items()}
    stage = Stage("train", net, terms, Feed(Blocks(1), batch_size), Feed(Blocks(2), batch_size, labelled=False), STEPS, schedule=100, optimiser=SGD(lr=0.02))
    fit(stage, Path(out)/"run", options, fabric=fabric)
    torch.save({"begin": begin, "end": {k: flat(m) for k, m in parts.items()}}, Path(out)/f"rank{fabric.global_rank}.pt")


def run(devices, batch_size, out):
    out.mkdir()
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    done = subprocess.run([sys.executable, __file__, str(devices), str(batch_size), str(out)], capture_output=True, text=True, timeout=300,
                          env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths})
    assert done.returncode == 0, done.stderr
    assert len((out/"run"/"log.jsonl").read_text().splitlines()) == STEPS  # one process writes the log
    return [torch.load(f, weights_only=True) for f in sorted(out.glob("rank*.pt"))]


def test_two_processes_equal_one(tmp_path):
    two, (one,), (half,) = run(2, 1, tmp_path/"two"), run(1, 2, tmp_path/"one"), run(1, 1, tmp_path/"half")
    assert len(two) == 2
    for part, wanted in one["end"].items():
        moved = (wanted - one["begin"][part]).abs().max()
        assert moved > 1e-3, f"{part} hardly moved: {moved:.1e}"
        assert torch.equal(two[0]["end"][part], two[1]["end"][part]), f"{part} differs between the processes"
        apart = (two[0]["end"][part] - wanted).abs().max()
        assert apart < 1e-5, f"{part} is {apart:.1e} away from the joint batch's"
        assert (half["end"][part] - wanted).abs().max() > 1e-4, f"{part} cannot tell one image from two"  # without averaging this would be the result


if __name__ == "__main__": train(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
