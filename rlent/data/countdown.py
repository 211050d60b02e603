"""Countdown: write an expression that uses each number exactly once and equals the target.

    3,5,2,7:29?   ->   (3*5)+(2*7); 5*5+4 also makes 29, but is no answer, because its numbers are not the given ones

Problems are generated from counters, in one vectorised pass: a candidate draws its numbers, combines them at random into
one value, and is kept if that value is a whole number within the allowed targets. So every problem has an answer, targets that
many expressions reach come up more often, and the problems of a seed are the same on every machine.

The held-out split is a property of the problem, not of the generator: a hash of (sorted numbers, target) decides, so no
seed, order of the numbers or size of the training set brings a held-out problem into training.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from fractions import Fraction
from functools import cached_property, lru_cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlent.data.files import FileData
from rlent.data.findings import Findings
from rlent.data.problems import Problems
from rlent.data.templates import check_template
from rlent.errors import DataError
from rlent.math import noise
from rlent.options import Count, PositiveCount
from rlent.types import Grader, Problem, Tokenizer

HELD_OUT_SHARE = 0.1
"""Share of all countdown problems that training never sees."""

MOST_NUMBERS = 6
_CANDIDATES_PER_PROBLEM = 4
_ROUNDS = 20


def prompt_text(numbers: Sequence[int], target: int) -> str:
    """`3,5,2,7:29?`"""
    return f"{','.join(map(str, numbers))}:{target}?"


def held_out(numbers: Int[Tensor, "B K"], target: Int[Tensor, " B"]) -> Bool[Tensor, " B"]:
    """Whether each problem is in the held-out split. The order of the numbers does not count, and 0 is an empty place."""
    ordered = torch.zeros(len(numbers), MOST_NUMBERS, dtype=torch.int64)
    ordered[:, : numbers.shape[1]] = numbers.sort(1, descending=True).values
    return noise.uniform("countdown/split", *ordered.unbind(1), target) < HELD_OUT_SHARE


def combine_at_random(
    numbers: Int[Tensor, "B K"], order: Float[Tensor, "B S K"], operator: Float[Tensor, "B S"]
) -> tuple[Int[Tensor, " B"], Int[Tensor, " B"]]:
    """Combine each row's numbers, two random values at a time, to one value by S = K - 1 random operations.

    `order` and `operator` are uniform draws. Returns numerator and denominator; a denominator of 0 is a division by zero.
    """
    top, bottom = numbers, torch.ones_like(numbers)
    for step in range(numbers.shape[1] - 1):
        shuffled = order[:, step, : top.shape[1]].argsort(1)
        top, bottom = top.gather(1, shuffled), bottom.gather(1, shuffled)
        (a, c), (b, d) = top[:, :2].unbind(1), bottom[:, :2].unbind(1)
        tops = torch.stack([a * d + c * b, a * d - c * b, a * c, a * d])  # a/b  + - * /  c/d
        bottoms = torch.stack([b * d, b * d, b * d, b * c])
        chosen = (operator[:, step] * len(tops)).long()[None]
        top = torch.cat([tops.gather(0, chosen).T, top[:, 2:]], 1)
        bottom = torch.cat([bottoms.gather(0, chosen).T, bottom[:, 2:]], 1)
    return top[:, 0], bottom[:, 0]


def candidates(
    first: int, count: int, *, seed: int, purpose: str, sizes: Sequence[int], largest: int, max_target: int
) -> tuple[Int[Tensor, "B K"], Int[Tensor, " B"]]:
    """Candidates `first ... first + count - 1` that came out with an answer: numbers [B, K] (0: no number) and targets [B]."""
    kept_numbers, kept_target, kept_index = [], [], []
    index = torch.arange(first, first + count)
    size = torch.tensor(list(sizes))[(noise.uniform("countdown", purpose, seed, "size", index) * len(sizes)).long()]
    for k in sorted(set(sizes)):
        rows = index[size == k]
        place = torch.arange(k)
        step = torch.arange(k - 1)
        numbers = 1 + (noise.uniform("countdown", purpose, seed, "number", rows[:, None], place) * largest).long()
        order = noise.uniform("countdown", purpose, seed, "order", rows[:, None, None], step[:, None], place)
        operator = noise.uniform("countdown", purpose, seed, "operator", rows[:, None], step)
        top, bottom = combine_at_random(numbers, order, operator)
        divisor = torch.where(bottom == 0, 1, bottom)
        target = torch.div(top, divisor, rounding_mode="trunc")
        good = (bottom != 0) & (target * divisor == top) & (target >= 1) & (target <= max_target)
        padded = torch.zeros(int(good.sum()), max(sizes), dtype=torch.int64)
        padded[:, :k] = numbers[good]
        kept_numbers.append(padded)
        kept_target.append(target[good])
        kept_index.append(rows[good])
    in_order = torch.cat(kept_index).argsort()
    return torch.cat(kept_numbers)[in_order], torch.cat(kept_target)[in_order]


def countdown_problems(
    count: int, *, split: str, seed: int = 0, sizes: Sequence[int] = (3, 4), largest: int = 9, max_target: int = 99
) -> Problems:
    """`count` different problems of a split, "train" or "held_out".

    Training problems differ in their prompts, held-out problems also in more than the order of the numbers.

    Raises:
        DataError: the options allow fewer than `count` problems.
    """
    want_held_out = split == "held_out"
    found: dict[tuple[tuple[int, ...], int], tuple[int, ...]] = {}
    batch = _CANDIDATES_PER_PROBLEM * count * (round(1 / HELD_OUT_SHARE) if want_held_out else 1)
    for round_ in range(_ROUNDS):
        numbers, target = candidates(round_ * batch, batch, seed=seed, purpose=split, sizes=sizes, largest=largest, max_target=max_target)
        mine = held_out(numbers, target) == want_held_out
        for row, goal in zip(numbers[mine].tolist(), target[mine].tolist(), strict=True):
            given = tuple(x for x in row if x)
            found.setdefault((tuple(sorted(given)) if want_held_out else given, goal), given)
            if len(found) == count:
                break
        if len(found) == count:
            break
    else:
        raise DataError(
            f"data.countdown: found only {len(found)} different problems for {split}, {count} were asked for; "
            "ask for fewer, or raise data.largest, data.max_target or data.numbers"
        )
    return Problems((_problem(given, goal) for (_, goal), given in found.items()), name=f"countdown/{split}")


def _problem(numbers: tuple[int, ...], target: int) -> Problem:
    prompt = prompt_text(numbers, target)
    given = prompt.partition(":")[0]
    meta = {"numbers": list(numbers), "target": target}
    return Problem(id=prompt, prompt=prompt, gold=f"{target} from {given}", meta=meta, source="countdown")


@lru_cache(maxsize=65_536)
def solution(numbers: tuple[int, ...], target: int) -> str | None:
    """An expression that uses each number once and equals the target, inner operations in parentheses; None if there is none.

    Every combination is tried, in an order drawn from the problem alone: the same problem has the same solution everywhere, and
    solutions of different problems do not begin alike.
    """
    order = random.Random(prompt_text(numbers, target))
    hopeless: set[tuple[Fraction, ...]] = set()

    def search(values: list[tuple[str, Fraction]]) -> str | None:
        if len(values) == 1:
            return values[0][0] if values[0][1] == target else None
        seen = tuple(sorted(v for _, v in values))
        if seen in hopeless:
            return None
        moves = [(i, j, op) for i in range(len(values)) for j in range(len(values)) if i != j for op in "+-*/"]
        order.shuffle(moves)
        for i, j, op in moves:
            (left, a), (right, b) = values[i], values[j]
            if op == "/" and b == 0:
                continue
            value = a + b if op == "+" else a - b if op == "-" else a * b if op == "*" else a / b
            rest = [v for k, v in enumerate(values) if k not in (i, j)]
            text = f"({left}{op}{right})" if rest else f"{left}{op}{right}"
            if found := search([*rest, (text, value)]):
                return found
        hopeless.add(seen)
        return None

    return search([(str(n), Fraction(n)) for n in numbers])


class CountdownData:
    """The embedded task: training problems and a fixed held-out split that training never meets.

    `path` reads a file instead (see `rlent.data.files.FileData`, with its fields found by name).
    """

    def __init__(
        self,
        *,
        path: str | None = None,
        numbers: list[int] | None = None,
        largest: PositiveCount = 9,
        max_target: PositiveCount = 99,
        train_size: PositiveCount = 10_000,
        held_out_size: Count = 64,
        seed: int = 0,
        template: str = "none",
        grader: Grader | None = None,
    ) -> None:
        self.sizes = tuple(numbers) if numbers else (3, 4)
        self.largest, self.max_target = largest, max_target
        self.train_size, self.held_out_size = train_size, held_out_size
        self.seed, self.template, self.grader = seed, template, grader
        self._file = FileData(path=path, template=template, held_out_size=held_out_size, grader=grader) if path else None

    def _make(self, split: str, count: int) -> Problems:
        return countdown_problems(count, split=split, seed=self.seed, sizes=self.sizes, largest=self.largest, max_target=self.max_target)

    @cached_property
    def train(self) -> Problems:
        return self._file.train if self._file else self._make("train", self.train_size)

    @cached_property
    def held_out(self) -> Problems:
        return self._file.held_out if self._file else self._make("held_out", self.held_out_size)

    def examine(self, tokenizer: Tokenizer | None = None, room: int | None = None) -> Findings | None:
        """What is found in the problems of a file; None for generated problems, which are all different and have no gold."""
        return self._file.examine(tokenizer, room) if self._file else None

    def settle(self, found: Findings) -> None:
        if self._file:
            self._file.settle(found)
            self.__dict__.pop("train", None)

    def check(self) -> None:
        """Refuse options that cannot be met, before anything is generated.

        Raises:
            DataError: names the option, the value and what is accepted.
        """
        check_template(self.template)
        if self._file:
            return self._file.check()
        bad = [k for k in self.sizes if isinstance(k, bool) or not isinstance(k, int) or not 2 <= k <= MOST_NUMBERS]
        if bad:
            raise DataError(f"data.numbers: {bad[0]!r} is not a count of numbers from 2 to {MOST_NUMBERS}")
        if self.largest > 100:
            raise DataError(f"data.largest: {self.largest} is more than 100, the largest number of a problem")
        return None
