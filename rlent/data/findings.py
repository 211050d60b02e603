"""What is found when the problems of a set are looked at before a run: nothing here changes them."""

from __future__ import annotations

from collections.abc import Iterable, Sized
from dataclasses import asdict, dataclass, field
from typing import Protocol

from rlent.data.overlap import agree, groups, key, overlap
from rlent.data.problems import Problems
from rlent.data.templates import encode_prompt
from rlent.types import Grader, JsonObject, Tokenizer

_SHOWN = 3


class Source(Protocol):
    """What is looked at: see `rlent.data.source.LoadedData`."""

    template: str
    grader: Grader | None
    decontaminate: bool

    @property
    def use(self) -> str: ...
    @property
    def duplicates(self) -> str: ...
    @property
    def long_prompts(self) -> str: ...
    @property
    def all(self) -> Problems: ...
    @property
    def separate(self) -> Problems | None: ...
    @property
    def held_out(self) -> Problems: ...
    @property
    def candidates(self) -> Problems: ...
    @property
    def tests(self) -> dict[str, frozenset[str]]: ...


@dataclass(frozen=True)
class Findings:
    """Counts and ids of one set."""

    name: str
    problems: int
    held_out: int
    bad_golds: dict[str, object] = field(default_factory=dict)
    """Problems whose gold is not an answer to itself: id to gold."""
    repeats: int = 0
    """Problems whose text an earlier problem has."""
    conflicts: list[list[str]] = field(default_factory=list)
    """Ids of problems with one text and different answers."""
    also_held_out: list[str] = field(default_factory=list)
    """Training problems that are also in the set's own test set; never trained on."""
    shared: dict[str, list[str]] = field(default_factory=dict)
    """Other training problems that are also in a test set: name of the set to ids."""
    too_long: list[str] = field(default_factory=list)
    max_prompt: int | None = None
    """Tokens; None: lengths were not counted."""
    left_out: dict[str, bool] = field(default_factory=dict)
    """Which of repeats, shared and too_long the settings leave out of training."""

    def lines(self) -> list[str]:
        """What a person should know, one sentence each; empty when there is nothing to say."""
        out = []
        if self.bad_golds:
            shown = _some(f"{i} ({str(gold)[:40]!r})" for i, gold in self.bad_golds.items())
            out.append(f"{_count(self.bad_golds, 'accepted answer')} the grader does not accept as an answer to itself: {shown}")
        if self.repeats:
            differ = f", {len(self.conflicts)} of them with another answer than before: {_some(map(' and '.join, self.conflicts))}"
            advice = self._done("repeats", "data.duplicates=drop leaves them out")
            out.append(f"{_count(range(self.repeats), 'repeated problem')}{differ if self.conflicts else ''}{advice}")
        if self.also_held_out:
            out.append(f"{_count(self.also_held_out, 'problem')} also held out: {_some(self.also_held_out)} (left out)")
        for test, ids in self.shared.items():
            advice = self._done("shared", "data.decontaminate=true leaves them out")
            out.append(f"{_count(ids, 'training problem')} also in the test set {test}: {_some(ids)}{advice}")
        if self.too_long:
            advice = self._done("too_long", "data.long_prompts=drop leaves them out")
            out.append(f"{_count(self.too_long, 'prompt')} of more than {self.max_prompt} tokens: {_some(self.too_long)}{advice}")
        return out

    def _done(self, what: str, advice: str) -> str:
        return " (left out)" if self.left_out.get(what) else f"; {advice}"

    def to_dict(self) -> JsonObject:
        return asdict(self)


def examine(source: Source, tokenizer: Tokenizer | None, limit: int | None) -> Findings:
    """Look at all problems of a source; see `Findings`. Lengths are counted only with a tokenizer and a limit (tokens)."""
    problems, separate = source.all, source.separate
    same = [group for group in groups(problems) if len(group) > 1]
    shared = overlap(source.candidates, source.tests) if source.use == "train" else {}
    return Findings(
        name=problems.name,
        problems=len(problems),
        held_out=len(source.held_out),
        bad_golds=_bad_golds(source.grader, problems) | ({} if separate is None else _bad_golds(source.grader, separate)),
        repeats=sum(len(group) - 1 for group in same),
        conflicts=[[p.id for p in group] for group in same if not agree(group)],
        also_held_out=[] if separate is None else _also_in(problems, separate),
        shared=shared,
        too_long=too_long(problems, tokenizer, source.template, limit) if tokenizer is not None and limit else [],
        max_prompt=None if tokenizer is None else limit,
        left_out={"repeats": source.duplicates == "drop", "shared": source.decontaminate, "too_long": source.long_prompts == "drop"},
    )


def _also_in(problems: Problems, others: Problems) -> list[str]:
    """Ids of the problems that are among others."""
    keys = {others.name: [key(p.prompt) for p in others]}
    return overlap(problems, keys).get(others.name, [])


def _bad_golds(grader: object, problems: Problems) -> dict[str, object]:
    if not hasattr(grader, "check_golds"):
        return {}
    bad = set(grader.check_golds(problems))
    return {p.id: p.gold for p in problems if p.id in bad}


def too_long(problems: Problems, tokenizer: Tokenizer, template: str, limit: int) -> list[str]:
    """Ids of problems whose rendered prompt has more than `limit` tokens.

    A token is at least one byte, so a text of fewer bytes than tokens that are left beside the template is not even cut into tokens.
    """
    if not len(problems):
        return []
    overhead = len(encode_prompt(tokenizer, problems[0], template)) + 8
    return [
        p.id
        for p in problems
        if len(p.prompt.encode("utf-8", "replace")) + overhead > limit and len(encode_prompt(tokenizer, p, template)) > limit
    ]


def _count(things: Sized, noun: str) -> str:
    return f"{len(things)} {noun}{'s' if len(things) != 1 else ''}"


def _some(texts: Iterable[str]) -> str:
    listed = list(texts)
    return ", ".join(listed[:_SHOWN]) + (f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else "")
