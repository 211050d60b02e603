"""SIREN: hold the entropy of the nucleus, at each response's most uncertain tokens, at its initial value.

Paper: Rethinking Entropy Regularization in Large Reasoning Models, arXiv:2509.25133.
Seats: probe (`nucleus_entropy`), regularize (`distance_to_anchor`), control (`PeakAnchor`).
Checked against: the authors' `efficient_top_p_sampling`, `mask_by_quantile` and `update_policy`. They square the distance of each
       part's mean; here the mean is of the whole minibatch.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlent.math.masked import row_mean, row_quantile
from rlent.options import PositiveCount, Share


def nucleus_entropy(logits: Float[Tensor, "t V"], target: Int[Tensor, " t"], *, top_p: Share, top_k: PositiveCount) -> Float[Tensor, " t"]:
    """Entropy (nats) of the nucleus, renormalised; the gradient goes through it.

    Among the `top_k` most likely tokens, those up to which the probability sums to less than `top_p`: the token that crosses
    it is left out. A position whose first token alone reaches `top_p` has an empty nucleus, entropy 0 and no gradient.
    """
    prob = logits.softmax(-1)
    head = prob.topk(min(top_k, prob.shape[-1]), dim=-1).values
    head = head * (head.detach().cumsum(-1) < top_p)
    nucleus = head / (head.sum(-1, keepdim=True) + 1e-12)
    return -(nucleus * (nucleus + 1e-12).log()).sum(-1)


def peaks(x: Float[Tensor, "N T"], mask: Bool[Tensor, "N T"], q: float) -> Bool[Tensor, "N T"]:
    """Response tokens strictly above their own row's q-quantile. A row of one token has none."""
    return mask & (x > row_quantile(x, mask, q)[:, None])


def peak_mean(x: Float[Tensor, "N T"], mask: Bool[Tensor, "N T"], q: float) -> Float[Tensor, ""]:
    """Mean over all rows of the mean of `x` at the row's peaks; a row without peaks adds 0 and is counted."""
    return row_mean(x, peaks(x.detach(), mask, q)).sum() / max(x.shape[0], 1)


def distance_to_anchor(
    now_nucleus_entropy: Float[Tensor, "N T"], mask: Bool[Tensor, "N T"], *, quantile: Share, anchor: float
) -> dict[str, Tensor]:
    """(mean peak entropy - anchor)^2 of the minibatch, one number (nats squared); `selected` are the peaks.

    A negative anchor stands for one not measured yet: the value is 0 and nothing is pulled.
    """
    level = peak_mean(now_nucleus_entropy, mask, quantile)
    target = level.detach() if anchor < 0 else torch.full_like(level, anchor)
    return {"value": (level - target).square(), "selected": peaks(now_nucleus_entropy.detach(), mask, quantile)}


class PeakAnchor:
    """Measures the mean peak entropy of the first step's rollouts and holds the anchor there from then on."""

    def __init__(self, *, knob: str, quantile: Share) -> None:
        self.knob = knob
        self.quantile = quantile
        self.anchor: float | None = None

    def __call__(self, old_nucleus_entropy: Float[Tensor, "N T"], mask: Bool[Tensor, "N T"]) -> float:
        """The value of the knob, in nats."""
        if self.anchor is None:
            self.anchor = float(peak_mean(old_nucleus_entropy, mask, self.quantile))
        return self.anchor

    def state_dict(self) -> dict[str, float | int | None]:
        return {"anchor": self.anchor}

    def load_state_dict(self, state: dict[str, float | int | None]) -> None:
        self.anchor = state["anchor"]
