"""CANON: split each group by a metric, and compare a response with the other half and with its own half.

Paper: Conditional Advantage Estimation for Reinforcement Learning in Large Reasoning Models, arXiv:2509.23962.
Seat:  advantage.
Checked against: the authors' `compute_dr_entropy_per_token_group_outcome_advantage`, its counterpart for length, and
       `cosine_annealing_with_restart`.

Which half is better is found out, not assumed: the comparison between halves amplifies whichever is right more often, the one
within a half rewards what is rare there. With an even group, mu = 1/2 and alpha = 1 it is Dr.GRPO; with an odd one it is not,
because the upper half is larger. No deviation divides.
"""

import math
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlent.math.group import group_count, group_mean, group_rank
from rlent.options import Positive, PositiveCount, Share


def conditional(
    reward: Float[Tensor, " N"],
    old_entropy: Float[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
    group: Int[Tensor, " N"],
    sample: Int[Tensor, " N"],
    step: int,
    *,
    metric: Literal["entropy", "length"],
    mu: Share,
    alpha: float,
    beta: float,
    length: Positive,
    schedule: Literal["constant", "first_intra", "first_inter", "accuracy"],
    warmup: PositiveCount,
    total: PositiveCount,
    cycles: PositiveCount,
) -> dict[str, Tensor]:
    """(mu inter + (1 - mu) intra) / length, with the group split in halves by mean entropy (nats) or by length.

    Ascending, the first floor(n / 2) rows are the low half; equal values keep the order of `sample`. intra is the reward minus
    the own half's mean reward. inter compares with the other half's, where alpha discounts the reward of the low-entropy or
    the long half and the baseline of the others; beta is added in the high half and taken off in the low one. A row alone
    in its group has baselines 0. `inter` and `intra` [N] are the two terms.

    `schedule` replaces the constant mu: see `intra_weight`; `accuracy` takes 1 - mu = 1 - the step's mean reward.
    """
    x = old_entropy.double().masked_fill(~mask, 0.0).sum(1) / (mask.sum(1) + 1e-8) if metric == "entropy" else mask.sum(1).double()
    high = group_rank(x, group, sample) >= group_count(group) // 2
    low_mean, high_mean = _half_means(reward, group, high)
    own, other = torch.where(high, high_mean, low_mean), torch.where(high, low_mean, high_mean)
    discounted = high if metric == "length" else ~high
    inter = torch.where(discounted, alpha * reward - other, reward - alpha * other) + beta * (2.0 * high.to(reward.dtype) - 1.0)
    intra = reward - own
    weight = 1.0 - mu
    if schedule == "accuracy":
        weight = 1.0 - float(reward.double().mean())
    elif schedule != "constant":
        weight = intra_weight(step, warmup=warmup, total=total, cycles=cycles)[schedule]
    return {"adv": ((1.0 - weight) * inter + weight * intra) / length, "inter": inter, "intra": intra}


def intra_weight(step: int, *, warmup: int, total: int, cycles: int) -> dict[str, float]:
    """1 - mu at a step, for the two cosine schedules with warm-up and restarts.

    Until `warmup`, first_intra rises to 0.6 and first_inter falls to 0, linearly. Then, with e the steps into a cycle of
    (total - warmup) / cycles steps, first_intra = 0.3 (1 + cos(pi e / cycle)) and first_inter = 0.6 - first_intra.
    """
    if step < warmup:
        rise = (step + 1) / warmup
        return {"first_intra": 0.6 * rise, "first_inter": 1.0 - rise}
    cycle = (total - warmup) / cycles
    wave = 0.3 * (1.0 + math.cos(math.pi * ((step - warmup) % cycle) / cycle))
    return {"first_intra": wave, "first_inter": 0.6 - wave}


def _half_means(reward: Tensor, group: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Mean reward of the low and of the high half of the row's group [N]; 0 in a group of one, which has no halves."""
    alone = group_count(group) == 1
    means = []
    for half in (~high, high):
        share = group_mean(half.double(), group)
        mean = group_mean(half * reward.double(), group) / share.masked_fill(share == 0, 1.0)
        means.append(mean.masked_fill(alone, 0.0).to(reward.dtype))
    return means[0], means[1]
