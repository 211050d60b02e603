import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlent.math.masked import discounted_sum, masked_mean, pick_largest, pick_smallest, row_mean, row_quantile, whiten

NAN = float("nan")
X = torch.tensor([[1.0, 2.0, 6.0, NAN], [4.0, NAN, NAN, NAN], [NAN, NAN, NAN, NAN]], dtype=torch.float64)
MASK = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]]).bool()


def test_means_count_masked_tokens_only():
    assert masked_mean(X, MASK).item() == 13 / 4  # (1 + 2 + 6 + 4) / 4
    assert row_mean(X, MASK).tolist() == [3.0, 4.0, 0.0]  # a row without tokens gives 0


def test_mean_of_nothing_is_zero():
    assert masked_mean(X, torch.zeros_like(MASK)).item() == 0.0


def test_row_mean_sends_no_gradient_into_padding():
    x = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    row_mean(x, torch.tensor([[True, True, False]])).sum().backward()
    assert x.grad.tolist() == [[0.5, 0.5, 0.0]]


def test_row_mean_is_the_same_to_the_last_bit_with_more_padding():
    g = torch.Generator().manual_seed(0)
    x, mask = torch.randn(200, 9, generator=g, dtype=torch.float64), torch.arange(9) < torch.arange(200)[:, None] % 10
    wide = torch.nn.functional.pad(x, (0, 8)), torch.nn.functional.pad(mask, (0, 8))
    assert torch.equal(row_mean(*wide), row_mean(x, mask))


def test_float32_sums_do_not_lose_small_terms():
    # one after another in float32, 1e8 + 1 stays 1e8
    x = torch.tensor([[1e8, 1.0, 1.0, 1.0, 1.0, -1e8]])
    assert masked_mean(x, torch.ones_like(x).bool()).item() == pytest.approx(4 / 6)


def test_row_quantile_interpolates_within_the_row():
    # rows (1, 2, 6) and (4): 0.75 of the way through three values is halfway between 2 and 6
    assert row_quantile(X, MASK, 0.75).tolist() == [4.0, 4.0, float("inf")]


@pytest.mark.parametrize("q", [0.0, 0.2, 0.5, 0.8, 1.0])
def test_row_quantile_is_torch_quantile_of_each_row(q):
    torch.manual_seed(0)
    x = torch.randn(5, 11, dtype=torch.float64)
    mask = torch.arange(11) < torch.tensor([[11], [7], [3], [2], [1]])
    want = torch.stack([row[m].quantile(q) for row, m in zip(x, mask, strict=True)])
    torch.testing.assert_close(row_quantile(x, mask, q), want, rtol=0, atol=0)


def test_whitened_tokens_have_mean_zero_and_unbiased_variance_one():
    torch.manual_seed(0)
    x = torch.randn(3, 4, dtype=torch.float64) * 5 + 2
    mask = torch.arange(4) < torch.tensor([[4], [1], [2]])
    out = whiten(x, mask)
    assert out[mask].mean().item() == pytest.approx(0, abs=1e-12)
    assert out[mask].var().item() == pytest.approx(1, abs=1e-6)
    assert not out[~mask].any()


@pytest.mark.parametrize("tokens", [0, 1])
def test_whitening_without_a_variance_gives_zero(tokens):
    mask = torch.arange(3).expand(1, 3) < tokens
    assert whiten(torch.tensor([[3.0, 4.0, 5.0]]), mask).tolist() == [[0.0, 0.0, 0.0]]


def test_pick_takes_the_largest_candidates():
    value = torch.tensor([[9.0, 3.0, 5.0], [4.0, 8.0, 1.0]])
    among = torch.tensor([[False, True, True], [True, False, True]])  # 3, 5, 4, 1 compete
    assert pick_largest(value, among, 2).tolist() == [[False, False, True], [True, False, False]]
    assert pick_smallest(value, among, 2).tolist() == [[False, True, False], [False, False, True]]


def test_ties_go_to_the_first_row_then_to_the_first_position():
    value = torch.tensor([[0.0, 1.0, 1.0], [1.0, 2.0, 1.0]])
    assert pick_largest(value, torch.ones_like(value).bool(), 3).tolist() == [[False, True, True], [False, True, False]]


@pytest.mark.parametrize("count", [-1, 0])
def test_nothing_is_picked_when_nothing_is_asked_for(count):
    assert not pick_largest(torch.ones(2, 2), torch.ones(2, 2).bool(), count).any()


def test_nothing_is_picked_among_no_candidates():
    assert not pick_smallest(torch.ones(2, 2), torch.zeros(2, 2).bool(), 3).any()


def test_more_asked_for_than_there_are_takes_all():
    among = torch.tensor([[True, False], [True, True]])
    assert torch.equal(pick_largest(torch.full((2, 2), NAN).masked_fill(among, 1.0), among, 9), among)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=24), st.integers(0, 30), st.integers(0, 2**24))
def test_pick_is_the_stable_sort(values, count, bits):
    value = torch.tensor([values], dtype=torch.float64)
    among = torch.tensor([[bool(bits >> i & 1) for i in range(len(values))]])
    order = sorted((i for i in range(len(values)) if among[0, i]), key=lambda i: -values[i])[:count]
    assert pick_largest(value, among, count)[0].nonzero().flatten().tolist() == sorted(order)


def test_a_discounted_sum_runs_from_each_column_to_the_end():
    x = torch.tensor([[1.0, 2.0, 4.0], [0.0, 0.0, 8.0]])
    assert discounted_sum(x, 0.5).tolist() == [[3.0, 4.0, 4.0], [2.0, 4.0, 8.0]]
    assert discounted_sum(x, 0.0).tolist() == x.tolist() and discounted_sum(x[:, :0], 0.5).shape == (2, 0)
