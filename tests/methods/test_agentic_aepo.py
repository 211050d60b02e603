import pytest
import torch

from rlent.methods.agentic_aepo import balanced_clip, balanced_clip_port, branch_probability, entropy_credit, port_budget, reweigh
from rlent.methods.ppo_clip import clipped_surrogate


def t(*x):
    return torch.tensor([x], dtype=torch.float64)


def slopes(loss, ratio, adv, **options):
    logp = t(*ratio).log().requires_grad_(True)
    value = loss(logp, torch.zeros_like(logp), t(*adv), **options)
    return value[0].tolist(), torch.autograd.grad(value.sum(), logp)[0][0].tolist()


def test_above_the_range_the_value_is_cut_and_the_gradient_is_not():
    # A = 1, range 0.8 to 1.28. r = 1.5: value -1.28, gradient -1.28 (PPO: 0). r = 1.1: -1.1, -1.1. A = -1: r = 1.5 is never cut from
    # above: 1.5, 1.5; r = 0.5 is cut from below: 0.8, 0
    value, slope = slopes(balanced_clip, (1.5, 1.1, 1.5, 0.5), (1.0, 1.0, -1.0, -1.0), low=0.2, high=0.28)
    assert value == pytest.approx([-1.28, -1.1, 1.5, 0.8])
    assert slope == pytest.approx([-1.28, -1.1, 1.5, 0.0])
    plain, cut = slopes(clipped_surrogate, (1.5, 1.1, 1.5, 0.5), (1.0, 1.0, -1.0, -1.0), low=0.2, high=0.28, dual=None, clamp=None)
    assert plain == pytest.approx(value) and cut == pytest.approx([0.0, -1.1, 1.5, 0.0])


@pytest.mark.parametrize(("preserve", "kept"), [("all", (1.2, 1.2)), ("low", (1.2, 0.0)), ("high", (0.0, 1.2))])
def test_the_port_keeps_the_gradient_by_the_tokens_entropy(preserve, kept):
    z = t(-1.0, 1.0)
    logp = t(1.5, 1.5).log().requires_grad_(True)
    loss = balanced_clip_port(logp, torch.zeros_like(logp), t(1.0, 1.0), z, low=0.2, high=0.2, dual=3.0, preserve=preserve)
    assert loss[0].tolist() == pytest.approx([-1.2, -1.2])
    assert (-torch.autograd.grad(loss.sum(), logp)[0][0]).tolist() == pytest.approx(kept)


def test_the_dual_clip_bounds_a_bad_token():
    logp = t(9.0).log().requires_grad_(True)
    loss = balanced_clip_port(logp, t(0.0), t(-1.0), t(0.0), low=0.2, high=0.2, dual=3.0, preserve="low")
    assert loss.item() == 3.0 and torch.autograd.grad(loss.sum(), logp)[0].item() == 0.0


def test_an_uncertain_response_counts_more_and_the_factor_may_turn_its_sign():
    reward = torch.tensor([1.0, 0.0], dtype=torch.float64)
    entropy = torch.tensor([[3.0, 1.0, 9.0], [1.0, 0.0, 0.0]], dtype=torch.float64)
    mask = torch.tensor([[True, True, False], [True, False, False]])  # means 2 and 1
    # A = +-0.5 / 0.7071 = +-0.7071, and so is A_H; alpha 2: factors 2.4142 and -0.4142
    options = {"alpha": 2.0, "epsilon": 0.0}
    found = entropy_credit(reward, entropy, mask, torch.zeros(2).long(), **options, floor=None)["adv"]
    assert found.tolist() == pytest.approx([0.70711 * 2.41421, -0.70711 * -0.41421], abs=1e-4)
    assert entropy_credit(reward, entropy, mask, torch.zeros(2).long(), **options, floor=0.0)["adv"].tolist()[1] == 0.0


def test_a_group_of_one_and_equal_entropies_leave_the_credit_as_it_is():
    reward, group = torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64), torch.tensor([0, 1, 1])
    entropy, mask = torch.full((3, 2), 0.7, dtype=torch.float64), torch.ones(3, 2).bool()
    found = entropy_credit(reward, entropy, mask, group, alpha=0.5, epsilon=1e-6, floor=None)
    assert found["entropy"].tolist() == [0.0] * 3
    assert found["adv"].tolist() == pytest.approx([1.0, 0.7071, -0.7071], abs=1e-4)


def test_padding_and_a_single_token_have_no_deviation():
    mask = torch.tensor([[True, True, False]])
    a, b = (reweigh(t(1.0, 1.0, 1.0), t(0.2, 0.4, x), mask, weight=0.2)["adv"][0, :2].tolist() for x in (0.0, 50.0))
    assert a == b == pytest.approx([1 - 0.2 * 0.70711, 1 + 0.2 * 0.70711], abs=1e-4)
    assert reweigh(t(1.0), t(0.3), torch.tensor([[True]]), weight=0.2)["adv"].item() == 1.0


def test_branches_in_a_row_become_less_likely():
    found = [float(branch_probability(0.5, n, alpha=0.5, gamma=0.2, penalty=0.2)) for n in range(7)]
    assert found == pytest.approx([0.6, 0.48, 0.36, 0.24, 0.12, 0.0, 0.0])


def test_an_uncertain_root_gets_more_responses_of_its_own():
    # 16 * sigmoid(0) = 8, floor + 1 = 9; a root far above its turns gets all
    assert port_budget(0.3, [0.3], n=16, beta=0.5) == 9
    assert port_budget(90.0, [0.0, 0.0], n=16, beta=0.5) == 16 and port_budget(-90.0, [], n=16, beta=0.5) == 1
