"""ARPO: branch a rollout where the entropy after a turn is higher than at its start.

Paper: Agentic Reinforced Policy Optimization, arXiv:2507.19849.
Seat:  decode, around the engine.
Checked against: the authors' `_calc_entropy` and the test in `generate_sequences`. A turn is a number of tokens here, there what
       lies between two tool calls. Their table of first entropies is never cleared between prompts; here each rollout has its own.
"""

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from rlent.math.drawing import Request, Turn
from rlent.math.entropy import top_entropy
from rlent.options import PositiveCount, Share

Grown = TypeVar("Grown")


def turn_entropy(entropies: Sequence[float], vocab: int, first_tokens: int) -> float:
    """U: the SUM of the truncated entropies of a turn's first tokens, over ln V. It can exceed 1."""
    return sum(entropies[:first_tokens]) / max(math.log(vocab), 1e-9)


def branch_value(uniform: float | int | Tensor, delta: float | int | Tensor, weight: float) -> Tensor:
    """clip(u - w dU, 0, 1); a rollout branches where this is at most p_b."""
    return torch.as_tensor(uniform - weight * delta, dtype=torch.float64).clamp(0.0, 1.0)


def branch(
    requests: Sequence[Request],
    grow: Callable[..., Grown],
    vocab: int,
    *,
    initial: PositiveCount,
    segment: PositiveCount,
    beam: PositiveCount,
    weight: float,
    probability: Share,
    top_k: PositiveCount,
    first_tokens: PositiveCount,
) -> Grown:
    """`initial` responses of a group from the prompt; after each turn of `segment` tokens, each may branch until the group is full."""

    def decide(turn: Turn) -> bool:
        level = turn_entropy(turn.notes["top"], vocab, first_tokens)
        delta = level - turn.path.setdefault("initial", level)
        return bool(branch_value(turn.u, delta, weight) <= probability)

    def measure(logits: Float[Tensor, "n V"]) -> dict[str, Tensor]:
        return {"top": top_entropy(logits, top_k)}

    return grow(requests, initial=initial, segment=segment, measure=measure, decide=decide, beam=beam)
