"""What a run must remember to go on as if it had never stopped: the plain part of a checkpoint. `train`, `fork` and `eval` read this one record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields

from rlent.recipe.aliases import modern_lines
from rlent.types import Json, JsonObject


@dataclass(frozen=True, slots=True)
class RecipeMark:
    """Which recipe a checkpoint is of: its name, and its differences from plain GRPO without what a resumed run may change,
    under today's names of the keys."""

    name: str
    differences: list[str]


@dataclass(frozen=True, slots=True)
class TrainingState:
    """The plain state of a run after a step; tensors (weights, optimizer) are beside it.

    `cursor` is the data's; `knobs` what controllers made of them, by name; `functions` what the recipe's functions remember, by place; `ledger`,
    `alarms` and `law` the state of the numbers over steps; `tokens` all response tokens so far; `policy` the optimizer's counters; `torch` the
    version that wrote it. `recipe` is None for checkpoints from before they had it.
    """

    step: int
    cursor: int
    knobs: dict[str, float]
    functions: JsonObject
    alarms: JsonObject
    law: JsonObject
    tokens: int
    policy: JsonObject
    torch: str = ""
    ledger: JsonObject | None = None
    recipe: RecipeMark | None = None
    more: JsonObject = field(default_factory=dict)  # what a later version wrote and this one does not read

    def to_dict(self) -> JsonObject:
        """The state as JSON has it."""
        found = asdict(self)
        more = found.pop("more")
        return {**found, **more}

    @staticmethod
    def from_dict(saved: Mapping[str, Json]) -> TrainingState:
        """The state that `to_dict` gave.

        Raises:
            KeyError: a field is missing.
        """
        known = {f.name for f in fields(TrainingState)} - {"more", "recipe"}
        found = {k: saved[k] for k in known if k in saved}
        lacks = sorted(known - found.keys() - {"torch", "ledger"})
        if lacks:
            raise KeyError(f"no {', '.join(lacks)}")
        mark = saved.get("recipe")
        recipe = RecipeMark(str(mark["name"]), modern_lines(mark["differences"])) if mark else None
        return TrainingState(**found, recipe=recipe, more={k: v for k, v in saved.items() if k not in known | {"recipe"}})
