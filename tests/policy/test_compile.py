"""Compiled layers: the same values and gradients under the same names, and a clear word where nothing can be compiled."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from runs import SMALL, rows, train
from torch._dynamo.utils import counters

from rlent.errors import ModelError
from rlent.policy.policy import Policy
from rlent.types import Batch

COMPILER = pytest.mark.skipif(shutil.which("g++") is None and shutil.which("clang++") is None, reason="torch.compile needs a C++ compiler")


def part() -> Batch:
    tokens = torch.tensor([[5, 7, 9], [8, 6, 1], [4, 4, 0]])
    mask = torch.tensor([[True] * 3, [True] * 3, [True, True, False]])
    return Batch({"prompt_ids": [[6, 19, 8], [3, 4], [3, 4]], "tokens": tokens, "mask": mask}, torch.arange(3))


def gradients(policy: Policy) -> dict[str, torch.Tensor]:
    out = policy(part())
    (out["logp"].sum() + out["entropy"].square().sum()).backward()
    return {"logp": out["logp"].detach(), **{name: p.grad for name, p in policy.model.named_parameters()}}


@pytest.mark.slow
@COMPILER
def test_compiled_layers_give_the_same_numbers_under_the_same_names(tmp_path: Path) -> None:
    counters.clear()
    compiled = Policy.load("tiny", compile=True)
    assert not compiled.lean and compiled.packs
    assert counters["stats"]["unique_graphs"] >= 2 and not counters["graph_break"]  # norm and MLP, each in one piece
    want, found = gradients(Policy(Policy.load("tiny").model, lean=False)), gradients(compiled)
    assert want.keys() == found.keys()
    for name, value in want.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5, msg=name)
    common = [*SMALL, "recipe=clipcov", "trainer.steps=2", "shape.clip_cov.fraction=0.05"]
    one = train(tmp_path / "one", *common, "scale.compile=true", "scale.recompute=true", small=[])
    other = train(tmp_path / "other", *common, "scale.recompute=true", small=[])
    for ours, theirs in zip(rows(one), rows(other), strict=True):
        for key in ("loss/policy", "entropy/mean", "update/grad_norm", "reward/mean", "length/mean"):
            assert ours[key] == pytest.approx(theirs[key], rel=1e-3, abs=1e-6), key


def test_a_failing_compiler_is_said_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: torch.nn.Module, **options: object) -> None:
        def call(*given: object) -> None:
            raise RuntimeError("no C++ compiler\nlong story")

        self._compiled_call_impl = call

    monkeypatch.setattr(torch.nn.Module, "compile", broken)
    with pytest.raises(
        ModelError, match="scale.compile is true, and torch.compile fails here: RuntimeError: no C.. compiler; false is accepted"
    ):
        Policy.load("tiny", compile=True)


def test_compiled_layers_that_compute_something_else_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(self: torch.nn.Module, **options: object) -> None:
        forward = self.forward
        self._compiled_call_impl = lambda x: forward(x) * 1.1

    monkeypatch.setattr(torch.nn.Module, "compile", wrong)
    with pytest.raises(ModelError, match="compiled layers give hidden states off by"):
        Policy.load("tiny", compile=True)
