"""What only a CUDA device can show: `make test-gpu`. The same code runs on the CPU in the rest of the suite.

Runs on torch 2.11 with CUDA and transformers 5.17; what needs vLLM or a second GPU is skipped where they are not there.
"""

from __future__ import annotations

import copy
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from runs import SMALL, environment, rows, train
from torch import Tensor

from rlent.policy import packing
from rlent.policy.head import token_statistics
from rlent.policy.policy import Policy
from rlent.types import Batch, Request

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is visible")]

HALF_ATTENTION = pytest.mark.skipif(
    torch.cuda.is_available() and torch.cuda.get_device_capability()[0] < 8, reason="flash attention needs compute capability 8"
)


def job(n: int, size: int, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    hidden, weight = torch.randn(n, width, dtype=torch.float64), torch.randn(size, width, dtype=torch.float64) * width**-0.5
    return hidden, weight, torch.randint(0, size, (n,)), torch.randn(2, n, dtype=torch.float64)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 2e-5), (torch.bfloat16, 2e-2)])
def test_the_head_gives_values_and_gradients_of_the_cpu_in_float64(dtype, bound):
    hidden, weight, target, g = job(300, 5000, 64)
    hidden, weight = hidden.to(dtype).double(), weight.to(dtype).double()  # the numbers that the device is given
    a, b = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    want = token_statistics(a, b, target, temperature=0.7)
    ((want["logp"] * g[0]).sum() + (want["entropy"] * g[1]).sum()).backward()
    c, d = (x.to("cuda", dtype).requires_grad_() for x in (hidden, weight))
    up = g.to("cuda", torch.float32)
    found = token_statistics(c, d, target.cuda(), temperature=0.7)
    ((found["logp"] * up[0]).sum() + (found["entropy"] * up[1]).sum()).backward()
    for name, value in want.items():
        torch.testing.assert_close(found[name].double().cpu(), value.detach(), rtol=bound, atol=bound)
    for mine, exact in zip((c.grad, d.grad), (a.grad, b.grad), strict=True):
        assert float((mine.double().cpu() - exact).abs().max()) <= bound * float(exact.abs().max())


