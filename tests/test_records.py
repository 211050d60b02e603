"""What a step carries: records of micro-batches become the record of their minibatch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rlent.train.records import Record
from rlent.types import Batch


def record(rows: list[int], logp: list[list[float]], number: float, effect: list[list[bool]]) -> Record:
    values = torch.tensor(logp)
    tokens = Batch({"mask": torch.ones_like(values).bool(), "logp": values}, torch.tensor(rows))
    terms: dict[str, Tensor] = {"policy": 10 * values, "scalar": torch.tensor(number)}
    return Record(tokens, terms, {"node": torch.tensor(effect)})


def test_rows_go_back_in_their_order_and_numbers_of_terms_are_summed() -> None:
    # row 7 came first in its part, and is wider than row 3; the scalar term is a share of the rows in each part
    parts = [record([7], [[-1.0, -2.0]], 0.5, [[True, False]]), record([3], [[-4.0]], 0.25, [[True]])]
    whole = Record.merge(parts)
    assert whole.tokens.row.tolist() == [3, 7]
    assert whole.tokens["logp"].tolist() == [[-4.0, 0.0], [-1.0, -2.0]]
    assert whole.terms["policy"].tolist() == [[-40.0, 0.0], [-10.0, -20.0]]
    assert float(whole.terms["scalar"]) == pytest.approx(0.75)
    assert whole.effects["node"].tolist() == [[True, False], [True, False]]


def test_one_part_is_its_own_minibatch() -> None:
    whole = Record.merge([record([2, 5], [[-1.0], [-3.0]], 2.0, [[False], [True]])])
    assert whole.terms["policy"].tolist() == [[-10.0], [-30.0]] and float(whole.terms["scalar"]) == 2.0
    assert whole.effects["node"].tolist() == [[False], [True]]
