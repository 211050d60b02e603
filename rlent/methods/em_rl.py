"""Entropy minimisation: as a loss on the model's own samples (EM-FT), or as a reward (EM-RL). No labels.

Paper: The Unreasonable Effectiveness of Entropy Minimization in LLM Reasoning, arXiv:2505.15134.
Seats: regularize (`entropy`, beside no loss), reward (`own_likelihood`).
Checked against: the paper's formulas; the training code is not released.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rlent.math.masked import row_mean


def entropy_itself(entropy: Float[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """Entropy per token (nats), to be minimised; the gradient goes through it alone, the samples stand still."""
    return entropy


def own_likelihood(
    old_logp: Float[Tensor, "N T"],
    old_entropy: Float[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
    *,
    level: Literal["sequence", "token"],
    reduce: Literal["sum", "mean"],
) -> Float[Tensor, " N"]:
    """`sequence`: log-likelihood of the response; `token`: minus the entropies of its tokens. Nats, summed as in the paper, or averaged.

    A sum pays for brevity: responses grow shorter.
    """
    value = old_logp if level == "sequence" else -old_entropy
    if reduce == "mean":
        return row_mean(value, mask)
    return torch.where(mask, value, value.new_zeros(())).double().sum(1).to(value.dtype)
