"""80/20: train on the most uncertain tokens only, where responses fork.

Paper: Beyond the 80/20 Rule: High-Entropy Minority Tokens Drive Effective Reinforcement Learning for LLM Reasoning,
       arXiv:2506.01939.
Seats: shape (`keep_forks`), regularize (`negative_fork_entropy`: TRL's entropy bonus under such a selection). Both read the
       current policy, so they run once per minibatch, on all its rows.
Checked against: the authors' `get_global_entropy_top_mask`, which selects on each part; TRL `get_high_entropy_mask`.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rlent.math.masked import pick_largest, row_quantile
from rlent.options import Share


def keep_forks(
    now_entropy: Float[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
    *,
    share: Share,
    rounding: Literal["ceil", "floor", "quantile"],
    among: Literal["minibatch", "response"],
    denominator: Literal["selected", "all"],
) -> dict[str, Tensor]:
    """Keep the `share` of tokens with the highest entropy, of the minibatch or of each response; at least one of them.

    n tokens give n share, rounded up or down; `quantile` keeps what is not below the interpolated (1 - share)-quantile.
    The denominator of the loss counts the kept tokens, or all of them (then the gradient is smaller by about `share`).
    """
    entropy = now_entropy.detach()
    rows = (entropy, mask) if among == "response" else (entropy.reshape(1, -1), mask.reshape(1, -1))
    if rounding == "quantile":
        kept = rows[1] & (rows[0] >= row_quantile(*rows, 1 - share)[:, None])
    else:
        extra = 0.9999 if rounding == "ceil" else 0.0  # the authors' way of rounding up
        counts = (int(n * share + extra) for n in rows[1].sum(1).tolist())
        kept = torch.cat([pick_largest(x[None], m[None], max(1, k)) for x, m, k in zip(*rows, counts, strict=True)])
    kept = kept.view(mask.shape)
    return {"mask": kept, "selected": kept} if denominator == "selected" else {"weight": kept.to(entropy.dtype), "selected": kept}


def negative_fork_entropy(
    now_entropy: Float[Tensor, "N T"],
    forking_selected: Bool[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
    *,
    denominator: Literal["selected", "all"],
) -> dict[str, Tensor]:
    """-entropy (nats) at the selected tokens, to be minimised, averaged over them or over all response tokens."""
    value = -now_entropy.masked_fill(~forking_selected, 0.0)
    return {"value": value, "mask": forking_selected if denominator == "selected" else mask}
