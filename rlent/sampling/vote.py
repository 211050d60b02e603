"""More responses than are trained on: all of them are graded and seen by rewards, the first of each prompt get a loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from rlent.engine.base import Engine
from rlent.options import PositiveCount
from rlent.sampling.group import GroupSampler, SamplerContext, Source
from rlent.types import Batch, Problem, Verdict


@dataclass(kw_only=True, eq=False)
class VoteSampler(GroupSampler):
    """`n` responses to each prompt, of which the first `trained` (or all) are trained on; group statistics of the advantage are theirs."""

    faithful: ClassVar = True

    trained: PositiveCount

    def __call__(
        self, engine: Engine, data: Source, grade: Callable[[Sequence[str], Sequence[Problem]], list[Verdict]], context: SamplerContext
    ) -> Batch:
        """One step's rollouts, this rank's share, graded."""
        batch = super().__call__(engine, data, grade, context)
        return batch.with_(train=batch["sample"] < self.trained)
