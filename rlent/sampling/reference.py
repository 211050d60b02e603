"""Responses of a frozen model beside the policy's: what they earn is a stream, and they are not trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from rlent.engine.base import Engine
from rlent.errors import UsageError
from rlent.sampling.group import GroupSampler, SamplerContext, Source, rollout_batch
from rlent.types import Batch, Problem, Verdict


@dataclass(kw_only=True, eq=False)
class ReferenceSampler(GroupSampler):
    """`n` responses of the policy to each prompt, and `n` of the named model `model`, graded and rewarded alike.

    The stream `<model>_reward` [N] pairs the policy's sample i with the model's sample i. Rewards that read the policy's
    log-probabilities or entropies cannot be used: they would be of another model.
    """

    faithful: ClassVar = True

    model: str

    def __call__(
        self, engine: Engine, data: Source, grade: Callable[[Sequence[str], Sequence[Problem]], list[Verdict]], context: SamplerContext
    ) -> Batch:
        """One step's rollouts of the policy, this rank's share, graded, with the model's rewards.

        Raises:
            UsageError: the run has no such model.
        """
        if self.model not in context.models:
            raise UsageError(
                f"sampler.model is '{self.model}', and the recipe has no such model that a function reads; "
                f"models: {', '.join(context.models) or 'none'} (models.{self.model}: {{path: ...}}, and an advantage that reads {self.model}_reward)"
            )
        batch = super().__call__(engine, data, grade, context)
        order = sorted(range(len(batch)), key=lambda i: (int(batch["group"][i]), int(batch["sample"][i])))
        problems = [problem_of(batch, i) for i in order[:: self.n]]
        with engine.serving(context.models[self.model]):
            answers = self.ask(engine, context, problems, self.rounds)
        verdicts = grade(answers.text, [answers.problem(i) for i in range(len(answers))])
        theirs = rollout_batch(answers, verdicts, first_group=0, scalars=context.rows_are)
        theirs.row = batch.row[order]
        theirs["group"], theirs["source"] = batch["group"][order], ["reference"] * len(theirs)
        earned = context.reward(theirs)["reward"]
        paired = earned.new_zeros(len(batch))
        paired[order] = earned
        batch[f"{self.model}_reward"] = paired
        total = [x for share in context.world.all_gather(earned.tolist()) for x in share]
        context.note(f"sampler/{self.model}_reward", sum(total) / max(len(total), 1))
        return batch


def problem_of(batch: Batch, row: int) -> Problem:
    """The problem a row answers. Its id is the row's key, so draws do not depend on what the data calls it."""
    return Problem(
        id=str(int(batch["problem_key"][row])),
        prompt=batch["prompt"][row],
        gold=batch["gold"][row],
        meta=batch["meta"][row],
        source=batch["data_source"][row],
    )
