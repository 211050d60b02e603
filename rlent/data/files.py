"""Problems from files (JSON lines, JSON, Parquet) and from the Hugging Face hub.

Fields are named by dotted paths (`reward_model.ground_truth`). Left at `auto` they are found by their usual names, so that
bare rows (`prompt` or `problem` or `question`, with `answer`), TRL's (`prompt`, `solution`) and verl's (`prompt` as messages,
`reward_model.ground_truth`, `data_source`) are read as they are. A file that cannot be used whole is refused with the row
numbers; nothing is skipped in silence.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from rlent import noise
from rlent.data.problems import Problems
from rlent.data.templates import check_template
from rlent.errors import DataError, did_you_mean
from rlent.options import Count, PositiveCount
from rlent.types import Problem

AUTO = "auto"
PROMPT_FIELDS = ("prompt", "problem", "question", "query", "input")
ANSWER_FIELDS = ("reward_model.ground_truth", "answer", "ground_truth", "final_answer", "expected_answer", "solution", "gold", "target")
ID_FIELDS = ("id", "unique_id", "problem_id", "uuid")
SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".parquet")

_SHOWN = 5
_HELD_OUT_SHARE = 10
_MISSING = object()

Duplicates = Literal["keep", "drop"]


class BadRowError(ValueError):
    """Why one row cannot be used."""


# rows ----------------------------------------------------------------------------------------------------------------------------


def json_lines(lines: Iterable[bytes]) -> Iterator[tuple[int, Any]]:
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


def _json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
        yield from json_lines(file)


def _json_list(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        rows = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON ({error}); one object a line is JSON lines, name such a file .jsonl") from None
    if not isinstance(rows, list):
        raise DataError(f"{path}: holds one {type(rows).__name__}, and a list of problems is wanted")
    yield from enumerate(rows, 1)


def _parquet(path: Path) -> Iterator[tuple[int, Any]]:
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


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
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


# one row to one problem ----------------------------------------------------------------------------------------------------------


def field_at(row: Mapping[str, Any], field: str) -> Any:
    """The value at a dotted path, where a field whose own name has the dots comes first; `_MISSING` if there is none."""
    if field in row:
        return row[field]
    value: Any = row
    for part in field.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return _MISSING
        value = value[part]
    return value


def _find(row: Mapping[str, Any], field: str, usual: tuple[str, ...], what: str) -> tuple[str, Any]:
    """Name and value of a field, by its given name or, with `auto`, by the first of its usual names."""
    for name in usual if field == AUTO else (field,):
        value = field_at(row, name)
        if value is not _MISSING and not (field == AUTO and value is None):
            return name, value
    there = ", ".join(map(str, row)) or "none"
    if field == AUTO:
        raise BadRowError(f"no {what}: none of {', '.join(usual)} is a field (fields: {there}); name it with data.{what}_field")
    raise BadRowError(f"no field {field!r}{did_you_mean(field, map(str, row))} (fields: {there})")


def _messages(value: Any) -> list[dict[str, str]]:
    turns = []
    for turn in value:
        if not isinstance(turn, Mapping) or not isinstance(turn.get("role"), str) or not isinstance(turn.get("content"), str):
            raise BadRowError("the prompt is a list, but not of messages with a role and a text content")
        turns.append({"role": turn["role"], "content": turn["content"]})
    return turns


def _prompt(value: Any) -> tuple[str, list[dict[str, str]]]:
    """The problem's text and, when the row holds a conversation, its messages."""
    messages: list[dict[str, str]] = []
    if isinstance(value, list):
        messages = _messages(value)
        asked = [turn["content"] for turn in messages if turn["role"] == "user"]
        value = asked[-1] if asked else ""
    if not isinstance(value, str):
        raise BadRowError(f"the prompt is a {type(value).__name__}, and a text or a list of messages is wanted")
    if not value.strip():
        raise BadRowError("the prompt is empty")
    return value, messages


def _answer(value: Any) -> str | list[str]:
    """The accepted answer, or the list of accepted answers. Of a worked answer that ends in `#### 18` only the end counts."""
    if isinstance(value, list):
        accepted = [_answer(item) for item in value]
        if not accepted:
            raise BadRowError("the list of answers is empty")
        if any(isinstance(item, list) for item in accepted):
            raise BadRowError("the answer is a list of lists")
        return [str(item) for item in accepted]
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise BadRowError(
            "the answer is empty" if value is None else f"the answer is a {type(value).__name__}, and a text or number is wanted"
        )
    text = str(value).rpartition("\n#### ")[2].strip()
    if not text:
        raise BadRowError("the answer is empty")
    return text


