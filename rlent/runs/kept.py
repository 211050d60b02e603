"""Frozen batches: a step's rows and streams in one safetensors file, to inspect, to replay, or to explain a failure.

Beside the batch itself, a step kept by `track.save_batches` holds what each update saw and did. For epoch e of the step (0 with one
epoch) there are streams `update<e>:<name>`:

    index      [N]    which update of the step the row was in
    part       [N]    and which part of it (numbers of different ranks differ)
    logp, entropy, second, <probe>   [N,T]   under the weights of that update, before it
    loss, pull, gradient, weight, gate   [N,T]   the record of that update, as the meter had it

`old_logp`, `old_entropy` and `old_second` [N,T] are of the weights before the first update (the old-logprob pass's own, where one was run),
`after_logp` and `after_entropy` of those after the last. `second` is sum_v p_v^2 (log p_v + H), see `rlent.train.ledger`. The plain stream `kept` holds the knobs (as the
step began, and after each turn) and the memory of the recipe's functions as the step began, so that the step can be done again.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from rlent.errors import DataError
from rlent.system.write import atomic
from rlent.types import Batch, Json, JsonObject, Stream

RECORD = ("loss", "pull", "gradient", "weight", "gate")
"""What is kept of the meter's record of an update."""


def save(batch: Batch, path: Path) -> Path:
    """Write a batch: tensors as they are, lists and plain numbers as JSON in the file's metadata."""
    # Copies: two streams may be one tensor, which a file refuses.
    copied = {k: v.detach().cpu().clone(memory_format=torch.contiguous_format) for k, v in batch.streams.items() if isinstance(v, Tensor)}
    plain = {k: v for k, v in batch.streams.items() if not isinstance(v, Tensor)}
    with atomic(path) as temporary:
        save_file({**copied, "row": batch.row.clone()}, str(temporary), metadata={"streams": json.dumps(plain, default=str)})
    return path


def load(path: Path) -> Batch:
    """Read a batch back.

    Raises:
        DataError: the file is missing or is not a frozen batch.
    """
    try:
        with safe_open(str(path), "pt") as file:
            streams: dict[str, Stream] = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
            streams |= json.loads((file.metadata() or {})["streams"])
    except Exception as error:
        raise DataError(f"{path} is not a frozen batch ({error}); `track.save_batches` makes them") from error
    row = streams.pop("row", torch.arange(len(streams["mask"])))
    return Batch(streams, row)


def file_name(step: int) -> str:
    return f"step_{step:06d}.safetensors"


def steps(folder: Path) -> dict[int, Path]:
    """The kept steps of a run folder, ascending, with their files."""
    found = {int(p.stem.removeprefix("step_")): p for p in (folder / "batches").glob("step_*.safetensors")}
    return dict(sorted(found.items()))


def _prefix(epoch: int) -> str:
    return f"update{epoch}:"


@dataclass(frozen=True)
class SavedStep:
    """A saved batch taken apart.

    `batch` is the step's rows; `updates` holds, for each epoch, what the updates saw and did (streams [N] or [N,T], see the head of this
    file), and is empty for a batch that was not saved by a run. `knobs` and `functions` are the state that the step began with.
    """

    batch: Batch
    updates: list[dict[str, Tensor]] = field(default_factory=list)
    knobs: list[dict[str, float]] = field(default_factory=list)
    functions: JsonObject = field(default_factory=dict)

    @staticmethod
    def of(batch: Batch) -> SavedStep:
        """The parts of a batch as `load` gives it."""
        streams = dict(batch.streams)
        updates: list[dict[str, Tensor]] = []
        while f"{(prefix := _prefix(len(updates)))}index" in streams:
            updates.append({k.removeprefix(prefix): streams.pop(k) for k in list(streams) if k.startswith(prefix)})
        kept = streams.pop("kept", {})
        return SavedStep(Batch(streams, batch.row), updates, list(kept.get("knobs", [])), dict(kept.get("functions", {})))


class Kept:
    """Collects, while a step goes on, what will be kept of it beside its batch."""

    def __init__(self, functions: Mapping[str, Json], knobs: Mapping[str, float]) -> None:
        self.functions = copy.deepcopy(dict(functions))
        self.knobs: list[dict[str, float]] = [dict(knobs)]
        self.before: dict[str, Tensor] = {}
        self.seen: list[Batch] = []

    def turned(self, knobs: Mapping[str, float]) -> None:
        """The knobs after a turn."""
        self.knobs.append(dict(knobs))

    def see(self, minibatch: Batch, parts: Sequence[Sequence[int]], streams: Mapping[str, Tensor], rank: int = 0) -> None:
        """What an update is about to see of its rows [n,T], and how they are cut (positions in `minibatch`)."""
        part = torch.zeros(len(minibatch), dtype=torch.long)
        for number, rows in enumerate(parts):
            part[list(rows)] = (rank << 32) + number
        self.seen.append(Batch({"mask": minibatch["mask"], "part": part, **streams}, minibatch.row))

    def finish(self, batch: Batch, records: Sequence[Sequence[Batch]], after: Mapping[str, Tensor], epochs: int) -> Batch:
        """The step's batch with all of it as streams; `records` holds the parts' records of each update."""
        place = {int(r): i for i, r in enumerate(batch.row.tolist())}
        found = {f"after_{k}": after[k] for k in ("logp", "entropy")}
        found |= {f"old_{k}": v for k, v in self.before.items() if f"old_{k}" not in batch}
        batch = Batch({k: v for k, v in batch.streams.items() if k != "effects"}, batch.row)
        for number, (seen, parts) in enumerate(zip(self.seen, records, strict=True)):
            prefix = _prefix(number * epochs // len(self.seen))
            index = found.setdefault(f"{prefix}index", torch.full((len(batch),), -1, dtype=torch.long))
            index[[place[int(r)] for r in seen.row.tolist()]] = number
            for rows in (seen, *parts):
                names = set(RECORD) if rows is not seen else set(rows) - {"mask"}
                at = torch.tensor([place[int(r)] for r in rows.row.tolist()], dtype=torch.long)
                for name in names & set(rows):
                    value = rows[name].detach().cpu()
                    shape = (len(batch), batch.width) if value.ndim > 1 else (len(batch),)
                    whole = found.setdefault(f"{prefix}{name}", value.new_zeros(shape))
                    whole[(at[:, None], torch.arange(rows.width)) if value.ndim > 1 else at] = value
        return batch.with_(**found, kept={"knobs": self.knobs, "functions": self.functions, "epochs": epochs})
