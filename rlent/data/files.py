"""Problems from files (JSON lines, JSON, Parquet) and from the Hugging Face hub.

Fields are named by dotted paths (`reward_model.ground_truth`). Left at `auto` they are found by their usual names, so that
bare rows (`prompt` or `problem` or `question`, with `answer`), TRL's (`prompt`, `solution`) and verl's (`prompt` as messages,
`reward_model.ground_truth`, `data_source`) are read as they are. A file that cannot be used whole is refused with the row
numbers; nothing is skipped in silence.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from rlent.data.findings import Findings, examine
from rlent.data.overlap import benchmarks, drop_duplicates, key, without
from rlent.data.problems import Problems
from rlent.data.rows import MISSING, BadRowError, field_at, json_lines, open_lines
from rlent.data.templates import TEMPLATES, check_template
from rlent.errors import DataError, did_you_mean
from rlent.math import noise
from rlent.options import Count, PositiveCount
from rlent.types import Problem

AUTO = "auto"
PROMPT_FIELDS = ("prompt", "problem", "question", "query", "input")
ANSWER_FIELDS = ("reward_model.ground_truth", "answer", "ground_truth", "final_answer", "expected_answer", "solution", "gold", "target")
ID_FIELDS = ("id", "unique_id", "problem_id", "uuid")
SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".parquet")

_SHOWN = 5
_HELD_OUT_SHARE = 10
_LISTED = re.compile(r"\s*\[\s*\"")

Duplicates = Literal["keep", "drop"]
Use = Literal["train", "evaluate"]
Field = str | Sequence[str]
"""A dotted path, several of them (the first that a row has counts), or `auto`."""


def _json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    with open_lines(path) as file:
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


def read_rows(path: Path) -> Iterator[tuple[int, Any]]:
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


def _find(row: Mapping[str, Any], field: Field, usual: tuple[str, ...], what: str) -> tuple[str, Any]:
    """Name and value of a field: by its given name, or by the first of several names (with `auto`, of its usual names) that is there."""
    names = usual if field == AUTO else (field,) if isinstance(field, str) else tuple(field)
    for name in names:
        value = field_at(row, name)
        if value is not MISSING and not (len(names) > 1 and value is None):
            return name, value
    there = ", ".join(map(str, row)) or "none"
    if len(names) > 1:
        raise BadRowError(f"no {what}: none of {', '.join(names)} is a field (fields: {there}); name it with data.{what}_field")
    raise BadRowError(f"no field {names[0]!r}{did_you_mean(names[0], map(str, row))} (fields: {there})")


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
    """The accepted answer, or the list of accepted answers, which may come as JSON (`["18"]`). Of a worked answer that ends in
    `#### 18` only the end counts."""
    if isinstance(value, str) and _LISTED.match(value):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            pass
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


def to_problem(row: Any, number: int, *, prompt_field: Field, answer_field: Field, id_field: Field, name: str) -> Problem:
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
    rows: Iterable[tuple[int, Any]], *, where: str, prompt_field: Field, answer_field: Field, id_field: Field, limit: int | None, name: str
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
    prompt_field: Field = AUTO,
    answer_field: Field = AUTO,
    id_field: Field = AUTO,
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
        read_rows(path), where=str(path), prompt_field=prompt_field, answer_field=answer_field, id_field=id_field, limit=limit, name=name
    )


def load_hub(
    name: str,
    *,
    split: str = "train",
    config: str | None = None,
    revision: str | None = None,
    prompt_field: Field = AUTO,
    answer_field: Field = AUTO,
    id_field: Field = AUTO,
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


def split_off(problems: Problems, size: int, seed: int) -> Problems:
    """`size` problems, chosen by the seed, to hold out: at most a tenth of them, and at least one if there are two and one is wanted."""
    size = min(size, max(len(problems) // _HELD_OUT_SHARE, int(len(problems) > 1)))
    chosen = sorted(noise.permutation(len(problems), seed, "held_out")[:size])
    return Problems((problems[i] for i in chosen), name=f"{problems.name}/held_out")


class _Loaded:
    """Training problems, and problems held out: a set of their own, some of the training problems, or (`use: evaluate`) all."""

    path: str | None
    use: Use
    limit: int | None
    held_out_path: str | None
    held_out_size: int
    fields: dict[str, Any]
    duplicates: Duplicates
    decontaminate: bool
    against: Sequence[str]
    max_prompt: int | None
    long_prompts: Duplicates
    bad_golds: Literal["report", "stop"]
    seed: int
    template: str
    grader: Any
    _too_long: frozenset[str] = frozenset()

    def _load(self) -> Problems:
        raise NotImplementedError

    def _load_held_out(self) -> Problems | None:
        return load_file(self.held_out_path, **self.fields) if self.held_out_path else None

    @cached_property
    def all(self) -> Problems:
        """The rows as they are in the file or data set."""
        return self._load()

    @cached_property
    def _unique(self) -> Problems:
        return drop_duplicates(self.all) if self.duplicates == "drop" else self.all

    @cached_property
    def separate(self) -> Problems | None:
        """The test set of its own, if there is one."""
        return self._load_held_out() if self.use == "train" else None

    @cached_property
    def held_out(self) -> Problems:
        if self.use == "evaluate":
            return self.all
        return split_off(self._unique, self.held_out_size, self.seed) if self.separate is None else self.separate

    @cached_property
    def tests(self) -> dict[str, frozenset[str]]:
        """Keys of the sets that training problems are compared with: the usual benchmarks and the files of `against`."""
        own = {Path(file).name: frozenset(key(p.prompt) for p in load_file(file)) for file in self.against}
        return {**benchmarks(), **own}

    @cached_property
    def candidates(self) -> Problems:
        """Training problems before test problems are taken out: without duplicates (if they are dropped) and without what is held out."""
        if self.use == "evaluate":
            raise DataError(
                f"{self.all.name} is an evaluation set (data.use=evaluate), and no recipe trains on it; choose a training set with data=..., "
                "or say data.use=train"
            )
        return without(self._unique, (key(p.prompt) for p in self.held_out))

    @cached_property
    def train(self) -> Problems:
        """Without the problems that are also held out, and without what `decontaminate` and `long_prompts` leave out.

        Raises:
            DataError: an evaluation set, or nothing is left.
        """
        left = self.candidates
        if not len(left):
            raise DataError(f"{left.name}: every problem is also held out, so none is left to train on")
        if self.decontaminate:
            left = without(left, (k for keys in self.tests.values() for k in keys))
        if self.long_prompts == "drop" and self._too_long:
            left = Problems((p for p in left if p.id not in self._too_long), name=left.name)
        if not len(left):
            raise DataError(f"{left.name}: data.decontaminate and data.long_prompts leave no problem to train on")
        return left

    def examine(self, tokenizer: Any = None, room: int | None = None) -> Findings:
        """Look at every problem once: golds against themselves, duplicates, overlap with test sets, and prompts of more than
        `data.max_prompt` (or else `room`) tokens.
        """
        return examine(self, tokenizer, self.max_prompt or room)

    def settle(self, found: Findings) -> None:
        """Do what the settings say about findings: `long_prompts=drop` leaves prompts out of `train` from now on.

        Raises:
            DataError: `bad_golds` is `stop` and a gold is not an answer to itself.
        """
        if found.bad_golds and self.bad_golds == "stop":
            raise DataError("\n  ".join([f"{found.name}: data.bad_golds=stop, and", *found.lines()[:1]]))
        self._too_long = frozenset(found.too_long)
        self.__dict__.pop("train", None)


def for_template(template: str, grader: Any) -> Any:
    """The grader, told whether the template's prompts end inside `<think>`."""
    policy = getattr(grader, "policy", None)
    if policy is not None and template in TEMPLATES:
        grader.policy = policy.for_template(TEMPLATES[template].opens_thinking)
    return grader


