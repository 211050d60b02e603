"""Vectors of losses: value and gradient of the loop's own objective, and the tokens that a random choice takes."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlent.types import Batch, Json
from rlent.verify.case import Case, outputs_of
from rlent.verify.compare import Check
from rlent.verify.grammar import GradientRule


class ObjectiveCase(Case):
    """The recipe's objective on one minibatch: whole, and cut into rows."""

    def run(self, check: Check) -> None:
        self.without_stated_shapes()
        for cut in (False, True):
            self._compare(check, cut)

    def _compare(self, check: Check, cut: bool) -> None:
        batch = self.credited(self.batch())
        objective = self.objective(batch)
        live, leaves = self.live(batch)
        for name, value in live.items():
            batch[f"now_{name}"] = value.detach()
        batch = objective.shape(batch, "step")
        batch = objective.shape(batch, "minibatch", 0)
        batch, scale = objective.prepare(batch, 0)
        total = torch.zeros((), dtype=torch.float64)
        for rows in [[i] for i in range(len(batch))] if cut else [list(range(len(batch)))]:
            part = batch.select(rows)
            out = objective(part, {k: v[rows][:, : part.width] for k, v in live.items()}, scale, 0)
            total = total + out.loss
            if out.loss.requires_grad:
                torch.autograd.backward(out.loss, retain_graph=True)
        coefs = {n.name: n.coef for n in self.recipe.plan.nodes["regularize"]}
        for name, term in scale.terms.items():
            total = total + coefs.get(name, 1.0) * term
        label = "cut into rows: " if cut else ""
        expected = outputs_of(self.vector, self.block)
        check.compare(f"{label}loss", total, expected["loss"])
        for name, leaf in leaves.items():
            if name in expected:
                check.compare(f"{label}{name}", gradient_of(leaf), expected[name])
        for name, rule in self.block.gradients.items():
            if name in expected:
                check.compare(f"{label}{name}", picked(gradient_of(leaves[f"grad_{rule.by}"]), rule), expected[name])
        for name, stream in self.block.outputs.items():
            if name in expected and stream in batch:
                check.compare(f"{label}{name}", *_masked(batch[stream], expected[name], batch))


def gradient_of(leaf: Tensor) -> Tensor:
    """The gradient that reached a leaf; 0 if none did."""
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad


def picked(gradient: Tensor, rule: GradientRule) -> Tensor:
    """What the file states of a gradient: a column of it, or the sum of absolute values over its last dimension."""
    gradient = gradient if rule.column is None else gradient[:, rule.column]
    return gradient.abs().sum(-1) if rule.abs_sum else gradient


def _masked(found: Tensor, expected: Json, batch: Batch) -> tuple[Tensor, NDArray[np.generic]]:
    """A stream and what the file states of it, both 0 outside the mask; one number for each response is spread over its tokens."""
    ours, theirs = found.double(), np.asarray(expected)
    if theirs.ndim > 1:
        ours = (ours[:, None] if ours.ndim == 1 else ours) * batch["mask"]
        theirs = theirs * batch["mask"].numpy()
    return ours, theirs


class SelectionCase(Case):
    """A random choice of tokens: membership and count, over several seeds."""

    def run(self, check: Check) -> None:
        expected = self.vector.outputs
        candidates = torch.tensor(expected["candidates"]).bool()
        seen = torch.zeros_like(candidates)
        for seed in range(8):
            batch = self.batch(seed)
            objective = self.objective(batch)
            live, _ = self.live(batch)
            for name, value in live.items():
                batch[f"now_{name}"] = value.detach()
            selected = objective.shape(objective.shape(batch, "step"), "minibatch", 0)[self.block.outputs["selected"]].bool()
            seen |= selected
            if bool((selected & ~candidates).any()):
                check.failures.append(f"seed {seed}: a token outside the candidates was chosen")
            check.compare(f"seed {seed}: chosen", int(selected.sum()), min(int(expected["quota"]), int(candidates.sum())))
        if int(candidates.sum()) > int(expected["quota"]) and int(seen.sum()) <= int(expected["quota"]):
            check.failures.append("the choice does not depend on the seed")
