"""The group sampler: P prompts, G responses each, with an optional filter over groups and refill."""

# Without `from __future__ import annotations`: the options of a sampler that builds on this one are checked by these types.

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from rlent.engine.base import Engine, Weights
from rlent.errors import StarvedSampler
from rlent.options import Count, Positive, PositiveCount, PositiveShare
from rlent.ranks.world import World, merge
from rlent.recipe.mount import Node
from rlent.sampling.draw import Decoding, Responses, problem_key, respond
from rlent.types import Batch, Problem, Rollouts, Stream, Tokenizer, Verdict


class Source(Protocol):
    """Where problems come from: `draw` moves a cursor that is all a resumed run needs."""

    def draw(self, count: int) -> list[Problem]: ...


@dataclass(frozen=True, kw_only=True)
class SamplerContext:
    """What a run lends its sampler for one step: tokenizer, template, counters, ranks, and rewards for the filter.

    `rows_are` are plain numbers that every batch carries; `note` adds a number to the step's metrics; `ended`, if not None, takes responses with
    their problems as they end, so that they are graded while others are sampled.
    """

    tokenizer: Tokenizer
    template: str
    stop: frozenset[int]
    seed: int
    step: int
    world: World
    rows_are: Mapping[str, float]
    reward: Callable[[Batch], Batch]
    note: Callable[[str, float], None]
    decode: Sequence[Node] = ()
    models: Mapping[str, Weights] = field(default_factory=dict)
    ended: Callable[[str, Problem], None] | None = None


@dataclass(kw_only=True, eq=False)
class GroupSampler:
    """Draw prompts, generate `n` responses to each, grade them, and keep the groups the filter keeps.

    With `keep`, rounds of prompts are drawn until `prompts` groups are kept; surplus groups are dropped, never carried
    over, so that a resumed run needs only the data cursor (DAPO, arXiv:2503.14476, section 3.2).

    Its fields are its options. A sampler that builds on it is a dataclass of keywords, too, and has these options beside its own.

    `faithful` says that every row is drawn from the policy as it is, at `temperature`, so that `sampler_logp` and `sampler_entropy`
    are the policy's (`trainer.old_logprobs=rollout`). It is not inherited. `brings` names the sources of the rows that it adds to the policy's.
    """

    faithful: ClassVar = True
    brings: ClassVar[tuple[str, ...]] = ()

    prompts: PositiveCount
    n: PositiveCount
    temperature: Positive
    top_p: PositiveShare
    top_k: Count
    max_tokens: PositiveCount
    keep: Node | None
    rounds: PositiveCount

    @property
    def decoding(self) -> Decoding:
        return Decoding(temperature=self.temperature, top_p=self.top_p, top_k=self.top_k, max_tokens=self.max_tokens)

    def respond(self, engine: Engine, tokenizer: Tokenizer, problems: Sequence[Problem], **how: Any) -> Responses:
        """Responses to given problems, as this sampler draws them; evaluation calls this too."""
        return respond(engine, tokenizer, problems, **{"decoding": self.decoding, **how})

    def ask(self, engine: Engine, context: SamplerContext, problems: Sequence[Problem], round_index: int, **how: Any) -> Responses:
        """`n` responses to each of this rank's problems, with the draws of a round of the step; `rounds` is the number of no round."""
        key = (context.seed, context.step, round_index)
        if context.ended is not None:
            how["ended"] = context.ended
        return self.respond(engine, context.tokenizer, problems, n=self.n, key=key, template=context.template, stop=context.stop, **how)

    def __call__(
        self, engine: Engine, data: Source, grade: Callable[[Sequence[str], Sequence[Problem]], list[Verdict]], context: SamplerContext
    ) -> Batch:
        """One step's rollouts, this rank's share, graded.

        Raises:
            StarvedSampler: the filter kept fewer than `prompts` groups within `rounds` rounds.
        """
        kept: list[Batch] = []
        everything: list[tuple[float, int, int]] = []  # nll, tokens and correctness of each response, discarded groups too
        told: list[tuple[str, float, int]] = []  # name, sum and count of what the decode functions said
        groups = drawn = 0
        for round_index in range(self.rounds if self.keep else 1):
            problems = data.draw(self.prompts)
            mine = list(context.world.share(problems))
            start = context.world.share(range(len(problems)))
            answers = self.ask(engine, context, mine, round_index, entropy=True, decode=context.decode)
            told += totals(answers.rollouts)
            verdicts = grade(answers.text, [answers.problem(i) for i in range(len(answers))])
            batch = rollout_batch(answers, verdicts, first_group=drawn + (start[0] if len(start) else 0), scalars=context.rows_are)
            nll = -batch["sampler_logp"].double().sum(1)
            everything += list(zip(nll.tolist(), batch["length"].tolist(), batch["correct"].int().tolist(), strict=True))
            flags = self._flags(batch, context)
            everyone = [flag for share in context.world.all_gather(flags) for flag in share]
            room = self.prompts - groups
            chosen = [drawn + i for i, flag in enumerate(everyone) if flag][:room]
            drawn += len(everyone)
            groups += len(chosen)
            picked = torch.isin(batch["group"], torch.tensor(chosen, dtype=torch.long)).nonzero()[:, 0]
            kept.append(batch.select(picked) if len(picked) < len(batch) else batch)
            if groups == self.prompts:
                break
        if groups < self.prompts:
            raise StarvedSampler(
                f"step {context.step}: the filter kept {groups} of {drawn} groups ({groups / max(drawn, 1):.1%}) in {self.rounds} rounds, and "
                f"{self.prompts} are needed; raise sampler.rounds, loosen sampler.keep, or use easier or more varied problems"
            )
        for name, value in _told(context.world.all_gather(told)).items():
            context.note(f"decode/{name}", value)
        rows = [row for share in context.world.all_gather(everything) for row in share]
        context.note("sampler/kept", groups / drawn)
        context.note("sampler/rounds", round_index + 1)
        context.note("sampler/nll", math.fsum(r[0] for r in rows) / max(sum(r[1] for r in rows), 1))
        context.note("sampler/correct", sum(r[2] for r in rows) / max(len(rows), 1))
        return merge(kept) if len(kept) > 1 else kept[0]

    def _flags(self, batch: Batch, context: SamplerContext) -> list[bool]:
        """One flag for each of this rank's groups, in the order drawn."""
        count = len(batch) // self.n
        if self.keep is None:
            return [True] * count
        if count == 0:
            return []
        local = batch.with_(group=batch["group"] - batch["group"].min())
        if "reward" in self.keep.reads:
            local = context.reward(local)
        return [bool(flag) for flag in torch.as_tensor(self.keep(local.streams)).tolist()]


