"""The ratio of two policies on the sampled token, and estimates of their divergence."""

from typing import Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from rlent.math.masked import across, row_mean


def log_ratio(logp: Float[Tensor, "*shape"], old_logp: Float[Tensor, "*shape"], clamp: float | None = None) -> Float[Tensor, "*shape"]:
    """logp - old_logp, kept within +-clamp; beyond the clamp there is no gradient."""
    difference = logp - old_logp
    return difference if clamp is None else difference.clamp(-clamp, clamp)


def divergence(
    logp: Float[Tensor, "*shape"], other_logp: Float[Tensor, "*shape"], kind: Literal["k1", "k2", "k3", "abs"]
) -> Float[Tensor, "*shape"]:
    """Estimate KL(policy || other) from the log-probabilities of tokens sampled by the policy, token by token, in nats.

    With x = other_logp - logp (Schulman, "Approximating KL divergence", 2020):

        k1   -x              unbiased, of either sign, high variance
        k2   x^2 / 2         biased, never negative
        k3   e^x - x - 1     unbiased, never negative; x is kept within +-20 and the result within +-10, as verl does
        abs  |x|             not an estimate of the KL: a penalty whose gradient has the same size everywhere
    """
    x = other_logp - logp
    if kind == "k1":
        return -x
    if kind == "k2":
        return 0.5 * x.square()
    if kind == "k3":
        x = x.clamp(-20.0, 20.0)
        return (torch.expm1(x) - x).clamp(-10.0, 10.0)
    return x.abs()


def importance(
    logp: Float[Tensor, "B T"],
    old_logp: Float[Tensor, "B T"],
    mask: Shaped[Tensor, "B T"],
    level: Literal["token", "response"],
    clamp: float | None = None,
) -> Float[Tensor, "B T"]:
    """exp(logp - old_logp) by token, or exp(its mean over the response) at all of the response's tokens; see `log_ratio`."""
    drift = log_ratio(logp, old_logp, clamp)
    return (across(row_mean(drift, mask), drift.shape[1]) if level == "response" else drift).exp()


def clipped(
    ratio: Float[Tensor, "*shape"],
    adv: Float[Tensor, "*shape"],
    low: float | Float[Tensor, "*shape"],
    high: float | Float[Tensor, "*shape"],
    dual: float | None = None,
) -> Float[Tensor, "*shape"]:
    """PPO's pessimistic surrogate max(-A r, -A clip(r, 1 - low, 1 + high)) per token, of any ratio and with any ranges.

    `dual` bounds the loss of a token with negative advantage by -A dual; beyond it there is no gradient.
    """
    loss = torch.maximum(-adv * ratio, -adv * ratio.clamp(1 - low, 1 + high))  # type: ignore[arg-type]
    return loss if dual is None else torch.where(adv < 0, torch.minimum(loss, -adv * dual), loss)
