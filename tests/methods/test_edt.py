import math

import pytest
import torch

from rlent.methods.edt import dynamic_temperature

OPTIONS = {"base": 1.0, "theta": 1.5, "share": 0.8, "floor": 1e-6, "most": None}


def heat(logits, **options):
    return dynamic_temperature(torch.tensor(logits, dtype=torch.float64), **{**OPTIONS, **options})["temperature"].tolist()


def test_the_temperature_of_two_equally_likely_tokens():
    # H = ln 2, so T = 2 * 0.8^(1.5 / ln 2) = 2 * exp(-0.22314 * 2.16404) = 2 * 0.61699
    assert heat([[3.0, 3.0, -1e9]], base=2.0) == pytest.approx([2 * 0.8 ** (1.5 / math.log(2))])
    assert heat([[3.0, 3.0, -1e9]], base=2.0) == pytest.approx([1.23399], abs=1e-4)


def test_a_certain_token_is_greedy_and_an_uncertain_one_near_the_base():
    cold, warm = heat([[50.0, 0.0, 0.0], [0.0] * 3])
    assert cold == 0.0 and 0.7 < warm < 1
    assert heat([[0.0] * 3], theta=0.0) == [1.0]


def test_the_temperature_rises_with_the_entropy_up_to_the_limit():
    rows = [[x, 0.0, 0.0, 0.0] for x in (6.0, 4.0, 2.0, 0.0)]
    found = heat(rows)
    assert found == sorted(found) and len(set(found)) == 4
    assert heat(rows, most=0.5) == [min(t, 0.5) for t in found]
