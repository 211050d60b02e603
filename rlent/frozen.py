"""Frozen batches: a step's rows and streams in one safetensors file, to inspect, to replay, or to explain a failure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from rlent.errors import DataError
from rlent.types import Batch


def save(batch: Batch, path: Path) -> Path:
    """Write a batch: tensors as they are, lists and plain numbers as JSON in the file's metadata."""
    tensors = {k: v.detach().cpu().contiguous() for k, v in batch.streams.items() if isinstance(v, Tensor)}
    plain = {k: v for k, v in batch.streams.items() if not isinstance(v, Tensor)}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    save_file({**tensors, "row": batch.row.clone()}, str(temporary), metadata={"streams": json.dumps(plain, default=str)})
    temporary.rename(path)
    return path


def load(path: Path) -> Batch:
    """Read a batch back.

    Raises:
        DataError: the file is missing or is not a frozen batch.
    """
    try:
        with safe_open(str(path), "pt") as file:
            streams: dict[str, Any] = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
            streams |= json.loads((file.metadata() or {})["streams"])
    except Exception as error:
        raise DataError(f"{path} is not a frozen batch ({error}); `track.keep_batches` makes them") from error
    row = streams.pop("row", torch.arange(len(streams["mask"])))
    return Batch(streams, row)
