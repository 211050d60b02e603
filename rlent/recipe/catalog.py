"""What there is to choose from: method cards and option files, read as plain YAML.

Nothing is composed here, so that `rlent ls` answers at once. A card's seats are the groups it overrides.
"""

from __future__ import annotations

import json
import re
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from rlent.errors import UsageError, did_you_mean
from rlent.seats import SEATS
from rlent.system.paths import recipes_dir

Proof = Literal["authors", "formula", "none"]
CARDS = "recipe"
_NARROWEST = 30  # characters of a column that is broken into lines
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class Card:
    """A method. `name` is what one types, `title` what the paper calls it.

    `proof` says what its numbers are checked against: the authors' code, the paper's formula, or nothing.
    `picks` maps a seat to the option files the card puts there. `description` is the file's header comment.
    """

    name: str
    title: str
    paper: str
    seats: tuple[str, ...]
    proof: Proof
    state: str
    description: str
    picks: Mapping[str, tuple[str, ...]]
    file: str

    @property
    def does(self) -> str:
        """What the method does, in one sentence or two: the first line of its description."""
        return self.description.partition("\n")[0]


@dataclass(frozen=True, slots=True)
class Option:
    """A file of a group: `shape/erc`. `does` is the first sentence of its header comment; `target` the function or class it names, if it names one."""

    group: str
    name: str
    does: str
    target: str
    file: str


def roots(config_dirs: Iterable[str | Path] = ()) -> list[Path]:
    """The shipped folder and the user's.

    Raises:
        UsageError: a folder that is not there.
    """
    dirs = [Path(d).expanduser() for d in config_dirs]
    for given in dirs:
        if not given.is_dir():
            raise UsageError(f"--config-dir: '{given}' is not a folder")
    return [recipes_dir(), *dirs]


def cards(config_dirs: Iterable[str | Path] = ()) -> tuple[list[Card], list[str]]:
    """Every method card, by name, and one line for each file that cannot be read."""
    found: dict[str, Card] = {}
    problems: list[str] = []
    for root in roots(config_dirs):
        for file in sorted((root / CARDS).glob("*.yaml")):
            try:
                found.setdefault(file.stem, _card(file))
            except (ValueError, OSError, yaml.YAMLError) as error:
                problems.append(f"{file}: {_brief(error)}")
    return [found[name] for name in sorted(found)], problems


def options(config_dirs: Iterable[str | Path] = (), groups: Sequence[str] | None = None) -> tuple[list[Option], list[str]]:
    """The option files of the named groups, or of every group but the cards; and one line for each file that cannot be read."""
    found: dict[tuple[str, str], Option] = {}
    problems: list[str] = []
    for root in roots(config_dirs):
        for file in sorted(root.glob("*/*.yaml")):
            group = file.parent.name
            if group == CARDS or (groups is not None and group not in groups):
                continue
            try:
                found.setdefault((group, file.stem), _option(file))
            except (ValueError, OSError, yaml.YAMLError) as error:
                problems.append(f"{file}: {_brief(error)}")
    order = [*SEATS, *sorted({group for group, _ in found} - set(SEATS))]
    return sorted(found.values(), key=lambda o: (order.index(o.group), o.name)), problems


def defaults() -> set[tuple[str, str]]:
    """(group, option) of plain GRPO, from the defaults of config.yaml."""
    entries = _load(recipes_dir() / "config.yaml")[1].get("defaults") or []
    pairs = [(str(k), v) for entry in entries if isinstance(entry, Mapping) for k, v in entry.items()]
    return {(group, str(name)) for group, value in pairs for name in (value if isinstance(value, list) else [value])}


