"""How a method looks in every figure: a colour, a marker and a dash, the same wherever it is drawn."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from rlent.types import JsonObject

# Okabe and Ito's colours (2008), told apart by the colour-blind; a marker of its own for each, for print in grey.
PALETTE = {
    "#0072b2": "o",  # blue
    "#d55e00": "s",  # vermilion
    "#009e73": "^",  # green
    "#cc79a7": "D",  # purple
    "#e69f00": "v",  # orange
    "#56b4e9": "P",  # sky blue
    "#000000": "X",  # black
}
KEPT = {"grpo": "#d55e00", "klcov": "#0072b2", "clipcov": "#009e73", "entropybonus": "#cc79a7", "dapo": "#e69f00"}
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
MARKERS = (*PALETTE.values(), "*", "<", "p", "d", ">", "h")
_STRIDE = 5
"""Markers that lie between two tiers. Their number is prime, so all of a colour's differ until they are used up."""


@dataclass(frozen=True)
class Look:
    """A method's colour, marker and dash. Points need colour and marker, lines colour and dash."""

    colour: str
    marker: str
    dash: Any = "-"

    @property
    def plain(self) -> bool:
        """One of the first seven, which no other shares the colour of."""
        return self.dash == "-" and PALETTE.get(self.colour) == self.marker

    def sparse(self, points: int) -> JsonObject:
        """Options of a long line: those that share a colour carry their marker here and there."""
        every = max(1, points // 6)
        return {} if self.plain else {"marker": self.marker, "markevery": (every // 2, every), "markersize": 4.5}


def _look(colour: str, tier: int) -> Look:
    """The look of a colour's first user (tier 0: solid, its own marker), second, ...: another dash and another marker each time."""
    at = list(PALETTE).index(colour) + _STRIDE * tier
    return Look(colour, MARKERS[at % len(MARKERS)], DASHES[tier % len(DASHES)])


def _word(name: str) -> str:
    """The method that a label begins with: `grpo` of GRPO, `clipcov` of Clip-Cov and of `clipcov fraction=0.02`."""
    return "".join(c for c in (name.split() or [""])[0].lower() if c.isalnum())


def _wanted(word: str) -> str:
    return KEPT.get(word) or list(PALETTE)[blake2b(word.encode(), digest_size=2).digest()[0] % len(PALETTE)]


def looks(labels: Iterable[str]) -> dict[str, Look]:
    """A look for each label. A method has the colour of its name, whatever else is in the figure, unless another one has it already.

    Seven have a colour and a marker each. Beyond them, and for variants of a method in `KEPT`, a colour comes again with another dash and
    another marker: no two of up to 52 dashes and markers of a colour are alike, nor two of the first 28 in print without colour.
    """
    names = list(dict.fromkeys(labels))
    words = {_word(n) for n in names}
    taken: dict[tuple[str, int], str] = {}
    for name in sorted(names, key=lambda n: (_word(n) not in KEPT, names.index(n))):
        wanted = _wanted(_word(name))
        free = [c for c in PALETTE if c != wanted and c not in {KEPT.get(w) for w in words}]
        taken[next(c for c in _choices(wanted, [] if _word(name) in KEPT else free) if c not in taken)] = name
    chosen = {name: _look(colour, tier) for (colour, tier), name in taken.items()}
    return {name: chosen[name] for name in names}


def _choices(wanted: str, free: list[str]) -> Iterator[tuple[str, int]]:
    """Colours and tiers in the order in which a method would have them."""
    colours = [wanted, *free]
    first = ((c, 0) for c in colours)
    return itertools.chain(first, ((c, tier) for tier in itertools.count(1) for c in colours))
