"""Log-probability and exact entropy of a softmax over the whole vocabulary.

With `z = logits / temperature`, `p = softmax(z)` and `H = -sum_v p_v log p_v` in nats, the gradients that `rlent.policy.head`
writes out are

    d log p_t / d logits_v = (1[v = t] - p_v) / temperature
    d H       / d logits_v = -p_v (log p_v + H) / temperature

The second follows from the first: dH/dz_v = -sum_u (log p_u + 1) p_u (1[u = v] - p_v), where the ones cancel.
Half-precision input is reduced in float32; float64 stays float64. A logit of -inf is a token that cannot occur.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from rlent.errors import UsageError
from rlent.math.checks import require_float


def reduction_dtype(*dtypes: torch.dtype) -> torch.dtype:
    """The precision sums over the vocabulary are taken in: float64 if any input has it, otherwise float32."""
    return torch.float64 if torch.float64 in dtypes else torch.float32


def log_softmax(logits: Shaped[Tensor, "*shape V"], temperature: float = 1.0) -> Float[Tensor, "*shape V"]:
    """Log-probabilities [..., V] at a temperature, in float32 or float64.

    Raises:
        UsageError: logits that are not floating-point, or a temperature of 0 or below.
    """
    require_float(logits=logits)
    if not temperature > 0:
        raise UsageError(f"temperature {temperature!r}: a number above 0 is needed; greedy decoding has no entropy")
    return torch.log_softmax(logits.to(reduction_dtype(logits.dtype)) / temperature, dim=-1)


def logp_and_entropy(
    logits: Shaped[Tensor, "*shape V"], target: Tensor, temperature: float = 1.0
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    """Log-probability of `target` and entropy of the distribution, both in nats and of the target's shape.

    `logits` [..., V] and `target` [...] stand for the same positions: shift them against each other first if they come from a
    language model, whose logits at t are those of token t + 1. Padding in `target` can be any id of the vocabulary.

    Raises:
        UsageError: shapes that do not fit, a target that is not whole numbers of 0 to V - 1, logits that are not floating-point.
    """
    if target.shape != logits.shape[:-1]:
        raise UsageError(
            f"target has shape {list(target.shape)} and logits {list(logits.shape)}; one token for each distribution is needed, "
            f"which is {list(logits.shape[:-1])}"
        )
    if target.is_floating_point() or target.dtype is torch.bool:
        raise UsageError(f"target is {str(target.dtype).removeprefix('torch.')}; token ids are whole numbers")
    outside = target[(target < 0) | (target >= logits.shape[-1])]
    if outside.numel():
        raise UsageError(
            f"target has {int(outside.reshape(-1)[0])} in it; token ids are 0 to {logits.shape[-1] - 1}. Fill padding (such as -100) "
            "with 0, and leave it out by the mask"
        )
    logp = log_softmax(logits, temperature)
    return logp.gather(-1, target.long().unsqueeze(-1)).squeeze(-1), _entropy(logp)


def entropy_from_logits(logits: Shaped[Tensor, "*shape V"], temperature: float = 1.0) -> Float[Tensor, "*shape"]:
    """Exact entropy in nats at a temperature, one number for each distribution.

    Raises:
        UsageError: logits that are not floating-point, or a temperature of 0 or below.
    """
    return _entropy(log_softmax(logits, temperature))


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


def listed_entropy(rows: Iterable[Sequence[float | int] | Tensor], k: int) -> list[float]:
    """Truncated entropies of the first k of each list of log-probabilities, most likely first; of no lists, none."""
    return [float(truncated_entropy(torch.as_tensor(row, dtype=torch.float64)[:k])) for row in rows]
