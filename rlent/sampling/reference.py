"""Responses of a frozen model beside the policy's: what they earn is a stream, and they are not trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from rlent.engine.base import Engine, Weights
from rlent.errors import UsageError
from rlent.sampling.group import Desk, GroupSampler, Source, rollout_batch
from rlent.types import Batch, Problem, Verdict


class ModelDesk(Desk, Protocol):
    """A desk that also lends the run's frozen models, by name."""

    models: Mapping[str, Weights]


@dataclass(kw_only=True, eq=False)
class ReferenceSampler(GroupSampler):
    """`n` responses of the policy to each prompt, and `n` of the named model `model`, graded and rewarded alike.

    The stream `<model>_reward` [N] pairs the policy's sample i with the model's sample i. Rewards that read the policy's
    log-probabilities or entropies cannot be used: they would be of another model.
    """

    faithful: ClassVar = True

    model: str

    def __call__(
        self, engine: Engine, data: Source, grade: Callable[[Sequence[str], Sequence[Problem]], list[Verdict]], desk: Any
    ) -> Batch:
        """One step's rollouts of the policy, this rank's share, graded, with the model's rewards.

        Raises:
            UsageError: the run has no such model.
        """
        if self.model not in desk.models:
            raise UsageError(
                f"sampler.model is '{self.model}', and the recipe has no such model that a function reads; "
                f"models: {', '.join(desk.models) or 'none'} (models.{self.model}: {{path: ...}}, and an advantage that reads {self.model}_reward)"
            )
        batch = super().__call__(engine, data, grade, desk)
        order = sorted(range(len(batch)), key=lambda i: (int(batch["group"][i]), int(batch["sample"][i])))
        problems = [problem_of(batch, i) for i in order[:: self.n]]
        with engine.serving(desk.models[self.model]):
            answers = self.ask(engine, desk, problems, self.rounds)
        verdicts = grade(answers.text, [answers.problem(i) for i in range(len(answers))])
        theirs = rollout_batch(answers, verdicts, first_group=0, scalars=desk.rows_are)
        theirs.row = batch.row[order]
        theirs["group"], theirs["source"] = batch["group"][order], ["reference"] * len(theirs)
        earned = desk.reward(theirs)["reward"]
        paired = earned.new_zeros(len(batch))
        paired[order] = earned
        batch[f"{self.model}_reward"] = paired
        total = [x for share in desk.world.all_gather(earned.tolist()) for x in share]
        desk.note(f"sampler/{self.model}_reward", sum(total) / max(len(total), 1))
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
