"""Vectors of one mounted function."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from rlent.metrics import step_metrics
from rlent.recipe.compose import build
from rlent.recipe.mount import Node
from rlent.train.calls import View
from rlent.train.credit import add_advantage, add_reward
from rlent.types import Batch, Stream
from rlent.verify.case import Case
from rlent.verify.compare import Check, Tree, stated, states


class NodeCase(Case):
    """A function of the recipe on the file's streams: its value, and gradients of its sum by `logp`."""

    def run(self, check: Check) -> None:
        node, batch = self.node(), self.batch()
        leaf = batch["logp"].clone().requires_grad_(True)
        value = node(View(batch, node, {"logp": leaf}))
        value = value["value"] if isinstance(value, Mapping) else value
        for name, theirs in self.vector.outputs.items():
            if name.startswith("grad_"):
                (grad,) = torch.autograd.grad(value.sum(), leaf, retain_graph=True)
                check.compare(name, grad, theirs)
            else:
                check.compare(name, value, theirs)


class AdaptedCase(Case):
    """A function of the recipe, called by the block's adapter."""

    def run(self, check: Check) -> None:
        for name, value in self.adapter.run(self.node()).items():
            if states(self.vector.outputs, name):
                check.compare_tree(name, value, stated(self.vector.outputs, name))


class ProbeCase(Case):
    """A probe on the file's logits."""

    def run(self, check: Check) -> None:
        value = self.probed(self.node(), self.inputs["logits"], self.batch())
        for name in self.block.outputs:
            check.compare(name, value, self.vector.outputs[name])


class FilterCase(Case):
    """The sampler's filter of groups: which rows are kept."""

    def run(self, check: Check) -> None:
        batch = self.batch()
        keep: Node = build(self.recipe["sampler"][str(self.block.node).partition(".")[2]])
        _, at = torch.unique(batch["group"], return_inverse=True)
        flags = torch.as_tensor(keep(batch.with_(group=at).streams)).bool()
        check.compare("kept_rows", flags[at].nonzero()[:, 0], self.vector.outputs["kept_rows"])


class RewardCase(Case):
    """One reward by itself, with the recipe's advantage and the step's metrics if the block names them."""

    def run(self, check: Check) -> None:
        node, batch = self.node(), self.batch()
        wanted = self.block.outputs
        if not wanted:
            check.compare("rewards", batch["reward"] + node.coef * node(View(batch, node)), self.vector.outputs["rewards"])
            return
        world = self.objective(batch).world
        found = add_reward(batch, [node], world)
        if "adv" in wanted.values():
            found = add_advantage(found, self.recipe.plan.advantage, world)
        numbers = step_metrics(found) if any(v.startswith("metric:") for v in wanted.values()) else {}
        for name, stream in wanted.items():
            if not states(self.vector.outputs, name):
                continue
            theirs = stated(self.vector.outputs, name)
            if stream.startswith("metric:"):
                check.compare(name, numbers[stream.removeprefix("metric:")], theirs)
            else:
                check.compare_tree(name, *_of_rows(self._stream(node, found, stream), theirs))

    def _stream(self, node: Node, found: Batch, stream: str) -> Stream:
        """A stream of the step: the function's value, one of its own, or a common one."""
        own = f"{node.name}_{stream}"
        return found[f"reward_{node.name}"] if stream == "value" else found[own if own in found else stream]


def _of_rows(ours: Any, theirs: Any) -> tuple[Tree, Tree]:
    """A stream and what the file states, row by row; the file may state one number for each response, or one for the whole group."""
    if isinstance(ours, Tensor) and ours.ndim == 2 and not isinstance(theirs[0], list):
        ours = ours[:, 0]
    return ours, theirs if isinstance(theirs, list | Mapping) else [theirs] * len(ours)


class ControlCase(Case):
    """A controller, called once for each element of its inputs, as a minibatch of one token."""

    def run(self, check: Check) -> None:
        node = self.node()
        given = {k: v for k, v in self.inputs.items() if isinstance(v, Tensor) and v.ndim == 1}
        answers = []
        for i in range(min(map(len, given.values()))):
            one = {k: v[i].view(1, 1) for k, v in given.items()}
            answers.append(float(node({**one, "mask": torch.ones(1, 1, dtype=torch.bool), "step": self.block.first_step + i})))
        for name in self.block.outputs:
            check.compare(name, answers, self.vector.outputs[name])
