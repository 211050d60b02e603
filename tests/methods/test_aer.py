import pytest
import torch

from rlent.methods.aer import AdaptiveCoefficient, difficulty, weighted_entropy

OPTIONS = {"knob": "regularize.aer.coef", "share": 0.4, "gain": 0.1, "start": 0.0, "low": 0.0, "high": 0.05}
MASK = torch.tensor([[True, True, False]])


def entropy(mean: float) -> torch.Tensor:
    return torch.tensor([[mean - 0.1, mean + 0.1, 99.0]], dtype=torch.float64)  # the last is padding


def test_difficulty_falls_to_zero_at_the_threshold():
    # accuracies 0, 1/4, 1/2, 1 against 1/2
    correct = torch.tensor([[0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]]).bool().flatten()
    group = torch.arange(4).repeat_interleave(4)
    found = difficulty(correct, group, threshold=0.5)["difficulty"]
    assert found[::4].tolist() == [1.0, 0.5, 0.0, 0.0]
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(difficulty(correct[order], group[order], threshold=0.5)["difficulty"], found[order])


def test_the_bonus_is_weighted_row_by_row():
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64, requires_grad=True)
    value = weighted_entropy(x, torch.tensor([0.5, 0.0]))
    assert value.tolist() == [[-0.5, -1.0], [0.0, 0.0]]
    value.sum().backward()
    assert x.grad.tolist() == [[-0.5, -0.5], [0.0, 0.0]]


def test_the_price_follows_the_distance_from_the_target():
    control = AdaptiveCoefficient(**OPTIONS)
    assert control(entropy(1.0), MASK) == 0.0  # target 0.4, entropy 1.0: it would fall below 0
    assert control(entropy(0.3), MASK) == pytest.approx(0.01)  # 0.1 * (0.4 - 0.3)
    assert control(entropy(0.2), MASK) == pytest.approx(0.03)
    assert control(entropy(0.1), MASK) == pytest.approx(0.05)  # 0.06 is too much
    assert control(entropy(0.5), MASK) == pytest.approx(0.04)
    assert control(entropy(0.9), MASK) == 0.0
    assert control(entropy(0.3), MASK) == pytest.approx(0.01)  # and it comes back from 0


def test_a_resumed_controller_goes_on_where_it_was():
    one, other = AdaptiveCoefficient(**OPTIONS), AdaptiveCoefficient(**OPTIONS)
    one(entropy(1.0), MASK)
    one(entropy(0.3), MASK)
    other.load_state_dict(one.state_dict())
    assert other(entropy(0.33), MASK) == one(entropy(0.33), MASK) == pytest.approx(0.017)