class FileData(_Loaded):
    """Problems from a file. Options are described in `recipes/data/file.yaml`."""

    def __init__(
        self,
        *,
        path: str | None = None,
        use: Use = "train",
        held_out_path: str | None = None,
        held_out_size: Count = 64,
        prompt_field: Field = AUTO,
        answer_field: Field = AUTO,
        id_field: Field = AUTO,
        limit: PositiveCount | None = None,
        duplicates: Duplicates = "keep",
        decontaminate: bool = False,
        against: Sequence[str] = (),
        max_prompt: PositiveCount | None = None,
        long_prompts: Duplicates = "keep",
        bad_golds: Literal["report", "stop"] = "report",
        seed: int = 0,
        template: str = "none",
        grader: Any = None,
    ) -> None:
        self.path, self.use = path, use
        self.held_out_path, self.held_out_size = held_out_path, held_out_size
        self.fields = {"prompt_field": prompt_field, "answer_field": answer_field, "id_field": id_field}
        self.limit, self.duplicates, self.seed = limit, duplicates, seed
        self.decontaminate, self.against, self.bad_golds = decontaminate, against, bad_golds
        self.max_prompt, self.long_prompts = max_prompt, long_prompts
        self.template, self.grader = template, for_template(template, grader)

    def _load(self) -> Problems:
        if not self.path:
            raise DataError(f"data.path: not set; give the file to read, data.path=FILE (kinds: {', '.join(SUFFIXES)})")
        return load_file(self.path, limit=self.limit, **self.fields)

    def check(self) -> None:
        """Read the files, so that everything wrong with them is known before a model is loaded.

        Raises:
            DataError: see `load_file`.
        """
        check_template(self.template)
        _ = self.held_out if self.use == "evaluate" else self.train


