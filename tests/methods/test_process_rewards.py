"""ER-PRM and implicit process rewards (PRIME)."""

import math
import tracemalloc

import pytest
import torch

from rlent.methods.er_prm import prefix_value, soft_value
from rlent.methods.prime import implicit_reward, leave_one_out, prime_advantage, process_scores
from rlent.verify.released.prime import accuracies, outcome_loss

MASK = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 1, 1], [1, 0, 0]]).bool()
PRIME = {"beta": 0.05, "lam": 0.0, "use_truth": False, "norm": "batch_norm", "process": 5.0, "outcome": 5.0, "epsilon": 1e-8}


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return -torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_soft_value_lies_between_the_mean_and_the_maximum():
    assert soft_value(0.3, 0.0) == 0.3 and soft_value(0.3, 1e-6) == pytest.approx(0.3, abs=1e-5)
    assert soft_value(0.5, 1.0) == pytest.approx(math.log(0.5 + 0.5 * math.e))
    assert soft_value(0.01, 2000.0) == pytest.approx(1.0, abs=3e-3)
    assert soft_value(0.99, -2000.0) == pytest.approx(0.0, abs=3e-3)
    assert soft_value(0.0, 1.0) == 0.0 and soft_value(1.0, 3.0) == pytest.approx(1.0)


def test_tokens_are_paid_for_what_they_do_to_the_value_of_the_prefix():
    # responses ab (right), ac (wrong), d (wrong); eta -> 0: the value is the mean
    tokens = torch.tensor([[1, 2], [1, 3], [4, 0]])
    mask = torch.tensor([[1, 1], [1, 1], [1, 0]]).bool()
    found = prefix_value(torch.tensor([1, 0, 0]), tokens, mask, torch.zeros(3, dtype=torch.long), eta=0.0)
    # V() = 1/3, V(a) = 1/2
    torch.testing.assert_close(found, torch.tensor([[1 / 6, 1 / 2], [1 / 6, -1 / 2], [-1 / 3, 0.0]]))


def test_rewards_of_a_response_sum_to_the_outcome_less_the_value_of_the_prompt():
    tokens, group = torch.randint(0, 3, (4, 3), generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 0, 1])
    right = torch.tensor([1, 0, 0, 1])
    found = prefix_value(right, tokens, MASK, group, eta=1.0).sum(1)
    torch.testing.assert_close(found, right.float() - soft_value(0.5, 1.0))
    alone = prefix_value(right[:1], tokens[:1], MASK[:1], group[:1], eta=1.0)
    assert alone.abs().max() < 1e-6


