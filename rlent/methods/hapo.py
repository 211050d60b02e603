"""HAPO: credit, clip range and advantage by token, from how uncertain the token is.

Paper: From Uniform to Heterogeneous: Tailoring Policy Optimization to Every Token's Nature, arXiv:2509.16591.
Seats: advantage (`token_group`), shape (`entropy_score`, over the whole minibatch; `redistribute`), loss (`adaptive_clip`, which
       reads the score), decode (`adaptive_temperature`) with control (`temperature_statistics`, which tells it about the step before).
Checked against: the authors' `compute_hapo_outcome_advantage`, `compute_entropy_h`, `ada_clip`, `ada_advantage`,
       `compute_policy_loss` and, in their copy of vLLM, `compute_entropy_based_temperature`. They score on each part.

In every public commit tokens below the pivot get a positive score: the sign is lost, the lower bound never widens, and the
upper one widens for the most certain tokens, too. Text and figure mean the signed score (`faithful: paper`).
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlent.math.entropy import entropy_from_logits
from rlent.math.group import group_max, group_sum, standardised
from rlent.math.ratio import clipped, log_ratio
from rlent.options import AboveOne, NonNegative, Positive, Share


def token_group(
    reward: Float[Tensor, " N"],
    mask: Bool[Tensor, "N T"],
    group: Int[Tensor, " N"],
    *,
    scale: Literal["group", "none"],
    fallback: Positive,
    epsilon: NonNegative,
    degenerate: Literal["reference", "zero"],
    faithful: Literal["paper", "released"],
) -> Float[Tensor, " N"]:
    """(reward - mean) / (deviation + epsilon) over all tokens of the group, each carrying its response's reward: long ones weigh more.

    The deviation is biased. A group with a value of `fallback` or more in size gets the ordinary GRPO advantage instead. `released`
    looks for it in the padded matrix, where padding holds -mean / (deviation + epsilon), so how far the group is padded matters.
    """
    length = mask.sum(1).double()
    tokens = group_sum(length, group).clamp(min=1)
    mean = group_sum(length * reward, group) / tokens
    away = reward.double() - mean
    spread = (group_sum(length * away.square(), group) / tokens).sqrt() + epsilon if scale == "group" else torch.ones_like(mean)
    credit = away / spread
    sizes = credit.abs() * (length > 0)
    if faithful == "released":
        sizes = torch.maximum(sizes, (mean / spread).abs() * ~mask.all(1))
    ordinary = standardised(reward.double(), group, degenerate, epsilon=epsilon, scale=scale)
    return torch.where(group_max(sizes, group) >= fallback, ordinary, credit).to(reward.dtype)


def entropy_score(
    now_entropy: Float[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
    *,
    pivot: Share,
    epsilon: Positive,
    faithful: Literal["paper", "released"],
) -> dict[str, Tensor]:
    """A score in [-1, 1] per token: 1 at the highest entropy of the minibatch, 0 at its `pivot` quantile, -1 at the lowest.

    e = ln max(entropy, epsilon); its distance from the pivot (the nearest token's value, no interpolation) is divided by the
    largest distance on its own side. `released`: the absolute value. 0 outside the mask.
    """
    score = torch.zeros_like(now_entropy)
    if mask.any():
        _, _, distance, up, down = _from_pivot(now_entropy.detach()[mask], pivot, least=epsilon, floor=epsilon)
        score[mask] = torch.where(distance > 0, distance / up, -distance / down)
    return {"score": score.abs() if faithful == "released" else score}


def _from_pivot(entropy: Tensor, pivot: float, *, least: float, floor: float) -> tuple[Tensor, ...]:
    """The pivot of ln max(entropy, least), the deviation around it, each one's distance from it in deviations, the largest and the smallest."""
    level = entropy.clamp(min=least).log()
    median = level.sort().values[round(pivot * (len(level) - 1))]
    std = (level - median).square().mean().clamp(min=floor).sqrt()
    distance = (level - median) / std
    return median, std, distance, distance.max().clamp(min=least), distance.min().clamp(max=-least)


def ranges(score: Float[Tensor, "*shape"], low: float, high: float, alpha: float) -> tuple[Tensor, Tensor]:
    """The clip range of each token: `high` widened for uncertain tokens, `low` for certain ones, by up to 1 + alpha."""
    return low * (1 + alpha * (-score).clamp(min=0.0)), high * (1 + alpha * score.clamp(min=0.0))


def redistribute(
    now_logp: Float[Tensor, "N T"],
    old_logp: Float[Tensor, "N T"],
    adv: Float[Tensor, "N T"],
    hapo_score: Float[Tensor, "N T"],
    *,
    beta: NonNegative,
    low: Share,
    high: NonNegative,
    alpha: NonNegative,
) -> dict[str, Tensor]:
    """A (1 + beta score) where the token's drift fits its kind: an uncertain token that moved, a certain one that stayed.

    A token has stayed while its ratio is within half of its clip range, (1 - low_t / 2, 1 + high_t / 2).
    """
    ratio = (now_logp - old_logp).exp()
    down, up = ranges(hapo_score, low, high, alpha)
    stayed = (ratio > 1 - down / 2) & (ratio < 1 + up / 2)
    return {"adv": torch.where(stayed == (hapo_score <= 0), adv * (1 + beta * hapo_score), adv)}


def adaptive_clip(
    logp: Float[Tensor, "B T"],
    old_logp: Float[Tensor, "B T"],
    adv: Float[Tensor, "B T"],
    hapo_score: Float[Tensor, "B T"],
    *,
    low: Share,
    high: NonNegative,
    alpha: NonNegative,
    dual: AboveOne | None,
    clamp: Positive | None,
) -> Float[Tensor, "B T"]:
    """max(-A r, -A clip(r, 1 - low_t, 1 + high_t)) with the dual clip; low_t and high_t are the token's own (`ranges`)."""
    ratio = log_ratio(logp, old_logp, clamp).exp()
    down, up = ranges(hapo_score, low, high, alpha)
    return clipped(ratio, adv, down, up, dual)


def temperature_statistics(
    old_entropy: Float[Tensor, "N T"], mask: Bool[Tensor, "N T"], *, knob: str, pivot: Share, floor: Positive
) -> dict[str, float] | None:
    """What `adaptive_temperature` needs to know of this step's tokens when it draws the next: four knobs beside `knob`.

    `median`, the pivot of ln entropy; `std`, around the pivot; `scale_pos` = 1 / the largest standardised distance above it, and
    `scale_neg` = 1 / the smallest below it, a negative number.
    """
    if not mask.any():
        return None
    median, std, _, up, down = _from_pivot(old_entropy[mask], pivot, least=1e-8, floor=floor)
    where = knob.removesuffix("median")
    found = {"median": median, "std": std, "scale_pos": 1 / up, "scale_neg": 1 / down}
    return {f"{where}{name}": float(value) for name, value in found.items()}


def adaptive_temperature(
    logits: Float[Tensor, "n V"],
    temperature: Float[Tensor, " n"],
    *,
    tau: NonNegative,
    median: float,
    std: NonNegative,
    scale_pos: float,
    scale_neg: float,
    epsilon: Positive,
    faithful: Literal["paper", "released"],
) -> dict[str, Tensor]:
    """T (1 + tau h) with h in [-1, 1]: where ln H lies between the lowest, the pivot and the highest of the step before.

    `std` 0: nothing is known yet, and T stays. Released: h of tokens below the pivot has lost its sign, and they are heated, too.
    """
    if std == 0:
        return {"temperature": temperature}
    level = (entropy_from_logits(logits).clamp(min=epsilon).log() - median) / (std + epsilon)
    below = scale_neg if faithful == "released" else -scale_neg
    score = torch.where(level > 0, level * scale_pos, level * below).clamp(-1.0, 1.0)
    return {"temperature": temperature * (1 + tau * score), "score": score}
