"""CE-GPPO: tokens beyond the clip range keep a bounded gradient instead of none.

Paper: CE-GPPO: Coordinating Entropy via Gradient-Preserving Clipping Policy Optimization, arXiv:2509.20712; both coefficients at 1 are
       GPPO of Klear-Reasoner, arXiv:2508.07629.
Seats: loss; `positive_nll` is a regularizer that the released scripts add.
Checked against: the authors' `compute_gppo_loss_general_beta`.

`beta_low` acts on unlikely tokens of bad responses (it lowers entropy), `beta_high` on tokens of good responses that have
become likely quickly, most of them unlikely before (it raises entropy).
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rlent.math.ratio import log_ratio
from rlent.options import AboveOne, NonNegative, Positive, Share


def gradient_preserving_clip(
    logp: Float[Tensor, "B T"],
    old_logp: Float[Tensor, "B T"],
    adv: Float[Tensor, "B T"],
    *,
    low: Share,
    high: NonNegative,
    beta_low: NonNegative,
    beta_high: NonNegative,
    dual: AboveOne | None,
    clamp: Positive | None,
) -> Float[Tensor, "B T"]:
    """-A r s, where s rescales a clipped token so that its gradient is -A beta (clip bound), constant in r.

    s = beta_low (1 - low) / sg[r] for A < 0 and r < 1 - low, beta_high (1 + high) / sg[r] for A > 0 and r > 1 + high, else 1.
    With a beta of 0 the gradient is PPO's; the value is not (0 instead of the clip's constant).
    """
    ratio = log_ratio(logp, old_logp, clamp).exp()
    fixed = ratio.detach()
    scale = torch.ones_like(fixed)
    scale = torch.where((adv < 0) & (fixed < 1 - low), beta_low * (1 - low) / fixed, scale)
    scale = torch.where((adv > 0) & (fixed > 1 + high), beta_high * (1 + high) / fixed, scale)
    loss = -adv * ratio * scale
    if dual is None:
        return loss
    return torch.where(adv < 0, torch.minimum(loss, -adv * dual), loss)


def positive_nll(now_logp: Float[Tensor, "N T"], correct: Bool[Tensor, " N"], mask: Bool[Tensor, "N T"]) -> dict[str, Tensor]:
    """-logp over the tokens of correct responses only, averaged over those of the minibatch: imitate what worked."""
    return {"value": -now_logp, "mask": mask & correct.bool()[:, None]}
