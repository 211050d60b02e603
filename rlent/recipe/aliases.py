"""Keys of recipes that have another name now. The old one still works: in overrides, in recipe files and in the folders of earlier runs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rlent.seats import SEATS

if TYPE_CHECKING:
    from rlent.types import Config, Json, JsonObject

_NODE = "<node>"


@dataclass(frozen=True, slots=True)
class Alias:
    """`old` is `new` now; `values` gives the new word for each of its old ones. `<node>` stands for the place of any function."""

    old: str
    new: str
    values: Mapping[str, str] = field(default_factory=dict)

    @property
    def note(self) -> str:
        """One sentence for who wrote the old name."""
        words = ", ".join(f"{old} is {new}" for old, new in self.values.items())
        renamed = [f"{self.old} is now called {self.new}"] if self.old != self.new else []
        return f"{'; '.join([*renamed, *([f'{self.new}: {words}'] if words else [])])} (the old name still works)"


ALIASES = (
    Alias("trainer.look_back", "trainer.old_logprobs", {"policy": "recompute", "sampler": "rollout"}),
    Alias("trainer.tokens_per_part", "trainer.max_tokens_per_microbatch"),
    Alias("track.keep_batches", "track.save_batches"),
    Alias(f"{_NODE}.scope", f"{_NODE}.scope", {"part": "microbatch"}),
)
_BY_OLD = {alias.old: alias for alias in ALIASES}


def modern_key(key: str) -> str:
    """The name that a key has now."""
    alias = _alias(key)
    return key if alias is None else _renamed(alias, key)


def modern_override(text: str) -> tuple[str, str]:
    """An override with the key's name and words of today, and the note about it (empty: nothing was old). Of a sweep, every value."""
    found = re.fullmatch(r"([+~]*)([^=@]+)(@[^=]*)?(=.*)?", text, re.DOTALL)
    alias = _alias(found[2]) if found else None
    if found is None or alias is None:
        return text, ""
    prefix, key, package, value = (part or "" for part in found.groups())
    for old, new in alias.values.items():
        value = re.sub(rf"(?<![\w.]){old}(?![\w.])", new, value)
    now = f"{prefix}{_renamed(alias, key)}{package}{value}"
    return now, alias.note if now != text else ""


def notes(overrides: Iterable[str]) -> list[str]:
    """A note for each old name among overrides, once."""
    return list(dict.fromkeys(note for _, note in map(modern_override, overrides) if note))


def modern_config(config: Config) -> tuple[JsonObject, list[str]]:
    """A composed configuration under the names of today, interpolations included; and a note for each old name, once."""
    found: list[str] = []
    now: JsonObject = {}
    for block, settings in config.items():
        if not isinstance(settings, Mapping):
            now[block] = settings
        elif block in SEATS and SEATS[block].many:
            nodes = settings.items()
            now[block] = {k: _modern_block(f"{block}.{k}", v, found) if isinstance(v, Mapping) else v for k, v in nodes}
        else:
            now[block] = _modern_block(block, settings, found)
    return {k: _modern_interpolations(v) for k, v in now.items()}, list(dict.fromkeys(found))


def modern_lines(lines: Iterable[str]) -> list[str]:
    """Lines `key: theirs -> ours`, as a checkpoint keeps them, under the names of today; sorted by key."""
    return sorted(map(_modern_line, lines), key=lambda line: line.partition(": ")[0])


def _alias(key: str) -> Alias | None:
    place, _, leaf = key.rpartition(".")
    seat, _, name = place.partition(".")
    is_node = seat in SEATS and SEATS[seat].many == bool(name) and "." not in name
    return _BY_OLD.get(f"{_NODE}.{leaf}" if is_node else key)


def _renamed(alias: Alias, key: str) -> str:
    """The new key for an old one: the alias's own, or at the same node."""
    return alias.new.replace(_NODE, key.rpartition(".")[0])


def _modern_block(place: str, block: Config, found: list[str]) -> JsonObject:
    now: JsonObject = {}
    for key, value in block.items():
        alias = _alias(f"{place}.{key}")
        if alias is None:
            now[key] = value
            continue
        word = alias.values.get(value, value) if isinstance(value, str) else value
        now[_renamed(alias, f"{place}.{key}").rpartition(".")[2]] = word
        if alias.old != alias.new or word != value:
            found.append(alias.note)
    return now


def _modern_line(line: str) -> str:
    key, _, change = line.partition(": ")
    alias = _alias(key)
    if alias is None:
        return line
    theirs, _, ours = change.partition(" -> ")
    return f"{_renamed(alias, key)}: {alias.values.get(theirs, theirs)} -> {alias.values.get(ours, ours)}"


def _modern_interpolations(value: Json) -> Json:
    """`${trainer.tokens_per_part}` under the name of today, wherever it stands."""
    if isinstance(value, Mapping):
        return {k: _modern_interpolations(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_modern_interpolations(v) for v in value]
    if isinstance(value, str) and "${" in value:
        for alias in ALIASES:
            value = value.replace(f"${{{alias.old}}}", f"${{{alias.new}}}")
    return value
