"""ERA: compute the loss of good responses under sharpened or flattened logits, so that the update itself holds entropy in a band.

Paper: Entropy Regularizing Activation, arXiv:2510.08549, the variant for language models.
Seats: probe (`scaled_logp`, three times), shape (`band`, row by row inside the update), loss (`activated_clip`).
Checked against: the authors' `_forward_micro_batch` (its ERA block), `logprobs_from_logits_topk` and `update_policy`.

With logits sharpened by k the raw policy sees a gradient shaped by the sharper distribution, in which certain tokens get less;
that ends the fall of entropy at about `h_low`. The log-probabilities of this loss are not the sampler's.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlent.math.ratio import clipped, log_ratio
from rlent.options import AboveOne, NonNegative, Positive, PositiveCount, Share

OUTSIDE = -1e4
"""The log-probability of a token outside the top ones: a constant without gradient, as the authors have it."""


def scaled_logp(
    logits: Float[Tensor, "t V"], target: Int[Tensor, " t"], *, factor: Positive, inverse: bool, top: PositiveCount | None
) -> Float[Tensor, " t"]:
    """log_softmax(f z)[target] in nats, f = factor or its inverse; with `top`, over the `top` largest logits only."""
    scaled = logits / factor if inverse else logits * factor
    chosen = scaled.gather(-1, target[:, None])[:, 0]
    if top is None or top >= logits.shape[-1]:
        return chosen - scaled.logsumexp(-1)
    best = scaled.topk(top, dim=-1)
    inside = (best.indices == target[:, None]).any(-1)
    return torch.where(inside, chosen - best.values.logsumexp(-1), torch.full_like(chosen, OUTSIDE))


def top_mean(entropy: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], share: float) -> Float[Tensor, " B"]:
    """Mean of the max(1, int(share n)) largest entropies of each row (nats); 0 for a row without tokens."""
    ordered = entropy.masked_fill(~mask, -torch.inf).sort(dim=1, descending=True).values
    count = torch.tensor([max(1, int(share * n)) for n in mask.sum(1).tolist()], device=entropy.device)
    chosen = torch.arange(entropy.shape[1], device=entropy.device) < count[:, None]
    return torch.where(chosen & mask.any(1, keepdim=True), ordered, ordered.new_zeros(())).sum(1) / count


def band(
    entropy: Float[Tensor, "B T"],
    old_entropy: Float[Tensor, "B T"],
    adv: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    h_low: NonNegative,
    h_high: NonNegative,
    k: AboveOne,
    share: Share,
    adv_scale: bool,
    faithful: Literal["paper", "released"],
) -> dict[str, Tensor]:
    """`factor` [B,T]: k where A > 0 and the row's uncertain tokens have less than h_low nats, 1/k where they have more than h_high.

    The row's level is `top_mean` of its entropies before any scaling. `old_factor` is the same from the entropies as the step began.
    `released` truncates advantages to whole numbers before the test, so a row with 0 < A < 1 is never scaled. `adv_scale` also
    multiplies the advantages of a scaled row by 1/k or k where its first one is positive. `level` [B] is the mean.
    """
    good = (adv.trunc() if faithful == "released" else adv) > 0
    level = top_mean(entropy, mask, share)
    found = {"level": level}
    for name, mean in (("factor", level), ("old_factor", top_mean(old_entropy, mask, share))):
        row = _by_band(mean, h_low, h_high, (k, 1 / k))
        found[name] = torch.where(good, row[:, None], 1.0)
    if adv_scale:
        row = _by_band(level, h_low, h_high, (1 / k, k))
        found["adv"] = torch.where(adv[:, :1] > 0, adv * row[:, None], adv)
    return found


def activated_clip(
    era_plain: Float[Tensor, "B T"],
    era_sharp: Float[Tensor, "B T"],
    era_flat: Float[Tensor, "B T"],
    old_era_plain: Float[Tensor, "B T"],
    old_era_sharp: Float[Tensor, "B T"],
    old_era_flat: Float[Tensor, "B T"],
    era_factor: Float[Tensor, "B T"],
    era_old_factor: Float[Tensor, "B T"],
    adv: Float[Tensor, "B T"],
    *,
    low: Share,
    high: NonNegative,
    dual: AboveOne | None,
    clamp: Positive | None,
) -> Float[Tensor, "B T"]:
    """PPO's clipped surrogate, each token's log-probability taken from the logits that its factor names, then and now."""
    logp = _chosen(era_factor, era_plain, era_sharp, era_flat)
    old_logp = _chosen(era_old_factor, old_era_plain, old_era_sharp, old_era_flat)
    return clipped(log_ratio(logp, old_logp, clamp).exp(), adv, low, high, dual)


def _by_band(level: Tensor, low: float, high: float, outside: tuple[float, float]) -> Tensor:
    """The first number where the level is below the band, the second where it is above, 1 inside."""
    below, above = (level.new_tensor(x) for x in outside)
    return torch.where(level < low, below, torch.where(level > high, above, level.new_ones(())))


def _chosen(factor: Tensor, plain: Tensor, sharp: Tensor, flat: Tensor) -> Tensor:
    return torch.where(factor > 1, sharp, torch.where(factor < 1, flat, plain))
