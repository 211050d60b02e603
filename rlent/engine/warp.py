"""From logits to the distribution a token is drawn from, and the draw.

Order, as in Hugging Face and vLLM: temperature, then top-k, then top-p on what top-k left, then normalised again.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

_ELEMENTS_AT_ONCE = 1 << 24  # float64 copies of the vocabulary are made for this many elements at a time (128 MiB)


def warp(
    logits: Float[Tensor, "N V"],
    temperature: float | Float[Tensor, " N"] = 1.0,
    top_k: int | Int[Tensor, " N"] = 0,
    top_p: float | Float[Tensor, " N"] = 1.0,
) -> Float[Tensor, "N V"]:
    """Log-probabilities of the processed distribution; -inf on tokens that were taken out.

    Each setting is one number for all rows or a tensor with one for each; a plain number that changes nothing costs nothing.

    * `temperature` divides the logits. 0 is greedy: all mass on the largest logit, the first of equals.
    * `top_k` keeps the k most probable tokens, and those that tie with the k-th; 0 keeps all.
    * `top_p` keeps the fewest most probable tokens whose mass reaches p (Holtzman et al. 2020), the first of equals
      first; the most probable one always stays; 1 keeps all.

    A row with a NaN or +inf, or with -inf throughout, comes back all NaN, greedy or not. Half-precision logits are processed in float32.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if not isinstance(temperature, Tensor) and temperature == 0:
        return _greedy(logits)
    if isinstance(temperature, Tensor):
        heat = torch.where(temperature > 0, temperature, 1.0).to(logits)[:, None]
        scaled = logits / heat
    else:
        scaled = logits if temperature == 1 else logits / temperature
    if isinstance(top_k, Tensor) or 0 < top_k < logits.shape[1]:
        scaled = _keep_top_k(scaled, top_k)
    if isinstance(top_p, Tensor) or top_p < 1:
        scaled = _keep_top_p(scaled, top_p)
    logp = scaled.log_softmax(1)
    if isinstance(temperature, Tensor):
        logp = torch.where((temperature > 0)[:, None], logp, _greedy(logits))
    return logp


def _greedy(logits: Float[Tensor, "N V"]) -> Float[Tensor, "N V"]:
    top, token = logits.max(1, keepdim=True)
    return torch.full_like(logits, float("-inf")).scatter_(1, token, 0.0) + (top - top)  # top - top: 0, or NaN if not finite


def _keep_top_k(logits: Float[Tensor, "N V"], k: int | Int[Tensor, " N"]) -> Float[Tensor, "N V"]:
    if isinstance(k, Tensor):
        last = torch.where(k > 0, k, logits.shape[1]).clamp(max=logits.shape[1])[:, None] - 1
        least = logits.sort(1, descending=True).values.gather(1, last)
    else:
        least = logits.topk(k, 1).values[:, -1:]
    return logits.masked_fill(logits < least, float("-inf"))


def _keep_top_p(logits: Float[Tensor, "N V"], p: float | Float[Tensor, " N"]) -> Float[Tensor, "N V"]:
    ranked, order = logits.sort(dim=1, descending=True, stable=True)
    prob = ranked.softmax(1, dtype=torch.float64)
    before = prob.cumsum(1) - prob  # mass of the tokens ahead of this one
    if isinstance(p, Tensor):
        out = (before >= p.to(before)[:, None]) & (p.to(before.device) < 1)[:, None]
    else:
        out = before >= p
    out[:, 0] = False
    return logits.masked_fill(torch.zeros_like(out).scatter_(1, order, out), float("-inf"))


def draw(logp: Float[Tensor, "N V"], u: Float[Tensor, " N"]) -> Int[Tensor, " N"]:
    """The token at which the cumulative probability, in vocabulary order, first exceeds `u` in [0, 1).

    Sums are float64, and `u` is scaled by their total, so that rounding neither favours the last token nor reaches one
    of probability 0.
    """
    rows = max(1, _ELEMENTS_AT_ONCE // logp.shape[1])
    if len(logp) > rows:
        return torch.cat([draw(a, b) for a, b in zip(torch.split(logp, rows), torch.split(u, rows), strict=True)])
    mass = logp.exp().cumsum(1, dtype=torch.float64)
    total = mass[:, -1:]
    goal = torch.minimum(u.to(total)[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(mass, goal, right=True).squeeze(1).clamp_(max=logp.shape[1] - 1)


def entropy_of(logp: Float[Tensor, "N V"]) -> Float[Tensor, " N"]:
    """Entropy of normalised log-probabilities in nats; -inf counts as probability 0."""
    surprise: Tensor = torch.special.entr(logp.exp())
    return surprise.sum(1)
