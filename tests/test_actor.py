"""Sharing rows out over ranks: every rank has nearly as many tokens of each minibatch as the others, and nothing is lost or mixed up."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest
import torch

from rlent.ranks.world import World, _rows_of, merge
from rlent.train.actor import Actor
from rlent.types import Batch


class Thread(World):
    """A rank that is a thread."""

    def __init__(self, rank: int, size: int, table: dict, gate: threading.Barrier) -> None:
        super().__init__(rank, size)
        self.table, self.gate = table, gate

    def all_gather(self, value):
        self.table[self.rank] = value
        self.gate.wait(10)
        found = [self.table[rank] for rank in range(self.size)]
        self.gate.wait(10)
        return found


GROUPS, EACH = 12, 4


def step() -> Batch:
    """12 groups of 4 rows; the later a group, the longer its responses, so the rank that sampled the first ones has little to do."""
    count = GROUPS * EACH
    group = torch.arange(count) // EACH
    lengths = 1 + 2 * group + torch.arange(count) % EACH
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    tokens = torch.arange(count)[:, None].expand(*mask.shape) * mask
    streams = {"mask": mask, "tokens": tokens, "group": group, "prompt_ids": [[g + 1] * 3 for g in group.tolist()], "step": 1}
    return Batch({**streams, "response": [f"row {i}" for i in range(count)]})


def balanced(size: int, minibatches: int) -> tuple[list[Batch], list[list[set[int]]]]:
    whole, table, gate = step(), {}, threading.Barrier(size)
    out: dict[int, tuple[Batch, list[set[int]]]] = {}

    def rank(r: int) -> None:
        world = Thread(r, size, table, gate)
        actor = Actor(
            SimpleNamespace(packs=True), None, {}, world, temperature=1.0, minibatches=minibatches, epochs=1, tokens_per_part=50, seed=3
        )
        mine = torch.arange(len(whole))[list(world.share(range(len(whole))))]
        got = actor.balance(whole.select(mine))
        out[r] = got, [{int(got.row[i]) for i in rows} for rows in actor._minibatch_rows(got, 0)]

    threads = [threading.Thread(target=rank, args=(r,)) for r in range(size)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(20)
    return [out[r][0] for r in range(size)], [out[r][1] for r in range(size)]


@pytest.mark.parametrize(("size", "minibatches"), [(2, 1), (2, 3), (3, 4), (5, 6)])
def test_ranks_have_nearly_as_many_tokens_of_each_minibatch(size: int, minibatches: int) -> None:
    shares, rows = balanced(size, minibatches)
    lengths = dict(enumerate(step().lengths.tolist()))
    for m in range(minibatches):
        loads = [sum(lengths[row] for row in rows[r][m]) for r in range(size)]
        longest = max(lengths[row] for r in range(size) for row in rows[r][m])
        prompts = 3 * GROUPS // minibatches  # paid by the row that comes first, wherever it is
        assert max(loads) - min(loads) <= 2 * longest + prompts, (m, loads)
    whole = merge(shares)
    assert whole.row.tolist() == list(range(GROUPS * EACH))
    for name in ("tokens", "mask", "group"):
        assert torch.equal(whole[name], step()[name])
    assert whole["response"] == step()["response"] and whole["prompt_ids"] == step()["prompt_ids"]


def test_a_minibatch_has_the_groups_that_one_rank_draws_for_it() -> None:
    _, apart = balanced(3, 4)
    _, alone = balanced(1, 4)
    assert [set().union(*(rows[m] for rows in apart)) for m in range(4)] == alone[0]


def test_each_rank_gets_its_own_rows_of_a_result_whatever_holds_them() -> None:
    order = torch.tensor([3, 5, 8])
    part = Batch({"mask": torch.ones(2, 1).bool()}, torch.tensor([8, 3]))
    found = _rows_of({"value": torch.tensor([1.0, 2.0, 3.0]), "label": ["a", None, "c"], "alpha": 0.5}, order, part)
    assert found["value"].tolist() == [3.0, 1.0] and found["label"] == ["c", "a"] and found["alpha"] == 0.5
