"""The task of a run: its problems in their order, its grader, and the sets it is evaluated on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from rlent.data.findings import Findings
from rlent.data.problems import Problems, draw
from rlent.engine.base import Engine
from rlent.errors import DataError, RlentError
from rlent.eval.evaluate import evaluate
from rlent.eval.report import Report
from rlent.eval.suite import Ask, Bench, benches
from rlent.grading.early import EarlyGrader
from rlent.policy.policy import Policy
from rlent.ranks.world import World
from rlent.recipe.compose import Recipe, build
from rlent.recipe.mount import Node
from rlent.sampling.drive import evaluated
from rlent.sampling.group import GroupSampler
from rlent.types import Grader, JsonObject, Problem, Tokenizer, Verdict


class Feed:
    """Training problems in their order, with the cursor that a resumed run needs."""

    def __init__(self, problems: Problems, seed: int) -> None:
        self.problems, self.seed, self.cursor = problems, seed, 0

    def draw(self, count: int) -> list[Problem]:
        drawn, self.cursor = draw(self.problems, count, self.seed, self.cursor)
        return drawn


class Source(Protocol):
    """The recipe's data. It may also have `examine(tokenizer, longest)`, which looks at its rows, and `settle`, which acts on what was found."""

    train: Problems
    grader: Grader
    template: str


class Task:
    """What the policy is trained and evaluated on.

    `source` is the recipe's data, `feed` its training problems, `judge` grades, and `benches` are the held-out sets. What is wrong with the data is
    said before weights are loaded: make the task first, then `examine` it with the policy.
    """

    def __init__(self, recipe: Recipe, sampler: GroupSampler) -> None:
        self.recipe = recipe
        self.source: Source = build(recipe["data"])
        self.feed = Feed(self.source.train, int(recipe["seed"]))
        check = getattr(sampler, "check_problems", None)
        if check is not None:
            check(self.feed.problems)
        self.findings: Findings | None = None
        self.grader = self.source.grader
        self.judge = EarlyGrader(self.grader)
        self.benches: list[Bench] = []

    @property
    def template(self) -> str:
        """How a problem is put to the model."""
        return str(self.source.template)

    def examine(self, policy: Policy, world: World) -> None:
        """Look at the data with the policy's tokenizer, and at the sets of `eval.sets`.

        Raises:
            DataError: on every rank, where the settings say that what is found stops the run.
        """
        self.findings = _examine(self.source, policy, world)
        self.feed.problems = self.source.train
        settings = self.recipe["eval"]
        if settings["every"]:  # what is wrong with a set is said before the first step
            self.benches = benches(self.recipe, Ask(problems=settings["problems"]), made={repr(self.recipe["data"]): self.source})

    def grade(self, responses: Sequence[str], problems: Sequence[Problem]) -> list[Verdict]:
        """Verdicts, in order."""
        return self.judge(responses, problems)

    @property
    def ended(self) -> Callable[[str, Problem], None] | None:
        """Takes responses as they end, while others are sampled, so that they are graded meanwhile; None where that gains nothing."""
        return self.judge.tell

    def about(self) -> JsonObject:
        """Which training problems these are; a resumed run must have the same."""
        problems = self.source.train
        return {"name": problems.name, "problems": len(problems), "fingerprint": problems.fingerprint()}

    def evaluate(
        self, engine: Engine, tokenizer: Tokenizer, sampler: GroupSampler, stop: frozenset[int], decode: Sequence[Node], world: World
    ) -> dict[str, float]:
        """pass@k of the engine's weights on the held-out problems, or on each set of `eval.sets`."""
        settings = self.recipe["eval"]
        found = {
            bench.name: evaluate(
                engine,
                tokenizer,
                bench.problems,
                bench.grader,
                n=bench.n,
                ks=bench.ks,
                decoding=bench.decoding,
                seed=settings["seed"],
                template=bench.template,
                stop=stop,
                batch_rows=settings.get("batch_rows", 1024),
                respond=partial(sampler.respond, decode=evaluated(decode) if settings.get("decode", True) else ()),
                world=world,
            )
            for bench in self.benches
        }
        return Report("", found).metrics() if settings.get("sets") else next(iter(found.values())).metrics()

    def close(self) -> None:
        """End the graders' processes."""
        for grader in {id(g): g for g in (self.grader, *(b.grader for b in self.benches))}.values():
            if hasattr(grader, "close"):
                grader.close()


def _examine(source: Source, policy: Policy, world: World) -> Findings | None:
    """Findings about the data, by rank 0 for all; sources that cannot be examined (a user's own) are taken as they are.

    Raises:
        DataError: on every rank, where the settings say so.
    """
    if not hasattr(source, "examine"):
        return None
    found: Findings | None = None
    failure: str | None = None
    if world.leads:
        try:
            found = source.examine(policy.tokenizer, policy.limit - 1 if policy.limit else None)
        except RlentError as error:
            failure = str(error)
    failure, found = world.broadcast((failure, found))
    if failure:
        raise DataError(failure)
    if found is not None:
        source.settle(found)
    return found
