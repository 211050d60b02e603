"""SPEAR: both schedules over steps. No recipe pays for tool calls, so `tool_reward` is here."""

import math

import torch
from torch import Tensor

from rlent.methods.spear import replay_weight
from rlent.recipe.mount import Node
from rlent.types import Stream
from rlent.verify.adapter import Adapter
from rlent.verify.compare import Tree


def tool_reward(turns: float | int, step: float | int, *, fall: float) -> float:
    """min(1, turns / 10), falling to 0 along half a cosine until step S'."""
    return 0.0 if step > fall else min(1.0, 0.1 * turns) * (1.0 + math.cos(math.pi * step / fall)) / 2.0


def schedules(step: Tensor, tool_turns: Tensor, *, coef: float, rise: float, fall: float) -> dict[str, list[float] | list[list[float]]]:
    """Both schedules over steps, the second also over numbers of tool calls."""
    return {
        "replay_weight": [replay_weight(float(s), coef=float(coef), rise=float(rise)) for s in step],
        "tool_reward": [[tool_reward(float(n), float(s), fall=float(fall)) for n in tool_turns] for s in step],
    }


class Replayed(Adapter):
    """One replayed response of one token, at each step of the file."""

    def run(self, node: Node) -> dict[str, Tree]:
        one = torch.ones(1, 1, dtype=torch.float64)
        rows: dict[str, Stream] = {"adv": 0 * one, "mask": one.bool(), "source": ["replay"], "replay_adv": one[0]}
        return {"replay_weight": [float(node({**rows, "step": int(s)})["weight"]) for s in self.inputs["step"].tolist()]}
