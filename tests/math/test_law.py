"""The law R = -a exp(H) + b, on data whose coefficients are known."""

import numpy as np
import pytest
from scipy.stats import linregress

from rlent.math.law import across_sizes, fit_law, forecast, line

# Read off the published Qwen2.5 curves (percent): entropy start and end, a, b.
CURVES = [
    (1.41, 0.054, 4.3, 19.1),
    (0.94, 0.034, 9.8, 35.6),
    (0.63, 0.026, 17.6, 48.0),
    (0.55, 0.019, 21.3, 60.0),
    (0.62, 0.014, 23.6, 69.0),
]


def curve(start, end, a, b, *, points=80, noise=0.5, seed=0):
    h = start * (end / start) ** np.linspace(0, 1, points)
    return h, -a * np.exp(h) + b + noise * np.random.default_rng(seed).standard_normal(points)


@pytest.mark.parametrize(("start", "end", "a", "b"), CURVES)
def test_coefficients_of_noisy_curves_come_back(start, end, a, b):
    laws = [fit_law(*curve(start, end, a, b, seed=s)) for s in range(20)]
    assert np.mean([law.a for law in laws]) == pytest.approx(a, rel=0.05)
    assert np.mean([law.b for law in laws]) == pytest.approx(b, rel=0.05)
    assert np.mean([law.spread for law in laws]) == pytest.approx(0.5, rel=0.1)
    assert all(law.r2 > 0.9 and not law.doubts() for law in laws)


@pytest.mark.parametrize(("start", "end", "a", "b"), CURVES)
def test_the_first_points_foretell_the_rest(start, end, a, b):
    found = [forecast(*curve(start, end, a, b, points=200, seed=s)) for s in range(20)]
    assert {(f.used, f.rest) for f in found} == {(30, 170)}
    assert np.median([f.rmse for f in found]) < 1.5


def test_an_exact_line_is_found_exactly():
    h = np.linspace(0.1, 1.2, 10)
    law = fit_law(h, 0.7 - 0.2 * np.exp(h))
    assert (law.a, law.b, law.ceiling) == pytest.approx((0.2, 0.7, 0.5)) and law.r2 == pytest.approx(1)
    assert law.ceiling_interval == pytest.approx((0.5, 0.5)) and law.at(0.0) == pytest.approx(0.5)


def test_each_interval_holds_its_number_about_as_often_as_it_says():
    laws = [fit_law(*curve(1.2, 0.05, 20.0, 60.0, points=40, noise=2.0, seed=seed)) for seed in range(200)]
    for name, true in (("a_interval", 20.0), ("b_interval", 60.0), ("ceiling_interval", 40.0)):
        hits = sum(getattr(law, name)[0] <= true <= getattr(law, name)[1] for law in laws)
        assert 0.88 * 200 <= hits <= 0.99 * 200, name


def test_a_line_is_that_of_scipy():
    x, y = np.random.default_rng(0).random((2, 30))
    found = linregress(x, y)
    assert line(x, y) == pytest.approx((found.slope, found.intercept), rel=1e-12)


def test_doubts_name_few_points_a_narrow_range_and_a_score_that_falls():
    h = np.array([0.5, 0.45, 0.4])
    few, narrow, falls = fit_law(h, np.exp(h)).doubts()
    assert "3 points" in few and "0.5 to 0.4" in narrow and "does not rise" in falls


@pytest.mark.parametrize(
    "entropy, score, said",
    [([1, 2], [1, 2], "3 or more"), ([1, 1, 1], [1, 2, 3], "at every point"), ([1, 2, float("nan")], [1, 2, 3], "not finite")],
)
def test_what_cannot_be_fitted_is_refused(entropy, score, said):
    with pytest.raises(ValueError, match=said):
        fit_law(entropy, score)


def test_coefficients_across_sizes_are_lines_in_the_logarithm():
    sizes = [0.36, 1.31, 2.77, 6.53]
    laws = [fit_law(*curve(1.0, 0.05, 10.2 + 4.6 * np.log(n), 33.4 + 11.6 * np.log(n), noise=0)) for n in sizes]
    found = across_sizes(sizes, laws)
    assert found.a == pytest.approx((10.2, 4.6)) and found.b == pytest.approx((33.4, 11.6))
    assert found.ceiling(31.0) == pytest.approx(33.4 - 10.2 + (11.6 - 4.6) * np.log(31.0))
    with pytest.raises(ValueError, match="two sizes"):
        across_sizes([1.0, 1.0], laws[:2])
