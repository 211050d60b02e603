import math

import pytest
import torch

from rlent.methods.ares import (
    GAIN,
    KAPPA,
    MARGIN,
    SCALE,
    TEMPERATURE,
    DifficultyKL,
    Hierarchy,
    KLPrices,
    WindowReward,
    entropy_score,
    huber,
    is_trigger,
    priced_divergence,
    window_counts,
)
from rlent.verify.released.ares import top_entropy

OPTIONS = {
    "alpha": 0.5,
    "margin": MARGIN,
    "kappa": KAPPA,
    "temperature": TEMPERATURE,
    "scale": SCALE,
    "gain": GAIN,
    "least_margin": 1.0,
}
STATE = {"easy_min": 2 / 3, "medium_min": 1 / 3, "rate": 0.05, "low": 0.0, "high": 2.0, "start": 0.5, "decay": 0.99}


def test_the_missing_mass_is_one_more_token():
    logps = [math.log(0.5), math.log(0.25)]
    assert top_entropy(logps, tail=False) == pytest.approx(0.5 * math.log(2) + 0.25 * math.log(4))
    assert top_entropy(logps, tail=True) == pytest.approx(1.5 * math.log(2))
    assert top_entropy([0.0], tail=True) == 0.0


def test_windows_begin_after_the_trigger_and_cut_ones_are_not_counted():
    entropy = [9.0, 1.0, 2.0, 0.0, 0.5, 9.0]
    triggers = [True, False, True, True, False, True]
    found = window_counts(entropy, entropy, triggers, window=2, threshold=1.0, percentile=95.0)
    # after 0: (1 + 2)/2; after 2: (0 + 0.5)/2; after 3: (0.5 + 9)/2; after 5 nothing follows
    assert (found["valid_count"], found["invalid_count"]) == (2, 1)
    assert found["soft_cost"] == pytest.approx(0.5 + 3.75)
    # every position: 1.5, 1, 0.25, 4.75, then the mean of these twice (1.875): the 95th percentile of six numbers is at 4.75 of 0..5
    assert found["sample_threshold"] == pytest.approx(1.875 + 0.75 * (4.75 - 1.875))


def test_a_response_shorter_than_a_window_proposes_its_own_entropy():
    found = window_counts([2.0], [2.0], [True], window=4, threshold=1.0, percentile=95.0)
    assert found["valid_count"] == found["invalid_count"] == 0 and found["sample_threshold"] == 2.0
    assert window_counts([], [], [], window=4, threshold=1.0, percentile=95.0)["mean_entropy"] == 0.0


def test_words_are_compared_without_case_and_leading_mark():
    assert is_trigger("ĠWait", ["wait"]) and is_trigger("▁wait", ["wait"]) and not is_trigger("waiting", ["wait"])


def test_easy_problems_are_charged_for_windows_and_hard_ones_paid():
    assert entropy_score(True, "easy", 3, 3, **OPTIONS) == 0.0
    # D - M = 4 - 1 = 3 > kappa 2: huber 2, capped by alpha
    assert entropy_score(True, "easy", 7, 3, **OPTIONS) == pytest.approx(-0.5 * 2 / 3)
    assert entropy_score(True, "hard", 20, 3, **OPTIONS) > entropy_score(True, "hard", 3, 3, **OPTIONS) > 0
    assert entropy_score(True, "hard", 0, 20, **OPTIONS) < 0
    # M = 0.35 * 4 = 1.4, -D - M = 2.6 below kappa 4: huber 2.6^2 / 8; half of the cap 0.5 * 1.2, over M + kappa
    assert entropy_score(True, "hard", 0, 4, **OPTIONS) == pytest.approx(-0.5 * 0.6 * (2.6**2 / 8) / (1.4 + 4))
    assert entropy_score(False, "medium", 0, 3, **OPTIONS) == pytest.approx(0.8 * 0.5 * 0.5)  # a wrong answer gets half at least
    assert huber(-1.0, 2.0) == 0.0 and huber(2.0, 2.0) == pytest.approx(1.0) == pytest.approx(huber(2.0, 2.0))


