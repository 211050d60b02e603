"""TTRL: the majority answer of many samples is the label, and a response is rewarded for agreeing with it.

Paper: TTRL: Test-Time Reinforcement Learning, arXiv:2504.16084.
Seats: sampler (`rlent.sampling.vote`: all samples vote, the first ones train), reward (`majority_label`). It sees no label.
Checked against: the authors' `test_time_train_metrics`.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from rlent.math.vote import clusters_of_first, groups_of


def majority_label(
    answer: Sequence[str | None],
    same: Sequence[Sequence[bool]],
    group: Int[Tensor, " N"],
    sample: Int[Tensor, " N"],
    *,
    vote_by: Literal["string", "equivalence"],
) -> dict[str, Tensor | list[str | None]]:
    """1 for a response whose answer the grader takes for the label, else 0.

    The label is the most frequent answer of the group, by its text or up to equality; of equally frequent ones the first seen. Without
    any answer there is no label, and the group gets 0. `label` and `count` [N] are the label and its votes.
    """
    reward, count = torch.zeros(len(group)), torch.zeros(len(group), dtype=torch.long)
    labels: list[str | None] = [None] * len(group)
    for rows in groups_of(group, sample):
        found = {k: i for k, i in enumerate(rows) if answer[i]}
        if not found:
            continue
        if vote_by == "string":
            text, votes = Counter(str(answer[i]) for i in found.values()).most_common(1)[0]
            chosen = next(k for k, i in found.items() if answer[i] == text)
        else:
            clusters = clusters_of_first([same[i] for i in rows])
            cluster, votes = Counter(clusters[k] for k in found).most_common(1)[0]
            chosen = next(k for k in found if clusters[k] == cluster)
        for i in rows:
            labels[i], count[i] = answer[rows[chosen]], votes
            reward[i] = float(same[i][chosen])
    return {"value": reward, "label": labels, "count": count}
