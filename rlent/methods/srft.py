"""SRFT: imitate demonstrations while the policy is sure, learn from its own right responses while it is not, in one stage.

Paper: SRFT: A Single-Stage Method with Supervised and Reinforcement Fine-Tuning for Reasoning, arXiv:2506.19767.
Seats: shape (`own_rollouts`), loss (`reinforce_or_probability`), regularize (`demonstration_nll`). They need demonstrations in the groups
       (`rlent.sampling.demonstrations`), and a group advantage, which those rows enter.
Checked against: the formula, written a second time in the test; no training code was found.

    L = w_sft E_demo[-log pi]  -  E_demo[pi A]  +  w_rl E_right[-log pi]  +  E_wrong[log pi],
    w_sft = 0.5 exp(-H(demo)),  w_rl = 0.1 exp(H(rollouts)), both without gradient

The first term is the regularizer; the other three are the loss, whose weights the shape sets. The last one has no lower bound: nothing
in it stops a wrong response from being driven to probability 0. pi as a ratio gives hardly any gradient where a demonstration is unlikely.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rlent.math.masked import masked_mean
from rlent.options import NonNegative


def demonstrated(source: Sequence[str]) -> Bool[Tensor, " N"]:
    """Which rows are demonstrations."""
    return torch.tensor([s == "demo" for s in source], dtype=torch.bool)


def own_rollouts(
    adv: Float[Tensor, "N T"],
    reward: Float[Tensor, " N"],
    now_entropy: Float[Tensor, "N T"],
    loss_mask: Bool[Tensor, "N T"],
    source: Sequence[str],
    *,
    scale: NonNegative,
    by_entropy: bool,
    credit: Literal["reinforce", "grpo"],
    over: Literal["kind", "source"],
) -> dict[str, Tensor]:
    """`adv` and `weight` of the policy's own responses: 1 and w_rl above reward 0, -1 and 1 at or below it; demonstrations keep their `adv`.

    w_rl = scale * exp(H), H the mean entropy (nats) over the tokens of the policy's own responses in the minibatch, or `scale` alone.
    `credit: grpo` takes |adv| for 1. Every expectation is a mean of its own: the weight holds the tokens of the loss over those of the
    row's kind (demonstration, right, wrong), or of its `source` (demonstration or not).
    """
    demo = demonstrated(source)[:, None] & loss_mask
    right = (reward > 0)[:, None] & loss_mask & ~demo
    wrong = loss_mask & ~demo & ~right
    level = masked_mean(now_entropy.detach(), right | wrong)
    w_rl = scale * level.exp() if by_entropy else torch.full_like(level, scale)
    size = torch.ones_like(adv) if credit == "reinforce" else adv.abs()
    kinds = (demo, right, wrong)
    counts = [int((right | wrong).sum()) if over == "source" and kind is not demo else int(kind.sum()) for kind in kinds]
    weight = torch.ones_like(adv)
    for kind, count, w in zip(kinds, counts, (1.0, w_rl, 1.0), strict=True):
        weight = torch.where(kind, w * int(loss_mask.sum()) / max(count, 1), weight)
    return {"adv": torch.where(right, size, torch.where(wrong, -size, adv)), "weight": weight}


def reinforce_or_probability(
    logp: Float[Tensor, "B T"], old_logp: Float[Tensor, "B T"], adv: Float[Tensor, "B T"], source: Sequence[str]
) -> Float[Tensor, "B T"]:
    """-A log pi on the policy's own responses; on demonstrations -A pi / mu without a clip, whose mu is 1 (`old_logp` 0)."""
    return -adv * torch.where(demonstrated(source)[:, None], (logp - old_logp).exp(), logp)


def demonstration_nll(
    now_logp: Float[Tensor, "N T"], now_entropy: Float[Tensor, "N T"], mask: Bool[Tensor, "N T"], source: Sequence[str], *, by_entropy: bool
) -> dict[str, Tensor]:
    """-exp(-H) logp on demonstrations, averaged over their tokens; H is their mean entropy (nats) in the minibatch, without gradient.

    Without `by_entropy` plain imitation, -logp.
    """
    demo = demonstrated(source)[:, None] & mask
    level = masked_mean(now_entropy.detach(), demo)
    return {"value": -now_logp * (-level).exp() if by_entropy else -now_logp, "mask": demo}