def test_targets_are_rounded_half_to_even_and_alpha_moves_by_the_rounding():
    state = Hierarchy(**STATE)
    found = state.follow([0, 0, 1, 1], [1, 1, 0, 0], [2, 3, 2, 3], [1.0, 2.0, 3.0, 4.0])
    assert found["difficulty"] == {0: "easy", 1: "hard"} and found["target"] == {"easy": 2, "hard": 2}
    assert found["alpha"]["easy"] == pytest.approx(0.5 + 0.05 * 0.5) and found["alpha"]["hard"] == pytest.approx(0.5 - 0.05 * 0.5)
    assert found["alpha"]["medium"] == 0.5 and found["threshold"] == 2.5
    other = Hierarchy(**STATE)
    other.load_state_dict(state.state_dict())
    assert other.follow([0], [1], [2], [10.0])["threshold"] == pytest.approx(0.99 * 2.5 + 0.1)


def test_prices_stand_still_in_the_dead_zone_and_between_intervals():
    options = {"target": 0.01, "start": 1.0, "low": 1e-4, "high": 100.0, "decay": 0.97, "rate": 0.05, "clip": 0.2, "interval": 2}
    prices = KLPrices(**options, deadzone=0.02)
    assert prices.follow(["easy"], [0.03])["easy"] == {"beta": 1.0, "kl_ema": 0.03}
    moved = prices.follow(["easy", "hard"], [0.03, 0.0101])
    assert moved["easy"]["beta"] == pytest.approx(math.exp(0.05 * 0.03 * 2.0))  # error 2, its average 0.06
    assert moved["hard"] == {"beta": 1.0, "kl_ema": 0.0101} and moved["medium"]["kl_ema"] is None
    other = KLPrices(**options, deadzone=0.02)
    other.load_state_dict(prices.state_dict())
    assert other.follow(["easy"], [0.05]) == prices.follow(["easy"], [0.05])


def test_the_reward_counts_windows_of_the_response_and_remembers():
    reward = WindowReward(words=["wait"], window=1, percentile=95.0, threshold=0.5, **{k: v for k, v in STATE.items() if k != "threshold"})
    entropy = torch.tensor([[0.1, 1.0, 0.2], [0.1, 0.1, 9.0]])
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]]).bool()
    found = reward(torch.tensor([True, False]), entropy, mask, [["wait", "a", "b"], ["wait", "a"]], torch.tensor([0, 0]))
    assert found["count"].tolist() == [1, 0] and found["bucket"].tolist() == [1, 1]
    assert found["cost"].tolist() == pytest.approx([0.5, 0.0])
    # target round(0.5) = 0, M = 1; alpha 0.5 + 0.05 * 0.5; the right one is inside the margin, the wrong one gets half of 0.8 alpha
    assert found["value"].tolist() == pytest.approx([1.0, 0.5 * 0.8 * 0.525])
    other = WindowReward(words=["wait"], window=1, percentile=95.0, threshold=0.5, **STATE)
    other.load_state_dict(reward.state_dict())
    assert other.state.threshold == reward.state.threshold != 0.5


def test_easy_wrong_responses_with_much_entropy_pay_less_divergence():
    kl = DifficultyKL(
        target=0.01,
        start=1.0,
        low=1e-4,
        high=100.0,
        decay=0.97,
        rate=0.05,
        clip=0.2,
        interval=100,
        deadzone=0.02,
        relax=0.67,
        relax_cost=0.5,
    )
    x, mask = torch.zeros(3, 2), torch.ones(3, 2).bool()
    found = kl(x, x, mask, torch.tensor([False, True, False]), torch.tensor([0, 0, 2]), torch.tensor([0.5, 0.5, 0.5]))["price"]
    assert found.tolist() == pytest.approx([0.67, 1.0, 1.0])


def test_a_policy_pays_the_price_of_its_difficulty_for_leaving_the_reference():
    logp = torch.tensor([[0.5], [0.5], [0.25]]).log().requires_grad_(True)
    found = priced_divergence(logp, torch.tensor([[0.25], [0.25], [0.25]]).log(), torch.tensor([2.0, 1.0, 2.0]))
    k3 = 0.5 - math.log(0.5) - 1  # r - ln r - 1, r = 0.25 / 0.5
    assert found[:, 0].tolist() == pytest.approx([2 * k3, k3, 0.0])
    found.sum().backward()
    assert logp.grad[:, 0].tolist() == pytest.approx([1.0, 0.5, 0.0])  # price (1 - r): descent lowers what is above the reference
