"""The processed distribution and the draw from it, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from rlent.engine import warp as module
from rlent.engine.warp import draw, entropy_of, warp

INF = float("inf")


def logits_of(*prob: float) -> torch.Tensor:
    return torch.tensor([prob], dtype=torch.float64).log() + 3.0  # a constant changes nothing


def close(logp: torch.Tensor, *prob: float) -> None:
    torch.testing.assert_close(logp.exp(), torch.tensor([prob], dtype=torch.float64), rtol=1e-12, atol=1e-15)


def test_temperature_divides_the_logits():
    # p^(1/t) normalised; t = 1/2 squares: 1/4, 1/16, 1/16 over their sum 3/8
    close(warp(logits_of(0.5, 0.25, 0.25), 0.5), 2 / 3, 1 / 6, 1 / 6)


def test_temperature_zero_takes_the_first_of_the_largest():
    logp = warp(torch.tensor([[1.0, 3.0, 3.0, 0.0]]), 0.0)
    assert logp.tolist() == [[-INF, 0.0, -INF, -INF]]
    assert entropy_of(logp).tolist() == [0.0]


def test_top_k_keeps_ties_with_the_kth():
    close(warp(logits_of(0.1, 0.2, 0.5, 0.2), top_k=2), 0.0, 2 / 9, 5 / 9, 2 / 9)
    close(warp(logits_of(0.1, 0.2, 0.5, 0.2), top_k=1), 0.0, 0.0, 1.0, 0.0)


@pytest.mark.parametrize("k", [0, 4, 5, 99])
def test_top_k_off_or_at_least_the_vocabulary_keeps_all(k):
    close(warp(logits_of(0.1, 0.2, 0.5, 0.2), top_k=k), 0.1, 0.2, 0.5, 0.2)
    close(warp(logits_of(0.1, 0.2, 0.5, 0.2), top_k=torch.tensor([k])), 0.1, 0.2, 0.5, 0.2)


@pytest.mark.parametrize(
    ("p", "want"),
    [
        (0.01, (0.0, 0.0, 1.0, 0.0)),  # the most probable always stays
        (0.49, (0.0, 0.0, 1.0, 0.0)),
        (0.51, (0.0, 3 / 8, 5 / 8, 0.0)),  # the token that carries the mass over p is kept
        (0.79, (0.0, 3 / 8, 5 / 8, 0.0)),
        (0.81, (3 / 19, 6 / 19, 10 / 19, 0.0)),  # 0.15, 0.3, 0.5 over 0.95
        (1.0, (0.15, 0.3, 0.5, 0.05)),
    ],
)
def test_top_p_keeps_the_fewest_whose_mass_reaches_p(p, want):
    close(warp(logits_of(0.15, 0.3, 0.5, 0.05), top_p=p), *want)
    close(warp(logits_of(0.15, 0.3, 0.5, 0.05), top_p=torch.tensor([p], dtype=torch.float64)), *want)


def test_top_p_takes_the_first_of_equals():
    close(warp(logits_of(0.25, 0.25, 0.25, 0.25), top_p=0.6), 1 / 3, 1 / 3, 1 / 3, 0.0)


def test_top_p_sees_what_top_k_left():
    # alone, p = 0.6 would keep 0.4 and 0.3; of the two that k = 2 leaves (4/7, 3/7) it keeps both too, p = 0.5 only one
    close(warp(logits_of(0.1, 0.4, 0.3, 0.2), top_k=2, top_p=0.6), 0.0, 4 / 7, 3 / 7, 0.0)
    close(warp(logits_of(0.1, 0.4, 0.3, 0.2), top_k=2, top_p=0.5), 0.0, 1.0, 0.0, 0.0)
    close(warp(logits_of(0.1, 0.4, 0.3, 0.2), top_p=0.5), 0.0, 4 / 7, 3 / 7, 0.0)


def test_settings_by_row_equal_each_row_alone():
    torch.manual_seed(0)
    logits = 3 * torch.randn(40, 13, dtype=torch.float64)
    heat = torch.tensor([0.0, 0.3, 1.0, 1.7]).repeat(10)
    k = torch.tensor([0, 1, 3, 13, 50]).repeat(8)
    p = torch.tensor([0.2, 0.7, 0.95, 1.0]).repeat_interleave(10)
    together = warp(logits, heat, k, p)
    for i in range(40):
        alone = warp(logits[i : i + 1], heat[i].item(), int(k[i]), p[i].item())
        torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("temperature", [0.0, 1.0, torch.tensor([0.0] * 4), torch.tensor([0.7, 1.0, 1.0, 0.7])])
def test_a_row_that_is_not_finite_is_nan_throughout(temperature):
    logits = torch.tensor([[0.0, float("nan"), 1.0], [0.0, 1.0, -INF], [0.0, INF, 1.0], [-INF, -INF, -INF]])
    assert warp(logits, temperature).isnan().all(1).tolist() == [True, False, True, True]
    assert not warp(logits, temperature)[1].isnan().any()


def test_half_precision_is_processed_in_float32():
    assert warp(torch.zeros(1, 4, dtype=torch.bfloat16), 0.7).dtype == torch.float32


def test_entropy_in_nats():
    torch.testing.assert_close(entropy_of(warp(logits_of(0.5, 0.25, 0.25))), torch.tensor([1.5 * math.log(2)], dtype=torch.float64))
    torch.testing.assert_close(entropy_of(warp(logits_of(0.4, 0.4, 0.2), top_k=2)), torch.tensor([math.log(2)], dtype=torch.float64))


def test_draw_inverts_the_cumulative_distribution():
    logp = torch.tensor([0.0, 0.25, 0.5, 0.0, 0.25, 0.0], dtype=torch.float64).log()
    u = torch.tensor([0.0, 0.2499, 0.25, 0.7499, 0.75, 1 - 2**-53], dtype=torch.float64)
    assert draw(logp.expand(6, 6), u).tolist() == [1, 1, 2, 2, 4, 4]


def test_draw_never_takes_a_token_of_probability_zero():
    torch.manual_seed(0)
    logp = warp(4 * torch.randn(2000, 50), top_k=3)
    u = torch.rand(2000, dtype=torch.float64)
    u[:500], u[500:1000] = 0.0, 1 - 2**-53
    assert logp.gather(1, draw(logp, u)[:, None]).isfinite().all()


def test_draw_reaches_the_tail_of_a_large_vocabulary():
    # float32 sums of 150,000 equal shares would be off by many tokens at the end
    size = 150_000
    u = torch.tensor([0.0, 0.5, 0.9, 0.999999, 1 - 2**-53], dtype=torch.float64)
    token = draw(warp(torch.zeros(5, size)), u)
    assert (token - (u * size).floor()).abs().max() <= 1
    assert token[-1] == size - 1


def test_draw_in_pieces_is_the_same(monkeypatch):
    torch.manual_seed(0)
    logp, u = warp(torch.randn(37, 11)), torch.rand(37, dtype=torch.float64)
    whole = draw(logp, u)
    monkeypatch.setattr(module, "_ELEMENTS_AT_ONCE", 50)
    assert draw(logp, u).tolist() == whole.tolist()
