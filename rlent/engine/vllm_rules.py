"""Decode rules in vLLM: its interface for logits processors around `rlent.engine.rules`, which has the numbers.

vLLM samples in this process, so the engine and its processor share a board: which rules hold, the rows of the current call, and
what was noted of their tokens. vLLM moves rows about in its batch; on the board they have their index in the call.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from vllm.v1.sample.logits_processor import LogitsProcessor, MoveDirectionality

from rlent.engine.rules import Rule, follow
from rlent.engine.warp import warp
from rlent.types import Json, Request

if TYPE_CHECKING:
    from vllm.v1.sample.logits_processor import BatchUpdate


@dataclass(slots=True)
class Row:
    """A request of the current call. `memory` is what the rules left at `position - 1`, `fresh` what they left at `position`.

    vLLM asks twice for a position when it reads a long prompt in pieces or takes a request up again.
    """

    request: Request
    position: int = -1
    memory: dict[str, Tensor] = field(default_factory=dict)
    fresh: dict[str, Tensor] = field(default_factory=dict)
    notes: dict[str, dict[int, Json]] = field(default_factory=dict)

    def at(self, position: int) -> dict[str, Tensor]:
        """The rules' memory for a position."""
        if position != self.position:
            self.memory, self.position = self.fresh, position
        return self.memory


class Board:
    """What the engine and its processor share."""

    def __init__(self) -> None:
        self.rules: Sequence[Rule] = ()
        self.rows: list[Row] = []

    @contextlib.contextmanager
    def open(self, rules: Sequence[Rule], rows: Sequence[Request]) -> Iterator[None]:
        """Inside, these rules hold for these rows."""
        self.rules, self.rows = rules, [Row(r) for r in rows]
        try:
            yield
        finally:
            self.rules, self.rows = (), []

    def notes(self, lengths: Sequence[int]) -> dict[str, list[list[Json]]]:
        """What was noted of each row's tokens, in order."""
        names = {name for row in self.rows for name in row.notes}
        starts = [len(row.request.prefix) for row in self.rows]
        return {
            name: [[row.notes[name][s + t] for t in range(n)] for row, s, n in zip(self.rows, starts, lengths, strict=True)]
            for name in sorted(names)
        }

    def processor(self) -> type:
        """A class for vLLM's `logits_processors`, bound to this board."""
        return type("Rules", (Processor,), {"board": self})

    def apply(self, logits: Tensor, held: Sequence[tuple[Row, Sequence[int]]]) -> Tensor:
        """The logits of rows after their rules and their temperature."""
        out = logits.clone()
        at = [len(row.request.prefix) + len(tokens) for row, tokens in held]
        memories = [row.at(position) for (row, _), position in zip(held, at, strict=True)]
        for some in ([i for i, m in enumerate(memories) if not m], [i for i, m in enumerate(memories) if m]):
            if some:
                rows, memory = [held[i][0] for i in some], [memories[i] for i in some]
                out[some] = self._follow(logits[some], rows, memory, [at[i] for i in some]).to(logits.dtype)
        return out

    def _follow(self, logits: Tensor, rows: Sequence[Row], memories: Sequence[dict[str, Tensor]], at: Sequence[int]) -> Tensor:
        """Logits of rows that all have a memory, or all have none; what the rules leave and note goes to the rows."""
        asked = torch.tensor([row.request.temperature for row in rows], device=logits.device)
        memory = {name: torch.stack([m[name] for m in memories]) for name in memories[0]}
        done = follow(self.rules, logits, asked, memory, {"position": torch.tensor(at, device=logits.device)})
        heat = torch.as_tensor(done.temperature, dtype=torch.float32, device=logits.device).expand(len(rows))
        for j, row in enumerate(rows):
            row.fresh = {name: value[j].clone() for name, value in done.memory.items()}
            for name, values in done.notes.items():
                row.notes.setdefault(name, {})[at[j]] = values[j].tolist()
        greedy = asked == 0  # vLLM takes the largest by itself
        return torch.where(greedy[:, None], done.logits, warp(done.logits, heat))


class Processor(LogitsProcessor):  # type: ignore[misc, unused-ignore]
    """vLLM's side: follows its batch, and hands the board the rows that are in it."""

    board: Board

    def __init__(self, vllm_config: object, device: torch.device, is_pin_memory: bool) -> None:
        self.held: dict[int, tuple[Row, Sequence[int]]] = {}

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        if batch_update is None:
            return
        for index in batch_update.removed:
            self.held.pop(index, None)
        for index, params, _, output in batch_update.added:
            row = (params.extra_args or {}).get("rlent_row")
            if row is None or row >= len(self.board.rows):
                self.held.pop(index, None)
            else:
                self.held[index] = (self.board.rows[row], output)
        for a, b, how in batch_update.moved:
            one, other = self.held.pop(a, None), self.held.pop(b, None)
            if one is not None:
                self.held[b] = one
            if other is not None and how == MoveDirectionality.SWAP:
                self.held[a] = other

    def apply(self, logits: Tensor) -> Tensor:
        if not self.board.rules or not self.held:
            return logits
        at = sorted(index for index in self.held if index < len(logits))
        logits[at] = self.board.apply(logits[at], [self.held[i] for i in at])
        return logits
