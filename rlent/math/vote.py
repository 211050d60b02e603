"""Votes of a group: classes of equal answers, and the majority among k of them.

`answer_classes` and the two ways of clustering take a relation that need be neither symmetric nor transitive. `maj_at_k` is the
expected verdict of a majority vote, exact where it can be counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int
from scipy import special
from torch import Tensor

from rlent.math.passk import check_counts

Answer = Hashable | None

EXACT_VOTES = 1000  # binomial coefficients up to C(1000, 500) fit in float64

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


def answer_classes(
    answers: Sequence[str | None],
    equal: Callable[[str, str], bool] | None = None,
    correct: Sequence[bool] | None = None,
) -> list[int]:
    """Class of each answer, -1 for none: an answer joins the first class whose representative equals it, else opens one.

    Strings are compared first; `equal(answer, representative)` is called only for different strings, once for each pair.
    With `correct`, an accepted and a rejected answer are never compared: both cannot equal the same thing.
    """
    representatives: list[int] = []
    known: dict[tuple[str, bool], int] = {}
    classes: list[int] = []
    for i, answer in enumerate(answers):
        if answer is None:
            classes.append(-1)
            continue
        right = bool(correct[i]) if correct is not None else False
        if (answer, right) not in known:
            for number, j in enumerate(representatives):
                alike = correct is None or bool(correct[j]) == right
                if equal is not None and alike and equal(answer, str(answers[j])):
                    known[answer, right] = number
                    break
            else:
                known[answer, right] = len(representatives)
                representatives.append(i)
        classes.append(known[answer, right])
    return classes


def maj_at_k(
    answers: Sequence[Answer], correct: Sequence[bool | int | float], ks: Sequence[int], *, draws: int = 1000, seed: int = 0
) -> Float[np.ndarray, " K"]:
    """Expected verdict of a majority vote among k of one problem's n samples, for each k.

    `answers` are labels of classes (any hashable; None does not vote); a class is correct if its first sample is. Classes that
    tie for the most votes share the credit equally, a subset without a vote scores 0. The expectation is over all k-subsets:
    exact, by counting subsets with generating functions, up to n = 1000; above that over `draws` subsets drawn
    from `seed`.

    Example: answers a a b c, b correct. Of the 6 pairs, ab (twice) and bc tie with b in them, so maj@2 = 3 * 0.5 / 6 = 0.25.

    Raises:
        UsageError: a k below 1 or above n.
    """
    n = len(answers)
    for k in ks:
        check_counts(n, 0, k)
    first: dict[Answer, int] = {}
    for i, answer in enumerate(answers):
        if answer is not None:
            first.setdefault(answer, i)
    votes = Counter(a for a in answers if a is not None)
    sizes = [votes[a] for a in first]
    right = [bool(correct[i]) for i in first.values()]
    if not any(right):
        return np.zeros(len(ks))
    if n > EXACT_VOTES:
        return _sampled_votes(answers, first, right, ks, draws, seed)
    if all(right):
        return np.array([1 - special.comb(n - sum(sizes), k) / special.comb(n, k) for k in ks])
    return _exact_votes(n, sizes, right, ks)


def _exact_votes(n: int, sizes: Sequence[int], right: Sequence[bool], ks: Sequence[int]) -> Float[np.ndarray, " K"]:
    """Counts, for each winning number of votes m, the subsets of each size by how many classes tie at m.

    A class of s samples contributes sum_{i<m} C(s, i) x^i when it stays below m and C(s, m) x^m y when it ties; samples that
    cannot reach m contribute (1 + x) each. The coefficient of x^k y^t counts k-subsets with t winners; the state's first axis
    says whether one winner has been marked as correct, so that each subset counts (correct winners) times, to be divided by t.
    """
    top = max(ks)
    total = np.zeros(top + 1)
    for m in range(1, min(top, max(sizes)) + 1):
        big = [(s, r) for s, r in zip(sizes, right, strict=True) if s >= m]
        if not any(r for _, r in big):
            break
        rest = n - sum(s for s, _ in big)
        ties = min(top // m, len(big))
        state = np.zeros((2, ties + 1, top + 1))  # [a correct winner is marked, t, k]
        state[0, 0] = special.comb(rest, np.arange(top + 1))
        for s, r in big:
            after = _times(state, special.comb(s, np.arange(m)))
            win = special.comb(s, m) * state[:, :-1, : top + 1 - m]
            after[:, 1:, m:] += win
            if r:
                after[1, 1:, m:] += win[0]
            state = after
        total += (state[1, 1:] / np.arange(1, ties + 1)[:, None]).sum(0)
    return np.asarray(total[list(ks)] / special.comb(n, np.asarray(ks)), dtype=np.float64)


def _times(state: Float[np.ndarray, "two t k"], polynomial: Float[np.ndarray, " m"]) -> Float[np.ndarray, "two t k"]:
    """The state's polynomials in x times another, cut to the state's degree."""
    size, m = state.shape[-1], len(polynomial)
    if 8 * m < size:
        product = np.zeros_like(state)
        for i, factor in enumerate(polynomial):
            product[..., i:] += factor * state[..., : size - i]
        return product
    rows = state.reshape(-1, size)
    return np.stack([np.convolve(row, polynomial)[:size] for row in rows]).reshape(state.shape)


def _sampled_votes(
    answers: Sequence[Answer], first: Mapping[Answer, int], right: Sequence[bool], ks: Sequence[int], draws: int, seed: int
) -> Float[np.ndarray, " K"]:
    """The same expectation over `draws` random orders of the samples: the first k of an order are a k-subset."""
    number = {a: i for i, a in enumerate(first)}
    label = np.array([number[a] if a is not None else len(number) for a in answers])
    good = np.array(right, dtype=np.float64)
    rng = np.random.default_rng(seed)
    value = np.zeros(len(ks))
    for _ in range(draws):
        order = label[rng.permutation(len(label))]
        for j, k in enumerate(ks):
            counts = np.bincount(order[:k], minlength=len(number) + 1)[:-1]
            if counts.max() > 0:
                value[j] += good[counts == counts.max()].mean()
    return value / draws
