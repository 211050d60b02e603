"""One row as one problem: which of its fields are the prompt, the answer and the id.

Fields are named by dotted paths (`reward_model.ground_truth`). Left at `auto` they are found by their usual names, so that bare rows (`prompt`
or `problem` or `question`, with `answer`), TRL's (`prompt`, `solution`) and verl's (`prompt` as messages, `reward_model.ground_truth`,
`data_source`) are read as they are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rlent.data.rows import MISSING, BadRowError, field_at
from rlent.errors import did_you_mean
from rlent.types import Problem

AUTO = "auto"
PROMPT_FIELDS = ("prompt", "problem", "question", "query", "input")
ANSWER_FIELDS = ("reward_model.ground_truth", "answer", "ground_truth", "final_answer", "expected_answer", "solution", "gold", "target")
ID_FIELDS = ("id", "unique_id", "problem_id", "uuid")

Field = str | Sequence[str]
"""A dotted path, several of them (the first that a row has counts), or `auto`."""

_LISTED = re.compile(r"\s*\[\s*\"")


@dataclass(frozen=True, slots=True)
class Fields:
    """Where prompt, answer and id of a row are."""

    prompt: Field = AUTO
    answer: Field = AUTO
    id: Field = AUTO


def _find(row: Mapping[str, object], field: Field, usual: tuple[str, ...], what: str) -> tuple[str, object]:
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


def _messages(value: list[object]) -> list[dict[str, str]]:
    turns = []
    for turn in value:
        if not isinstance(turn, Mapping) or not isinstance(turn.get("role"), str) or not isinstance(turn.get("content"), str):
            raise BadRowError("the prompt is a list, but not of messages with a role and a text content")
        turns.append({"role": turn["role"], "content": turn["content"]})
    return turns


def _prompt(value: object) -> tuple[str, list[dict[str, str]]]:
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


def _answer(value: object) -> str | list[str]:
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


def to_problem(row: object, number: int, fields: Fields, *, name: str) -> Problem:
    """One row as a problem; what is not prompt, answer, id or data source goes to `meta`, and a field `meta` is spread there.

    Raises:
        BadRowError: why the row cannot be used.
    """
    if isinstance(row, BadRowError):
        raise row
    if not isinstance(row, Mapping):
        raise BadRowError(f"a {type(row).__name__}, and an object with fields is wanted")
    prompt_name, prompt_value = _find(row, fields.prompt, PROMPT_FIELDS, "prompt")
    answer_name, answer_value = _find(row, fields.answer, ANSWER_FIELDS, "answer")
    prompt, messages = _prompt(prompt_value)
    gold = _answer(answer_value)
    id_name, id_value = _id(row, fields.id, f"{name}-{number}")
    source = row.get("data_source")
    taken = {prompt_name, answer_name, id_name} | ({"data_source"} if isinstance(source, str) else set())
    meta = _rest(row, taken)
    if messages:
        meta["messages"] = messages
    return Problem(id_value, prompt, gold, meta, source if isinstance(source, str) else name)


def _id(row: Mapping[str, object], field: Field, otherwise: str) -> tuple[str, str]:
    """Name of the id's field (empty for a row without one, where that is allowed) and the id."""
    try:
        name, value = _find(row, field, ID_FIELDS, "id")
    except BadRowError:
        if field != AUTO:
            raise
        name, value = "", otherwise
    if not str(value).strip() or isinstance(value, list | dict) or value is None:
        raise BadRowError(f"the id {value!r} is not a text or number")
    return name, str(value)


def _rest(row: Mapping[str, object], taken: set[str]) -> dict[str, object]:
    """The fields that are not taken; those of a field `meta` stand among them."""
    rest = {str(key): value for key, value in row.items() if key not in taken | {"meta"}}
    spread = row.get("meta")
    if isinstance(spread, Mapping):
        return rest | {str(key): value for key, value in spread.items()}
    return rest if spread is None else rest | {"meta": spread}
