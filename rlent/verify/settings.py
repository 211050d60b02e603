"""From the options of a vector file to overrides of a recipe, streams and arguments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rlent.errors import UsageError
from rlent.verify.grammar import Block, Golden, OptionRule, key
from rlent.verify.vectors import Vector

if TYPE_CHECKING:
    from rlent.types import JsonObject

AGGREGATES = {
    "token-mean": "token_mean",
    "seq-mean-token-mean": "seq_mean",
    "seq-mean-token-sum": "seq_sum",
    "seq-mean-token-sum-norm": "constant",
}
COMMON: Mapping[str, OptionRule] = {
    "agg_mode": OptionRule(option="objective.aggregate"),
    "loss_agg": OptionRule(option="objective.aggregate"),
    "agg_norm": OptionRule(option="objective.length"),
    "log_ratio_clamp": OptionRule(option="loss.clamp"),
    "temperature": OptionRule(stream="temperature"),
}
"""Options of the files that mean the same everywhere, where a block does not say otherwise."""


@dataclass
class Settings:
    """What a file's options come to.

    `aggregate` and `length` are the objective's, if the file states them; `per_constant` is verl's sum, divided by the length alone
    and not by the rows.
    """

    overrides: list[str] = field(default_factory=list)
    streams: dict[str, Any] = field(default_factory=dict)
    arguments: JsonObject = field(default_factory=dict)
    aggregate: str | None = None
    length: float | None = None
    per_constant: bool = False

    def take(self, name: str, rule: OptionRule, value: Any) -> list[str]:
        """The overrides that one option of the file stands for; streams and arguments are kept.

        Raises:
            UsageError: a value that the card does not translate.
        """
        if rule.stream:
            self.streams[rule.stream] = value
            if not rule.paths:
                return []
        if rule.values:
            if key(value) in rule.values:
                value = rule.values[key(value)]
                if isinstance(value, list):
                    return [str(v) for v in value]
            elif not rule.paths or not isinstance(value, int | float) or isinstance(value, bool):
                raise UsageError(f"{name}={value!r} is not among the values the card translates ({', '.join(rule.values)})")
        if rule.shift is not None and value is not None:
            value = value + rule.shift
        if rule.argument:
            self.arguments[rule.argument] = value
            return []
        if rule.option == "objective.aggregate":
            self.per_constant = value == "seq-mean-token-sum-norm" and not rule.values
            self.aggregate = AGGREGATES.get(value, value)
            return []
        if rule.option == "objective.length":
            self.length = value
            return []
        return [f"{path}={key(value)}" for path in rule.paths]


def settings_of(vector: Vector, golden: Golden, block: Block) -> Settings:
    """Map every option of the file.

    Raises:
        UsageError: options that no block of the card knows.
    """
    found = Settings(list(block.with_))
    unknown: list[str] = []
    switches: list[str] = []
    for name, value in vector.config.items():
        rule = block.options.get(name)
        if rule is None and name not in golden.known and not block.call:
            rule = COMMON.get(name)
        if rule is None:
            if name not in golden.known:
                unknown.append(name)
            continue
        overrides = found.take(name, rule, value)
        (found.overrides if rule.paths else switches).extend(overrides)
    if unknown:
        raise UsageError(f"the card does not say what {', '.join(unknown)} means (golden block of recipe {golden.recipe})")
    found.overrides += switches  # what switches a part off comes after the numbers of the part
    for name, given in block.inputs.items():
        if given.option and name in vector.inputs:
            found.overrides.append(f"{given.option}={key(vector.inputs[name])}")
    return found
