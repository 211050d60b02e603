"""Clip-Cov: leave a few tokens of high covariance out of each update.

Paper:  The Entropy Mechanism of Reinforcement Learning for Reasoning Language Models, arXiv:2505.22617, section 4.2, equations 11 and 12.
Seat:   shape. It reads the current policy and the loss's pull, so it runs once per minibatch, on all its rows.
Checked against: verl `compute_policy_loss_clip_cov`, the authors' function as merged. They select per part and rank; here
        means, quota and draw are of the whole minibatch. They multiply the chosen losses by 0, so does this.
"""

from jaxtyping import Bool, Float
from torch import Tensor

from rlent.math.covariance import token_covariance
from rlent.math.masked import pick_smallest
from rlent.options import Share


def drop_high_covariance(
    now_logp: Float[Tensor, "N T"],
    adv: Float[Tensor, "N T"],
    now_pull: Float[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
    noise: Float[Tensor, "N T"],
    *,
    fraction: Share,
    low: float,
    high: float,
) -> dict[str, Tensor]:
    """Weight 0 for max(int(fraction n), 1) of the candidates among the n response tokens, drawn uniformly; 1 for the rest.

    Candidates have a covariance strictly between `low` and `high` (nats times advantage) and are not clipped by the loss
    already (no pull although the advantage is not 0). With fewer candidates than the quota all are dropped, with none
    nothing is. Dropped tokens stay in the denominator of the loss.
    """
    covariance = token_covariance(now_logp, adv, mask)
    clipped = (now_pull == 0) & (adv != 0)
    candidates = mask & ~clipped & (covariance > low) & (covariance < high)
    quota = max(int(fraction * int(mask.sum())), 1)
    selected = pick_smallest(noise, candidates, quota)
    return {"weight": (~selected).to(now_logp.dtype), "selected": selected}
