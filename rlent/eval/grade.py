"""`rlent grade`: verdicts on responses that are in a file already.

Rows stream: a few hundred are read, graded, written and forgotten, so the size of the file does not matter. A row that
cannot be graded is named on stderr and left out of the output. Ctrl-C finishes the rows in hand and stops; `--resume` goes on.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from rlent.data.rows import MISSING, BadRowError, field_at, json_lines, unzipped
from rlent.errors import DataError, UsageError, did_you_mean
from rlent.grading.base import GradePolicy, Mode
from rlent.grading.math import MathGrader
from rlent.system.signals import on_stop
from rlent.types import Verdict

VERDICT = ("correct", "answer", "method", "status", "seconds")
"""What a graded row has beside its own fields."""

BATCH = 512  # rows in hand
BATCH_CHARACTERS = 1 << 24  # fewer rows in hand, when they are long
_SHOWN = 20  # broken rows that are named
_PLAIN_EVERY = 10.0  # seconds between lines of progress where there is no terminal


@dataclass
class Tally:
    """What a file came to."""

    rows: int = 0
    correct: int = 0
    broken: int = 0
    skipped: int = 0
    """Rows that an earlier run had graded (`--resume`)."""
    status: Counter[str] = field(default_factory=Counter)
    method: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    stopped: bool = False

    def add(self, verdict: Verdict) -> None:
        self.rows += 1
        self.correct += verdict.correct
        self.status[verdict.status] += 1
        self.method[verdict.method] += 1

    def to_dict(self) -> dict[str, object]:
        """As JSON: counts, `accuracy` (None without rows), rows per second."""
        return {
            "rows": self.rows,
            "correct": self.correct,
            "accuracy": self.correct / self.rows if self.rows else None,
            "broken": self.broken,
            "skipped": self.skipped,
            "status": dict(self.status.most_common()),
            "method": dict(self.method.most_common()),
            "seconds": round(self.seconds, 3),
            "per_second": round(self.rows / self.seconds, 1) if self.seconds else None,
            "stopped": self.stopped,
        }

    def lines(self) -> list[str]:
        """As sentences."""
        share = f" ({self.correct / self.rows:.1%})" if self.rows else ""
        rate = f", {self.rows / self.seconds:.0f} rows/s" if self.seconds else ""
        out = [f"{self.correct:,} of {self.rows:,} rows correct{share} in {self.seconds:.1f} s{rate}"]
        for name, counts in (("status", self.status), ("method", self.method)):
            if counts:
                out.append(f"  {name}: " + ", ".join(f"{key} {count:,}" for key, count in counts.most_common()))
        if self.skipped:
            out.append(f"  {_count(self.skipped, 'row')} graded before")
        if self.broken:
            out.append(f"  {_count(self.broken, 'broken row')}, not in the output")
        return out


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'s' if n != 1 else ''}"


def main(
    file: str,
    *,
    out: str | None = None,
    mode: Mode = "box",
    response_field: str = "response",
    gold_field: str = "gold",
    workers: int = 2,
    timeout: float = 3.0,
    policy: GradePolicy | None = None,
    resume: bool = False,
    as_json: bool = False,
) -> int:
    """Grade a file of responses. Returns the exit code: 0 done, 130 stopped by Ctrl-C.

    Raises:
        UsageError: `out` is there already, or options that make no sense.
        DataError: the file cannot be read, or not one of its rows can be graded.
    """
    _refuse_collisions(response_field, gold_field)
    if resume and (out is None or out.endswith(".gz")):
        raise UsageError("--resume continues a file that was begun: it needs --out FILE, and a FILE that is not compressed")
    tally = Tally()
    with ExitStack() as stack:
        source, size = _open(file, stack)
        grader = stack.enter_context(MathGrader(mode=mode, workers=workers, timeout=timeout, policy=policy))
        rows = _good_rows(json_lines(source), response_field, gold_field, tally)
        if resume:
            tally.skipped = _skip(rows, Path(str(out)), grader, response_field, gold_field)
        if out is not None and not resume and Path(out).expanduser().exists():
            raise _taken(out)
        watch = stack.enter_context(_watching())
        show = stack.enter_context(_progress(size, source, quiet=as_json))

        def create() -> TextIO:
            return _create(out, stack, append=resume)

        try:
            _grade_rows(rows, grader, create, watch, show, tally)
        except (EOFError, zlib.error) as error:
            raise DataError(f"{file}: ends in the middle ({error}); {tally.rows + tally.skipped:,} rows before that were graded") from None
        if not tally.rows and not tally.broken:
            create()  # no rows are no lines
    if tally.broken and not tally.rows + tally.skipped:
        raise DataError(
            f"{file}: not one of {tally.broken:,} rows can be graded (see above); name the fields with --response-field, --gold-field"
        )
    _report(tally, out, as_json)
    return 130 if tally.stopped else 0


def _grade_rows(
    rows: Iterable[Good], grader: MathGrader, create: Callable[[], TextIO], watch: _Watch, show: Callable[[Tally], None], tally: Tally
) -> None:
    """Grade and write rows batch by batch, until there are no more or `watch` is asked to stop. The output is created with the first."""
    sink: TextIO | None = None
    begun = time.monotonic()
    for batch in _batches(rows, watch):
        verdicts = grader.grade_batch([(response, gold) for _, response, gold in batch])
        sink = sink or create()
        for (row, _, _), verdict in zip(batch, verdicts, strict=True):
            sink.write(line(row, verdict))
            tally.add(verdict)
        sink.flush()
        tally.seconds = time.monotonic() - begun
        show(tally)
        if watch.asked:
            break
    tally.stopped = watch.asked
    tally.seconds = time.monotonic() - begun


def line(row: Mapping[str, object], verdict: Verdict) -> str:
    """A row with its verdict as a line of JSON; characters outside ASCII stay readable where they can be written."""
    graded = {**row, **{name: getattr(verdict, name) for name in VERDICT}, "seconds": round(verdict.seconds, 6)}
    text = json.dumps(graded, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate
        text = json.dumps(graded)
    return text + "\n"


def _refuse_collisions(response_field: str, gold_field: str) -> None:
    for option, name in (("--response-field", response_field), ("--gold-field", gold_field)):
        if name in VERDICT:
            raise UsageError(
                f"{option} {name}: the output has a field '{name}' of its own ({', '.join(VERDICT)}), which would take the place of yours; "
                f"rename it first, for example with jq '.gold = .{name} | del(.{name})'"
            )


# --- reading ----------------------------------------------------------------------------------------------------------


def _open(file: str, stack: ExitStack) -> tuple[BinaryIO, int | None]:
    """(the lines, decompressed where needed; the size of the file in bytes, None where it is not known)."""
    if file == "-":
        return unzipped(sys.stdin.buffer), None
    path = Path(file).expanduser()
    if not path.exists():
        near = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(f"{file}: there is no such file{did_you_mean(path.name, near)}")
    if path.is_dir():
        raise DataError(f"{file}: is a folder; a file of JSON lines is wanted, or - for standard input")
    raw = stack.enter_context(path.open("rb"))
    return unzipped(raw), path.stat().st_size if path.is_file() else None


Good = tuple[dict[str, object], str, object]
"""A row, its response, its gold."""


def _good_rows(rows: Iterable[tuple[int, object]], response_field: str, gold_field: str, tally: Tally) -> Iterator[Good]:
    """Rows that can be graded; the others are counted and the first of them named on stderr."""
    for number, row in rows:
        try:
            yield _read(row, response_field, gold_field)
        except BadRowError as reason:
            tally.broken += 1
            if tally.broken <= _SHOWN:
                _say(f"row {number}: {reason}")
            if tally.broken == _SHOWN:
                _say("more broken rows are counted and not named")


def _read(row: object, response_field: str, gold_field: str) -> Good:
    if isinstance(row, BadRowError):
        raise row
    if not isinstance(row, dict):
        raise BadRowError(f"a {type(row).__name__}, and an object with fields is wanted")
    response, gold = _field(row, response_field), _field(row, gold_field)
    if not isinstance(response, str):
        raise BadRowError(f"'{response_field}' is {_kind(response)}, and a text is wanted; a row holds one response")
    for one in gold if isinstance(gold, list) else [gold]:
        if isinstance(one, bool) or not isinstance(one, str | int | float):
            raise BadRowError(f"'{gold_field}' is {_kind(gold)}, and a text, a number or a list of them is wanted")
    return row, response, gold


def _field(row: Mapping[str, object], name: str) -> object:
    value = field_at(row, name)
    if value is MISSING:
        raise BadRowError(f"no field '{name}'{did_you_mean(name, map(str, row))} (fields: {', '.join(map(str, row)) or 'none'})")
    return value


def _kind(value: object) -> str:
    return "null" if value is None else f"a {type(value).__name__}"


def _batches(rows: Iterable[Good], watch: _Watch) -> Iterator[list[Good]]:
    """Rows in hand, a few hundred at a time; when reading is interrupted, those that were read."""
    batch: list[Good] = []
    characters = 0
    try:
        watch.reading = True
        for row in rows:
            batch.append(row)
            characters += len(row[1])
            if len(batch) == BATCH or characters > BATCH_CHARACTERS:
                watch.reading = False
                yield batch
                batch, characters = [], 0
                watch.reading = True
    except _StopReading:
        pass
    finally:
        watch.reading = False
    if batch:
        yield batch


# --- writing ----------------------------------------------------------------------------------------------------------


def _create(out: str | None, stack: ExitStack, *, append: bool) -> TextIO:
    if out is None:
        sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
        return sys.stdout
    path = Path(out).expanduser()
    try:
        if path.name.endswith(".gz"):
            import gzip

            return stack.enter_context(gzip.open(path, "xt", encoding="utf-8"))
        return stack.enter_context(path.open("a" if append else "x", encoding="utf-8"))
    except FileExistsError:
        raise _taken(out) from None
    except FileNotFoundError:
        raise UsageError(f"--out {out}: there is no folder '{path.parent}'") from None


def _taken(out: str) -> UsageError:
    return UsageError(f"--out {out}: is there already, and is not overwritten; name another file, or go on with --resume")


def _skip(rows: Iterator[Good], path: Path, grader: MathGrader, response_field: str, gold_field: str) -> int:
    """Pass over the rows that are graded in `path`; a line that was cut off is removed. Returns their number.

    Raises:
        UsageError: the file is not what these rows and this grader give.
    """
    if not path.exists():
        return 0
    count, end, last = 0, 0, b""
    with path.open("rb") as done:
        for text in done:
            if not text.endswith(b"\n"):
                break
            count, end, last = count + 1, end + len(text), text
    row: Good | None = None
    for _ in range(count):
        row = next(rows, None)
        if row is None:
            raise UsageError(f"--resume: {path} has {count:,} rows, more than the input; it was made from another file")
    if row is not None:
        try:
            old = json.loads(last)
            same = all(_field(old, name) == _field(row[0], name) for name in (response_field, gold_field))
            verdict = grader.grade(row[1], row[2])
            alike = (old["correct"], old["answer"]) == (verdict.correct, verdict.answer)
        except (ValueError, KeyError, TypeError):
            same = alike = False
        if not same or not alike:
            what = "another input" if not same else "other settings"
            raise UsageError(f"--resume: row {count:,} of {path} was made from {what}; give the same file and options, or another --out")
    if end < path.stat().st_size:
        os.truncate(path, end)
    return count


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _report(tally: Tally, out: str | None, as_json: bool) -> None:
    """The summary: on stderr, or as JSON on stdout where that is free."""
    if as_json:
        print(json.dumps(tally.to_dict()), file=sys.stderr if out is None else sys.stdout, flush=True)
    else:
        _say("\n".join(tally.lines()))
    if tally.stopped:
        _say("stopped; every row before that is written" + (f". Go on with the same command and --resume (into {out})" if out else ""))


# --- progress and Ctrl-C ----------------------------------------------------------------------------------------------


class _StopReading(BaseException):
    """Raised by the signal while the program waits for input."""


@dataclass
class _Watch:
    """The first Ctrl-C or SIGTERM sets `asked` (and ends the wait for input, if that is where it finds us); the second stops at once."""

    asked: bool = False
    reading: bool = False

    def __call__(self, received: signal.Signals) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        _say("stopping after the rows in hand; again to stop at once")
        if self.reading:
            raise _StopReading


@contextmanager
def _watching() -> Iterator[_Watch]:
    """A watch for signals, in the main thread; elsewhere it never asks."""
    watch = _Watch()
    with on_stop(watch):
        yield watch


@contextmanager
def _progress(size: int | None, source: BinaryIO, *, quiet: bool) -> Iterator[Callable[[Tally], None]]:
    """Shows a tally as it grows: a bar on a terminal, else a line every ten seconds."""
    if quiet:
        yield lambda tally: None
        return
    if not sys.stderr.isatty():
        last = time.monotonic()

        def plain(tally: Tally) -> None:
            nonlocal last
            if time.monotonic() - last >= _PLAIN_EVERY:
                last = time.monotonic()
                _say(f"{tally.rows:,} rows, {tally.rows / max(tally.seconds, 1e-9):.0f} rows/s, {tally.correct / tally.rows:.1%} correct")

        yield plain
        return
    place = getattr(source, "fileobj", source)  # of the compressed file, whose size is known
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("grading", total=size)

        def fancy(tally: Tally) -> None:
            text = f"{tally.rows:,} rows, {tally.rows / max(tally.seconds, 1e-9):.0f} rows/s, {tally.correct / tally.rows:.1%} correct"
            bar.update(task, completed=place.tell() if size else 0, description=text)

        yield fancy


__all__ = ["VERDICT", "Tally", "line", "main"]
