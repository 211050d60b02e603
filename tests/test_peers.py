"""Metrics of other projects, against the vectors made with their code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlent.errors import UsageError
from rlent.verify.peers import golden_metric, nemo_rl_cons_at_k, prefix_maj

GOLDEN = Path(__file__).parent / "golden"
VECTORS = sorted(
    path
    for name in ("pass_at_k", "maj_at_k", "avg_at_k", "best_at_n_bootstrap", "binomial_interval")
    for path in GOLDEN.glob(f"{name}_*.json")
)


def worst(found: object, want: object) -> float:
    """Largest absolute difference between two nested structures; the keys of `want` decide."""
    if isinstance(want, dict):
        assert isinstance(found, dict)
        return max((worst(found[key], value) for key, value in want.items()), default=0.0)
    if isinstance(want, list):
        assert isinstance(found, list) and len(found) == len(want)
        return max((worst(f, w) for f, w in zip(found, want, strict=True)), default=0.0)
    return abs(float(found) - float(want))  # type: ignore[arg-type]


@pytest.mark.parametrize("path", VECTORS, ids=lambda p: p.stem)
def test_reference_vectors(path: Path) -> None:
    case = json.loads(path.read_text())
    found = golden_metric(case["method"], case.get("config"), case["inputs"])
    tolerance = case["tolerance"]
    for name, want in case["outputs"].items():
        limit = tolerance[name] if isinstance(tolerance, dict) else tolerance
        assert worst(found[name], want) <= limit, name


def test_all_vector_files_are_there() -> None:
    assert len(VECTORS) == 9


def test_unknown_metric_and_option_are_refused_by_name() -> None:
    with pytest.raises(UsageError, match="no metric 'pass_at_j'; accepted: avg_at_k"):
        golden_metric("pass_at_j", {}, {})
    with pytest.raises(UsageError, match="'pass_at_k' has no 'seeds'; accepted: c, k, n"):
        golden_metric("pass_at_k", {"seeds": 1}, {"n": 4, "c": [1], "k": [1]})


def test_cons_at_k_gives_a_tie_to_the_first_answer_and_lets_no_answer_vote() -> None:
    answers, correct = ["b", "a", None, None], [0, 1, 0, 0]
    assert nemo_rl_cons_at_k(answers, correct, 4) == 0.0  # None has two votes
    assert nemo_rl_cons_at_k(answers, correct, 2) == pytest.approx(2 / 6)  # a- and a-: a comes first; ba goes to b
    with pytest.raises(UsageError, match="use maj_at_k"):
        nemo_rl_cons_at_k(["a"] * 64, [1] * 64, 32)


def test_prefix_maj_votes_with_the_verdict() -> None:
    # the same string judged differently is two candidates
    assert prefix_maj(["a", "a", "a", "b"], [1, 0, 1, 0], 4) == 1.0
    assert prefix_maj(["a", "a", "b", None], [1, 0, 0, 0], 4) == pytest.approx(1 / 3)


def test_golden_average_takes_the_first_k_samples() -> None:
    found = golden_metric("avg_at_k", {}, {"scores": [[1, 0, 0], [1, 1, 0]], "k": 2})
    assert found["avg_at_n"] == 0.75 and found["pass_at_n"] == 1.0
    with pytest.raises(UsageError, match="k = 4 is more than the 3 samples"):
        golden_metric("avg_at_k", {}, {"scores": [[1, 0, 0]], "k": 4})
