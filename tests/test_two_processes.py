"""Two ranks equal one: the same draws, selections, losses, gradients and metrics. One pair of processes runs it all."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from runs import SMALL, environment, rows, train
from safetensors.torch import load_file

from rlent.cli import commands

RECIPES = {
    "clipcov": ["recipe=clipcov", "shape.clip_cov.fraction=0.05", "shape.clip_cov.low=0.1"],
    "klcov": ["recipe=klcov", "regularize.kl_cov.fraction=0.05"],
    "siren": ["recipe=siren"],
    "aer": ["recipe=aer", "reward=[correct,overlong_soft]"],
    "aapo": ["recipe=aapo"],
    "erank": ["recipe=erank", "sampler.prompts=3", "trainer.minibatches=3", "sampler.max_tokens=16"],
    "dapo": ["recipe=dapo", "sampler.n=8", "sampler.max_tokens=16"],
    "uneven": ["recipe=reinforcepp", "sampler.prompts=3", "trainer.minibatches=3"],  # a rank without rows in some minibatches
    "hapotemperature": ["recipe=hapotemperature"],  # a controller's knobs reach the sampler of every rank
    "arpo": ["recipe=arpo"],
    "entropic": ["recipe=entropic"],
    "aepo": ["recipe=aepo", "control.aepo.target=0.01"],
    "ttrl": ["recipe=ttrl", "sampler.n=6", "sampler.trained=4"],
    "spear": ["recipe=spear", "sampler.buffer=1", "sampler.n=8", "sampler.max_tokens=16", "trainer.steps=3"],
    "srft": ["recipe=srft", "sampler.prompts=3", "trainer.minibatches=3", "sampler.max_tokens=16"],
    "ares": [
        "recipe=ares",
        "shape=[]",
        "regularize=[]",
        "reward.ares.words=[+,-,'*']",
        "reward.ares.window=1",
        "reward.ares.threshold=0.2",
    ],
    "sampled": ["recipe=clipcov", "shape.clip_cov.fraction=0.05", "shape.clip_cov.low=0.1", "trainer.old_logprobs=rollout"],
    "epo": ["recipe=epo", "regularize.epo.penalty=hinge"],
}
SHARD = "scale.shard=true"
SHARDED = {
    "sharded": ["recipe=clipcov", SHARD, "trainer.max_tokens_per_microbatch=100"],
    "uneven_sharded": ["recipe=reinforcepp", SHARD, "sampler.prompts=3", "trainer.minibatches=3", "trainer.max_tokens_per_microbatch=100"],
    "reference_sharded": ["recipe=kl", SHARD, "scale.recompute=true"],
    "copies": ["recipe=klcov", SHARD, "scale.replicas=2"],
    "probe_sharded": ["recipe=siren", SHARD],
}
MIXED = {"mixed": ["recipe=clipcov", SHARD, "scale.compute=bfloat16", "model.dtype=float32"]}
COMMON = [
    *SMALL,
    "model.dtype=float64",
    "trainer.steps=2",
    "checkpoint.every=1",
    "eval.every=2",
    "eval.n=2",
    "eval.ks=[1,2]",
    "eval.problems=3",
]

BATTERY = """
import json, sys
from rlent.cli import commands
from rlent.ranks.world import World
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
    jobs = {name: [*COMMON, *overrides, f"run.dir={folder / name}"] for name, overrides in {**RECIPES, **SHARDED, **MIXED}.items()}
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


@pytest.mark.parametrize("name", SHARDED)
def test_a_model_split_over_ranks_learns_what_a_whole_one_learns(name: str, pair: Path, tmp_path: Path) -> None:
    """Bounds are of two forward passes: transformers takes norms in float32 even for float64 weights."""
    one = train(tmp_path / name, *COMMON, *SHARDED[name], small=[])
    for ours, theirs in zip(rows(one), rows(pair / name), strict=True):
        assert ours.keys() == theirs.keys()
        for key in ours.keys() - {k for k in ours if k.startswith(("mismatch/", "noise/"))}:
            bound = 1e-3 if key.startswith("ledger/") else 1e-5  # the ledger divides small differences by each other
            assert theirs[key] == pytest.approx(ours[key], rel=bound, abs=1e-6), f"step {ours['step']}: {key}"
    a, b = (load_file(folder / "model" / "model.safetensors") for folder in (one, pair / name))
    assert a.keys() == b.keys()
    for key in a:
        torch.testing.assert_close(a[key], b[key], rtol=0, atol=1e-5)


def test_a_checkpoint_of_two_ranks_continues_on_one(pair: Path, tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", *COMMON, *SHARDED["sharded"], "trainer.steps=3", small=[])
    moved = tmp_path / "moved"
    shutil.copytree(pair / "sharded", moved)
    assert commands.train(["trainer.steps=3"], resume=str(moved)) == 0
    for ours, theirs in zip(rows(whole), rows(moved), strict=True):
        for key in ("loss/policy", "entropy/mean", "update/grad_norm", "reward/mean"):
            assert theirs[key] == pytest.approx(ours[key], rel=1e-4, abs=1e-6), f"step {ours['step']}: {key}"


def test_half_precision_computes_near_the_full_and_keeps_full_weights(pair: Path, tmp_path: Path) -> None:
    one = train(tmp_path / "one", *COMMON, *MIXED["mixed"], small=[])
    full, half = rows(one), rows(pair / "mixed")
    assert half[0]["mismatch/max"] < 0.1  # engine and trainer both compute in bfloat16
    assert full[0]["reward/mean"] == half[0]["reward/mean"] or abs(full[0]["entropy/mean"] - half[0]["entropy/mean"]) < 0.05
    assert all(w.dtype == torch.float32 for w in load_file(pair / "mixed" / "model" / "model.safetensors").values())
