"""EAD: which model writes each next token, from the entropies alone."""

import torch
from torch import Tensor

from rlent.methods.ead import FREE, switched
from rlent.verify.compare import Tree


def schedule(entropy_bits: Tensor, *, window: int, tau: float, stay: int) -> dict[str, Tree]:
    """Rolling means and the model of each next token, from the entropies of whichever model was active."""
    recent = torch.full((1, window), torch.nan, dtype=torch.float64)
    large, stayed = torch.zeros(1, dtype=torch.float64), torch.full((1,), FREE, dtype=torch.float64)
    means, models = [], []
    for bits in entropy_bits:
        recent = torch.cat((recent[:, 1:], torch.tensor([[float(bits)]], dtype=torch.float64)), 1)
        mean, large, stayed = switched(recent, large, stayed, tau=tau, stay=stay)
        means.append(float(mean))
        models.append("large" if large > 0 else "small")
    return {"mean": means, "model": models}
