"""The two averages over sets, and paired comparisons of them."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rlent.errors import DataError, UsageError
from rlent.eval.report import Report, compare_reports, weights
from rlent.eval.result import Evaluation, Tally

# The Entropy Mechanism's table 2 (arXiv:2505.22617), percent, and the sizes of its validation file: 32 copies of the sampled sets.
SETS = {"aime24": 30 * 32, "aime25": 30 * 32, "amc": 83 * 32, "math500": 500, "omni_math": 2821, "olympiadbench": 675, "minerva_math": 272}
PUBLISHED = [
    ([21.2, 9.6, 58.7, 78.8, 27.9, 40.7, 36.7], 38.6, 39.1),
    ([18.1, 11.5, 56.6, 79.2, 29.8, 43.3, 40.4], 38.8, 39.8),
    ([22.1, 15.8, 58.2, 80.4, 30.5, 44.1, 41.1], 40.4, 41.7),
    ([22.6, 12.9, 61.4, 80.8, 29.1, 42.6, 38.2], 40.6, 41.1),
    ([21.8, 16.2, 69.7, 84.2, 35.2, 43.6, 45.5], 45.8, 45.2),
    ([35.6, 22.3, 69.5, 77.2, 35.1, 42.5, 43.0], 47.2, 46.5),
    ([32.3, 22.7, 67.2, 87.0, 42.0, 57.2, 46.0], 50.3, 50.6),
    ([36.8, 30.8, 74.5, 84.6, 39.1, 49.0, 46.3], 52.2, 51.6),
]


@pytest.mark.parametrize(("scores", "published", "plain"), PUBLISHED)
def test_the_mean_of_rows_is_the_papers_average_and_the_mean_of_sets_is_not(scores: list[float], published: float, plain: float) -> None:
    evals: Any = {name: SimpleNamespace(rows=rows) for name, rows in SETS.items()}
    by_rows, by_sets = (
        math.fsum(w * s for w, s in zip(weights(evals, kind).values(), scores, strict=True)) for kind in ("mean_of_rows", "mean_of_sets")
    )
    assert by_rows == pytest.approx(published, abs=0.1)
    assert by_sets == pytest.approx(plain, abs=0.06)


def of(label: str, source: str, verdicts: list[str]) -> Evaluation:
    tallies = tuple(
        Tally(f"p{i}", source, v, 1, {2**j: 0.0 for j in range(len(v).bit_length())}, 0, 0, {"ok": len(v)}, 1, 0.1)
        for i, v in enumerate(verdicts)
    )
    return Evaluation(label, (1,), tallies, {"about": {"model": label}})


A = Report("a", {"small": of("a", "small", ["10", "00", "11", "01"]), "big": of("a", "big", list("1010001110"))})
B = Report("b", {"small": of("b", "small", ["11", "10", "11", "01"]), "big": of("b", "big", list("1010001010"))})


def test_means_and_their_errors_by_hand() -> None:
    # small: means .5 0 1 .5, avg .5, se = sd/2 = 0.4082/2; big: 5 of 10, se = sqrt(.25/9)... ; rows 8 and 10
    small = np.std([0.5, 0, 1, 0.5], ddof=1) / 2
    big = np.std([1, 0, 1, 0, 0, 0, 1, 1, 1, 0], ddof=1) / math.sqrt(10)
    sets, rows = A.means["mean_of_sets"], A.means["mean_of_rows"]
    assert sets.value == pytest.approx(0.5) and sets.se_problems == pytest.approx(math.hypot(small, big) / 2)
    assert rows.weights == {"small": 8 / 18, "big": 10 / 18}
    assert rows.se_problems == pytest.approx(math.hypot(8 * small, 10 * big) / 18)
    assert sets.high - sets.value == pytest.approx(1.959964 * sets.se_problems, rel=1e-6)


def test_models_are_compared_in_pairs_on_each_set_and_on_the_means() -> None:
    found = compare_reports([A, B])
    d = found.sets["small"].differences["b"]["avg"]
    assert d.value == pytest.approx(0.25) and d.se == pytest.approx(np.std([0.5, 0.5, 0, 0], ddof=1) / 2)
    means = found.means["b"]
    assert means["mean_of_sets"].value == pytest.approx((0.25 - 0.1) / 2)
    assert means["mean_of_rows"].value == pytest.approx((8 * 0.25 - 10 * 0.1) / 18)
    big = found.sets["big"].differences["b"]["avg"]
    assert means["mean_of_sets"].se == pytest.approx(math.hypot(d.se, big.se) / 2)
    # paired: far narrower than the errors of the two averages would say
    assert means["mean_of_sets"].se < 0.7 * math.hypot(A.means["mean_of_sets"].se_problems, B.means["mean_of_sets"].se_problems)
    assert means["mean_of_sets"].low < means["mean_of_sets"].value < means["mean_of_sets"].high
    assert ("mean_of_sets", "b", "a", "avg", "+0.0750") == found.plain()[-2][:5]
    assert list(found.table().columns[0].cells) == ["small", "big", "mean_of_sets", "mean_of_rows"]


def test_the_bootstrap_of_a_mean_resamples_inside_each_set() -> None:
    """Were problems drawn across sets, the weight of a set would vary, and a constant difference in each set would get an interval."""
    one = Report("x", {"s": of("x", "s", ["1"] * 5), "t": of("x", "t", ["0"] * 50)})
    two = Report("y", {"s": of("y", "s", ["0"] * 5), "t": of("y", "t", ["1"] * 50)})
    d = compare_reports([one, two]).means["y"]["mean_of_rows"]
    assert d.low == pytest.approx(d.high) and d.value == pytest.approx(45 / 55)


def test_a_suite_is_saved_and_loaded(tmp_path: Path) -> None:
    report = Report("a", A.sets, {"big": ["first 10 of 20"]}, {"big": {"shared": 2, "ids": ["p1"], "problems": 8, "avg": 0.5}})
    report.save(tmp_path)
    for name, e in report.sets.items():
        e.save(tmp_path / name / "eval.json")
    loaded = Report.load(tmp_path)
    assert loaded.to_dict() == report.to_dict() and loaded.means == report.means
    document = report.to_dict()
    assert document["sets"]["small"]["problems"] == 4 and document["sets"]["small"]["samples"] == 2
    assert document["means"]["mean_of_rows"]["meaning"].endswith('the paper\'s "Avg."')
    assert document["sets"]["big"]["without_training_problems"]["shared"] == 2
    with pytest.raises(DataError, match=r"there is no suite\.json"):
        Report.load(tmp_path / "small")


def test_one_sample_each_gets_both_exact_intervals() -> None:
    found = A.sets["big"].summary()
    assert found["avg"]["interval"] == "wilson"
    assert found["wilson"][0] == pytest.approx(found["avg"]["low"]) and found["clopper_pearson"][0] < found["wilson"][0]
    assert "wilson" not in A.sets["small"].summary() and A.sets["small"].average.interval == "t"


def test_reports_without_a_common_set_are_refused() -> None:
    with pytest.raises(UsageError, match="no set in common"):
        compare_reports([A, Report("c", {"other": of("c", "other", ["1"])})])


def test_table_names_errors_samples_and_notes() -> None:
    report = Report("a", A.sets, {"big": ["the first 10 of 675 problems"]})
    table = report.table()
    assert [c.header for c in table.columns][2:6] == ["avg@n", "interval", "se_problems", "se_runs"]
    assert list(table.columns[1].cells)[:2] == ["4 x 2", "10 x 1"]
    assert "big: the first 10 of 675 problems" in str(table.caption)
    assert report.metrics()["eval/mean_of_sets"] == 0.5 and report.metrics()["eval/small/avg"] == 0.5


def test_where_nothing_is_right_the_interval_does_not_claim_certainty() -> None:
    none = of("a", "s", ["0000"] * 30)
    assert none.average.low == 0 and none.average.high == pytest.approx(0.11351339317396876)  # Wilson, 0 of 30
    assert none.average.interval == "wilson" and none.pass_at_k[1].high == none.average.high
    every = of("a", "s", ["11"] * 30)
    assert every.average.low == pytest.approx(1 - 0.11351339317396876) and every.average.high == 1
    mean = Report("a", {"s": none}).means["mean_of_sets"]
    assert mean.value == 0 and math.isnan(mean.high)
