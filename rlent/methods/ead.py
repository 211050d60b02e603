"""EAD: a large model writes where the small one is uncertain.

Paper: Entropy Adaptive Decoding: Dynamic Model Switching for Efficient Inference, arXiv:2502.06833.
Seat:  decode, inside the engine, with two models' logits.
Checked against: the formula; no code of the authors was found. The least stay and the start (small, free to switch) are ours.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from rlent.math.entropy import entropy_from_logits
from rlent.options import NonNegative, PositiveCount

FREE = 1e9
"""Tokens since the last switch, before there has been one."""


def switched(
    recent: Float[Tensor, "n W"], large: Float[Tensor, " n"], stayed: Float[Tensor, " n"], *, tau: float, stay: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The rolling mean (bits; NaN marks entropies not there yet), and which model writes the next token: large where the mean is above tau.

    A model that has written fewer than `stay` tokens since the last switch writes on. Returns (mean, large, stayed) of the next token.
    """
    mean = recent.nanmean(1)
    wanted = (mean > tau).to(large.dtype)
    turns = (wanted != large) & (stayed >= stay)
    return mean, torch.where(turns, wanted, large), torch.where(turns, 0.0, stayed) + 1


def switch_models(
    small_logits: Float[Tensor, "n V"],
    large_logits: Float[Tensor, "n V"],
    memory: Float[Tensor, "n M"] | None,
    *,
    window: PositiveCount,
    tau: NonNegative,
    stay: PositiveCount,
) -> dict[str, Tensor]:
    """The logits of the model whose turn it is; after the token, who writes the next follows from the last `window` entropies in bits.

    Both models read every token: it measures how much of a response the large one would write, and saves nothing.
    """
    n = len(small_logits)
    if memory is None:
        memory = torch.cat((small_logits.new_full((n, window), torch.nan), small_logits.new_tensor([[0.0, FREE]]).expand(n, 2)), 1)
    large, stayed = memory[:, -2], memory[:, -1]
    logits = torch.where(large[:, None] > 0, large_logits.to(small_logits), small_logits)
    bits = entropy_from_logits(logits) / math.log(2)
    recent = torch.cat((memory[:, 1:-2], bits[:, None].to(memory)), 1)
    _, then, since = switched(recent, large, stayed, tau=tau, stay=stay)
    return {"logits": logits, "memory": torch.cat((recent, then[:, None], since[:, None]), 1), "large": large, "bits": bits}