def header(text: str) -> str:
    """The comment at the head of a file, without the marks and the package line."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        if "@package" not in line:
            lines.append(line.lstrip("#").strip())
    return "\n".join(lines).strip()


def first_sentence(text: str) -> str:
    """Up to the first full stop of the first paragraph."""
    paragraph = text.partition("\n\n")[0].replace("\n", " ")
    stop = re.search(r"\.(?= [A-Z]|$)", paragraph)
    return paragraph[: stop.end()] if stop else paragraph


def _load(file: Path) -> tuple[str, dict[str, Any]]:
    text = file.read_text(encoding="utf-8")
    tree = yaml.load(text, Loader=_Loader)
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise ValueError(f"a mapping is expected, found a {type(tree).__name__}")
    return text, tree


def _card(file: Path) -> Card:
    text, tree = _load(file)
    card = tree.get("card") or {}
    if not isinstance(card, Mapping):
        raise ValueError(f"card: a mapping is expected, found {card!r}")
    picks = _picks(tree.get("defaults") or [])
    return Card(
        name=file.stem,
        title=str(card.get("name") or file.stem),
        paper=str(card.get("paper") or "-"),
        seats=tuple(seat for seat in SEATS if seat in picks),
        proof=_proof(card),
        state=str(card.get("state") or "-"),
        description=header(text),
        picks=picks,
        file=str(file),
    )


def _picks(defaults: object) -> dict[str, tuple[str, ...]]:
    """The seats a card overrides, and what it puts there: `- override /shape: [clip_cov]`."""
    if not isinstance(defaults, list):
        raise ValueError(f"defaults: a list is expected, found {defaults!r}")
    picks: dict[str, tuple[str, ...]] = {}
    for entry in defaults:
        for key, value in entry.items() if isinstance(entry, Mapping) else ():
            seat = str(key).removeprefix("override").strip().lstrip("/")
            if seat in SEATS:
                listed = value if isinstance(value, list) else [value]
                picks[seat] = tuple(str(v) for v in listed if v is not None)
    return picks


def _proof(card: Mapping[str, Any]) -> Proof:
    given = card.get("proof")
    if given is None:
        return "authors" if card.get("golden") else "none"
    if given not in get_args(Proof):
        raise ValueError(f"card.proof: {given!r} is not one of {', '.join(get_args(Proof))}")
    return given


def _option(file: Path) -> Option:
    text, tree = _load(file)
    inner = tree.get("_target_") or next((v["_target_"] for v in tree.values() if isinstance(v, Mapping) and "_target_" in v), "")
    return Option(file.parent.name, file.stem, first_sentence(header(text)), str(inner), str(file))


def _brief(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        return f"line {error.problem_mark.line + 1}: {error.problem or 'not YAML'}"
    return str(error).replace("\n", " ") or type(error).__name__


# ---- what `rlent ls` prints -------------------------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, width: int = 0, wrap: bool = False) -> str:
    """Left-aligned columns, two spaces between.

    The last one is cut, or with `wrap` broken into lines, so that a line has at most `width` characters (0: any number).
    """
    lines = [list(head), *(list(r) for r in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head) - 1)]
    indent = sum(widths) + 2 * len(widths)
    out = []
    for line in lines:
        left = "".join(f"{cell:<{w}}  " for cell, w in zip(line, widths, strict=False))
        text = (left + line[-1]).rstrip()
        if not width or len(text) <= width:
            out.append(text)
        elif wrap:
            first, *more = textwrap.wrap(line[-1], max(width - indent, _NARROWEST))
            out += [left + first, *(" " * indent + part for part in more)]
        else:
            out.append(text[: width - 3].rstrip() + "...")
    return "\n".join(out)


def method_table(found: Iterable[Card], *, width: int = 0) -> str:
    """METHOD, PAPER (its number, or authors and year), CHECKED, STATE, WHAT IT IS."""
    rows = [(c.name, c.paper.partition(",")[0], c.proof, c.state, c.does) for c in found]
    return table(("METHOD", "PAPER", "CHECKED", "STATE", "WHAT IT IS"), rows, width=width, wrap=True)


def option_table(found: Iterable[Option], found_cards: Iterable[Card], *, width: int = 0) -> str:
    """OPTION, the METHODS whose card picks it ((default): plain GRPO has it), and what it is."""
    used: dict[tuple[str, str], list[str]] = {pick: ["(default)"] for pick in defaults()}
    for card in found_cards:
        for seat, names in card.picks.items():
            for name in names:
                used.setdefault((seat, name), []).append(card.name)
    rows = [(f"{o.group}={o.name}", ", ".join(used.get((o.group, o.name), [])) or "-", o.does) for o in found]
    return table(("OPTION", "METHODS", "WHAT IT IS"), rows, width=width)


def main(config_dirs: Sequence[str] = (), *, seat: str | None = None, everything: bool = False, as_json: bool = False) -> int:
    """Print the list; 1 if a file could not be read (the rest is listed).

    Raises:
        UsageError: no such seat or group.
    """
    found, problems = cards(config_dirs)
    listed: list[Option] = []
    if seat is not None or everything:
        listed, more = options(config_dirs)
        problems += more
    if seat is not None:
        known = {o.group for o in listed} | set(SEATS)
        if seat not in known:
            raise UsageError(f"--seat: there is no seat or group '{seat}'{did_you_mean(seat, known)} (seats: {', '.join(SEATS)})")
        listed = [o for o in listed if o.group == seat]
    if as_json:
        plain = [asdict(o) for o in listed]
        print(
            json.dumps(
                plain
                if seat is not None
                else {"methods": [asdict(c) for c in found], "options": plain}
                if everything
                else [asdict(c) for c in found],
                indent=1,
            )
        )
    else:
        width = _columns()
        tables = [] if seat is not None else [method_table(found, width=width)]
        tables += [option_table(listed, found, width=width)] if seat is not None or everything else []
        print("\n\n".join(tables))
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if problems else 0


def _columns() -> int:
    """The terminal's width; 0 (whole lines) in a pipe."""
    import shutil

    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
