"""ER-PRM: the value of a prefix as a soft maximum over its completions, instead of their mean.

Paper: Entropy-Regularized Process Reward Model, arXiv:2412.11006.
Seat:  reward (`prefix_value`, from the responses of a group that share a prefix); `step_labels` makes labels for a reward model.
Checked against: the authors' `normalize_score` and `calculate_step_score`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor


def soft_value(share: float, eta: float) -> float:
    """|log(1 - p + p e^eta) / eta|, p being the share that ends right: p itself for eta -> 0, 1 for eta -> inf if p > 0."""
    if eta == 0:
        return share
    with np.errstate(divide="ignore"):
        return abs(float(np.logaddexp(np.log(1.0 - share), np.log(share) + eta)) / eta)


def step_labels(completion_labels: Sequence[Sequence[float]], final_label: float, *, eta: float) -> dict[str, list[float]]:
    """The label of each prefix, rounded to three decimals, and the outcome as the last one's."""
    means = [sum(float(x) for x in labels) / len(labels) for labels in completion_labels]
    exact = [soft_value(p, eta) for p in means]
    return {"mean_label": means, "step_score_unrounded": exact, "step_score": [*(round(x, 3) for x in exact), float(final_label)]}


def prefix_value(
    correct: Shaped[Tensor, " N"], tokens: Int[Tensor, "N T"], mask: Bool[Tensor, "N T"], group: Int[Tensor, " N"], *, eta: float
) -> Float[Tensor, "N T"]:
    """V(prefix up to t) - V(prefix before t), with V the soft value over the group's responses that begin with the prefix.

    The responses of the group are the completions; the last token's value is the outcome. Summed over a response this is the outcome
    less the prompt's own value.
    """
    reward = torch.zeros(mask.shape)
    ids, length, right = tokens.tolist(), mask.sum(1).tolist(), correct.double().tolist()
    for g in group.unique().tolist():
        rows = (group == g).nonzero()[:, 0].tolist()
        known: dict[tuple[int, ...], list[float]] = {}
        for i in rows:
            for t in range(length[i] + 1):
                known.setdefault(tuple(ids[i][:t]), []).append(right[i])
        value: dict[Any, float] = {k: soft_value(sum(v) / len(v), eta) for k, v in known.items()}
        for i in rows:
            path = [value[tuple(ids[i][:t])] for t in range(length[i])] + [right[i]]
            for t in range(length[i]):
                reward[i, t] = path[t + 1] - path[t]
    return reward
