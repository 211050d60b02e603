"""What one step carries: its rows, what its updates did, its numbers and its seconds. One record, from sampling to metrics."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import Tensor

from rlent.ranks.world import merge
from rlent.runs.kept import Kept
from rlent.types import Batch, JsonObject, Stream


class Clock:
    """Seconds per stage of one step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def lap(self, stage: str) -> Iterator[None]:
        """Add the time of the block to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start


@dataclass(frozen=True, slots=True)
class Scalars:
    """Plain numbers that every batch of a step carries as streams."""

    step: int
    steps: int
    seed: int
    vocab: int
    max_tokens: int
    temperature: float

    def streams(self) -> dict[str, Stream]:
        """The numbers by stream name."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(slots=True)
class Minibatch:
    """The rows of one update on this rank, and how they are cut into parts (micro-batches: positions in `batch`)."""

    batch: Batch
    index: int
    parts: list[list[int]]

    @property
    def first(self) -> bool:
        """Whether the policy is still the one that started the step."""
        return self.index == 0

    def with_batch(self, batch: Batch) -> Minibatch:
        """The same update with other streams."""
        return Minibatch(batch, self.index, self.parts)


@dataclass(slots=True)
class WholeTerms:
    """Losses and regularizers over a whole minibatch, all ranks' rows.

    `gradients` d(term)/d(stream) [N,T], summed over the terms, by live stream; `values` of each term before its coefficient; `streams` what
    regularizers returned beside their value, as `<node>_<key>`; `effects` the tokens [N,T] whose gradient each regularizer changes; of the
    loss its `matrix` [N,T] and `pull`, -d(matrix)/d(logp) [N,T].
    """

    gradients: dict[str, Tensor] = field(default_factory=dict)
    values: dict[str, float] = field(default_factory=dict)
    streams: dict[str, Stream] = field(default_factory=dict)
    effects: dict[str, Tensor] = field(default_factory=dict)
    matrix: Tensor | None = None
    pull: Tensor | None = None


@dataclass(slots=True)
class Scale:
    """What a minibatch fixes before its parts run: denominators over all ranks, and whole-minibatch terms.

    `coef` [N,T] is each token's share of the aggregated loss; `row` the ids of its rows. `rows` and `tokens` count what the loss is
    averaged over, `response_rows` and `response_tokens` what regularizers are, `all_rows` every row.
    """

    coef: Tensor
    row: Tensor
    rows: int
    tokens: int
    response_rows: int
    response_tokens: int
    all_rows: int
    whole: WholeTerms = field(default_factory=WholeTerms)

    @property
    def terms(self) -> dict[str, float]:
        """The values of whole-minibatch terms, before their coefficients, by name (`policy` is the loss)."""
        return self.whole.values


@dataclass(slots=True)
class Record:
    """What an update did with some rows: those of one part, or, merged, of a whole minibatch.

    `tokens` holds streams [n,t]: the live ones (logp, entropy, probes), adv, mask, weight, gate, loss_mask, train, the loss and its `pull`,
    `gradient` (-d(objective)/d(logp) per token, as if the loss were a token mean), `entropy_gradient` (the same for entropy, where a term reads
    it), and what nodes selected (`<node>_selected`). `terms` are values of the objective's terms before their coefficients, per token
    [n,t] or one number; `effects` tells by node which tokens' gradients it changed [n,t].
    """

    tokens: Batch
    terms: dict[str, Tensor] = field(default_factory=dict)
    effects: dict[str, Tensor] = field(default_factory=dict)

    @staticmethod
    def merge(parts: Sequence[Record]) -> Record:
        """The records of a minibatch's parts as one, rows in the order of their ids; numbers of terms are summed."""
        whole = merge([r.tokens.with_(terms=_wide(r.terms), effects=r.effects) for r in parts])
        terms, effects = whole.streams.pop("terms"), whole.streams.pop("effects")
        for name in parts[0].terms.keys() - terms.keys():
            terms[name] = sum(r.terms[name].double() for r in parts)
        return Record(whole, terms, effects)


def _wide(terms: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in terms.items() if value.ndim}


@dataclass(slots=True)
class Out:
    """One part's contribution: the scalar to go backward from, and its record."""

    loss: Tensor
    record: Record


@dataclass(slots=True)
class EntropySample:
    """The seeded rows on which a step's change of entropy is measured, with their values [n,t] before the updates."""

    rows: Batch
    before: dict[str, Tensor]


@dataclass(slots=True)
class Step:
    """One step of a run on this rank.

    `batch` is the latest form of its rows, which is saved if the step fails. `records` are the parts' records by update, `updates` what
    each optimizer update reported, `terms` the values of whole-minibatch terms by update, `numbers` further metrics by name. `noise` is the largest
    difference between a log-probability of the first update and of the pass before it. `account` says on which tokens entropy changed.
    """

    scalars: Scalars
    clock: Clock = field(default_factory=Clock)
    batch: Batch | None = None
    records: list[list[Record]] = field(default_factory=list)
    terms: list[dict[str, float]] = field(default_factory=list)
    updates: list[dict[str, float]] = field(default_factory=list)
    numbers: dict[str, float] = field(default_factory=dict)
    noise: float = 0.0
    sample: EntropySample | None = None
    account: JsonObject | None = None
    kept: Kept | None = None

    @property
    def number(self) -> int:
        """Which step of the run it is, from 1."""
        return self.scalars.step

    def note(self, name: str, value: float) -> None:
        """Add a number to the step's metrics."""
        self.numbers[name] = float(value)

    def begin_update(self, scale: Scale) -> None:
        """A minibatch begins."""
        self.records.append([])
        self.terms.append(dict(scale.terms))

    def add(self, out: Out) -> None:
        """Add one part's record. In the first update `look_logp` is the value of the pass before it."""
        self.records[-1].append(out.record)
        tokens = out.record.tokens
        if "look_logp" in tokens and bool(tokens["mask"].any()):
            self.noise = max(self.noise, float((tokens["logp"] - tokens["look_logp"])[tokens["mask"]].abs().max()))
