"""Demonstrations beside the policy's responses: rows that come from the data, in the group of their prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from rlent.data import demonstrations
from rlent.data.problems import Problems
from rlent.data.templates import TEMPLATES, render
from rlent.engine.base import Engine
from rlent.errors import ModelError
from rlent.options import PositiveCount
from rlent.ranks.world import merge
from rlent.sampling.draw import Responses, until
from rlent.sampling.group import GroupSampler, SamplerContext, Source, blank, rollout_batch
from rlent.sampling.reference import problem_of
from rlent.types import Batch, Problem, Rollouts, Stream, Verdict

THINK = "<think>"


@dataclass(kw_only=True, eq=False)
class DemonstrationSampler(GroupSampler):
    """`n` responses to each prompt and, in the same group, up to `most` of the demonstrations that come with it.

    A demonstration is graded and rewarded as the others are, so the group's statistics are those of the augmented group. Its row has
    `source` demo, `own` True and `own_logp` 0: whoever wrote it did so with probability 1, and a ratio to that is the policy's own
    probability. Functions see these rows like any others; metrics leave them out, but for those called `demo/*`.

    Left out and counted: one of more than `max_tokens` tokens (`demo/long`), and one that the grader refuses (`demo/refused`; with
    `refused: keep` it stays, as a wrong response). `demo/missing` counts prompts without any.
    """

    brings: ClassVar = ("demo",)

    field: str
    most: PositiveCount
    missing: Literal["stop", "skip"]
    refused: Literal["drop", "keep"]

    def check_problems(self, problems: Problems) -> None:
        """Refuse training problems without demonstrations, before anything is loaded.

        Raises:
            DataError: see `rlent.data.demonstrations.check`.
        """
        demonstrations.check(problems, self.field, all_of_them=self.missing == "stop")

    def __call__(
        self, engine: Engine, data: Source, grade: Callable[[Sequence[str], Sequence[Problem]], list[Verdict]], context: SamplerContext
    ) -> Batch:
        """One step's rollouts, this rank's share, graded, and the demonstrations of their prompts."""
        batch = super().__call__(engine, data, grade, context)
        batch = batch.with_(own=torch.zeros(len(batch), dtype=torch.bool), own_logp=torch.zeros_like(batch["sampler_logp"]))
        last = max(g for share in context.world.all_gather(batch["group"].tolist()) for g in share)
        places: list[int] = []  # row of the batch whose prompt is answered, one for each demonstration
        texts: list[str] = []
        missing = 0
        for group in batch["group"].unique().tolist():
            place = int((batch["group"] == group).nonzero()[0, 0])
            problem = problem_of(batch, place)
            found = demonstrations.demonstrations(problem, self.field)[: self.most]
            opened = render(context.template, problem, context.tokenizer).rstrip().endswith(THINK)
            texts += [_after(THINK, text) if opened else text for text in found]
            places += [place] * len(found)
            missing += not found
        tokens = [self._encode(text, context) for text in texts]
        short = [i for i, ids in enumerate(tokens) if len(ids) <= self.max_tokens]
        responses = [until(texts[i], TEMPLATES[context.template].stop) for i in short]
        verdicts = grade(responses, [problem_of(batch, places[i]) for i in short]) if short else []
        taken = [j for j, verdict in enumerate(verdicts) if verdict.correct or self.refused == "keep"]
        counts = context.world.sums([len(taken), missing, len(tokens) - len(short), len(short) - len(taken)])
        for name, count in zip(("count", "missing", "long", "refused"), counts, strict=True):
            context.note(f"demo/{name}", count)
        if not taken:
            return batch
        at = [places[short[j]] for j in taken]
        rows = self._rows(
            batch, at, [tokens[short[j]] for j in taken], [responses[j] for j in taken], [verdicts[j] for j in taken], context
        )
        number = rows["sample"] - self.n
        rows.row = (last + 1) * self.n + rows["group"] * self.most + number
        return merge([batch, rows])

    @staticmethod
    def _encode(text: str, context: SamplerContext) -> list[int]:
        """The text as the policy would write it, with the token that ends a response.

        Raises:
            ModelError: the tokenizer has no such token.
        """
        end = context.tokenizer.eos_token_id if context.tokenizer.eos_token_id in context.stop else min(context.stop, default=None)
        if end is None:
            raise ModelError("sampler=demonstrations: the tokenizer has no end-of-text token, with which a demonstration would have to end")
        return [*context.tokenizer.encode(text, add_special_tokens=False), end]

    def _rows(
        self,
        batch: Batch,
        at: Sequence[int],
        tokens: list[list[int]],
        texts: list[str],
        verdicts: Sequence[Verdict],
        context: SamplerContext,
    ) -> Batch:
        """Demonstrations as rows with the streams of `batch`, each in the group of row `at` of it, numbered after the policy's."""
        count = len(at)
        rollouts = Rollouts(tokens, [[0.0] * len(ids) for ids in tokens], ["stop"] * count)
        prompts = [batch["prompt_ids"][i] for i in at]
        answers = Responses([problem_of(batch, i) for i in at], 1, prompts, rollouts, texts)
        rows = rollout_batch(answers, verdicts, first_group=0, scalars=context.rows_are)
        streams: dict[str, Stream] = {name: blank(value, count, rows.width) for name, value in batch.streams.items() if name not in rows}
        number = [at[:i].count(place) for i, place in enumerate(at)]
        streams |= {
            "group": batch["group"][list(at)],
            "problem_key": batch["problem_key"][list(at)],
            "sample": self.n + torch.tensor(number),
            "source": ["demo"] * count,
            "own": torch.ones(count, dtype=torch.bool),
        }
        return rows.with_(**streams)


def _after(opening: str, text: str) -> str:
    """The text without an opening that the prompt has written already."""
    return text.lstrip().removeprefix(opening) if text.lstrip().startswith(opening) else text
