"""Two ranks equal one: the same draws, selections, losses, gradients and metrics. One pair of processes runs it all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from runs import SMALL, environment, rows, train
from safetensors.torch import load_file

RECIPES = {
    "clipcov": ["recipe=clipcov", "shape.clip_cov.fraction=0.05", "shape.clip_cov.low=0.1"],
    "klcov": ["recipe=klcov", "regularize.kl_cov.fraction=0.05"],
    "siren": ["recipe=siren"],
    "aer": ["recipe=aer", "reward=[correct,overlong_soft]"],
    "dapo": ["recipe=dapo", "sampler.n=8", "sampler.max_tokens=16"],
    "uneven": ["recipe=reinforcepp", "sampler.prompts=3", "trainer.minibatches=3"],  # a rank without rows in some minibatches
}
COMMON = [*SMALL, "model.dtype=float64", "trainer.steps=2", "checkpoint.every=1", "eval.every=2", "eval.n=2", "eval.ks=[1,2]", "eval.problems=3"]

BATTERY = """
import json, sys
from rlent import commands
from rlent.world import World
import torch.distributed as dist
World.join()
for name, arguments in json.loads(sys.argv[1]).items():
    code = commands.train(arguments)
    assert code == 0, name
dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every recipe on two ranks, by one pair of processes."""
    folder = tmp_path_factory.mktemp("two")
    jobs = {name: [*COMMON, *overrides, f"run.dir={folder / name}"] for name, overrides in RECIPES.items()}
    script = folder / "battery.py"
    script.write_text(BATTERY)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(29500 + os.getpid() % 1000)]
    done = subprocess.run([*launch, str(script), json.dumps(jobs)], env=environment(), capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return folder


@pytest.mark.parametrize("name", RECIPES)
def test_two_ranks_log_what_one_logs_and_end_with_its_weights(name: str, pair: Path, tmp_path: Path) -> None:
    one = train(tmp_path / name, *COMMON, *RECIPES[name], small=[])
    for ours, theirs in zip(rows(one), rows(pair / name), strict=True):
        assert ours.keys() == theirs.keys()
        for key, value in ours.items():
            if key.startswith(("group/", "length/", "correct/", "grader/")) or key.endswith("/share"):
                assert theirs[key] == value, f"step {ours['step']}: {key}"
            assert theirs[key] == pytest.approx(value, rel=1e-8, abs=1e-10), f"step {ours['step']}: {key}"
    a, b = (load_file(folder / "model" / "model.safetensors") for folder in (one, pair / name))
    for key in a:
        torch.testing.assert_close(a[key], b[key], rtol=1e-8, atol=1e-9)