def rollout_batch(answers: Responses, verdicts: Sequence[Verdict], *, first_group: int, scalars: Mapping[str, float]) -> Batch:
    """Responses and verdicts as streams, right-padded; row i belongs to group `first_group + i // n`."""
    rollouts, rows = answers.rollouts, len(answers)
    lengths = torch.tensor([len(t) for t in rollouts.tokens], dtype=torch.long)
    width = max(int(lengths.max()) if rows else 1, 1)
    mask = torch.arange(width) < lengths[:, None]
    problems = [answers.problem(i) for i in range(rows)]
    streams: dict[str, Stream] = {
        "mask": mask,
        "tokens": _pad(rollouts.tokens, width, torch.long),
        "sampler_logp": _pad(rollouts.sampler_logp, width, torch.float32),
        "length": lengths,
        "group": first_group + torch.arange(rows) // answers.n,
        "sample": torch.arange(rows) % answers.n,
        "turn": torch.zeros(rows, dtype=torch.long),
        "problem_key": torch.tensor([problem_key(p) for p in answers.problems], dtype=torch.long).repeat_interleave(answers.n),
        "correct": torch.tensor([v.correct for v in verdicts], dtype=torch.bool),
        "train": torch.ones(rows, dtype=torch.bool),
        "answer": [v.answer for v in verdicts],
        "status": [v.status for v in verdicts],
        "gold": [p.gold for p in problems],
        "prompt": [p.prompt for p in problems],
        "meta": [p.meta for p in problems],
        "data_source": [p.source for p in problems],
        "source": ["policy"] * rows,
        "response": list(answers.text),
        "finish": list(rollouts.finish),
        "prompt_ids": answers.prompt_ids,
        **scalars,
    }
    if rollouts.sampler_entropy is not None:
        streams["sampler_entropy"] = _pad(rollouts.sampler_entropy, width, torch.float32)
    for name, told in rollouts.notes.items():
        if not any(isinstance(value, list) for row in told for value in row):  # one number for each token
            streams[name] = _pad(told, width, torch.float32)
    for name, each in rollouts.counts.items():
        if all(isinstance(value, int | float) for value in each):
            streams[name] = torch.tensor(each, dtype=torch.float32)
    return Batch(streams, first_group * answers.n + torch.arange(rows))


def blank(value: Stream, rows: int, width: int) -> Stream:
    """A stream like `value` for `rows` rows of `width` positions that have nothing to say in it; plain numbers as they are."""
    if isinstance(value, Tensor) and value.ndim:
        return value.new_zeros((rows, width) if value.ndim > 1 else rows)
    return [None] * rows if isinstance(value, list) else value


def totals(rollouts: Rollouts) -> list[tuple[str, float, int]]:
    """Name, sum and count of every number that decode functions said of tokens or of rows."""
    flat = {name: [v for row in told for v in row] for name, told in rollouts.notes.items()} | rollouts.counts
    return [(name, math.fsum(each), len(each)) for name, each in flat.items() if all(isinstance(v, int | float) for v in each)]


def _told(shares: Sequence[Sequence[tuple[str, float, int]]]) -> dict[str, float]:
    """Means by name over ranks and rounds."""
    found: dict[str, list[tuple[float, int]]] = {}
    for share in shares:
        for name, total, count in share:
            found.setdefault(name, []).append((total, count))
    return {name: math.fsum(t for t, _ in parts) / max(sum(c for _, c in parts), 1) for name, parts in found.items()}


def _pad(rows: Sequence[Sequence[float]], width: int, dtype: torch.dtype) -> Tensor:
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.long)
    out = torch.zeros((len(rows), width), dtype=dtype)
    out[torch.arange(width) < lengths[:, None]] = torch.tensor([value for row in rows for value in row], dtype=dtype)
    return out
