"""Problems from files (JSON lines, JSON, Parquet) and from the Hugging Face hub.

A file that cannot be used whole is refused with the row numbers; nothing is skipped in silence.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rlent.data.fields import AUTO, Field, Fields, to_problem
from rlent.data.problems import Problems
from rlent.data.readers import read_rows
from rlent.data.rows import BadRowError
from rlent.errors import DataError
from rlent.types import Problem

_SHOWN = 5


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
    return _collect(read_rows(path), Fields(prompt_field, answer_field, id_field), where=str(path), limit=limit, name=name)


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
        DataError: it cannot be fetched (the message has what to do without a network), or rows cannot be used.
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
    fields = Fields(prompt_field, answer_field, id_field)
    return _collect(enumerate(rows, 1), fields, where=where, limit=limit, name=name.rstrip("/").rpartition("/")[2])


def _collect(rows: Iterable[tuple[int, object]], fields: Fields, *, where: str, limit: int | None, name: str) -> Problems:
    """All rows as problems, or one error that names the rows that cannot be used."""
    problems: list[Problem] = []
    bad: list[str] = []
    seen: dict[str, int] = {}
    read = 0
    for number, row in rows:
        if limit is not None and read == limit:
            break
        read += 1
        try:
            problem = to_problem(row, number, fields, name=name)
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