def to_problem(row: Any, number: int, *, prompt_field: str, answer_field: str, id_field: str, name: str) -> Problem:
    """One row as a problem; what is not prompt, answer, id or data source goes to `meta`, and a field `meta` is spread there."""
    if isinstance(row, BadRowError):
        raise row
    if not isinstance(row, Mapping):
        raise BadRowError(f"a {type(row).__name__}, and an object with fields is wanted")
    prompt_name, prompt_value = _find(row, prompt_field, PROMPT_FIELDS, "prompt")
    answer_name, answer_value = _find(row, answer_field, ANSWER_FIELDS, "answer")
    prompt, messages = _prompt(prompt_value)
    gold = _answer(answer_value)
    try:
        id_name, id_value = _find(row, id_field, ID_FIELDS, "id")
    except BadRowError:
        if id_field != AUTO:
            raise
        id_name, id_value = "", f"{name}-{number}"
    if not str(id_value).strip() or isinstance(id_value, list | dict) or id_value is None:
        raise BadRowError(f"the id {id_value!r} is not a text or number")
    data_source = row.get("data_source")
    taken = {prompt_name, answer_name, id_name, "meta"} | ({"data_source"} if isinstance(data_source, str) else set())
    meta = {str(key): value for key, value in row.items() if key not in taken}
    spread = row.get("meta")
    meta |= {str(k): v for k, v in spread.items()} if isinstance(spread, Mapping) else ({} if spread is None else {"meta": spread})
    if messages:
        meta["messages"] = messages
    return Problem(str(id_value), prompt, gold, meta, data_source if isinstance(data_source, str) else name)


def _collect(
    rows: Iterable[tuple[int, Any]], *, where: str, prompt_field: str, answer_field: str, id_field: str, limit: int | None, name: str
) -> Problems:
    """All rows as problems, or one error that tells which rows cannot be used."""
    problems: list[Problem] = []
    bad: list[str] = []
    seen: dict[str, int] = {}
    read = 0
    for number, row in rows:
        if limit is not None and read == limit:
            break
        read += 1
        try:
            problem = to_problem(row, number, prompt_field=prompt_field, answer_field=answer_field, id_field=id_field, name=name)
            if problem.id in seen:
                raise BadRowError(f"the id {problem.id!r} is already that of row {seen[problem.id]}")
            seen[problem.id] = number
            problems.append(problem)
        except BadRowError as reason:
            bad.append(f"row {number}: {reason}")
    if bad:
        more = [f"and {len(bad) - _SHOWN} more"] if len(bad) > _SHOWN else []
        lines = "".join(f"\n  {line}" for line in [*bad[:_SHOWN], *more])
        raise DataError(f"{where}: {len(bad)} of {read} rows cannot be used{lines}")
    if not problems:
        raise DataError(f"{where}: there are no rows")
    return Problems(problems, name=name)


# what people call ----------------------------------------------------------------------------------------------------------------


def load_file(
    path: str | Path,
    *,
    prompt_field: str = AUTO,
    answer_field: str = AUTO,
    id_field: str = AUTO,
    limit: int | None = None,
    name: str | None = None,
) -> Problems:
    """Problems from a .jsonl, .jsonl.gz, .json (a list) or .parquet file; `limit` reads the first rows only.

    Rows without an id get `<name>-<row number>`.

    Raises:
        DataError: the file is missing or cannot be read, or some rows cannot be used: not JSON, a missing field, an empty prompt
            or answer, an id used twice. The message names the first rows and counts the rest.
    """
    path = Path(path).expanduser()
    name = name or path.name.split(".")[0]
    return _collect(
        _rows(path), where=str(path), prompt_field=prompt_field, answer_field=answer_field, id_field=id_field, limit=limit, name=name
    )


def load_hub(
    name: str,
    *,
    split: str = "train",
    config: str | None = None,
    revision: str | None = None,
    prompt_field: str = AUTO,
    answer_field: str = AUTO,
    id_field: str = AUTO,
    limit: int | None = None,
) -> Problems:
    """Problems from a data set of the Hugging Face hub (or a folder in its layout), with the same fields as `load_file`.

    Raises:
        DataError: it cannot be fetched (the message says what to do without a network), or rows cannot be used.
    """
    where = f"{name} ({split})"
    try:
        import datasets

        rows = datasets.load_dataset(name, config, split=split, revision=revision)
    except Exception as error:  # the hub, the network and the reader each have a family of their own
        raise DataError(
            f"{where}: could not be loaded from the Hugging Face hub ({type(error).__name__}: {str(error).strip()[:300]}). "
            "Check the name, data.config and data.split. Without a network: fetch it on another machine with "
            f"`hf download --repo-type dataset {name}`, then read its file with data=file data.path=FILE"
        ) from error
    return _collect(
        enumerate(rows, 1),
        where=where,
        prompt_field=prompt_field,
        answer_field=answer_field,
        id_field=id_field,
        limit=limit,
        name=name.rstrip("/").rpartition("/")[2],
    )


def _words(problem: Problem) -> str:
    """The prompt up to spacing, by which problems count as the same."""
    return " ".join(problem.prompt.split())


def drop_duplicates(problems: Problems) -> Problems:
    """The first problem of each prompt; a prompt that comes with different answers is left out altogether."""
    golds: dict[str, set[str]] = {}
    for problem in problems:
        golds.setdefault(_words(problem), set()).add(json.dumps(problem.gold))
    kept: dict[str, Problem] = {}
    for problem in problems:
        text = _words(problem)
        if len(golds[text]) == 1:
            kept.setdefault(text, problem)
    return Problems(kept.values(), name=problems.name)


