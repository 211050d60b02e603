"""KL-Cov: hold the tokens of highest covariance near the policy that sampled them.

Paper:  The Entropy Mechanism of Reinforcement Learning for Reasoning Language Models, arXiv:2505.22617, section 4.2, equations 13 and 14.
Seat:   regularize. It reads the current policy, so it runs once per minibatch, on all its rows.
Checked against: verl `compute_policy_loss_kl_cov`, the authors' function as merged. They rank per part and rank; here the top
        share is of the whole minibatch. Goes with the unclipped loss `pg_ratio`.

The penalty is |logp - old_logp|, not an estimate of the KL: its gradient is the sign of the drift, whatever its size, and 0
where there is none. In the first minibatch of a step, and whenever a step is one minibatch, it does nothing.
"""

from jaxtyping import Bool, Float
from torch import Tensor

from rlent.math.covariance import token_covariance
from rlent.math.masked import pick_largest
from rlent.options import NonNegative, Share


def penalise_high_covariance(
    now_logp: Float[Tensor, "N T"],
    old_logp: Float[Tensor, "N T"],
    adv: Float[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
    *,
    fraction: Share,
    tolerance: NonNegative,
) -> dict[str, Tensor]:
    """|logp - old_logp| on the max(1, int(fraction n)) tokens of highest covariance, 0 on all others.

    A log-ratio (nats) within `tolerance` counts as no drift: padding alone moves log-probabilities by rounding, and the
    sign of that would be a gradient of full size. At least one token is chosen, even where no covariance is positive.
    """
    covariance = token_covariance(now_logp.detach(), adv, mask)
    selected = pick_largest(covariance, mask, max(1, int(fraction * int(mask.sum()))))
    drift = now_logp - old_logp
    moved = selected & (drift.detach().abs() > tolerance)
    return {"value": drift.masked_fill(~moved, 0.0).abs(), "selected": selected}
