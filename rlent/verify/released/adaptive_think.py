"""Adaptive Think: the stop test of each step, from the probabilities of candidate answers."""

import torch

from rlent.methods.adaptive_think import average_entropy, threshold
from rlent.verify.compare import Tree
from rlent.verify.inputs import Ragged


def steps(candidate_probs: Ragged, *, alpha: float) -> dict[str, Tree]:
    """After each step: the entropy of the candidates (nats), the information gained by it, the average in bits, and whether it would stop."""
    tables = [torch.as_tensor(p, dtype=torch.float64) for p in candidate_probs]
    entropy = [float(-torch.special.xlogy(p, p).sum()) for p in tables]
    mean = [average_entropy(p) for p in tables]
    stop = [m <= threshold(alpha) for m in mean]
    gain: list[float | None] = [None, *(a - b for a, b in zip(entropy, entropy[1:], strict=False))][: len(entropy)]
    first = stop.index(True) if any(stop) else None
    return {"entropy": entropy, "gain": gain, "mean": mean, "threshold": threshold(alpha), "stop": stop, "first": first}
