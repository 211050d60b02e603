"""The last steps of a run."""

import math

import pytest

from rlent.metrics.final import at_end


def test_the_end_is_the_last_five_steps_or_a_share_of_them_where_that_is_more():
    values = [float(i) for i in range(200)]
    assert at_end(values) == 197.0  # 195 to 199
    assert at_end(values, share=0.05) == 194.5  # 190 to 199
    assert at_end(values[:20], share=0.05) == 17.0  # a twentieth is 1, and five are more
    assert at_end(values, last=1) == 199.0


def test_a_run_shorter_than_the_end_is_taken_whole_and_an_empty_one_has_no_value():
    assert at_end([1.0, 2.0]) == 1.5
    assert math.isnan(at_end([]))


def test_the_sum_is_exact():
    assert at_end([1e16, 1.0, -1e16, 1.0, 0.0]) == pytest.approx(0.4, rel=1e-15)
