"""EMPG: confident steps count more, and a step that leads to a confident one earns a little.

Paper: Harnessing Uncertainty: Entropy-Modulated Policy Gradients for Long-Horizon LLM Agents, arXiv:2509.09265.
Seats: shape, twice: `paragraphs` cuts a response into steps, `modulated` moves their credit.
Checked against: a third party's code (WillDreamer/ARLArena `compute_EMPG_advantage`) run with one row per step; the formula agrees with
       the paper's text. No official repository.

A step is a turn of an agent. In a single turn the paragraphs of a response stand for steps, which is ours.
"""

import re
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlent.options import NonNegative, Positive


def paragraphs(pieces: Sequence[Sequence[str]], mask: Bool[Tensor, "N T"], *, separator: str | None) -> dict[str, Tensor]:
    """`step` [N,T]: how many separators (in runs) end before the token begins. Without a separator a response is one step."""
    step = torch.zeros(mask.shape, dtype=torch.long)
    pattern = re.compile(f"(?:{re.escape(separator)})+") if separator else None
    for row, texts in enumerate(pieces if pattern else ()):
        ends = [found.end() for found in pattern.finditer("".join(texts))] if pattern else []
        starts = [0, *accumulate(map(len, texts))][: len(texts)]
        step[row, : len(texts)] = torch.tensor([bisect_right(ends, at) for at in starts], dtype=torch.long)
    return {"step": step * mask}


def modulated(
    adv: Float[Tensor, "N T"],
    old_entropy: Float[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
    paragraphs_step: Int[Tensor, "N T"],
    *,
    k: NonNegative,
    k_f: NonNegative,
    zeta: NonNegative,
    epsilon: Positive,
) -> dict[str, Tensor]:
    """A g + zeta f(next) - mean, with g and f of the token's step, over all steps of the rollouts; see `step_terms`."""
    trajectory = torch.arange(len(mask))[:, None].expand_as(mask)
    names, which = torch.unique(torch.stack([trajectory[mask], paragraphs_step[mask].long()]), dim=1, return_inverse=True)
    if not names.shape[1]:
        return {"adv": adv}
    count = torch.bincount(which).double()
    entropy, credit = (
        torch.zeros(len(count), dtype=torch.float64).index_add_(0, which, x[mask].double()) / count for x in (old_entropy, adv)
    )
    scale, bonus = step_terms(entropy, names[0], names[1], k=k, k_f=k_f, zeta=zeta, epsilon=epsilon)
    out = torch.zeros_like(adv)
    out[mask] = (adv[mask].double() * scale[which] + bonus[which] - (credit * scale + bonus).mean()).to(adv.dtype)
    return {"adv": out}


def step_terms(
    entropy: Float[Tensor, " S"],
    trajectory: Int[Tensor, " S"],
    step: Int[Tensor, " S"],
    *,
    k: float,
    k_f: float,
    zeta: float,
    epsilon: float,
) -> tuple[Float[Tensor, " S"], Float[Tensor, " S"]]:
    """g = exp(-k h) / (mean over steps of exp(-k h) + epsilon), and zeta exp(-k_f h) of the trajectory's next step (0 after the last).

    h is the step's mean entropy (nats) scaled to 0 ... 1 over all steps, (H - min) / (max - min + epsilon).
    """
    h = (entropy - entropy.min()) / (entropy.max() - entropy.min() + epsilon)
    raw = (-k * h).exp()
    order = step.argsort(stable=True)
    order = order[trajectory[order].argsort(stable=True)]
    follows = trajectory[order[1:]] == trajectory[order[:-1]]
    bonus = torch.zeros_like(h)
    bonus[order[:-1]] = torch.where(follows, zeta * (-k_f * h[order[1:]]).exp(), 0.0)
    return raw / (raw.mean() + epsilon), bonus
