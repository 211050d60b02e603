"""The countdown task: every problem has an answer, and no held-out problem can reach training."""

from __future__ import annotations

from fractions import Fraction
from itertools import permutations

import pytest
import torch

from rlent.data.countdown import HELD_OUT_SHARE, CountdownData, combine_at_random, countdown_problems, held_out, prompt_text
from rlent.errors import DataError
from rlent.types import Problem


def canonical(problem: Problem) -> tuple[tuple[int, ...], int]:
    return tuple(sorted(problem.meta["numbers"])), problem.meta["target"]


def reachable(numbers: list[Fraction]) -> set[Fraction]:
    """Every value of an expression that uses all the numbers, by trying all of them."""
    if len(numbers) == 1:
        return set(numbers)
    found: set[Fraction] = set()
    for i, j in permutations(range(len(numbers)), 2):
        rest = [x for k, x in enumerate(numbers) if k not in (i, j)]
        a, b = numbers[i], numbers[j]
        for value in [a + b, a - b, a * b, *([a / b] if b else [])]:
            found |= reachable([value, *rest])
    return found


def test_every_problem_has_an_answer_and_says_so_in_its_fields():
    problems = countdown_problems(30, split="train")
    for problem in problems:
        numbers, target = problem.meta["numbers"], problem.meta["target"]
        assert problem.prompt == f"{','.join(map(str, numbers))}:{target}?"
        assert problem.gold == f"{target} from {','.join(map(str, numbers))}"
        assert 1 <= target <= 99
        assert len(numbers) in (3, 4)
        assert all(1 <= n <= 9 for n in numbers)
        assert Fraction(target) in reachable([Fraction(n) for n in numbers]), problem.prompt


def test_both_sizes_come_up_about_equally_often_among_the_candidates():
    sizes = [len(p.meta["numbers"]) for p in countdown_problems(400, split="train")]
    assert 0.3 < sizes.count(3) / len(sizes) < 0.7


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_held_out_problem_is_trained_on_in_any_order_of_its_numbers(seed):
    test = {canonical(p) for p in countdown_problems(300, split="held_out", seed=0)}
    train = {canonical(p) for p in countdown_problems(5000, split="train", seed=seed)}
    assert len(test) == 300
    assert not test & train


def test_the_split_ignores_order_and_empty_places_and_takes_a_tenth():
    numbers = torch.tensor([[3, 5, 2, 7], [7, 2, 3, 5], [5, 3, 7, 2]])
    assert len(set(held_out(numbers, torch.full((3,), 29)).tolist())) == 1
    three = torch.tensor([[4, 8, 6]])
    targets = torch.arange(1, 100)
    plain = held_out(three.expand(99, 3), targets)
    assert plain.equal(held_out(torch.cat([three, torch.zeros(1, 1, dtype=torch.int64)], 1).expand(99, 4), targets))
    share = held_out(torch.randint(1, 10, (20_000, 4), generator=torch.Generator().manual_seed(0)), torch.arange(20_000)).double().mean()
    assert abs(float(share) - HELD_OUT_SHARE) < 0.01


def test_combining_follows_the_draws():
    # the draws sort to: (6, 4) first, then that result with 2. Operators by quarter: - then /: (6 - 4) / 2 = 1
    numbers = torch.tensor([[2, 6, 4]])
    order = torch.tensor([[[0.9, 0.1, 0.2], [0.1, 0.2, 0.0]]])
    top, bottom = combine_at_random(numbers, order, torch.tensor([[0.3, 0.8]]))
    assert Fraction(int(top), int(bottom)) == 1
    # 2 / (4 - 4): the second draw puts the difference last
    top, bottom = combine_at_random(
        torch.tensor([[2, 4, 4]]), torch.tensor([[[0.9, 0.1, 0.2], [0.2, 0.1, 0.0]]]), torch.tensor([[0.3, 0.8]])
    )
    assert int(bottom) == 0


def test_prompts_are_different_from_each_other():
    prompts = [p.prompt for p in countdown_problems(3000, split="train")]
    assert len(set(prompts)) == 3000


def test_a_seed_is_a_data_set():
    one, same, other = (countdown_problems(50, split="train", seed=s) for s in (3, 3, 4))
    assert one.fingerprint() == same.fingerprint() != other.fingerprint()


def test_the_embedded_problems_do_not_change():
    """Changing them changes every published number; then this line changes too, and the changelog says so."""
    assert [p.prompt for p in CountdownData().held_out[:3]] == ["8,7,5,5:48?", "8,2,1:7?", "9,5,1:5?"]


def test_options_that_cannot_be_met_are_refused_by_name():
    with pytest.raises(DataError, match=r"found only .* different problems for train, 5000 were asked for"):
        _ = CountdownData(numbers=[2], largest=3, train_size=5000).train
    with pytest.raises(DataError, match=r"data.numbers: 9 is not a count of numbers from 2 to 6"):
        CountdownData(numbers=[3, 9]).check()
    with pytest.raises(DataError, match=r"data.largest: 1000"):
        CountdownData(largest=1000).check()
    with pytest.raises(DataError, match="no template 'dapo-box'; did you mean 'dapo-boxed'"):
        CountdownData(template="dapo-box").check()


def test_a_path_replaces_the_generated_problems(tmp_path):
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(f'{{"prompt": "{prompt_text([i, 2], i + 2)}", "answer": "{i + 2} from {i},2"}}\n' for i in range(1, 21)))
    data = CountdownData(path=str(file), held_out_size=5)
    data.check()
    assert len(data.held_out) == 2  # a tenth of twenty
    assert {p.prompt for p in data.train} | {p.prompt for p in data.held_out} == {prompt_text([i, 2], i + 2) for i in range(1, 21)}
