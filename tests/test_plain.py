"""The runner against the plain script: two implementations of the same algorithm, the same numbers."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from runs import rows, train
from safetensors.torch import load_file
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm

PLAIN = Path(__file__).parent.parent / "scripts" / "grpo_plain.py"
STEPS = 3


@pytest.fixture(scope="module")
def plain():
    spec = importlib.util.spec_from_file_location("grpo_plain", PLAIN)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.P, module.G, module.M = 6, 8, 3
    return module


@pytest.fixture
def exact_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers takes norms in float32; here in the precision of the input, so that float64 is float64."""

    def forward(self, x):
        return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon)

    monkeypatch.setattr(Qwen2RMSNorm, "forward", forward)


def test_losses_gradients_curves_and_weights_equal_the_plain_script(plain, exact_norm, tmp_path: Path) -> None:
    model, history = plain.main(steps=STEPS, seed=11, dtype=torch.float64, report=lambda line: None)
    overrides = ["seed=11", "model.dtype=float64", f"trainer.steps={STEPS}", "sampler.prompts=6", "sampler.n=8", "trainer.minibatches=3"]
    off = ["eval.every=0", "track.mode=disabled", "track.console=off", "trainer.max_tokens_per_microbatch=200"]
    run = train(tmp_path / "run", *overrides, *off, small=[])
    for ours, theirs in zip(rows(run), history, strict=True):
        for key, value in theirs.items():
            assert ours[key] == pytest.approx(value, rel=1e-8, abs=1e-10), f"step {theirs['step']}: {key}"
    assert sum(row["reward/mean"] for row in history) > 0, "some reward, or nothing was compared"
    weights = load_file(run / "model" / "model.safetensors")
    for name, parameter in model.named_parameters():
        if name in weights:
            # Adam divides a tiny gradient by its own size: an element may be off by a part of one update (1e-4), the mean may not
            gap = (parameter.detach() - weights[name]).abs()
            assert gap.max() < 1e-6 and gap.mean() < 1e-12, name