def test_the_head_never_holds_the_logits_of_all_tokens():
    n, size, width = 2048, 100_000, 256
    hidden = torch.randn(n, width, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    weight = torch.randn(size, width, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    target = torch.randint(0, size, (n,), device="cuda")
    torch.cuda.synchronize()
    held = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    found = token_statistics(hidden, weight, target)
    (found["logp"].sum() + found["entropy"].sum()).backward()
    torch.cuda.synchronize()
    logits = 4 * n * size
    gradients = 2 * (n + size) * width + 4 * size * width
    assert torch.cuda.max_memory_allocated() - held < logits / 2 + gradients


def part_and_model(dtype: torch.dtype):
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    sizes = {"vocab_size": 96, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4}
    model = Qwen2ForCausalLM(Qwen2Config(**sizes, num_key_value_heads=2, attn_implementation="sdpa")).to("cuda", dtype)
    lengths = torch.tensor([40, 3, 1, 25, 0, 40, 12])
    mask = torch.arange(40) < lengths[:, None]
    tokens = torch.randint(0, 96, mask.shape) * mask
    prompts = [list(range(1, 30)), [5, 6], list(range(1, 30)), list(range(1, 30)), [7], [5, 6], list(range(1, 30))]
    return model, Batch({"prompt_ids": prompts, "tokens": tokens, "mask": mask})


def flat_gradients(policy: Policy, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    found = policy(batch, temperature=0.9)
    g = torch.randn(2, *batch["mask"].shape, generator=torch.Generator().manual_seed(1))
    ((found["logp"] * g[0]).sum() + (found["entropy"] * g[1]).sum()).backward()
    return {k: v.detach() for k, v in found.items()}, {n: p.grad.float() for n, p in policy.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("way", "dtype", "bound"),
    [("rows", torch.float32, 1e-5), pytest.param("varlen", torch.bfloat16, 5e-2, marks=HALF_ATTENTION), ("rows", torch.bfloat16, 5e-2)],
)
def test_packed_rows_give_what_padded_ones_give(way, dtype, bound, monkeypatch):
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    model, batch = part_and_model(dtype)
    if way == "varlen":
        assert packing.chosen("auto", torch.device("cuda"), dtype) == "varlen"
    packed, padded = Policy(model, packing=way), Policy(copy.deepcopy(model), packing="off")
    assert packed.packs and not padded.packs
    (found, mine), (want, exact) = flat_gradients(packed, batch), flat_gradients(padded, batch)
    for name in want:
        torch.testing.assert_close(found[name], want[name], rtol=bound, atol=bound)
    for name in exact:
        assert float((mine[name] - exact[name]).abs().max()) <= bound * float(exact[name].abs().max()), name


CUDA = ["scale=gpu", "engine=native", "recipe=clipcov", "trainer.steps=3", "shape.clip_cov.fraction=0.05", "shape.clip_cov.low=0.1"]


def test_a_run_on_the_gpu_is_that_of_the_cpu(tmp_path: Path):
    gpu = train(tmp_path / "gpu", *SMALL, *CUDA, small=[])
    cpu = train(tmp_path / "cpu", *SMALL, *CUDA, "scale=cpu", small=[])
    first, want = rows(gpu)[0], rows(cpu)[0]
    for key in ("reward/mean", "entropy/mean", "loss/policy", "update/grad_norm", "cov/mean", "length/mean"):
        assert first[key] == pytest.approx(want[key], rel=1e-3, abs=1e-5), key
    assert all(row["mismatch/max"] < 1e-3 for row in rows(gpu))


def test_bfloat16_learns_with_float32_masters_and_resumes(tmp_path: Path):
    from rlent.cli import commands

    run = train(tmp_path / "run", *SMALL, *CUDA, "model.dtype=bfloat16", "checkpoint.every=1", "scale.recompute=true", small=[])
    assert commands.train(["trainer.steps=4"], resume=str(run)) == 0
    assert [row["step"] for row in rows(run)] == [1, 2, 3, 4]
    assert all(row["mismatch/mean"] < 0.05 for row in rows(run))


@pytest.mark.skipif(not torch.cuda.is_available() or torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("options", [[], ["scale.offload=true"], ["scale.replicas=2"]], ids=["sharded", "offloaded", "copies"])
def test_two_gpus_share_a_model_and_give_what_one_gives(options: list[str], tmp_path: Path):
    one = train(tmp_path / "one", *SMALL, *CUDA, small=[])
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(26500 + os.getpid() % 1000)]
    run = tmp_path / "two"
    arguments = [*SMALL, *CUDA, "scale.shard=true", *options, f"run.dir={run}"]
    done = subprocess.run([*launch, "-m", "rlent", "train", *arguments], env=environment(), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    for key in ("reward/mean", "entropy/mean", "loss/policy", "update/grad_norm"):
        assert rows(run)[0][key] == pytest.approx(rows(one)[0][key], rel=1e-3, abs=1e-5), key


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
def test_vllm_sleeps_wakes_and_samples_from_the_new_weights():
    from rlent.engine.vllm import VllmEngine
    from rlent.errors import EngineError

    policy = Policy.load("tiny", dtype="bfloat16", device="cuda")
    engine = VllmEngine(policy.model, 0, memory=0.3)
    engine.load(policy, 0)  # proves itself
    asked = [Request([6, 19, 8, 19, 5, 20, 4, 10, 21], key=(1, i), max_tokens=12, stop=frozenset({1})) for i in range(8)]
    before = engine.generate(asked).sampler_logp
    awake = torch.cuda.mem_get_info()[0]
    with engine.idle():
        assert torch.cuda.mem_get_info()[0] > awake
        with torch.no_grad():
            for p in policy.model.parameters():
                p.add_(torch.randn_like(p) * 0.02)
    with pytest.raises(EngineError, match="load the policy before sampling"):
        engine.generate(asked)
    engine.load(policy, 1)
    assert engine.generate(asked).sampler_logp != before
