"""The order of training: epochs are permutations, and the cursor is all a resumed run needs."""

from __future__ import annotations

import pytest

from rlent.data.problems import Problems, draw
from rlent.errors import DataError
from rlent.types import Problem


def some(n: int) -> Problems:
    return Problems((Problem(str(i), f"p{i}", str(i)) for i in range(n)), name="some")


def test_each_epoch_holds_every_problem_once_in_its_own_order():
    problems = some(10)
    drawn, cursor = draw(problems, 20, seed=0, cursor=0)
    first, second = [p.id for p in drawn[:10]], [p.id for p in drawn[10:]]
    assert cursor == 20
    assert sorted(first) == sorted(second) == sorted(p.id for p in problems)
    assert first != second


def test_draws_do_not_depend_on_how_they_are_cut():
    problems = some(7)
    whole, _ = draw(problems, 18, seed=5, cursor=0)
    cut, cursor = [], 0
    for count in (4, 1, 8, 5):  # crosses the ends of epochs at 7 and 14
        more, cursor = draw(problems, count, seed=5, cursor=cursor)
        cut += more
    assert cut == whole
    assert cursor == 18


def test_seeds_give_other_orders():
    assert draw(some(30), 30, seed=0, cursor=0)[0] != draw(some(30), 30, seed=1, cursor=0)[0]


def test_nothing_to_draw_from_is_an_error():
    with pytest.raises(DataError, match="empty: no problems"):
        draw(Problems([], name="empty"), 1, seed=0, cursor=0)


def test_fingerprint_follows_contents_and_order_but_not_the_name():
    base = [Problem("a", "1+1", "2", {"level": 1}), Problem("b", "2+2", "4")]
    print_ = Problems(base, name="x").fingerprint()
    assert Problems(base, name="y").fingerprint() == print_
    assert Problems(base[::-1], name="x").fingerprint() != print_
    for changed in (
        Problem("a", "1+1", "3", {"level": 1}),
        Problem("a", "1+1", "2", {"level": 2}),
        Problem("a", "1+1 ", "2", {"level": 1}),
    ):
        assert Problems([changed, base[1]], name="x").fingerprint() != print_


def test_a_slice_is_again_problems():
    part = some(10)[2:4]
    assert isinstance(part, Problems)
    assert [p.id for p in part] == ["2", "3"]
    assert part.name == "some"
