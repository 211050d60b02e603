"""EPO: the term of one micro-batch from a whole history, with everything that the authors log."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlent.methods.epo import history_mean, inside, padded, phase_weight, smoothed_entropy
from rlent.recipe.mount import Node
from rlent.types import Stream
from rlent.verify.adapter import Adapter
from rlent.verify.compare import Tree


def term(
    step_entropy_lists: Sequence[Sequence[float]],
    turn: Int[Tensor, " B"],
    entropy: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    mode: Literal["token", "seq"],
    low: float,
    high: float,
    cost: float,
    coef: float,
    smooth: float,
    gate: int,
    env_steps: int,
    phases: bool,
    epoch: float | int,
    epochs: int,
    aggregate: str,
) -> dict[str, Tree]:
    """The term of one micro-batch from a whole history, with everything the authors log: the same functions in their order."""
    history = [padded(means, env_steps) for means in step_entropy_lists]
    mean = history_mean(history)
    is_open = bool((turn >= gate // 2).any())
    level, phase = mean[turn], phase_weight(epoch, epochs) if phases else None
    rows = torch.ones(len(turn), dtype=entropy.dtype)
    value = smoothed_entropy(
        entropy,
        mask,
        level,
        rows.bool() & is_open,
        rows * (1.0 if phase is None else phase),
        low=low,
        high=high,
        cost=cost,
        smooth=1.0,
        mode=mode,
        over="columns",
        penalty="count",
    )
    charge = (value + entropy).detach()
    within = inside(entropy, mask, level, low=low, high=high, mode=mode, over="columns")

    def mean_of(x: Tensor) -> Tensor:
        total, count = (x * mask).sum(1), mask.sum(1)
        if aggregate == "token-mean":
            return total.sum() / count.sum().clamp(min=1)
        rows = total / count.clamp(min=1) if aggregate == "seq-mean-token-mean" else total
        return rows.mean()

    return {
        "history_mean": mean,
        "padded_history": history,
        "applied": is_open,
        "penalty": charge,
        "in_range_fraction": float(within.double().mean()) if is_open else 0.0,
        "epoch_weight": phase,
        "entropy_mean": mean_of(entropy),
        "penalty_mean": mean_of(charge),
        "loss_term": -coef * (mean_of(entropy) - smooth * mean_of(charge)),
    }


class History(Adapter):
    """What the shape has made of the history by the time of a micro-batch: streams of its rows."""

    def streams(self) -> dict[str, Stream]:
        mean = history_mean([padded(means, int(self.config["max_env_steps"])) for means in self.inputs["step_entropy_lists"]])
        turn = self.inputs["rollout_step"].long()
        phase = phase_weight(self.config["epoch"], self.config["max_epochs"]) if self.config["enable_smooth_weights"] else 1.0
        rows = torch.ones(len(turn), dtype=torch.float64)
        is_open = bool((turn >= self.config["max_step_gate"] // 2).any())
        return {"epo_level": mean[turn], "epo_open": rows.bool() & is_open, "epo_phase": rows * phase}


class LastStep(Adapter):
    """The shape after all but the last training step, on the last: one response of one token for each environment step."""

    def _lists(self) -> list[list[float]]:
        return [list(map(float, means)) for means in self.inputs["step_entropy_lists"]]

    def memory(self) -> dict[str, dict[str, Tree]]:
        return {"shape.epo": {"history": [padded(means, int(self.config["max_env_steps"])) for means in self._lists()[:-1]]}}

    def run(self, node: Node) -> dict[str, Tree]:
        entropy = torch.tensor(self._lists()[-1], dtype=torch.float64)[:, None]
        turn = torch.arange(len(entropy))
        mask = torch.ones_like(entropy, dtype=torch.bool)
        found = node({"old_entropy": entropy, "mask": mask, "turn": turn, "step": self.config["epoch"] + 1})
        phases = {"epoch_weight": found["phase"][0]} if self.config["enable_smooth_weights"] else {}
        size = int(self.config["max_env_steps"])
        return {**phases, **({"history_mean": found["level"]} if len(entropy) == size else {})}


class Phases(Adapter):
    """The shape at each epoch of the file, on one response of one token. A step of training counts as an epoch, and steps begin at 1."""

    def run(self, node: Node) -> dict[str, Tree]:
        one = torch.ones(1, 1, dtype=torch.float64)
        row = {"old_entropy": one, "mask": one.bool(), "turn": torch.zeros(1, dtype=torch.long)}
        return {"weight": torch.stack([node({**row, "step": int(epoch) + 1})["phase"][0] for epoch in self.inputs["epoch"]])}
