"""The record of a run: JSON Lines, one object per row, that a kill or a full disk cannot spoil.

A row is appended with one write and is whole when its line ends. A last line that was torn by a kill is ignored by readers and
removed by the next writer. Floats are written by `repr` and read back to the last bit; what is not finite is written as null.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rlent.errors import DataError, RlentError
from rlent.system.write import atomic

if TYPE_CHECKING:
    from rlent.types import Json, JsonObject

Sync = Literal["row", "end", "never"]


def read_rows(path: str | Path) -> list[JsonObject]:
    """The rows of a record; none if there is no file. A torn last line is ignored.

    Raises:
        DataError: a line before the last one is not a JSON object.
    """
    return [row for _, row in _lines(Path(path))]


class JsonlRecord:
    """Appends rows to a JSON Lines file, each beginning with its `step`.

    `sync` says when data is forced to the disk: after every row, at the end, or never (a crash of the machine, not of the process, may
    then lose rows). With `unique` a step may have one row only, and steps ascend.
    """

    def __init__(self, path: str | Path, *, sync: Sync = "row", unique: bool = True) -> None:
        self.path, self.sync, self.unique = Path(path), sync, unique
        self._handle: int | None = None
        self._last: int | None = None

    def append(self, step: int, values: Mapping[str, Json]) -> None:
        """Add a row.

        Raises:
            RlentError: the disk is full or the file cannot be written (what was written of the row is taken back), or the step is there already.
        """
        self.extend(step, [values])

    def extend(self, step: int, rows: Sequence[JsonObject]) -> None:
        """Add several rows of one step, all or none; raises as `append` does."""
        handle = self._open()
        if self.unique and self._last is not None and step <= self._last:
            raise RlentError(f"{self.path} ends with step {self._last}; a row for step {step} cannot follow (one row per step, ascending)")
        lines = (
            json.dumps({"step": step, **_plain({k: v for k, v in row.items() if k != "step"})}, ensure_ascii=False, allow_nan=False)
            for row in rows
        )
        data = "".join(line + "\n" for line in lines).encode("utf-8", "backslashreplace")
        end = os.lseek(handle, 0, os.SEEK_END)
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(handle, rest) :]
            if self.sync == "row":
                os.fsync(handle)
        except OSError as error:
            _take_back(handle, end)
            raise RlentError(
                f"step {step} could not be written to {self.path} ({error.strerror}); the record is whole up to the step before. "
                "Free some space and resume the run"
            ) from error
        self._last = step

    def cut_back(self, step: int) -> list[JsonObject]:
        """Keep the rows up to and including `step`, drop the others and a torn line; returns what is kept.

        The file is replaced at once: a kill leaves the old rows or the kept ones.

        Raises:
            DataError: a line before the last one is not a JSON object.
            RlentError: the disk is full or the file cannot be written; the old file is untouched.
        """
        self.close()
        kept = [(line, row) for line, row in _lines(self.path) if row["step"] <= step]
        if self.path.exists():
            try:
                with atomic(self.path, sync=True) as temporary:
                    temporary.write_bytes(b"".join(line + b"\n" for line, _ in kept))
            except OSError as error:
                raise RlentError(f"{self.path} could not be cut back to step {step} ({error.strerror}); it is as it was") from error
        return [row for _, row in kept]

    def close(self) -> None:
        """Force what is written to the disk (unless `sync` is never) and let the file go; a later `append` opens it again."""
        if self._handle is not None:
            try:
                if self.sync != "never":
                    os.fsync(self._handle)
            finally:
                os.close(self._handle)
                self._handle = None

    def _open(self) -> int:
        if self._handle is None:
            rows = _lines(self.path)
            self._last = rows[-1][1]["step"] if rows else None
            whole = sum(len(line) + 1 for line, _ in rows)
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
                size = os.fstat(self._handle).st_size
                if size > whole:
                    os.ftruncate(self._handle, whole)
                elif size < whole:  # the last row is whole and only its line end is missing
                    os.write(self._handle, b"\n")
            except OSError as error:
                raise RlentError(f"{self.path} cannot be written ({error.strerror})") from error
        return self._handle


def _lines(path: Path) -> list[tuple[bytes, JsonObject]]:
    """The lines of a record without their ends, and what they say."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from error
    lines = raw.split(b"\n")
    ended = lines[-1] == b""
    if ended:
        lines.pop()
    found: list[tuple[bytes, JsonObject]] = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            if not isinstance(row, dict) or not isinstance(row.get("step"), int):
                raise ValueError("not an object with a step")
        except ValueError as error:
            if number == len(lines):
                break
            raise DataError(f"{path} line {number} is not a row of a record ({error}); restore the file, or remove the line") from None
        found.append((line, row))
    return found


def _plain(value: Any) -> Any:
    """Numbers, strings, lists and mappings as JSON has them; arrays and tensors of one element as numbers; not finite as None."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if hasattr(value, "tolist"):  # a NumPy or torch value
        return _plain(value.tolist())
    return str(value)


def _take_back(handle: int, end: int) -> None:
    try:
        os.ftruncate(handle, end)
    except OSError:
        pass  # a torn line is left, which readers ignore and the next writer removes


def read_metrics(path: Path | str) -> list[JsonObject]:
    """The rows of a `metrics.jsonl`, given the file or its run folder. A last line that is being written is left out.

    Raises:
        DataError: no such file, or a line that is no row of a record.
    """
    path = Path(path)
    path = path / "metrics.jsonl" if path.is_dir() else path
    if not path.is_file():
        raise DataError(f"{path}: there are no metrics; is it a run folder?")
    return read_rows(path)


def series(rows: Sequence[JsonObject], key: str = "entropy/mean") -> tuple[list[int], list[float]]:
    """Steps and values of one metric; rows without it, or without a finite value, are left out."""
    found = [(int(r["step"]), float(r[key])) for r in rows if "step" in r and r.get(key) is not None and math.isfinite(r[key])]
    return [s for s, _ in found], [v for _, v in found]
