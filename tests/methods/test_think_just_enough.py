import pytest
import torch

from rlent.methods.think_just_enough import in_rounds, tau_of
from rlent.types import Request, Rollouts


def taus(entropy, correct, how):
    return tau_of(torch.tensor(entropy), torch.tensor(correct), how)


def test_the_mean_threshold_is_that_of_correct_responses():
    assert taus([0.2, 0.4, 9.0], [True, True, False], "mean") == pytest.approx(0.3)
    assert taus([0.2], [False], "mean") is None


def test_the_gaussians_of_equal_width_cross_halfway():
    assert taus([0.1, 0.3, 1.1, 1.3], [True, True, False, False], "bayes") == pytest.approx(0.7)


def test_the_wider_gaussian_pushes_the_crossing_away():
    x = taus([0.0, 0.2, 0.8, 1.6], [True, True, False, False], "bayes")

    # at the crossing both densities are equal
    def density(m, s):
        return -((x - m) ** 2) / (2 * s**2) - torch.tensor(s).log().item()

    assert density(0.1, 0.141421) == pytest.approx(density(1.2, 0.565685), abs=1e-4) and 0.1 < x < 0.65


def test_too_few_of_a_kind_say_nothing():
    assert taus([0.1, 0.2, 0.3], [True, True, False], "bayes") is None


def test_the_level_of_a_response_is_the_mean_over_its_tokens_and_0_without_any():
    drawn = Rollouts([[1, 2], [3], []], [[0.0, 0.0], [0.0], []], ["stop"] * 3, notes={"top": [[0.2, 0.4], [0.9], []]})
    requests = [Request([7], (i,), 4) for i in range(3)]
    found = in_rounds(requests, lambda *_: drawn, list, rounds=1, tau=0.5, top_k=20, again=None)
    assert found.counts["entropy"] == pytest.approx([0.3, 0.9, 0.0])
