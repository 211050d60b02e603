"""From the arrays of a vector file to streams."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from rlent.math.entropy import entropy_from_logits
from rlent.types import Config, Json
from rlent.verify.grammar import Block, InputRule, key
from rlent.verify.vectors import Vector

USUAL = {
    "log_prob": "logp",
    "old_log_prob": "old_logp",
    "ref_log_prob": "ref_logp",
    "advantages": "adv",
    "rewards": "reward",
}
"""Streams of the names that mean the same in every file, where a block does not say otherwise."""

WHOLE_NUMBERS = frozenset({"group", "bundle", "sample", "step", "trajectory", "turn", "first", "last", "length", "rows"})
TRUTHS = frozenset({"grams_planning"})
"""Streams that a file states as 0 and 1."""

Ragged: TypeAlias = Tensor | Sequence[Sequence[float]]
"""Rows of numbers: a tensor where all are equally long."""


def streams_of(vector: Vector, block: Block) -> dict[str, Any]:
    """The file's inputs under the names of streams, float64; whole numbers and texts as such."""
    out: dict[str, Any] = {}
    for name, value in vector.inputs.items():
        rule = block.inputs.get(name) or InputRule(streams=[USUAL.get(name, name)])
        if name in block.skip or rule.option:
            continue
        if rule.values or (isinstance(value, str) and name in block.inputs):
            value = _translated(value, rule.values, vector)
        for stream in rule.streams:
            out[stream] = [[bool(x) for x in row] for row in value] if stream == "same" else tensor(value)
            if isinstance(out[stream], Tensor) and stream in WHOLE_NUMBERS | TRUTHS:
                out[stream] = out[stream].long() if stream in WHOLE_NUMBERS else out[stream].bool()
    if block.equal:
        fold = str.casefold if block.equal == "casefold" else str
        out["same"] = same([a and fold(a) for a in out["answer"]], out.pop("extra_pairs", None) or [])
    if block.at_start:
        table = out["logits"].log_softmax(-1)
        out["old_logp"] = table.gather(-1, out["labels"].long()[..., None])[..., 0]
        out["old_entropy"] = entropy_from_logits(out["logits"].flatten(0, 1)).view(out["labels"].shape)
    if "gold" in out and "correct" not in out:
        out["correct"] = torch.tensor([bool(a) and a == g for a, g in zip(out["answer"], out["gold"], strict=True)])
    if "answer" in out:
        out["answer_id"] = torch.tensor(numbered(out["answer"]))
    if block.one_group:
        out["group"] = torch.zeros(rows_of(out))
    return out


def _translated(value: str | Sequence[str | float | None], table: Config, vector: Vector) -> list[Json]:
    """The values of an input in our words; one text for all is repeated for each row."""
    if isinstance(value, str):
        value = [value] * max(len(v) for v in vector.inputs.values() if isinstance(v, list))
    keys = [key(v if isinstance(v, str) or v is None else int(v)) for v in value]
    return [table.get(k, v) for k, v in zip(keys, value, strict=True)]


def tensor(value: Json) -> Tensor | Json:
    """A list of numbers as a float64 tensor; anything else as it is, ragged lists and mappings too."""
    if isinstance(value, list) and value and not isinstance(value[0], str | dict):
        try:
            return torch.tensor(value, dtype=torch.float64)
        except (TypeError, ValueError):
            return value
    return value


def rows_of(inputs: Mapping[str, object]) -> int:
    """How many rows a file has: the length of its first stream."""
    return len(next(v for v in inputs.values() if isinstance(v, list) or (isinstance(v, Tensor) and v.ndim)))


def same(answers: Sequence[str | None], pairs: Sequence[Sequence[str]]) -> list[list[bool]]:
    """The stream `same` of one group, in the order (earlier, later)."""
    listed = {(a, b) for a, b in pairs}

    def equal(i: int, j: int) -> bool:
        a, b = answers[min(i, j)], answers[max(i, j)]
        return i == j or bool(a and b and (a == b or (a, b) in listed))

    return [[equal(i, j) for j in range(len(answers))] for i in range(len(answers))]


def numbered(values: Tensor | Sequence[Hashable]) -> list[int]:
    """Equal values get equal numbers, in the order in which they first come; None is -1."""
    seen: dict[Hashable, int] = {}
    return [-1 if v is None else seen.setdefault(v, len(seen)) for v in (values.tolist() if isinstance(values, Tensor) else values)]


def place_in_group(group: Tensor) -> Tensor:
    """How many earlier rows of its group each row has [N]."""
    equal = group[:, None] == group
    return torch.tril(equal.long(), -1).sum(1)
