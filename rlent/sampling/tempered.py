"""A second, tempered rollout for some of the step's prompts: rows beside the group's own, in groups of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from rlent.engine.base import Engine
from rlent.math import noise
from rlent.options import Positive, Share
from rlent.ranks.world import merge
from rlent.sampling.group import GroupSampler, SamplerContext, Source, rollout_batch
from rlent.types import Batch, Problem, Verdict


@dataclass(kw_only=True, eq=False)
class TemperedSampler(GroupSampler):
    """`n` responses to each prompt, and `n` more at temperature `heat` for a share of them, whose `source` is `tempered`.

    The tempered rows of a prompt are a group of their own, numbered after the others. `heat` is a knob.
    """

    turnable: ClassVar = ("heat",)
    brings: ClassVar = ("tempered",)

    share: Share
    heat: Positive
    which: Literal["first", "random"]

    def __post_init__(self) -> None:
        if self.keep is not None:
            raise ValueError("a tempered rollout goes with keep=null: the filter would drop the prompts it was made for")

    def __call__(
        self, engine: Engine, data: Source, grade: Callable[[Sequence[str], Sequence[Problem]], list[Verdict]], context: SamplerContext
    ) -> Batch:
        """One step's rollouts, this rank's share, graded."""
        tap = _Tap(data)
        main = super().__call__(engine, tap, grade, context)
        count = int(len(tap.drawn) * self.share)
        order = (
            noise.permutation(len(tap.drawn), context.seed, context.step, "tempered") if self.which == "random" else range(len(tap.drawn))
        )
        chosen = [tap.drawn[i] for i in sorted(order[:count])]
        mine, start = list(context.world.share(chosen)), context.world.share(range(count))
        if not count:
            return main
        heated = replace(self.decoding, temperature=self.heat)
        answers = self.ask(engine, context, mine, self.rounds, entropy=True, decode=context.decode, decoding=heated)
        verdicts = grade(answers.text, [answers.problem(i) for i in range(len(answers))])
        first = len(tap.drawn) + (start[0] if len(start) else 0)
        more = rollout_batch(answers, verdicts, first_group=first, scalars=context.rows_are)
        more["source"] = ["tempered"] * len(more)
        context.note("sampler/heat", self.heat)
        return merge([main, more])


class _Tap:
    """A source of problems that remembers what was drawn."""

    def __init__(self, data: Source) -> None:
        self.data, self.drawn = data, list[Problem]()

    def draw(self, count: int) -> list[Problem]:
        self.drawn = self.data.draw(count)
        return self.drawn
