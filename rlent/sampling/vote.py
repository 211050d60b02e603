"""More responses than are trained on: all of them are graded and seen by rewards, the first of each prompt get a loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated

from rlent.engine.base import Engine
from rlent.mount import Node
from rlent.options import Count, Positive, PositiveCount, Range
from rlent.sampling.group import Desk, GroupSampler, Source
from rlent.types import Batch, Problem, Verdict


class VoteSampler(GroupSampler):
    """`n` responses to each prompt, of which the first `trained` (or all) are trained on; group statistics of the advantage are theirs."""

    def __init__(
        self,
        *,
        prompts: PositiveCount,
        n: PositiveCount,
        trained: PositiveCount,
        temperature: Positive,
        top_p: Annotated[float, Range(0.0, 1.0, low_open=True)],
        top_k: Count,
        max_tokens: PositiveCount,
        keep: Node | None,
        rounds: PositiveCount,
    ) -> None:
        super().__init__(
            prompts=prompts, n=n, temperature=temperature, top_p=top_p, top_k=top_k, max_tokens=max_tokens, keep=keep, rounds=rounds
        )
        self.trained = trained

    def __call__(
        self, engine: Engine, data: Source, grade: Callable[[Sequence[str], Sequence[Problem]], list[Verdict]], desk: Desk
    ) -> Batch:
        """One step's rollouts, this rank's share, graded."""
        batch = super().__call__(engine, data, grade, desk)
        return batch.with_(train=batch["sample"] < self.trained)
