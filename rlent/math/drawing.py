"""What a method that decides how responses are drawn works on: requests, what was drawn for them, and the turns of a tree.

Methods import nothing of a run, so these are protocols; `rlent.types.Request`, `rlent.types.Rollouts` and `rlent.sampling.tree.Turn`
are the classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import Field
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

Drawn = TypeVar("Drawn", bound="Rollouts")


@runtime_checkable
class Request(Protocol):
    """One response to sample, a dataclass: `dataclasses.replace` makes a request that differs."""

    __dataclass_fields__: ClassVar[dict[str, Field[object]]]

    @property
    def prompt(self) -> Sequence[int]: ...
    @property
    def key(self) -> tuple[int, ...]: ...
    @property
    def max_tokens(self) -> int: ...
    @property
    def prefix(self) -> Sequence[int]: ...
    @property
    def temperature(self) -> float: ...
    @property
    def stop(self) -> frozenset[int]: ...


@runtime_checkable
class Rollouts(Protocol):
    """What was drawn, one entry per request in their order. `notes` of tokens are numbers or lists, by name, `counts` are of rows."""

    tokens: list[list[int]]
    sampler_logp: list[list[float]]
    finish: list[str]
    sampler_entropy: list[list[float]] | None
    notes: dict[str, list[list[Any]]]
    counts: dict[str, list[int] | list[float] | list[list[int]]]
    contexts: list[list[int]] | None

    def take(self: Drawn, rows: Sequence[int]) -> Drawn: ...
    def extend(self: Drawn, row: int, other: Drawn, its: int) -> None: ...
    def cut(self, row: int, length: int) -> None: ...


@runtime_checkable
class Turn(Protocol):
    """The turn that a rollout has just drawn: the notes of its tokens, a uniform number, and numbers that the rollout remembers."""

    notes: Mapping[str, list[float]]
    u: float
    path: dict[str, float]
