"""Statistics over the tokens of a mask, and the deterministic choice of tokens.

Sums run in float64 over the masked values only: neither what stands in the padding (it may be NaN) nor how much padding
there is can change a result. A mask is bool, or numbers that are all 0 and 1; another value or another shape is a `UsageError`.
"""

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from rlent.math.checks import as_mask, require_float


def masked_mean(x: Shaped[Tensor, "*shape"], mask: Tensor) -> Float[Tensor, ""]:
    """Mean of `x` over the mask, in `x`'s dtype; 0 when the mask is empty.

    Raises:
        UsageError: `x` is not floating-point, or the mask is not one of its shape.
    """
    require_float(x=x)
    chosen = x[as_mask(mask, x)]
    return (chosen.double().sum() / max(chosen.numel(), 1)).to(x.dtype)


def row_mean(x: Shaped[Tensor, "N T"], mask: Tensor) -> Float[Tensor, " N"]:
    """Mean of each row of `x` over its mask; 0 for a row without tokens."""
    require_float(x=x)
    mask = as_mask(mask, x)
    if x.shape[1] == 0:
        return x.new_zeros(x.shape[0])
    total = x.double().masked_fill(~mask, 0.0).cumsum(1)[:, -1]  # in order: a plain sum rounds differently with more padding
    return (total / mask.sum(1).clamp(min=1)).to(x.dtype)


def across(row: Float[Tensor, " N"], width: int) -> Float[Tensor, "N T"]:
    """A number per row at all of its `width` positions. Its gradient is summed in order, so more padding does not round it otherwise."""
    if width == 0:
        return row.new_zeros(len(row), 0)
    return torch.nn.functional.pad(row[:, None], (0, width - 1)).cumsum(1)


def discounted_sum(x: Float[Tensor, "N T"], discount: float) -> Float[Tensor, "N T"]:
    """sum_{s >= t} discount^(s - t) x_s at each column t."""
    out, running = torch.empty_like(x), x.new_zeros(len(x))
    for t in range(x.shape[1] - 1, -1, -1):
        running = x[:, t] + discount * running
        out[:, t] = running
    return out


def row_quantile(x: Float[Tensor, "N T"], mask: Tensor, q: float) -> Float[Tensor, " N"]:
    """The q-quantile of each row over its mask, linearly interpolated; infinite for a row without tokens.

    The rule of `torch.quantile`, which refuses more than 2^24 elements and has no mask.
    """
    mask = as_mask(mask, x)
    ordered = x.masked_fill(~mask, torch.inf).sort(dim=1).values
    rank = q * (mask.sum(1) - 1).clamp(min=0).double()
    below = rank.floor().long()
    above = rank.ceil().long()
    low, high = (ordered.gather(1, i[:, None]).squeeze(1) for i in (below, above))
    return torch.where(below == above, low, torch.lerp(low, high, (rank - below).to(x.dtype)))


def whiten(x: Float[Tensor, "N T"], mask: Tensor, *, epsilon: float = 1e-8) -> Float[Tensor, "N T"]:
    """Shift and scale `x` to mean 0 and unbiased variance 1 over the mask; 0 outside it.

    `epsilon` is added to the variance. With fewer than two tokens there is no variance, and the result is 0 everywhere.
    """
    mask = as_mask(mask, x)
    chosen = x[mask].double()
    out = torch.zeros_like(x)
    if chosen.numel() > 1:
        centred = chosen - chosen.mean()
        variance = centred.square().sum() / (chosen.numel() - 1)
        out[mask] = (centred * torch.rsqrt(variance + epsilon)).to(x.dtype)
    return out


def pick_largest(value: Float[Tensor, "N T"], among: Tensor, count: int) -> Bool[Tensor, "N T"]:
    """Mark the `count` largest values among the candidates (all of them when there are fewer).

    Equal values are taken from the first row on, then from the first position on. Linear in the number of candidates.
    """
    among = as_mask(among, value, name="among")
    candidates = value[among].detach()
    count = min(max(count, 0), candidates.numel())
    picked = torch.zeros_like(among)
    if count == 0:
        return picked
    edge = candidates.topk(count, sorted=False).values.min()
    above, at = candidates > edge, candidates == edge
    picked[among] = above | (at & (at.cumsum(0) <= count - above.sum()))
    return picked


def pick_smallest(value: Float[Tensor, "N T"], among: Tensor, count: int) -> Bool[Tensor, "N T"]:
    """Mark the `count` smallest values among the candidates; ties as in `pick_largest`."""
    return pick_largest(-value, among, count)
