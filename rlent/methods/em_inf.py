"""Entropy minimisation at inference: sharpen each token's distribution before it is drawn.

Paper: The Unreasonable Effectiveness of Entropy Minimization in LLM Reasoning, arXiv:2505.15134.
Seats: decode, inside the engine: `minimise` (EM-INF), `to_target` (adaptive temperature).
Checked against: the authors' `ent_sample` (the optimisation of the logits) and `AdaptiveTemperatureProcessor`.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from rlent.math.entropy import entropy_from_logits
from rlent.options import Count, NonNegative, Positive

_BETAS, _ADAM_EPS = (0.9, 0.999), 1e-8


def minimise(
    logits: Float[Tensor, "n V"],
    *,
    steps: Count,
    lr: Positive,
    kl: NonNegative,
    threshold: NonNegative,
    log_eps: Positive,
    temperature: Positive,
    faithful: Literal["paper", "released"],
) -> dict[str, Tensor]:
    """`steps` of Adam on the logits against H(p) + kl KL(p0 || p), until H < threshold; then a draw at `temperature`.

    The gradient is written out, -p (log p + H) + kl (p - p0): no autograd, no gradient of the model. Released: rows share the
    stop and the mean of the divergence, so a response depends on its batch.
    """
    start = logits.softmax(1)
    z, m, v = logits.clone(), torch.zeros_like(logits), torch.zeros_like(logits)
    going = torch.ones(len(logits), dtype=torch.bool, device=logits.device)
    joint = len(logits) if faithful == "released" else 1
    for t in range(1, steps + 1):
        p = z.softmax(1)
        surprise = -(p + log_eps).log()
        entropy = (p * surprise).sum(1)  # [n]
        going = going & ((entropy.sum() if faithful == "released" else entropy) >= threshold)
        slope = surprise - p / (p + log_eps)  # dH/dp
        gradient = p * (slope - (p * slope).sum(1, keepdim=True)) + kl / joint * (p - start)
        m = _BETAS[0] * m + (1 - _BETAS[0]) * gradient
        v = _BETAS[1] * v + (1 - _BETAS[1]) * gradient.square()
        step = lr * (m / (1 - _BETAS[0] ** t)) / ((v / (1 - _BETAS[1] ** t)).sqrt() + _ADAM_EPS)
        z = torch.where(going[:, None], z - step, z)
    return {
        "logits": z,
        "temperature": torch.full_like(z[:, 0], temperature),
        "entropy_before": entropy_from_logits(logits),
        "entropy_after": entropy_from_logits(z),
    }


def to_target(
    logits: Float[Tensor, "n V"],
    *,
    ratio: NonNegative,
    threshold: NonNegative,
    low: Positive,
    high: Positive,
    tolerance: Positive,
    iterations: Count,
    log_eps: Positive,
) -> dict[str, Tensor]:
    """The temperature in [low, high], by bisection, at which the entropy is max(threshold, ratio H0), to within `tolerance` nats.

    A row whose entropy H0 is not above `threshold` is drawn at 1. If it is not met, the last midpoint is taken.
    """
    before = _entropy(logits, log_eps)
    target = (ratio * before).clamp(min=threshold)
    bottom, top = torch.full_like(before, low), torch.full_like(before, high)
    heat, found = torch.ones_like(before), before <= threshold
    for _ in range(iterations):
        middle = (bottom + top) / 2
        heat = torch.where(found, heat, middle)
        entropy = _entropy(logits / middle[:, None], log_eps)
        bottom = torch.where(entropy < target, middle, bottom)
        top = torch.where(entropy < target, top, middle)
        found = found | ((entropy - target).abs() < tolerance)
        if found.all():
            break
    return {"temperature": heat, "target": target, "entropy_before": before, "entropy_after": _entropy(logits / heat[:, None], log_eps)}


def _entropy(logits: Float[Tensor, "n V"], log_eps: float) -> Float[Tensor, " n"]:
    """-sum p ln(p + log_eps), nats."""
    p = logits.softmax(1)
    return -(p * (p + log_eps).log()).sum(1)