def test_long_responses_are_paid_without_a_copy_of_every_prefix():
    tokens = torch.arange(20_000).expand(2, -1).clone()
    tokens[1, 10_000:] += 1  # the two part ways half-way
    mask = torch.ones(2, 20_000).bool()
    tracemalloc.start()
    found = prefix_value(torch.tensor([1, 0]), tokens, mask, torch.zeros(2, dtype=torch.long), eta=0.0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.nonzero().tolist() == [[0, 10_000], [1, 10_000]] and found[:, 10_000].tolist() == [0.5, -0.5]
    assert peak < 64e6  # the prefixes themselves would take gigabytes


def test_the_reward_models_loss_is_the_cross_entropy_of_the_sum():
    rm, ref = random(2, 3, seed=1).requires_grad_(True), random(2, 3, seed=2)
    mask, right = torch.tensor([[1, 1, 0], [1, 1, 1]]).bool(), torch.tensor([1.0, 0.0])
    loss = outcome_loss(rm, ref, right, mask, beta=0.05)
    total = 0.05 * ((rm - ref) * mask).sum(1)
    torch.testing.assert_close(loss, torch.stack([-total.sigmoid()[0].log(), -(1 - total.sigmoid()[1]).log()]))
    loss.sum().backward()
    assert rm.grad[0, 2] == 0 and (rm.grad[0, :2] < 0).all() and (rm.grad[1] > 0).all()
    torch.testing.assert_close(implicit_reward(rm, ref, beta=0.05), 0.05 * (rm - ref))


def test_the_last_token_carries_no_process_score():
    q = torch.ones(4, 3, dtype=torch.float64)
    score, normed = process_scores(q, MASK, torch.zeros(4), beta=0.5, lam=0.0, use_truth=False, normalise=True)
    assert score.tolist() == [[0.5, 0.5, 0], [0.5, 0, 0], [0.5, 0.5, 0], [0, 0, 0]]
    torch.testing.assert_close(normed, score / (1.0 + 1e-6))  # the largest sum from a token on is 1


def test_with_lambda_the_score_is_the_discounted_sum_and_may_end_in_the_truth():
    q, mask = torch.tensor([[1.0, 2.0, 4.0]], dtype=torch.float64), torch.ones(1, 3).bool()
    score, _ = process_scores(q, mask, torch.zeros(1), beta=1.0, lam=0.5, use_truth=False, normalise=False)
    assert score.tolist() == [[1 + 1 + 1, 2 + 2, 0]]
    truth, _ = process_scores(q, mask, torch.ones(1), beta=1.0, lam=0.5, use_truth=True, normalise=False)
    assert truth.tolist() == [[1 + 1 - 0.5, 2 - 1, 0]]  # the last x is 1 - (1 + 2) = -2


def test_each_response_is_compared_with_the_others():
    x, valid = torch.tensor([[1.0, 3.0], [5.0, 0.0]], dtype=torch.float64), torch.tensor([[1, 1], [1, 0]]).bool()
    found = leave_one_out(x, valid, torch.tensor([7, 7]))
    # n = 2: 2 x - (2 + 5), on valid tokens only
    assert found.tolist() == [[-5, -1], [3, 0]]
    assert not leave_one_out(x, valid, torch.tensor([7, 8])).any()


def test_a_better_trajectory_has_the_larger_advantage():
    one, group = torch.zeros(2, 1, dtype=torch.float64), torch.zeros(2, dtype=torch.long)
    mask, right = torch.ones(2, 1).bool(), torch.tensor([1, 0])
    # the verdict against the other one's: 5 (2 x - 1) = 5 and -5; their unbiased variance is 50
    found = prime_advantage(right, one, one, mask, group, **PRIME)
    torch.testing.assert_close(found, torch.tensor([[0.5**0.5], [-(0.5**0.5)]], dtype=torch.float64))
    # without verdicts the token that the reward model has moved up counts more: q = 1 and 0 on the first token, the last has no score
    q = torch.tensor([[1.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    scored = prime_advantage(right, q, 0 * q, torch.ones(2, 2).bool(), group, **PRIME | {"outcome": 0.0, "norm": "none"})
    assert scored[0, 0] > scored[0, 1] > scored[1, 0]


def test_credit_has_mean_zero_and_padding_and_order_change_nothing():
    rm, ref, right, group = random(4, 3, seed=3), random(4, 3, seed=4), torch.tensor([1, 0, 0, 1]), torch.tensor([0, 0, 1, 1])
    found = prime_advantage(right, rm, ref, MASK, group, **PRIME)
    assert abs(float(found[MASK].mean())) < 1e-12 and float(found[MASK].var()) == pytest.approx(1.0, rel=1e-6)
    assert not found[~MASK].any()
    order = torch.tensor([2, 0, 3, 1])
    turned = prime_advantage(right[order], rm[order], ref[order], MASK[order], group[order], **PRIME)
    torch.testing.assert_close(turned, found[order])
    wide = [torch.nn.functional.pad(x, (0, 2), value=float("nan")) for x in (rm, ref)]
    more = prime_advantage(right, *wide, torch.nn.functional.pad(MASK, (0, 2)), group, **PRIME)
    torch.testing.assert_close(more[:, :3], found)


def test_accuracy_by_sign_and_by_pair():
    q, mask = torch.tensor([[1.0], [-1.0], [2.0], [-2.0]]), torch.ones(4, 1).bool()
    found = accuracies(q, mask, torch.tensor([1, 0, 0, 0]), torch.tensor([0, 0, 1, 1]))
    assert found["sign_accuracy"] == 0.75 and found["pair_accuracy"] == 0.75  # 1, and 1/2 for a group without a pair
