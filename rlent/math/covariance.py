"""Covariance of log-probability and advantage: the entropy that a policy-gradient step takes away.

Source: The Entropy Mechanism of Reinforcement Learning for Reasoning Language Models, arXiv:2505.22617, section 3 (theorems 1
and 2, tabular softmax) and section 4.2 (equation 10, over the tokens of a batch).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from rlent.errors import UsageError
from rlent.math.checks import as_mask, require_float, require_same_shape
from rlent.math.masked import masked_mean


def token_covariance(logp: Tensor, adv: Tensor, mask: Tensor) -> Float[Tensor, "N T"]:
    """Each response token's share of Cov(logp, adv) [N,T]; 0 outside the mask. Equation 10.

    Its mean over `mask` is the covariance of the batch. The means are over the tokens given, so give the whole minibatch:
    of a part, the shares would be others.

    Raises:
        UsageError: not three tensors of one shape, or a mask that is neither bool nor 0 and 1.
    """
    require_float(logp=logp, adv=adv)
    require_same_shape(logp=logp, adv=adv)
    mask = as_mask(mask, logp)
    share = (logp - masked_mean(logp, mask)) * (adv - masked_mean(adv, mask))
    return share.masked_fill(~mask, 0.0)


@dataclass(frozen=True, slots=True)
class TopShare:
    """The `tokens` of largest covariance, `share` of all: their mean covariance, and their part of the sum over all tokens."""

    share: float
    tokens: int
    mean: float
    part: float


def top_covariance(
    logp: Tensor,
    adv: Tensor,
    mask: Tensor,
    shares: Sequence[float] = (0.0002, 0.002, 0.02, 0.2, 0.5, 1.0),
) -> list[TopShare]:
    """Mean covariance of the tokens that lead in it, by their share of the response tokens (the paper's table 1).

    A share is rounded down to tokens, one at least. `part` can be above 1: the rest of the tokens may have negative covariance.

    Raises:
        UsageError: as `token_covariance`; a share outside (0, 1], or a mask without a token.
    """
    wrong = [share for share in shares if not 0 < share <= 1]
    if wrong:
        raise UsageError(f"shares: {wrong[0]!r} is outside (0, 1]; a share is a fraction of the response tokens, not percent")
    covariance = token_covariance(logp, adv, mask)
    ordered = covariance[as_mask(mask, logp)].double().sort(descending=True).values
    if not len(ordered):
        raise UsageError("the mask has no token, so there is no covariance to rank")
    sums, total = ordered.cumsum(0).tolist(), float(ordered.sum())
    rows = []
    for share in shares:
        tokens = max(1, int(share * len(ordered) + 1e-9))
        rows.append(TopShare(share, tokens, sums[tokens - 1] / tokens, sums[tokens - 1] / total if total else math.nan))
    return rows


def second_moment(logp: Float[Tensor, "... V"]) -> Float[Tensor, "..."]:
    """sum_v p_v^2 (log p_v + H), from the log-probabilities of the whole vocabulary.

    It is what the other actions lose when one action is pushed: the correction for the normalisation of the softmax in
    `entropy_change_terms`. An action of probability 0 (log-probability -inf) adds nothing.
    """
    prob = logp.exp()
    finite = logp.masked_fill(prob == 0, 0.0)
    entropy = -(prob * finite).sum(-1, keepdim=True)
    return (prob.square() * (finite + entropy)).sum(-1)


def entropy_change_terms(
    logp: Float[Tensor, "*shape"],
    entropy: Float[Tensor, "*shape"],
    adv: Float[Tensor, "*shape"],
    pull: Float[Tensor, "*shape"],
    moment: Float[Tensor, "*shape"],
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    """What one sampled action of each position predicts for the entropy there, in nats per unit logit step.

    `pull` is -d loss / d logp of the sampled action and `moment` the `second_moment` of its position. A step of size eta moves
    the logits by eta * pull * (onehot - p), and by lemma 1 the entropy by eta times

        d1 = -pull * [ p (log p + H) - sum_v p_v^2 (log p_v + H) ]      theorem 1, policy gradient
        d2 = -adv * (log p + H)                                         theorem 2, natural policy gradient

    Over actions drawn from p with pull = adv, the mean of d1 is -Cov(log p, p (adv - E adv)) and the mean of d2 is
    -Cov(log p, adv), the right-hand sides of the theorems at eta = 1.
    """
    surprise = logp + entropy
    d1 = -pull * (logp.exp() * surprise - moment)
    d2 = -adv * surprise
    return d1, d2


def sampled_entropy_change(
    logp: Float[Tensor, "*shape"], old_logp: Float[Tensor, "*shape"], entropy: Float[Tensor, "*shape"], adv: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """-(A / q) p (1 - p) (ln p + H): the change of entropy at a position that a step on its sampled token lets expect, per unit step.

    p is the token's probability now, q the one it was sampled with, H the entropy (nats) then; 0 where it is not finite. It keeps the
    sampled token's own logit and drops what the other logits do, unlike d1. Source: Rethinking Entropy Interventions in RLVR, arXiv:2510.10150
    (STEER; it uses the size).
    """
    p = logp.exp().clamp(1e-8, 1 - 1e-8)
    q = old_logp.exp().clamp(1e-8, 1.0)
    change = -(adv / q * p * (1 - p) * (p.log() + entropy))
    return torch.where(change.isfinite(), change, 0.0)
