"""COPO: prompts whose responses agree learn from how they compare with other prompts, the others from their own group.

Paper: COPO: Consistency-Aware Policy Optimization, arXiv:2508.04138.
Seats: advantage (`local_and_global`), loss (`blended_clip`, which reads the second advantage and the blend).
Checked against: the authors' `compute_grpo_outcome_advantage_with_global` and `compute_policy_loss_with_global`, transcribed by hand.

Under `soft-with-zero` a wrong response learns from the global advantage alone: on a prompt that is easier than the average it is
reinforced. `soft-with-forced` sends only prompts without variance there.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlent.math.group import group_count, group_mean, standardised
from rlent.math.ratio import clipped, log_ratio
from rlent.options import AboveOne, NonNegative, Positive, Share

Blend = Literal["soft-with-zero", "only-soft", "soft-with-forced", "only-forced", "only-zero", "only-global", "no-global"]


def answer_entropy(answer_id: Int[Tensor, " N"], group: Int[Tensor, " N"], unparsed: Literal["each", "one"]) -> Float[Tensor, " N"]:
    """Entropy in bits of the answers in the row's group, -sum p log2 p. Responses without an answer (-1) differ from all others, or are one."""
    answer = answer_id.long()
    if unparsed == "each":
        answer = torch.where(answer < 0, -1 - torch.arange(len(answer), device=answer.device), answer)
    _, which, count = torch.unique(torch.stack([group.long(), answer]), dim=1, return_inverse=True, return_counts=True)
    share = count[which].double() / group_count(group)
    return -group_mean(share.log2(), group)


def local_and_global(
    reward: Float[Tensor, " N"],
    answer_id: Int[Tensor, " N"],
    mask: Bool[Tensor, "N T"],
    group: Int[Tensor, " N"],
    *,
    blend: Blend,
    k: NonNegative,
    b: float,
    entropy_in_reward: bool,
    scale: Literal["group", "none"],
    unparsed: Literal["each", "one"],
    epsilon: NonNegative,
) -> dict[str, Tensor]:
    """`adv`: (reward - group mean) / deviation. `global`: (R - mean over prompts) / deviation over prompts, R the prompt's mean reward.

    `entropy_in_reward` takes R (1 - c H), with H the entropy of the prompt's n answers in bits and c = (1 - 1/n) / log2 n. With one
    prompt in the step the global advantage is 0. `blend` [N] is the weight of the local loss: sigmoid(k (H - b)) (soft), times or
    instead of it whether the reward is not 0 (zero) or the local advantage is not (forced).
    """
    local = standardised(reward, group, "reference", epsilon=epsilon, scale=scale)
    bits = answer_entropy(answer_id, group, unparsed)
    level = group_mean(reward.double(), group)
    if entropy_in_reward:
        n = group_count(group).double()
        level = level * (1 - torch.where(n == 1, 0.0, (1 - 1 / n) / n.clamp(min=2).log2()) * bits)
    _, index, count = torch.unique(group, return_inverse=True, return_counts=True)
    first = torch.zeros(len(count), dtype=torch.float64).index_add_(0, index, level) / count  # one number per prompt
    across = level - first.mean()
    if scale == "group":
        across = across / ((first.std() if len(first) > 1 else torch.ones_like(first).mean()) + epsilon)
    soft = torch.sigmoid(k * (bits - b))
    nonzero, forced = (reward != 0).double(), ((local != 0) & mask[:, 0]).double()
    weight = {
        "soft-with-zero": soft * nonzero,
        "only-soft": soft,
        "soft-with-forced": soft * forced,
        "only-forced": forced,
        "only-zero": nonzero,
        "only-global": torch.zeros_like(soft),
        "no-global": torch.ones_like(soft),
    }[blend]
    return {"adv": local, "global": across.to(reward.dtype), "blend": weight.to(reward.dtype), "bits": bits}


def blended_clip(
    logp: Float[Tensor, "B T"],
    old_logp: Float[Tensor, "B T"],
    adv: Float[Tensor, "B T"],
    advantage_global: Float[Tensor, " B"],
    advantage_blend: Float[Tensor, " B"],
    *,
    low: Share,
    high: NonNegative,
    dual: AboveOne | None,
    clamp: Positive | None,
) -> Float[Tensor, "B T"]:
    """W L(local) + (1 - W) L(global), L the clipped surrogate with dual clip, W the row's blend."""
    ratio = log_ratio(logp, old_logp, clamp).exp()
    weight, across = advantage_blend[:, None], advantage_global[:, None].expand_as(adv)
    return weight * clipped(ratio, adv, low, high, dual) + (1 - weight) * clipped(ratio, across, low, high, dual)
