"""The options that every set of problems from a file or the hub has, and what they lead to: training and held-out problems.

Annotations are evaluated here (no `from __future__ import annotations`): a recipe's options are checked against the signature of a subclass
of another module, where names in a text could not be looked up.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from rlent.data.fields import AUTO, Field
from rlent.data.findings import Findings, examine
from rlent.data.load import load_file
from rlent.data.overlap import benchmarks, drop_duplicates, key, without
from rlent.data.problems import Problems
from rlent.data.templates import TEMPLATES
from rlent.errors import DataError
from rlent.math import noise
from rlent.options import Count, PositiveCount
from rlent.types import Grader, Tokenizer

_HELD_OUT_SHARE = 10

Duplicates = Literal["keep", "drop"]
Use = Literal["train", "evaluate"]


def split_off(problems: Problems, size: int, seed: int) -> Problems:
    """`size` problems, chosen by the seed, to hold out: at most a tenth of them, and at least one if there are two and one is wanted."""
    size = min(size, max(len(problems) // _HELD_OUT_SHARE, int(len(problems) > 1)))
    chosen = sorted(noise.permutation(len(problems), seed, "held_out")[:size])
    return Problems((problems[i] for i in chosen), name=f"{problems.name}/held_out")


def for_template(template: str, grader: Any) -> Any:
    """The grader, with the policy for responses to a template (whether its prompts end inside `<think>`)."""
    policy = getattr(grader, "policy", None)
    if policy is not None and template in TEMPLATES:
        grader.policy = policy.for_template(TEMPLATES[template].opens_thinking)
    return grader


@dataclass(kw_only=True, eq=False, repr=False)
class LoadedData:
    """Training problems, and problems held out: a set of their own, some of the training problems, or (`use: evaluate`) all.

    Options are described in `recipes/data/file.yaml`.
    """

    path: str | None = None
    use: Use = "train"
    held_out_path: str | None = None
    held_out_size: Count = 64
    prompt_field: Field = AUTO
    answer_field: Field = AUTO
    id_field: Field = AUTO
    limit: PositiveCount | None = None
    duplicates: Duplicates = "keep"
    decontaminate: bool = False
    against: Sequence[str] = ()
    max_prompt: PositiveCount | None = None
    long_prompts: Duplicates = "keep"
    bad_golds: Literal["report", "stop"] = "report"
    seed: int = 0
    template: str = "none"
    grader: Grader | None = None

    def __post_init__(self) -> None:
        self.grader = for_template(self.template, self.grader)
        self._too_long: frozenset[str] = frozenset()

    def _load(self) -> Problems:
        """The rows of the file or data set."""
        raise NotImplementedError

    def _load_held_out(self) -> Problems | None:
        """The rows of a test set of its own; None where there is none."""
        return self._from_file(self.held_out_path, None) if self.held_out_path else None

    def _from_file(self, path: str, limit: int | None) -> Problems:
        return load_file(path, prompt_field=self.prompt_field, answer_field=self.answer_field, id_field=self.id_field, limit=limit)

    def _check_rows(self) -> None:
        """Read what can be wrong: the problems to train on, or those to evaluate."""
        _ = self.held_out if self.use == "evaluate" else self.train

    @cached_property
    def all(self) -> Problems:
        """The rows as they are in the file or data set."""
        return self._load()

    @cached_property
    def _unique(self) -> Problems:
        return drop_duplicates(self.all) if self.duplicates == "drop" else self.all

    @cached_property
    def separate(self) -> Problems | None:
        """The test set of its own, if there is one."""
        return self._load_held_out() if self.use == "train" else None

    @cached_property
    def held_out(self) -> Problems:
        if self.use == "evaluate":
            return self.all
        return split_off(self._unique, self.held_out_size, self.seed) if self.separate is None else self.separate

    @cached_property
    def tests(self) -> dict[str, frozenset[str]]:
        """Keys of the sets that training problems are compared with: the usual benchmarks and the files of `against`."""
        own = {Path(file).name: frozenset(key(p.prompt) for p in load_file(file)) for file in self.against}
        return {**benchmarks(), **own}

    @cached_property
    def candidates(self) -> Problems:
        """Training problems before test problems are taken out: without duplicates (if they are dropped) and without what is held out."""
        if self.use == "evaluate":
            raise DataError(
                f"{self.all.name} is an evaluation set (data.use=evaluate), and no recipe trains on it; choose a training set with data=..., "
                "or say data.use=train"
            )
        return without(self._unique, (key(p.prompt) for p in self.held_out))

    @cached_property
    def train(self) -> Problems:
        """Without the problems that are also held out, and without what `decontaminate` and `long_prompts` leave out.

        Raises:
            DataError: an evaluation set, or nothing is left.
        """
        left = self.candidates
        if not len(left):
            raise DataError(f"{left.name}: every problem is also held out, so none is left to train on")
        if self.decontaminate:
            left = without(left, (k for keys in self.tests.values() for k in keys))
        if self.long_prompts == "drop" and self._too_long:
            left = Problems((p for p in left if p.id not in self._too_long), name=left.name)
        if not len(left):
            raise DataError(f"{left.name}: data.decontaminate and data.long_prompts leave no problem to train on")
        return left

    def examine(self, tokenizer: Tokenizer | None = None, room: int | None = None) -> Findings:
        """Look at every problem once: golds against themselves, duplicates, overlap with test sets, and prompts of more than
        `data.max_prompt` (or else `room`) tokens.
        """
        return examine(self, tokenizer, self.max_prompt or room)

    def settle(self, found: Findings) -> None:
        """Do what the settings say about findings: `long_prompts=drop` leaves prompts out of `train` from now on.

        Raises:
            DataError: `bad_golds` is `stop` and a gold is not an answer to itself.
        """
        if found.bad_golds and self.bad_golds == "stop":
            raise DataError("\n  ".join([f"{found.name}: data.bad_golds=stop, and", *found.lines()[:1]]))
        self._too_long = frozenset(found.too_long)
        self.__dict__.pop("train", None)
