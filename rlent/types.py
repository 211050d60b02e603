"""The data that moves through a run.

Letters: P prompts, G responses each, N = P*G rows, T response positions, V vocabulary. Response tensors are right-padded
[N, T]; `mask` is True on response tokens (end-of-text included).

Example: 2 prompts, 2 responses each, the longest of 3 tokens:

    row    tokens        mask          group  reward
    0      [5, 7, 2]     [1, 1, 1]     0      1.0
    1      [5, 2, 0]     [1, 1, 0]     0      0.0
    2      [9, 9, 9]     [1, 1, 1]     1      0.0      (cut: finish = "length")
    3      [2, 0, 0]     [1, 0, 0]     1      1.0
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor

Json: TypeAlias = "None | bool | int | float | str | list[Json] | dict[str, Json]"
"""A value as JSON and YAML have it."""

JsonObject: TypeAlias = "dict[str, Json]"
"""A JSON object: a row of a record, a state, a document."""

Config: TypeAlias = "Mapping[str, Json]"
"""A composed recipe, or a block of it: nested mappings of plain values."""

Stream: TypeAlias = "Tensor | list[Any] | Mapping[str, Tensor] | float | int | str | None"
"""One named stream of a batch, see `Batch`."""


class Encoding(Protocol):
    """What a tokenizer returns for one text."""

    @property
    def input_ids(self) -> Sequence[int]: ...


class Tokenizer(Protocol):
    """What rlent asks of a tokenizer (`transformers.PreTrainedTokenizerBase` is one)."""

    eos_token_id: int | None

    def __len__(self) -> int: ...

    def __call__(self, text: str, *, add_special_tokens: bool = True) -> Encoding: ...

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]: ...

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str: ...

    def batch_decode(self, sequences: Sequence[Sequence[int]], *, skip_special_tokens: bool = False) -> list[str]: ...

    def apply_chat_template(
        self, conversation: Sequence[Mapping[str, object]], *, tokenize: bool = True, add_generation_prompt: bool = False
    ) -> object: ...


class Grader(Protocol):
    """Judges responses: one verdict for each, in order. `equal(a, b)`, if it has one, says whether two extracted answers are the same (for votes)."""

    def __call__(self, responses: Sequence[str], problems: Sequence[Problem]) -> Sequence[Verdict]: ...


@dataclass(frozen=True, slots=True)
class Problem:
    """One verifiable problem. `gold` is what the grader compares with; `meta` is whatever else the data has."""

    id: str
    prompt: str
    gold: object
    meta: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """One response to sample. `key` seeds its draws: `noise.uniform(*key, position)` decides each token."""

    prompt: Sequence[int]
    key: tuple[int, ...]
    max_tokens: int
    prefix: Sequence[int] = ()
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0: off
    stop: frozenset[int] = frozenset()


@dataclass(slots=True)
class Rollouts:
    """What an engine returns, one entry per request, in the order of the requests.

    `tokens` are the sampled tokens (the prefix is not repeated; the stop token is included).
    `sampler_logp` are the log-probabilities of the sampled tokens under the distribution they were drawn from.
    `sampler_entropy` is that distribution's entropy in nats, or None when not asked for.
    `finish` is "stop" or "length". `version` is the version of the weights that sampled.
    `notes` are what decode functions said of each token, `counts` what they said of each row, by name.
    `contexts` are the token ids each response was drawn after, where a decode function went on from more than the prompt.
    """

    tokens: list[list[int]]
    sampler_logp: list[list[float]]
    finish: list[str]
    sampler_entropy: list[list[float]] | None = None
    version: int = -1
    seconds: float = 0.0
    notes: dict[str, list[list[Any]]] = field(default_factory=dict)
    counts: dict[str, list[Any]] = field(default_factory=dict)
    contexts: list[list[int]] | None = None

    def take(self, rows: Sequence[int]) -> Rollouts:
        """These rows in this order, copied; a row may be taken more than once."""
        return Rollouts(
            [list(self.tokens[i]) for i in rows],
            [list(self.sampler_logp[i]) for i in rows],
            [self.finish[i] for i in rows],
            None if self.sampler_entropy is None else [list(self.sampler_entropy[i]) for i in rows],
            self.version,
            self.seconds,
            {k: [list(v[i]) for i in rows] for k, v in self.notes.items()},
            {k: [v[i] for i in rows] for k, v in self.counts.items()},
            None if self.contexts is None else [list(self.contexts[i]) for i in rows],
        )

    def extend(self, row: int, other: Rollouts, its: int) -> None:
        """Let row `row` go on with row `its` of `other`, and end as that one ends. Notes that only one of them has are lost."""
        self.tokens[row] += other.tokens[its]
        self.sampler_logp[row] += other.sampler_logp[its]
        self.finish[row] = other.finish[its]
        if self.sampler_entropy is not None and other.sampler_entropy is not None:
            self.sampler_entropy[row] += other.sampler_entropy[its]
        for name in list(self.notes):
            if name in other.notes:
                self.notes[name][row] += other.notes[name][its]
            else:
                del self.notes[name]

    def cut(self, row: int, length: int) -> None:
        """Keep the first `length` tokens of a row."""
        for values in (self.tokens, self.sampler_logp, self.sampler_entropy, *self.notes.values()):
            if values is not None:
                del values[row][length:]


@dataclass(frozen=True, slots=True)
class Verdict:
    """A grader's judgement of one response.

    `method` says which step decided; `status` is ok, no_answer, unparsed, limit, timeout, crash or gold_unparsed.
    """

    correct: bool
    answer: str | None = None
    method: str = "none"
    status: str = "ok"
    seconds: float = 0.0


class Batch:
    """Named streams over a set of rows, with the rows' ids.

    A stream is a tensor whose first dimension is rows ([N] or [N, T]), a list with one entry per row, a mapping from names to such
    tensors, or a plain number.
    `row` is the row's id within the step: it orders ties and puts parts back in place.
    """

    def __init__(self, streams: Mapping[str, object], row: Tensor | None = None) -> None:
        self.streams: dict[str, Any] = dict(streams)
        rows = len(self.streams["mask"])
        self.row = torch.arange(rows) if row is None else row

    def __getitem__(self, name: str) -> Any:
        return self.streams[name]

    def __setitem__(self, name: str, value: object) -> None:
        self.streams[name] = value

    def __contains__(self, name: object) -> bool:
        return name in self.streams

    def __iter__(self) -> Iterator[str]:
        return iter(self.streams)

    def __len__(self) -> int:
        return len(self.row)

    def get(self, name: str, default: object = None) -> Any:
        return self.streams.get(name, default)

    @property
    def width(self) -> int:
        """T, the number of response positions."""
        return int(self.streams["mask"].shape[1])

    @property
    def lengths(self) -> Tensor:
        """Response tokens per row [N]."""
        return self.streams["mask"].sum(1)

    def with_(self, **streams: object) -> Batch:
        """A batch of the same rows with more (or other) streams; the old one is left as it was."""
        return Batch({**self.streams, **streams}, self.row)

    def select(self, index: Tensor | Sequence[int]) -> Batch:
        """The rows at `index` (positions in this batch), cut to the longest response among them."""
        index = torch.as_tensor(index, dtype=torch.long)
        rows, width = len(self), self.width
        mask = self.streams["mask"]
        keep = int(mask[index].any(0).nonzero().max()) + 1 if len(index) and bool(mask[index].any()) else min(width, 1)

        def rows_of(value: object) -> object:
            if isinstance(value, Tensor) and value.ndim and value.shape[0] == rows:
                value = value[index.to(value.device)]
                return value[:, :keep] if value.ndim >= 2 and value.shape[1] == width else value
            return value

        picked: dict[str, object] = {}
        for name, value in self.streams.items():
            if isinstance(value, list):
                picked[name] = [value[i] for i in index.tolist()]
            elif isinstance(value, Mapping):
                picked[name] = {k: rows_of(v) for k, v in value.items()}
            else:
                picked[name] = rows_of(value)
        return Batch(picked, self.row[index])
