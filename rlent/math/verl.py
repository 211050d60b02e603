"""The validation numbers of verl, to compare with its logs. The ones to report are `pass_at_k`, `maj_at_k` and `avg_at_n`."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, Shaped

from rlent.math.passk import Array
from rlent.math.vote import Answer


def first_majority(label: Int[np.ndarray, "D k"], value: Float[np.ndarray, "D k"]) -> Float[np.ndarray, " D"]:
    """Per row, the value of the first sample of the most frequent label; of several, of the label that comes first."""
    count = (label[:, :, None] == label[:, None, :]).sum(2) if label.shape[1] <= 16 else _row_counts(label)
    winner = count.argmax(1)  # argmax takes the first of equals
    return np.asarray(value[np.arange(len(value)), winner], dtype=np.float64)


def _row_counts(label: Int[np.ndarray, "D k"]) -> Int[np.ndarray, "D k"]:
    """How often the label at each place occurs in its row."""
    rows, labels = len(label), int(label.max()) + 1
    flat = label + labels * np.arange(rows)[:, None]
    return np.asarray(np.bincount(flat.ravel(), minlength=rows * labels)[flat])


def verl_best(
    scores: Shaped[np.ndarray, "P n"] | Sequence[Sequence[bool | int | float]],
    answers: Sequence[Sequence[Answer]] | None = None,
    *,
    draws: int = 1000,
    seed: int = 42,
) -> dict[str, float]:
    """verl's validation numbers, bit for bit: `mean@n`, `std@n`, and `best@N`, `worst@N`, `maj@N` (mean and std) by bootstrap.

    N is 2, 4, 8, ... below n, then n. N of the n samples are drawn with replacement, `draws` times, with numpy's legacy
    generator started from `seed` again for every problem and N. Standard deviations (ddof 0) are over draws or samples of one
    problem, averaged over problems: they are not errors of the score. `best@N` estimates 1-(1-c/n)^N, below pass@N. Where
    problems have different n, a number is the mean over the problems that have it.
    """
    found: dict[str, list[float]] = {}
    drawn: dict[tuple[int, int], Array] = {}

    def note(name: str, values: Array) -> None:
        found.setdefault(f"{name}/mean", []).append(float(values.mean()))
        found.setdefault(f"{name}/std", []).append(float(values.std()))

    for i, row in enumerate(scores):
        row = np.asarray(row, dtype=np.float64)
        n = len(row)
        found.setdefault(f"mean@{n}", []).append(float(row.mean()))
        if n == 1:
            continue
        found.setdefault(f"std@{n}", []).append(float(row.std()))
        label = None
        if answers is not None:
            number = {a: j for j, a in enumerate(dict.fromkeys(answers[i]))}
            label = np.array([number[a] for a in answers[i]])
        for size in [*itertools.takewhile(lambda s, n=n: s < n, (2**j for j in itertools.count(1))), n]:  # type: ignore[misc]
            if (n, size) not in drawn:
                drawn[n, size] = np.random.RandomState(seed).choice(n, size=(draws, size))
            index = drawn[n, size]
            note(f"best@{size}", row[index].max(1))
            note(f"worst@{size}", row[index].min(1))
            if label is not None:
                note(f"maj@{size}", first_majority(label[index], row[index]))
    return {name: float(np.mean(values)) for name, values in found.items()}
