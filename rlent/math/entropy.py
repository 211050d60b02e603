"""Log-probability and exact entropy of a softmax over the whole vocabulary, and their gradients.

With `z = logits / temperature`, `p = softmax(z)` and `H = -sum_v p_v log p_v` in nats:

    d log p_t / d logits_v = (1[v = t] - p_v) / temperature
    d H       / d logits_v = -p_v (log p_v + H) / temperature

The second follows from the first: dH/dz_v = -sum_u (log p_u + 1) p_u (1[u = v] - p_v), where the ones cancel.
Half-precision input is reduced in float32; float64 stays float64. A logit of -inf is a token that cannot occur.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor


def reduction_dtype(*dtypes: torch.dtype) -> torch.dtype:
    """The precision sums over the vocabulary are taken in: float64 if any input has it, otherwise float32."""
    return torch.float64 if torch.float64 in dtypes else torch.float32


def log_softmax(logits: Float[Tensor, "n V"], temperature: float = 1.0) -> Float[Tensor, "n V"]:
    """Log-probabilities [n,V] at a temperature, in float32 or float64."""
    return torch.log_softmax(logits.to(reduction_dtype(logits.dtype)) / temperature, dim=-1)


def logp_and_entropy(
    logits: Float[Tensor, "n V"], target: Int[Tensor, " n"], temperature: float = 1.0
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Log-probability of `target` and entropy of the distribution, both in nats, [n] each."""
    logp = log_softmax(logits, temperature)
    return logp.gather(-1, target[:, None]).squeeze(-1), _entropy(logp)


def entropy_from_logits(logits: Float[Tensor, "n V"], temperature: float = 1.0) -> Float[Tensor, " n"]:
    """Exact entropy [n] in nats at a temperature."""
    return _entropy(log_softmax(logits, temperature))


def logp_gradient(logits: Float[Tensor, "n V"], target: Int[Tensor, " n"], temperature: float = 1.0) -> Float[Tensor, "n V"]:
    """d log p(target) / d logits [n,V]."""
    gradient = -log_softmax(logits, temperature).exp()
    gradient.scatter_add_(1, target[:, None], gradient.new_ones(len(target), 1))
    return gradient / temperature


def entropy_gradient(logits: Float[Tensor, "n V"], temperature: float = 1.0) -> Float[Tensor, "n V"]:
    """d entropy / d logits [n,V]. It sums to zero over the vocabulary, and is zero where the distribution is uniform."""
    logp = log_softmax(logits, temperature)
    return -_times(logp.exp(), logp + _entropy(logp)[:, None]) / temperature


def _entropy(logp: Tensor) -> Tensor:
    return -_times(logp.exp(), logp).sum(-1)


def _times(p: Tensor, x: Tensor) -> Tensor:
    """p * x, zero where p is zero even if x is infinite there."""
    return p * x.masked_fill(p == 0, 0.0)


def truncated_entropy(logp: Float[Tensor, "*shape k"]) -> Float[Tensor, "*shape"]:
    """-sum p log p (nats) over listed tokens only, not normalised again: a lower bound of the entropy, never to be compared with it."""
    return -_times(logp.exp(), logp).sum(-1)


def top_entropy(logits: Float[Tensor, "n V"], k: int) -> Float[Tensor, " n"]:
    """Truncated entropy of the k most likely tokens."""
    return truncated_entropy(log_softmax(logits).topk(min(k, logits.shape[-1]), dim=-1).values)


def listed_entropy(rows: Any, k: int) -> list[float]:
    """Truncated entropies of the first k of each list of log-probabilities, most likely first; of no lists, none."""
    return [float(truncated_entropy(torch.as_tensor(row, dtype=torch.float64)[:k])) for row in rows]
