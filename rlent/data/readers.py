"""Rows of a file: JSON lines, a JSON list or Parquet, compressed or not."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from pathlib import Path

from rlent.data.rows import json_lines, open_lines
from rlent.errors import DataError, did_you_mean

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".parquet")


def _json_lines(path: Path) -> Iterator[tuple[int, object]]:
    with open_lines(path) as file:
        yield from json_lines(file)


def _json_list(path: Path) -> Iterator[tuple[int, object]]:
    try:
        rows = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON ({error}); one object a line is JSON lines, name such a file .jsonl") from None
    if not isinstance(rows, list):
        raise DataError(f"{path}: holds one {type(rows).__name__}, and a list of problems is wanted")
    yield from enumerate(rows, 1)


def _parquet(path: Path) -> Iterator[tuple[int, object]]:
    import pyarrow as arrow
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except arrow.ArrowException as error:
        raise DataError(f"{path}: not a Parquet file that can be read ({error})") from None


def read_rows(path: Path) -> Iterator[tuple[int, object]]:
    """Rows with their number from 1 (in JSON lines, the line)."""
    readers = {".jsonl": _json_lines, ".jsonl.gz": _json_lines, ".json": _json_list, ".parquet": _parquet}
    kind = next((suffix for suffix in SUFFIXES if path.name.endswith(suffix)), None)
    if not path.exists():
        near = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(f"{path}: there is no such file{did_you_mean(path.name, near)}")
    if kind is None or not path.is_file():
        raise DataError(f"{path}: not a kind of file that can be read (kinds: {', '.join(SUFFIXES)})")
    try:
        yield from readers[kind](path)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error or type(error).__name__})") from None
