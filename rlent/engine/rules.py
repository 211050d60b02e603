"""Decode functions inside an engine: what is done to a row's logits between the model and the draw. One core for every engine.

A rule is row-wise: what it returns for a row depends on that row alone, so a response does not depend on its batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from rlent.errors import EngineError

GREEDY = 1e-5
"""A rule's temperature below this is greedy."""


class Rule(Protocol):
    """A mounted decode function (`rlent.streams.RULE` is what it may read)."""

    name: str

    def __call__(self, streams: Mapping[str, Tensor | None]) -> Tensor | Mapping[str, Tensor]: ...


@dataclass(frozen=True)
class Measure:
    """A rule that changes nothing and notes something of each token: `fn(logits) -> {name: [n] or [n,k]}`."""

    fn: Callable[[Tensor], Mapping[str, Tensor]]
    name: str = ""

    def __call__(self, streams: Mapping[str, Any]) -> Mapping[str, Tensor]:
        return self.fn(streams["logits"])


@dataclass(slots=True)
class Ruled:
    """What the rules made of n rows. `memory` by rule; `notes` by `<rule>_<key>`, one entry for each row."""

    logits: Float[Tensor, "n V"]
    temperature: float | Tensor
    memory: dict[str, Tensor] = field(default_factory=dict)
    notes: dict[str, Tensor] = field(default_factory=dict)


def follow(
    rules: Sequence[Rule],
    logits: Float[Tensor, "n V"],
    temperature: float | Tensor,
    memory: Mapping[str, Tensor],
    streams: Mapping[str, Tensor],
) -> Ruled:
    """Call the rules in order, each on what the ones before have left. A row with request temperature 0 stays greedy.

    Raises:
        EngineError: a rule returned another shape.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    n = len(logits)
    asked = torch.as_tensor(temperature, dtype=logits.dtype, device=logits.device).expand(n)
    heat, changed = asked, False
    done = Ruled(logits, temperature)
    for rule in rules:
        found = rule({**streams, "logits": done.logits, "temperature": heat, "memory": memory.get(rule.name)})
        found = dict(found) if isinstance(found, Mapping) else {"logits": found}
        if "logits" in found:
            done.logits = _shaped(rule, "logits", found.pop("logits"), logits.shape)
        if "temperature" in found:
            heat, changed = _shaped(rule, "temperature", found["temperature"], heat.shape).to(logits), True
        if "memory" in found:
            done.memory[rule.name] = found.pop("memory")
        for key, value in found.items():
            done.notes[f"{rule.name}_{key}" if rule.name else key] = value
    if changed:
        done.temperature = torch.where((asked == 0) | (heat < GREEDY), 0.0, heat)
    return done


def _shaped(rule: Rule, what: str, value: object, shape: torch.Size) -> Tensor:
    if not isinstance(value, Tensor) or value.shape != shape:
        found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise EngineError(f"decode.{rule.name} returned {what} of shape {found}; {tuple(shape)} is expected")
    return value