class HubData(_Loaded):
    """Problems from a data set of the Hugging Face hub, or from a copy of it in a file (`path`). Options are described in
    `recipes/data/hub.yaml`; the cards of known sets (`recipes/data/math500.yaml`, ...) state what differs from it.
    """

    def __init__(
        self,
        *,
        name: str | None = None,
        path: str | None = None,
        config: str | None = None,
        split: str = "train",
        revision: str | None = None,
        use: Use = "train",
        held_out_split: str | None = None,
        held_out_path: str | None = None,
        held_out_size: Count = 64,
        prompt_field: Field = AUTO,
        answer_field: Field = AUTO,
        id_field: Field = AUTO,
        limit: PositiveCount | None = None,
        duplicates: Duplicates = "keep",
        decontaminate: bool = False,
        against: Sequence[str] = (),
        max_prompt: PositiveCount | None = None,
        long_prompts: Duplicates = "keep",
        bad_golds: Literal["report", "stop"] = "report",
        seed: int = 0,
        template: str = "none",
        grader: Any = None,
        protocol: Mapping[str, Any] | None = None,
        card: Mapping[str, Any] | None = None,
    ) -> None:
        self.name, self.path, self.config, self.revision = name, path, config, revision
        self.split, self.use = split, use
        self.held_out_split, self.held_out_path, self.held_out_size = held_out_split, held_out_path, held_out_size
        self.fields = {"prompt_field": prompt_field, "answer_field": answer_field, "id_field": id_field}
        self.limit, self.duplicates, self.seed = limit, duplicates, seed
        self.decontaminate, self.against, self.bad_golds = decontaminate, against, bad_golds
        self.max_prompt, self.long_prompts = max_prompt, long_prompts
        self.template, self.grader = template, for_template(template, grader)
        self.protocol, self.card = protocol, card

    def _from_hub(self, split: str, limit: int | None) -> Problems:
        if not self.name:
            raise DataError("data.name: not set; give the data set's name on the hub, data.name=owner/name")
        return load_hub(self.name, split=split, config=self.config, revision=self.revision, limit=limit, **self.fields)

    def _load(self) -> Problems:
        return load_file(self.path, limit=self.limit, **self.fields) if self.path else self._from_hub(self.split, self.limit)

    def _load_held_out(self) -> Problems | None:
        if self.held_out_path:
            return super()._load_held_out()
        return self._from_hub(self.held_out_split, None) if self.held_out_split and not self.path else None

    def check(self) -> None:
        """Refuse what can be seen without fetching anything (a file given by `path` is read).

        Raises:
            DataError: names the option.
        """
        check_template(self.template)
        if self.path:
            _ = self.held_out if self.use == "evaluate" else self.train
        elif not self.name:
            self._from_hub(self.split, None)
