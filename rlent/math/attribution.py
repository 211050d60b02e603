"""Where a change of entropy fell: sums of token numbers over parts of the tokens.

A part is a label of one of several ways to divide the tokens (`DIVISIONS`). Every way covers every token once, so the parts of each add
up to the same whole.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Parts = dict[str, list[float]]
"""Label to [tokens, then one number for each term]."""

PROBABILITIES = (0.01, 0.1, 0.5, 0.9, 0.99)
DIVISIONS: dict[str, tuple[str, ...]] = {
    "advantage": ("negative", "zero", "positive"),
    "probability": ("below 0.01", "0.01 to 0.1", "0.1 to 0.5", "0.5 to 0.9", "0.9 to 0.99", "above 0.99"),
    "position": ("first third", "middle third", "last third"),
    "accuracy": ("none right", "below 1/3", "1/3 to 2/3", "above 2/3", "all right"),
}
"""Advantage by its sign, probability of the sampled token, position in the response, accuracy of the prompt in its group."""

OTHER = "other"


def by_sign(adv: Floats) -> Ints:
    return np.sign(adv).astype(np.int64) + 1


def by_probability(probability: Floats) -> Ints:
    return np.searchsorted(np.array(PROBABILITIES), probability, side="right").astype(np.int64)


def by_third(position: Ints, length: Ints) -> Ints:
    """Token t, from 0, of L: first third while 3 t < L."""
    return 3 * position // np.maximum(length, 1)


def by_accuracy(accuracy: Floats) -> Ints:
    inner = np.where(3 * accuracy < 1, 1, np.where(3 * accuracy <= 2, 2, 3))
    return np.where(accuracy <= 0, 0, np.where(accuracy >= 1, 4, inner)).astype(np.int64)


def sums(place: Ints, names: tuple[str, ...], terms: Mapping[str, Floats]) -> Parts:
    """Tokens, and each term's sum over all tokens of a part divided by the number of all tokens; `place` [n] indexes `names`."""
    total = max(len(place), 1)
    columns = [np.bincount(place, minlength=len(names)).astype(np.float64)]
    columns += [np.bincount(place, weights=term, minlength=len(names)) / total for term in terms.values()]
    return {name: [float(column[i]) for column in columns] for i, name in enumerate(names) if columns[0][i]}


def by_token(ids: Ints, terms: Mapping[str, Floats], keep: int) -> Parts:
    """The `keep` tokens of the vocabulary with the largest numbers, by id; the rest is `OTHER`."""
    known, place = np.unique(ids, return_inverse=True)
    if len(known) > keep:
        totals = [np.abs(np.bincount(place, weights=term)) for term in terms.values()]
        size = np.sum([t / max(float(t.sum()), 1e-300) for t in totals], axis=0)
        largest = np.sort(np.argsort(-size, kind="stable")[:keep])
        rank = np.full(len(known), keep, dtype=np.int64)
        rank[largest] = np.arange(keep)
        known, place = known[largest], rank[place]
    return sums(place, (*(str(i) for i in known.tolist()), OTHER), terms)


def add(into: Parts, parts: Parts, weight: float = 1.0) -> None:
    """Add a step's parts to a running total: tokens as they are, terms times `weight`."""
    for name, numbers in parts.items():
        old = into.setdefault(name, [0.0] * len(numbers))
        into[name] = [old[0] + numbers[0], *(o + weight * v for o, v in zip(old[1:], numbers[1:], strict=True))]
