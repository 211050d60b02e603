"""How two recipes differ: from plain GRPO, from what a checkpoint was made with, and from each other in a few lines."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING

from rlent.recipe.compose import Recipe, load
from rlent.recipe.settings import RESUMABLE
from rlent.recipe.values import flat
from rlent.seats import SEATS

if TYPE_CHECKING:
    from rlent.types import Config, JsonObject

_ABSENT = "-"
_SAME = ("model", "data", "engine", "scale", "eval")
"""Blocks that say where and on what a method runs, not which method it is."""


@lru_cache(maxsize=1)
def baseline() -> JsonObject:
    """Plain GRPO on the embedded model, flat: what a run's record compares a recipe with."""
    return flat(load(["recipe=grpo"]).config)


def differences(config: Config) -> list[str]:
    """The lines in which a recipe differs from plain GRPO on the embedded model; sorted, `key: theirs -> ours`."""
    return _changes(baseline(), flat(config))


def identity(config: Config) -> list[str]:
    """What makes a run another than plain GRPO, without what a resumed run may change."""
    free = tuple(f"{key}: " for key in RESUMABLE) + ("run.", "scale.", "track.", "checkpoint.", "eval.", "stop.")
    return [line for line in differences(config) if not line.startswith(free)]


def contrast_with_plain(recipe: Recipe) -> list[str]:
    """The lines in which a recipe differs from plain GRPO with the same model, data, engine, scale and evaluation; without what cards say."""
    plain = load(["recipe=grpo", f"model.toy={str(recipe['model']['toy']).lower()}"]).config
    one, other = _without_cards({**plain, **{block: recipe[block] for block in _SAME}}), _without_cards(recipe.config)
    return _changes({k: v for k, v in one.items() if v != {}}, {k: v for k, v in other.items() if v != {}})


def _changes(theirs: Config, ours: Config) -> list[str]:
    return [
        f"{key}: {theirs.get(key, _ABSENT)} -> {ours.get(key, _ABSENT)}"
        for key in sorted({*theirs, *ours})
        if not key.startswith(("card.", "data.card.")) and theirs.get(key, ...) != ours.get(key, ...)
    ]


def contrast(theirs: Config, ours: Config) -> list[str]:
    """Two recipes' differences in a few lines: functions that go and come, by place, then values that change, `key: theirs -> ours`."""
    one, other = _without_cards(theirs), _without_cards(ours)
    before, after = _functions(one), _functions(other)
    gone = [p for p in before if p not in after]
    came = [p for p in after if p not in before]
    swapped = [p for p in before if p in after and before[p] != after[p]]
    lines = []
    if gone:
        lines.append(f"without {', '.join(gone)}")
    if came:
        lines.append(f"with {', '.join(_call(p, other) for p in came)}")
    lines += [f"{p}: {before[p].rpartition('.')[2]} -> {_call(p, other)}" for p in swapped]
    return [*lines, *_changed_values(one, other, covered=tuple(f"{p}." for p in (*gone, *came, *swapped)))]


def _changed_values(one: Config, other: Config, covered: tuple[str, ...]) -> Iterator[str]:
    for key in sorted({*one, *other}):
        mine, yours = one.get(key, _ABSENT), other.get(key, _ABSENT)
        if _ABSENT in (mine, yours) and key.split(".")[0] not in (*SEATS, "models"):
            continue  # a setting that one of them, made with another version, does not have
        if mine != yours and not key.startswith(covered) and [mine, yours] not in ([_ABSENT, {}], [{}, _ABSENT]):
            yield f"{key}: {mine} -> {yours}"


def _without_cards(config: Config) -> JsonObject:
    return {k: v for k, v in flat(config).items() if not k.startswith(("card.", "run.")) and ".card." not in k}


def _functions(config: Config) -> dict[str, str]:
    """The function at each place."""
    return {k.removesuffix("._target_"): v for k, v in config.items() if k.endswith("._target_")}


def _call(place: str, config: Config) -> str:
    """`shape.clip_cov(fraction=0.02, low=1.0)`"""
    options = {k.removeprefix(f"{place}."): v for k, v in config.items() if k.startswith(f"{place}.") and not k.endswith("_target_")}
    name = place if "." in place else str(config.get(f"{place}._target_", place)).rpartition(".")[2]
    return f"{name}({', '.join(f'{k}={v}' for k, v in options.items())})"
