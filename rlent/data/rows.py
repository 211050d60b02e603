"""Rows of JSON lines: read one at a time, each broken one named, however large the file."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

MISSING = object()
_GZIP = b"\x1f\x8b"


class BadRowError(ValueError):
    """Why one row cannot be used."""


def json_lines(lines: Iterable[bytes]) -> Iterator[tuple[int, object]]:
    """Row numbers, from 1, with what the lines hold; a line that cannot be read comes as a `BadRowError`."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
        except UnicodeDecodeError as error:
            yield number, BadRowError(f"not UTF-8 ({error.reason} at byte {error.start})")
        except (ValueError, RecursionError) as error:
            yield number, BadRowError(f"not JSON ({error})")


def unzipped(file: BinaryIO) -> BinaryIO:
    """The bytes of a file, decompressed where it begins as gzip does."""
    buffered = file if isinstance(file, io.BufferedReader) else io.BufferedReader(file)  # type: ignore[type-var]
    return gzip.GzipFile(fileobj=buffered) if buffered.peek(2)[:2] == _GZIP else buffered  # type: ignore[return-value]


def open_lines(path: Path) -> BinaryIO:
    """A file of lines, compressed (`.gz`) or not."""
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def field_at(row: Mapping[str, object], field: str) -> object:
    """The value at a dotted path, where a field whose own name has the dots comes first; `MISSING` if there is none."""
    if field in row:
        return row[field]
    value: object = row
    for part in field.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return MISSING
        value = value[part]
    return value
