"""ER-PRM: the value of a prefix as a soft maximum over its completions, instead of their mean.

Paper: Entropy-Regularized Process Reward Model, arXiv:2412.11006.
Seat:  reward (`prefix_value`, from the responses of a group that share a prefix).
Checked against: the authors' `normalize_score` and `calculate_step_score`.
"""

from collections.abc import Sequence
from typing import overload

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from numpy.typing import NDArray
from torch import Tensor


@overload
def soft_value(share: float, eta: float) -> float: ...
@overload
def soft_value(share: NDArray[np.float64], eta: float) -> NDArray[np.float64]: ...
def soft_value(share: float | int | NDArray[np.float64], eta: float) -> float | int | NDArray[np.float64]:
    """|log(1 - p + p e^eta) / eta|, p being the share that ends right, a number or an array: p itself for eta -> 0, 1 for eta -> inf if p > 0."""
    if eta == 0:
        return share
    with np.errstate(divide="ignore"):
        return np.abs(np.logaddexp(np.log(1.0 - np.asarray(share)), np.log(share) + eta)) / abs(eta)


def prefix_value(
    correct: Shaped[Tensor, " N"], tokens: Int[Tensor, "N T"], mask: Bool[Tensor, "N T"], group: Int[Tensor, " N"], *, eta: float
) -> Float[Tensor, "N T"]:
    """V(prefix up to t) - V(prefix before t), with V the soft value over the group's responses that begin with the prefix.

    The responses of the group are the completions; the last token's value is the outcome. Summed over a response this is the outcome
    less the prompt's own value. Linear in the number of tokens.
    """
    reward = torch.zeros(mask.shape)
    length, right = mask.sum(1).tolist(), correct.double().numpy()
    for g in group.unique():
        rows = (group == g).nonzero()[:, 0].tolist()
        longer: dict[tuple[int, int], int] = {}  # from a prefix by a token to the longer prefix; 0 is the prompt
        paths = [_prefixes(tokens[i, : length[i]].tolist(), longer) for i in rows]
        every, outcome = np.concatenate(paths), np.repeat(right[rows], [len(p) for p in paths])
        value = soft_value(np.bincount(every, weights=outcome) / np.bincount(every), eta)
        for i, path in zip(rows, paths, strict=True):
            reward[i, : length[i]] = torch.from_numpy(np.diff(np.append(value[path[:-1]], right[i]))).to(reward.dtype)
    return reward


def _prefixes(ids: Sequence[int], longer: dict[tuple[int, int], int]) -> list[int]:
    """The number of each prefix of a response, from the empty to the whole one; new prefixes are numbered in `longer`."""
    path = [0]
    for token in ids:
        path.append(longer.setdefault((path[-1], token), len(longer) + 1))
    return path
