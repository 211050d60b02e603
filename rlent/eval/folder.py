"""The evaluation folder: settings first, responses as they are drawn, and how a killed evaluation goes on.

settings.json     what decides the responses and verdicts; checked when an evaluation is continued
problems.jsonl    the problems, each once, with everything the grader may read
responses.jsonl   one response a line, as they are drawn (`responses.<rank>.jsonl` where several ranks draw)
eval.json         the numbers, the settings and the counts of each problem; written last
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlent.errors import DataError, RlentError, UsageError
from rlent.ranks.world import World
from rlent.system.write import write_text
from rlent.types import Json, Problem

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


@dataclass(frozen=True, slots=True)
class Sample:
    """One response and its verdict: a line of `responses.jsonl`.

    `tokens` counts the end of text; `nll` is the mean -log p of the sampled tokens in nats, under the distribution they were drawn
    from. `decode` is what the decode functions said of the response, or its mean over tokens.
    """

    problem: str
    source: str
    sample: int
    prompt: str
    gold: object
    response: str
    answer: str | None
    correct: bool
    status: str
    method: str
    finish: str
    tokens: int
    nll: float
    decode: Mapping[str, float] = field(default_factory=dict)


Found = dict[tuple[str, str], dict[int, Sample]]
"""Responses by (source, problem) and by number of the sample."""


def _plain(value: object) -> Any:
    """The value as JSON brings it back."""
    return json.loads(json.dumps(value, default=str))


def open_folder(
    out: Path | None, fixed: Mapping[str, Json], world: World, *, problems: Sequence[Problem] = (), extra: Mapping[str, Json] | None = None
) -> Found:
    """Check or write the folder's settings, and read the responses in it; rank 0 does, all ranks know or raise.

    `fixed` must be the same when an evaluation is continued; `extra` is written beside it and not compared.
    """
    if out is None:
        return {}
    answer: Any = None
    if world.leads:
        try:
            answer = _read(out, _plain(fixed), problems, _plain(extra or {}))
        except RlentError as error:
            answer = error
    answer = world.broadcast(answer)
    if isinstance(answer, RlentError):
        raise answer
    return answer  # type: ignore[no-any-return]


def _read(out: Path, fixed: Mapping[str, Json], problems: Sequence[Problem], extra: Mapping[str, Json]) -> Found:
    settings, files = out / "settings.json", sorted(out.glob("responses*.jsonl"))
    if any(path.stat().st_size for path in files) and not settings.exists():
        raise UsageError(f"{out} has responses but no settings.json, so nothing says how they were drawn; use another folder")
    if not settings.exists():
        out.mkdir(parents=True, exist_ok=True)
        write_lines(out / "problems.jsonl", problems)
        write_json(settings, {"fingerprint": _fingerprint(fixed), **fixed, "extra": extra})
        return {}
    try:
        old = json.loads(settings.read_text(encoding="utf-8"))
        old.pop("extra", None)
        made_with = old.pop("fingerprint")
    except (ValueError, KeyError, AttributeError) as error:
        raise UsageError(f"{settings} cannot be read ({error}); use another folder") from error
    if made_with != _fingerprint(fixed):
        if not any(path.stat().st_size for path in files):  # stopped before the first response: nothing to keep apart
            settings.unlink()
            return _read(out, fixed, problems, extra)
        what = list(changes(old, fixed)) or ["settings.json was edited"]
        raise UsageError(f"{out} was made with other settings: {'; '.join(what)}. Use another folder, or the same settings to continue it")
    found: Found = {}
    for path in files:
        for sample in read_samples(path):
            found.setdefault((sample.source, sample.problem), {}).setdefault(sample.sample, sample)
    return found


def _fingerprint(fixed: Mapping[str, Json]) -> str:
    return hashlib.blake2b(json.dumps(fixed, sort_keys=True, default=str).encode(), digest_size=16).hexdigest()


def read_samples(path: Path, *, mend: bool = True) -> Iterator[Sample]:
    """The file's lines. A last line that a kill left broken is cut off the file (`mend`), so that the next one begins on its own."""
    data = path.read_bytes()
    at = 0
    for number, line in enumerate(data.splitlines(keepends=True), start=1):
        try:
            if not line.endswith(b"\n"):
                raise ValueError("no end of line")
            row = json.loads(line)
            sample = Sample(**row)
        except (ValueError, TypeError) as error:
            if at + len(line) == len(data):
                if mend:
                    os.truncate(path, at)
                return
            raise DataError(f"{path}, line {number}: not a response ({error}); remove the line to have it drawn again") from error
        at += len(line)
        yield sample


def append(path: Path, samples: Sequence[Sample]) -> None:
    """Add lines to the file and see them on disk. Lone surrogates in a response are written as JSON escapes."""
    with path.open("a", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
        file.write(_lines(samples))
        file.flush()
        os.fsync(file.fileno())


def _lines(rows: Iterable[DataclassInstance]) -> str:
    """Data objects as JSON lines."""
    return "".join(
        json.dumps({f.name: getattr(row, f.name) for f in fields(row)}, ensure_ascii=False, default=_json) + "\n" for row in rows
    )


def _json(value: object) -> object:
    return dict(value) if isinstance(value, Mapping) else str(value)


def write_lines(path: Path, rows: Iterable[DataclassInstance]) -> None:
    """Write a file of JSON lines at once: either all of it is there, or what was there before."""
    write_text(path, _lines(rows))


def write_json(path: Path, document: Mapping[str, Json]) -> None:
    """Write the document at once: either all of it is there, or what was there before."""
    write_text(path, json.dumps(document, indent=1, ensure_ascii=False, default=str) + "\n")


def read_problems(path: Path) -> dict[tuple[str, str], Problem]:
    """The problems of an evaluation's folder by (source, id).

    Raises:
        DataError: a line that is no problem.
    """
    found: dict[tuple[str, str], Problem] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            p = Problem(**json.loads(line))
        except (ValueError, TypeError) as error:
            raise DataError(f"{path}, line {number}: not a problem ({error})") from error
        found[p.source, p.id] = p
    return found


def changes(old: object, new: object, where: str = "") -> Iterator[str]:
    """Every value that differs between two nested mappings, as `key.key was x and is y`."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted({*old, *new}):
            yield from changes(old.get(key), new.get(key), f"{where}.{key}" if where else key)
    elif old != new:
        yield f"{where} was {old!r} and is {new!r}"
