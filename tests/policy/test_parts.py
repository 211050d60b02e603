"""Cutting rows into parts, and halving a part that does not fit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlent.errors import ModelError
from rlent.policy.parts import cut, pack, run_halving, share_out
from rlent.types import Batch


def test_longest_first_and_equal_lengths_in_order():
    # 9 | 4 4 3 (3 x 4 = 12 > 10, so two of them) | ...
    assert cut([3, 4, 9, 4, 1], 10) == [[2], [1, 3], [0, 4]]


def test_a_row_above_the_budget_is_a_part_of_its_own():
    assert cut([50, 2, 2], 10) == [[0], [1, 2]]


def test_rows_without_tokens_need_no_special_care():
    assert cut([0, 0, 0], 2) == [[0, 1], [2]]
    assert cut([], 8) == []


@settings(deadline=None)
@given(st.lists(st.integers(0, 40), max_size=60), st.integers(1, 120))
def test_every_row_is_in_one_part_within_the_budget(lengths, budget):
    parts = cut(lengths, budget)
    assert sorted(row for part in parts for row in part) == list(range(len(lengths)))
    for part in parts:
        assert part and (len(part) == 1 or len(part) * max(lengths[row] for row in part) <= budget)
    order = [lengths[row] for part in parts for row in part]
    assert order == sorted(lengths, reverse=True)
    for part, following in zip(parts, parts[1:], strict=False):  # greedy: one more row would not have fitted
        assert (len(part) + 1) * max(1, lengths[part[0]]) > budget, following


def rows(count: int) -> Batch:
    return Batch(
        {"mask": torch.ones(count, 3, dtype=torch.bool), "x": torch.arange(float(count)), "prompt_ids": [[1, 2]] * count},
        torch.arange(count) + 10,
    )


class Model:
    """Adds x to a gradient, and then runs out of memory when there are more than `fits` rows."""

    def __init__(self, fits: int, error: type[BaseException] = torch.OutOfMemoryError) -> None:
        self.weight, self.fits, self.error = torch.zeros((), requires_grad=True), fits, error

    def __call__(self, part: Batch) -> list[int]:
        (self.weight * part["x"].sum()).backward()
        if len(part) > self.fits:
            raise self.error("no memory")
        return part.row.tolist()


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError])
def test_a_part_is_halved_until_it_fits_and_a_failed_try_leaves_no_gradient(error):
    model, failed = Model(2, error), []
    model.weight.grad = torch.tensor(100.0)  # from parts before this one
    results = run_halving(model, rows(7), failed.append, [model.weight])
    assert results == [[10], [11, 12], [13, 14], [15, 16]]
    assert failed == [7, 3, 4]
    assert model.weight.grad.item() == 100 + sum(range(7))


def test_without_an_error_nothing_is_cut():
    model, failed = Model(8), []
    assert run_halving(model, rows(7), failed.append, [model.weight]) == [list(range(10, 17))]
    assert (failed, model.weight.grad.item()) == ([], 21.0)


def test_a_single_row_that_does_not_fit_says_what_to_lower():
    model = Model(0)
    model.weight.grad = torch.tensor(5.0)
    with pytest.raises(ModelError, match=r"5 tokens, row \[10\]\) does not fit in memory; lower sampler.max_tokens"):
        run_halving(model, rows(2), None, [model.weight])
    assert model.weight.grad.item() == 5.0


def test_another_error_passes_and_earlier_gradients_stay():
    model = Model(0, KeyError)
    model.weight.grad = torch.tensor(5.0)
    with pytest.raises(KeyError):
        run_halving(model, rows(2), None, [model.weight])
    assert model.weight.grad.item() == 5.0


A, B = [1, 2, 3], [4]


def test_rows_of_a_prompt_stay_together_and_pay_for_it_once():
    # A: 3 + (9 5 2), B: 1 + (6 6); the prompt with the longest row first
    assert pack([B, A, A, B, A], [6, 2, 9, 6, 5], 100) == [[2, 4, 1, 0, 3]]
    # 3 + 9 = 12 | 3 + 5 + 2 = 10, and 1 + 6 more would be 17 | 1 + 6 + 6 = 13
    assert pack([B, A, A, B, A], [6, 2, 9, 6, 5], 13) == [[2], [4, 1], [0, 3]]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 40)), max_size=60), st.integers(1, 120))
def test_every_row_is_in_one_part_within_the_budget_with_its_prompts_counted_once(rows, budget):
    prompts, lengths = [[p] * (p + 1) for p, _ in rows], [n for _, n in rows]
    parts = pack(prompts, lengths, budget)
    assert sorted(row for part in parts for row in part) == list(range(len(rows)))
    for part in parts:
        cost = sum(map(len, {tuple(prompts[row]) for row in part})) + sum(lengths[row] for row in part)
        assert part and (len(part) == 1 or cost <= budget)


@settings(deadline=None)
@given(st.lists(st.integers(0, 50), max_size=40), st.integers(1, 5))
def test_no_rank_has_more_than_its_share_and_one_row(costs, ranks):
    given = share_out(costs, ranks)
    assert given == sorted(given) and all(0 <= rank < ranks for rank in given)
    for rank in range(ranks):
        load = sum(cost for cost, to in zip(costs, given, strict=True) if to == rank)
        assert load <= sum(costs) / ranks + max(costs, default=0)