def without(problems: Problems, others: Problems) -> Problems:
    """The problems whose prompt is not the prompt of one of the others."""
    known = {_words(problem) for problem in others}
    return Problems((p for p in problems if _words(p) not in known), name=problems.name)


def split_off(problems: Problems, size: int, seed: int) -> Problems:
    """`size` problems, chosen by the seed, to hold out: at most a tenth of them, and at least one if there are two and one is wanted."""
    size = min(size, max(len(problems) // _HELD_OUT_SHARE, int(len(problems) > 1)))
    chosen = sorted(noise.permutation(len(problems), seed, "held_out")[:size])
    return Problems((problems[i] for i in chosen), name=f"{problems.name}/held_out")


class _Loaded:
    """Training problems, and problems held out: either a set of their own or some taken from the training set."""

    template: str
    grader: Any
    duplicates: str
    held_out_size: int
    seed: int

    def _load(self) -> Problems:
        raise NotImplementedError

    def _load_held_out(self) -> Problems | None:
        raise NotImplementedError

    @cached_property
    def _all(self) -> Problems:
        problems = self._load()
        return drop_duplicates(problems) if self.duplicates == "drop" else problems

    @cached_property
    def held_out(self) -> Problems:
        separate = self._load_held_out()
        return split_off(self._all, self.held_out_size, self.seed) if separate is None else separate

    @cached_property
    def train(self) -> Problems:
        """Without the problems that are also held out.

        Raises:
            DataError: nothing is left.
        """
        left = without(self._all, self.held_out)
        if not len(left):
            raise DataError(f"{self._all.name}: every problem is also held out, so none is left to train on")
        return left


class FileData(_Loaded):
    """Problems from a file. Options are described in `recipes/data/file.yaml`."""

    def __init__(
        self,
        *,
        path: str | None = None,
        held_out_path: str | None = None,
        held_out_size: Count = 64,
        prompt_field: str = AUTO,
        answer_field: str = AUTO,
        id_field: str = AUTO,
        limit: PositiveCount | None = None,
        duplicates: Duplicates = "keep",
        seed: int = 0,
        template: str = "none",
        grader: Any = None,
    ) -> None:
        self.path, self.held_out_path, self.held_out_size = path, held_out_path, held_out_size
        self.fields: dict[str, Any] = {"prompt_field": prompt_field, "answer_field": answer_field, "id_field": id_field}
        self.limit, self.duplicates, self.seed = limit, duplicates, seed
        self.template, self.grader = template, grader

    def _load(self) -> Problems:
        if not self.path:
            raise DataError(f"data.path: not set; give the file to read, data.path=FILE (kinds: {', '.join(SUFFIXES)})")
        return load_file(self.path, limit=self.limit, **self.fields)

    def _load_held_out(self) -> Problems | None:
        return load_file(self.held_out_path, **self.fields) if self.held_out_path else None

    def check(self) -> None:
        """Read the files, so that everything wrong with them is known before a model is loaded.

        Raises:
            DataError: see `load_file`.
        """
        check_template(self.template)
        _ = self.train


class HubData(_Loaded):
    """Problems from a data set of the Hugging Face hub. Options are described in `recipes/data/hub.yaml`."""

    def __init__(
        self,
        *,
        name: str | None = None,
        path: str | None = None,
        config: str | None = None,
        split: str = "train",
        revision: str | None = None,
        held_out_split: str | None = None,
        held_out_size: Count = 64,
        prompt_field: str = AUTO,
        answer_field: str = AUTO,
        id_field: str = AUTO,
        limit: PositiveCount | None = None,
        duplicates: Duplicates = "keep",
        seed: int = 0,
        template: str = "none",
        grader: Any = None,
    ) -> None:
        self.name, self.path, self.config, self.revision = name, path, config, revision
        self.split, self.held_out_split, self.held_out_size = split, held_out_split, held_out_size
        self.fields: dict[str, Any] = {"prompt_field": prompt_field, "answer_field": answer_field, "id_field": id_field}
        self.limit, self.duplicates, self.seed = limit, duplicates, seed
        self.template, self.grader = template, grader

    def _from_hub(self, split: str, limit: int | None) -> Problems:
        if not self.name:
            raise DataError("data.name: not set; give the data set's name on the hub, data.name=owner/name")
        return load_hub(self.name, split=split, config=self.config, revision=self.revision, limit=limit, **self.fields)

    def _load(self) -> Problems:
        return load_file(self.path, limit=self.limit, **self.fields) if self.path else self._from_hub(self.split, self.limit)

    def _load_held_out(self) -> Problems | None:
        return self._from_hub(self.held_out_split, None) if self.held_out_split and not self.path else None

    def check(self) -> None:
        """Refuse what can be seen without fetching anything (a file given by `path` is read).

        Raises:
            DataError: names the option.
        """
        check_template(self.template)
        if self.path:
            _ = self.train
        elif not self.name:
            self._from_hub(self.split, None)
