"""Ranks: who we are, and the few things ranks say to each other.

Statistics over a step or a minibatch are computed on rank 0, on rows gathered in the order of their ids, and the results
are scattered: ranks cannot disagree on a tie, and a number does not depend on how rows were shared out.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from datetime import timedelta
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from rlent.errors import RankLost, UsageError
from rlent.types import Batch, Stream

Result = TypeVar("Result")

_LOST = ("gloo", "Gloo", "NCCL", "Connection closed by peer", "Connection reset by peer", "Timed out waiting")
"""Words of torch's errors when a collective cannot be completed."""


class World:
    """One process (the default) or one rank of several."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @staticmethod
    def join(device: str = "cpu", timeout: float = 600.0) -> World:
        """The world torchrun describes in the environment; a single process where there is none.

        Raises:
            RankLost: not all ranks came within `timeout` seconds.
        """
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return World()
        if not dist.is_initialized():
            backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
            bound: dict[str, torch.device] = {}
            if device == "cuda":
                torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
                bound["device_id"] = torch.device("cuda", torch.cuda.current_device())  # vLLM splits its groups off this one
            try:
                dist.init_process_group(backend, timeout=timedelta(seconds=timeout), **bound)
            except (dist.DistError, TimeoutError) as error:
                place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
                raise RankLost(
                    f"the {size} ranks did not all meet at {place} within scale.timeout = {timeout:g} s ({_first_line(error)}); "
                    "start as many as WORLD_SIZE says, on machines that reach that address"
                ) from error
        return World(dist.get_rank(), dist.get_world_size())

    def lost(self, error: BaseException) -> str | None:
        """If an error says that another rank is gone: what it said."""
        if self.size == 1:
            return None
        seen: BaseException | None = error
        while seen is not None:
            text = str(seen)
            if isinstance(seen, dist.DistError) or (isinstance(seen, RuntimeError) and any(word in text for word in _LOST)):
                return _first_line(seen)
            seen = seen.__cause__ or seen.__context__
        return None

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, which writes files and decides."""
        return self.rank == 0

    def share(self, items: Sequence[Result]) -> Sequence[Result]:
        """This rank's contiguous share of `items`; every item belongs to exactly one rank."""
        bounds = [len(items) * r // self.size for r in range(self.size + 1)]
        return items[bounds[self.rank] : bounds[self.rank + 1]]

    def gather(self, value: Result) -> list[Result] | None:
        """Every rank's value on rank 0, None elsewhere."""
        if self.size == 1:
            return [value]
        out = [value] * self.size if self.leads else None
        dist.gather_object(value, out, dst=0)
        return out

    def all_gather(self, value: Result) -> list[Result]:
        """Every rank's value, everywhere."""
        if self.size == 1:
            return [value]
        out = [value] * self.size
        dist.all_gather_object(out, value)
        return out

    def exchange(self, parcels: Sequence[Result]) -> list[Result]:
        """Give `parcels[r]` to rank r; returns what this rank was given, by sender."""
        return [sent[self.rank] for sent in self.all_gather(list(parcels))]

    def broadcast(self, value: Result) -> Result:
        """Rank 0's value, everywhere."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def agree(self, what: str, value: str) -> None:
        """Check that every rank has the same text.

        Raises:
            UsageError: on every rank, naming the ranks that differ from rank 0.
        """
        found = self.all_gather(value)
        other = [rank for rank, text in enumerate(found) if text != found[0]]
        if other:
            raise UsageError(
                f"rank {', '.join(map(str, other))} has another {what} than rank 0; start all ranks with the same arguments and files"
            )

    def first(self, value: Result | None) -> Result | None:
        """The first value of a rank that is not empty, everywhere."""
        return next((v for v in self.all_gather(value) if v), None)

    def sums(self, values: Sequence[int]) -> list[int]:
        """Sums of whole numbers over ranks (exact)."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(list(values), dtype=torch.int64)
        dist.all_reduce(total)
        return [int(v) for v in total]

    def whole(self, batch: Batch, names: Sequence[str], work: Callable[[Batch], Result]) -> Result:
        """Run `work` on all ranks' rows in the order of their ids, and give each rank its rows of the result.

        The result is a mapping or a dataclass of tensors and lists whose first dimension is rows, of mappings of such, or of numbers
        (given to every rank as they are).
        """
        if self.size == 1:
            return work(batch)
        slim = Batch({k: batch[k] for k in {*names, "mask"} if k in batch}, batch.row)
        shares = self.gather(slim)
        replies: list[Result] | None = None
        failure: str | None = None
        if shares is not None:
            try:
                whole = merge(shares)
                result = work(whole)
                replies = [_rows_of(result, whole.row, part) for part in shares]
            except Exception as error:
                failure, cause = f"{type(error).__name__}: {error}", error
        failure = self.broadcast(failure)
        if failure:
            if self.leads:
                raise cause
            raise RuntimeError(f"rank 0 failed: {failure}")
        box: list[Result | None] = [None]
        dist.scatter_object_list(box, replies, src=0)
        assert box[0] is not None
        return box[0]


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__


def _rows_of(result: Result, order: Tensor, part: Batch) -> Result:
    """The rows of `part` out of a result on rows with ids `order`."""
    place = {int(r): i for i, r in enumerate(order.tolist())}
    index = torch.tensor([place[int(r)] for r in part.row.tolist()], dtype=torch.long)

    def pick(value: object) -> object:
        if isinstance(value, Tensor) and value.ndim and value.shape[0] == len(order):
            value = value[index]
            return value[:, : part.width].contiguous() if value.ndim >= 2 and value.shape[1] > part.width else value
        if isinstance(value, list) and len(value) == len(order):
            return [value[i] for i in index.tolist()]
        if isinstance(value, Mapping):
            return {k: pick(v) for k, v in value.items()}
        if is_dataclass(value) and not isinstance(value, type):
            return replace(value, **{f.name: pick(getattr(value, f.name)) for f in fields(value)})
        return value

    return cast(Result, pick(result))


def merge(parts: Sequence[Batch]) -> Batch:
    """One batch of all rows, in the order of their ids, padded to the widest. Plain numbers come from the first part with rows.

    A part without rows has nothing to add, and may lack streams: what decode functions say of tokens, where there are none.
    """
    parts = [p for p in parts if len(p)] or parts[:1]
    width = max(p.width for p in parts)
    order = torch.cat([p.row for p in parts]).argsort(stable=True)

    def joined(values: Sequence[Stream]) -> Stream:
        first = values[0]
        if isinstance(first, Tensor) and first.ndim:
            if any(v.ndim >= 2 and v.shape[1] == p.width for v, p in zip(values, parts, strict=True)):
                values = [torch.nn.functional.pad(v, (0, width - v.shape[1])) for v in values]
            return torch.cat(list(values))[order]
        if isinstance(first, list):
            everyone = [item for v in values for item in v]
            return [everyone[i] for i in order.tolist()]
        if isinstance(first, Mapping):
            return {k: joined([v[k] for v in values]) if isinstance(one, Tensor) else one for k, one in first.items()}
        return first

    streams = {name: joined([p[name] for p in parts]) for name in parts[0].streams}
    return Batch(streams, torch.cat([p.row for p in parts])[order])
