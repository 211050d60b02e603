"""Rewards that know nothing, or the wrong thing: what a method gains with them, it does not gain by learning.

Papers: Spurious Rewards: Rethinking Training Signals in RLVR, arXiv:2506.10947; Exploration v.s. Exploitation: Rethinking RLVR through
        Clipping, Entropy, and Spurious Reward, arXiv:2512.16912.
Seat:   reward.
Checked against: `empo_metrics` of EMPO's repository, which has the same controls.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from rlent.math.vote import clusters_of_first, frequencies, groups_of
from rlent.options import Share


def _found(answer: Sequence[str | None]) -> Tensor:
    return torch.tensor([bool(a) for a in answer], dtype=torch.bool)


def random(
    row_noise: Shaped[Tensor, " N"], answer: Sequence[str | None], *, law: Literal["coin", "uniform"], chance: Share, parsed: bool
) -> Float[Tensor, " N"]:
    """A number that does not depend on the response: 1 with probability `chance` (`coin`), or uniform in [0, 1).

    With `parsed`, only for responses with an answer. The draw belongs to (seed, step, prompt, sample).
    """
    value = row_noise.float() if law == "uniform" else (row_noise < chance).float()
    return value * _found(answer) if parsed else value


def format_only(answer: Sequence[str | None]) -> Float[Tensor, " N"]:
    """1 if an answer was found, right or wrong."""
    return _found(answer).float()


def majority(
    answer: Sequence[str | None], same: Sequence[Sequence[bool]], group: Int[Tensor, " N"], sample: Int[Tensor, " N"]
) -> Float[Tensor, " N"]:
    """1 for every answer of the largest frequency, ties included. Each response without an answer counts as one of its own."""
    reward = torch.zeros(len(group))
    for rows in groups_of(group, sample):
        share = frequencies(clusters_of_first([same[i] for i in rows]))
        reward[torch.tensor(rows)] = torch.tensor([float(p == max(share)) for p in share])
    return reward


def wrong_majority(
    answer: Sequence[str | None],
    correct: Shaped[Tensor, " N"],
    same: Sequence[Sequence[bool]],
    group: Int[Tensor, " N"],
    sample: Int[Tensor, " N"],
) -> Float[Tensor, " N"]:
    """1 for agreeing with the most frequent wrong answer of the group, the first seen of equals; 0 for all if every answer is right."""
    reward = torch.zeros(len(group))
    for rows in groups_of(group, sample):
        clusters = clusters_of_first([same[i] for i in rows])
        wrong = [c for c, i in zip(clusters, rows, strict=True) if answer[i] and not bool(correct[i])]
        if wrong:
            label = Counter(wrong).most_common(1)[0][0]
            for c, i in zip(clusters, rows, strict=True):
                reward[i] = float(c == label and not bool(correct[i]))
    return reward


def unless_majority_is_right(
    correct: Shaped[Tensor, " N"], same: Sequence[Sequence[bool]], group: Int[Tensor, " N"], sample: Int[Tensor, " N"]
) -> Float[Tensor, " N"]:
    """The grader's verdict, but 0 for all where the most frequent answer (the first of equals) is right already."""
    reward = torch.zeros(len(group))
    for rows in groups_of(group, sample):
        share = frequencies(clusters_of_first([same[i] for i in rows]))
        leader = rows[share.index(max(share))]
        if not bool(correct[leader]):
            reward[torch.tensor(rows)] = correct[torch.tensor(rows)].float()
    return reward
