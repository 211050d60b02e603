"""How functions of a recipe are called: what they see, their noise, and once on all ranks' rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from rlent.errors import NonFinite
from rlent.math import noise
from rlent.ranks.world import World
from rlent.recipe.mount import Node
from rlent.types import Batch, Stream


class View(Mapping[str, Stream]):
    """What one function sees: live values over stored streams, and its own noise."""

    def __init__(self, batch: Batch, node: Node, live: Mapping[str, Tensor] | None = None, minibatch: int = -1) -> None:
        self.batch, self.node, self.live, self.minibatch = batch, node, live or {}, minibatch

    def __getitem__(self, name: str) -> Stream:
        if name in self.live:
            return self.live[name]
        if name in self.batch:
            return self.batch[name]
        if name in ("noise", "row_noise"):
            return draw(self.batch, self.node.path, self.minibatch, tokens=name == "noise")
        raise KeyError(f"{self.node.path} reads '{name}', which is not there yet; the streams are {', '.join(sorted(self.batch.streams))}")

    def __iter__(self) -> Iterator[str]:
        return iter({**self.batch.streams, **self.live})

    def __len__(self) -> int:
        return len({**self.batch.streams, **self.live})


def draw(batch: Batch, purpose: str, minibatch: int, *, tokens: bool) -> Tensor:
    """Uniform numbers in [0, 1) for rows [N] or tokens [N,T], from (seed, step, minibatch, prompt, sample, position, node)."""
    base = noise.fold(batch["seed"], batch["step"], minibatch, purpose, batch["problem_key"], batch["sample"])
    if not tokens:
        return noise.uniform(base)
    return noise.uniform(base[:, None], torch.arange(batch.width))


def whole(node: Node, batch: Batch, world: World, renamed: Mapping[str, str] | None = None, minibatch: int = -1) -> dict[str, Stream]:
    """Call a function once on all ranks' rows, in row order. A bare result comes back under `value`."""
    names = [*(renamed or {}).values(), *node.reads, "problem_key", "sample", "seed", "step"]

    def work(rows: Batch) -> dict[str, Stream]:
        with torch.no_grad():
            found = node(View(rows, node, minibatch=minibatch), renamed)
        return dict(found) if isinstance(found, Mapping) else {"value": found}

    return world.whole(batch, names, work)


def check_finite(value: Tensor, place: str, batch: Batch) -> None:
    """Refuse a result with a NaN or an infinity.

    Raises:
        NonFinite: with the function's place, the responses and the first position.
    """
    bad = ~torch.isfinite(value)
    if bad.any():
        where = bad.nonzero()
        rows = sorted({int(batch.row[int(i[0])]) for i in where}) if value.ndim else []
        position = f", first at position {int(where[0][1])}" if value.ndim > 1 else ""
        step = f"step {batch['step']}: " if "step" in batch else ""
        raise NonFinite(f"{step}{place} has {int(bad.sum())} non-finite values (responses {', '.join(map(str, rows[:8]))}{position})")
