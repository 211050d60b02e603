"""Answers of a group, clustered by a relation that need be neither symmetric nor transitive, and their votes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from jaxtyping import Int
from torch import Tensor

Same = Sequence[Sequence[bool]]
"""For each row of a group, by sample: does its answer match?"""


def groups_of(group: Int[Tensor, " N"], sample: Int[Tensor, " N"]) -> Iterator[list[int]]:
    """The rows of each group, in the order of their samples."""
    for g in sorted(set(group.tolist())):
        rows = (group == g).nonzero()[:, 0].tolist()
        yield sorted(rows, key=lambda i: int(sample[i]))


def clusters_of_later(same: Same) -> list[int]:
    """An answer without a cluster opens one, and takes every later answer that matches it, also out of another cluster."""
    found, count = [-1] * len(same), 0
    for i in range(len(same)):
        if found[i] >= 0:
            continue
        found[i] = count
        for j in range(i + 1, len(same)):
            if same[i][j]:
                found[j] = count
        count += 1
    return found


def clusters_of_first(same: Same) -> list[int]:
    """An answer joins the first cluster whose first member matches it, else opens one."""
    found: list[int] = []
    first: list[int] = []
    for i in range(len(same)):
        mine = next((c for c, j in enumerate(first) if same[j][i]), len(first))
        if mine == len(first):
            first.append(i)
        found.append(mine)
    return found


def frequencies(clusters: Sequence[int]) -> list[float]:
    """Share of the group that is in each row's cluster."""
    return [clusters.count(c) / len(clusters) for c in clusters]
