"""Log-probability and entropy of a softmax, and their gradients by autograd."""

from __future__ import annotations

import math

import pytest
import torch

from rlent.math.entropy import entropy_from_logits, logp_and_entropy


def test_two_tokens_by_hand():
    # p = (3/4, 1/4): log p = (log 3 - log 4, -log 4), H = 3/4 log(4/3) + 1/4 log 4
    logits = torch.tensor([[math.log(3.0), 0.0]], dtype=torch.float64)
    logp, entropy = logp_and_entropy(logits, torch.tensor([1]))
    assert logp.item() == pytest.approx(-math.log(4), abs=1e-15)
    assert entropy.item() == pytest.approx(0.75 * math.log(4 / 3) + 0.25 * math.log(4), abs=1e-15)


def test_temperature_divides_the_logits():
    # at temperature 2, logits (2 log 3, 0) are (log 3, 0)
    logits = torch.tensor([[2 * math.log(3.0), 0.0]], dtype=torch.float64)
    logp, entropy = logp_and_entropy(logits, torch.tensor([0]), 2.0)
    assert logp.item() == pytest.approx(math.log(3 / 4), abs=1e-15)
    assert entropy.item() == pytest.approx(entropy_from_logits(logits / 2).item(), abs=1e-15)


def gradient(logits):
    """d entropy / d logits by autograd."""
    leaf = logits.clone().requires_grad_()
    (found,) = torch.autograd.grad(entropy_from_logits(leaf).sum(), leaf)
    return found


def test_a_uniform_distribution_has_entropy_log_v_and_no_entropy_gradient():
    logits = torch.full((1, 7), 3.0, dtype=torch.float64)
    assert entropy_from_logits(logits).item() == pytest.approx(math.log(7), abs=1e-15)
    torch.testing.assert_close(gradient(logits), torch.zeros(1, 7, dtype=torch.float64), atol=1e-15, rtol=0)


@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.7])
def test_the_gradients_are_those_of_the_module_description(temperature):
    generator = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(5, 11, generator=generator, dtype=torch.float64)).requires_grad_()
    target = torch.randint(0, 11, (5,), generator=generator)
    logp, entropy = logp_and_entropy(logits, target, temperature)
    p = (logits.detach() / temperature).softmax(-1)
    onehot = torch.nn.functional.one_hot(target, 11)
    for value, written in ((logp, (onehot - p) / temperature), (entropy, -p * (p.log() + entropy.detach()[:, None]) / temperature)):
        (by_autograd,) = torch.autograd.grad(value.sum(), logits, retain_graph=True)
        torch.testing.assert_close(by_autograd, written, rtol=1e-12, atol=1e-14)


def test_an_impossible_token_adds_nothing_and_gets_no_gradient():
    logits = torch.tensor([[1.0, 2.0, -math.inf]], dtype=torch.float64)
    torch.testing.assert_close(entropy_from_logits(logits), entropy_from_logits(logits[:, :2]))
    torch.testing.assert_close(gradient(logits), torch.cat((gradient(logits[:, :2]), torch.zeros(1, 1)), 1))


@pytest.mark.parametrize("shape", [(), (4,), (2, 3), (2, 2, 3)])
def test_any_leading_shape_gives_a_number_for_each_distribution(shape):
    generator = torch.Generator().manual_seed(2)
    logits, target = torch.randn(*shape, 6, generator=generator), torch.randint(6, shape, generator=generator)
    logp, entropy = logp_and_entropy(logits, target)
    flat = logp_and_entropy(logits.reshape(-1, 6), target.reshape(-1))
    assert logp.shape == entropy.shape == target.shape
    assert torch.equal(logp.reshape(-1), flat[0]) and torch.equal(entropy.reshape(-1), flat[1])
    assert torch.equal(entropy_from_logits(logits), entropy)


def test_half_precision_is_reduced_in_float32():
    logits = torch.randn(3, 4096, generator=torch.Generator().manual_seed(1)).bfloat16()
    logp, entropy = logp_and_entropy(logits, torch.tensor([0, 1, 2]))
    exact_logp, exact = logp_and_entropy(logits.double(), torch.tensor([0, 1, 2]))
    assert (logp.dtype, entropy.dtype) == (torch.float32, torch.float32)
    torch.testing.assert_close(entropy.double(), exact, rtol=0, atol=1e-5)
    torch.testing.assert_close(logp.double(), exact_logp, rtol=0, atol=1e-5)


def test_a_peaked_distribution_has_entropy_zero_not_nan():
    logits = torch.tensor([[1e4, 0.0, -1e4]])
    logp, entropy = logp_and_entropy(logits, torch.tensor([0]))
    assert (logp.item(), entropy.item()) == (0.0, 0.0)
    assert gradient(logits).abs().max() == 0
