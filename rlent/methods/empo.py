"""EMPO: the reward of an answer is the share of its group that means the same, which lowers the entropy over meanings.

Paper: Right Question is Already Half the Answer: Fully Unsupervised LLM Reasoning Incentivization, arXiv:2504.05812.
Seat:  reward. It sees no label.
Checked against: the authors' `get_empo_math_reward` and `get_semantic_ids_by_rule` (trl), `get_empo_common_reward` (free form), and
       `empo_metrics` (verl). They differ in how answers are clustered, and in what an empty or a scattered group earns.
"""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from rlent.math.vote import clusters_of_first, clusters_of_later, frequencies, groups_of
from rlent.options import Share


def cluster_entropy(clusters: Sequence[int]) -> float:
    """-sum p log p over clusters, in nats, in NumPy as the authors: whether it equals log n is a matter of the last digit."""
    p = np.bincount(clusters) / len(clusters)
    return float(-(p * np.log(p)).sum())


def meaning(
    answer: Sequence[str | None],
    same: Sequence[Sequence[bool]],
    group: Int[Tensor, " N"],
    sample: Int[Tensor, " N"],
    *,
    variant: Literal["paper", "trl", "verl"],
    low: float | None,
    high: float | None,
    least: Share | None,
) -> dict[str, Tensor]:
    """Share of the group whose answer means the same, per response.

    trl    0 without an answer; 0 for all when every answer of the group is different.
    verl   each response without an answer is a cluster of its own and gets 1/n.
    paper  0 without an answer, and 0 for all unless low < H < high, H being the entropy over clusters (nats).

    `least` (verl, switched off there): 0 for all when the largest share is below it. `low`, `high` and `least` may be null. `cluster`,
    `frequency`, `entropy` [N] and `filtered` [N] are what was found.
    """
    reward, filtered = torch.zeros(len(group), dtype=torch.float64), torch.zeros(len(group), dtype=torch.bool)
    cluster, entropy = torch.zeros(len(group), dtype=torch.long), torch.zeros(len(group), dtype=torch.float64)
    share = torch.zeros(len(group), dtype=torch.float64)
    for rows in groups_of(group, sample):
        table = [same[i] for i in rows]
        ids = clusters_of_first(table) if variant == "verl" else clusters_of_later(table)
        p, h = frequencies(ids), cluster_entropy(ids)
        dropped = variant == "trl" and not h < math.log(len(rows))
        dropped |= (low is not None and not low < h) or (high is not None and not h < high)
        dropped |= least is not None and max(p) < least
        at = torch.tensor(rows)
        cluster[at], entropy[at], filtered[at] = torch.tensor(ids), h, dropped
        share[at] = torch.tensor(p, dtype=torch.float64)
        for i, x in zip(rows, p, strict=True):
            reward[i] = 0.0 if dropped or (variant != "verl" and not answer[i]) else x
    return {"value": reward, "cluster": cluster, "frequency": share, "entropy": entropy, "filtered": filtered}


def free_form(
    answer: Sequence[str | None],
    prompt: Sequence[str],
    same: Sequence[Sequence[bool]],
    group: Int[Tensor, " N"],
    sample: Int[Tensor, " N"],
    *,
    empty: float,
    copied: Share,
    least: Share,
) -> dict[str, Tensor]:
    """Free-form answers, by the first rule that applies.

    No answer: `empty`. Copied from the question (a substring, or a longest common subsequence of words that is more than `copied` of the
    answer): 0. The group's largest share below `least` and more than one cluster: 0. Else the share of the answer's cluster, in
    which answers without text, each a cluster of its own, are counted.
    """
    reward, cluster = torch.zeros(len(group), dtype=torch.float64), torch.zeros(len(group), dtype=torch.long)
    for rows in groups_of(group, sample):
        ids = clusters_of_later([same[i] for i in rows])
        p = frequencies(ids)
        scattered = max(p) < least and len(set(ids)) > 1
        cluster[torch.tensor(rows)] = torch.tensor(ids)
        for i, x in zip(rows, p, strict=True):
            text = answer[i]
            if not text:
                reward[i] = empty
            elif not scattered and not from_question(text, prompt[i], copied):
                reward[i] = x
    return {"value": reward, "cluster": cluster}


def from_question(answer: str, question: str, limit: float) -> bool:
    """Whether an answer is copied: a substring of the question, or more than `limit` of its words in the question's order."""
    answer, question = answer.lower(), question.lower()
    words, other = answer.split(), question.split()
    return answer in question or (bool(words) and common_subsequence(words, other) / len(words) > limit)


def common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(b) + 1)
    for x in a:
        before = 0
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], before + 1 if x == y else max(row[j], row[j - 1])
    return row[-1]
