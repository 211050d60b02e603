"""Probes: functions of logits or hidden states that answer for each token, and how they are called."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor

Answer = Tensor | Mapping[str, Tensor]
"""What a probe returns: one tensor, or several by name."""

Probe = Callable[..., Answer]
"""A function whose parameters name the streams it reads, or a `Reader`."""


@runtime_checkable
class Reader(Protocol):
    """A probe that lists the streams it reads, and takes them as one mapping: a node of a recipe."""

    @property
    def reads(self) -> Sequence[str]: ...

    def __call__(self, streams: Mapping[str, object]) -> Answer: ...


def probe_reads(probe: Probe) -> tuple[str, ...]:
    """The streams a probe reads: `reads` of a `Reader`, else its positional parameters without default."""
    if isinstance(probe, Reader):
        return tuple(probe.reads)
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return tuple(p.name for p in inspect.signature(probe).parameters.values() if p.kind in kinds and p.default is p.empty)


def call_probe(name: str, probe: Probe, streams: Mapping[str, object]) -> dict[str, Tensor]:
    """A probe's answers on the streams it reads: one under its name, or those of a mapping as `<name>_<key>`."""
    answer = probe(streams) if isinstance(probe, Reader) else probe(*[streams[read] for read in probe_reads(probe)])
    return {f"{name}_{k}": v for k, v in answer.items()} if isinstance(answer, Mapping) else {name: answer}
