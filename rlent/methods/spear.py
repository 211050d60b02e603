"""SPEAR: imitate good responses of earlier steps, more and more, and pay for tool calls, less and less.

Paper: SPEAR: Self-imitation with Progressive Exploration for Agentic Reinforcement Learning, arXiv:2509.22601.
Seats: sampler (`rlent.sampling.replay`, which holds the buffer), shape (`replayed`; the covariance clip is Clip-Cov with other numbers).
Checked against: the authors' `TrajectoryBuffer` and their schedules.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rlent.options import NonNegative, Positive


def replay_weight(step: float | int, *, coef: float, rise: float) -> float:
    """coef (1 - cos(pi s / S)) / 2 until step S, then coef."""
    return coef if step > rise else coef * (1.0 - math.cos(math.pi * step / rise)) / 2.0


def replayed(
    adv: Float[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
    source: Sequence[str],
    replay_adv: Float[Tensor, " N"],
    step: int,
    *,
    most: NonNegative,
    rise: Positive,
) -> dict[str, Tensor]:
    """A replayed response has its advantage of now, on every token, at the weight of the step; the others stay as they are."""
    old = torch.tensor([s == "replay" for s in source], dtype=torch.bool)
    weight = torch.ones_like(replay_adv).masked_fill(old, replay_weight(step, coef=most, rise=rise))
    spread = torch.where(old[:, None] & mask, replay_adv[:, None].to(adv.dtype), adv)
    return {"adv": spread, "weight": weight, "selected": old[:, None] & mask}
