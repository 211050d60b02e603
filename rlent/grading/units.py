r"""Units after a number: dropped, and kept as a fact beside it where they can be converted."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from rlent.grading.vocabulary import FUNCTIONS, NUMBER_WORDS, PLAIN_WORDS


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit that can be converted: `factor` is its size in the base unit of its dimension; 2 is the power of square metres."""

    dimension: str
    factor: Fraction
    power: int = 1


_TABLE = {
    "length": "mm .001 millimeter .001 millimetre .001 cm .01 centimeter .01 centimetre .01 dm .1 m 1 meter 1 metre 1 km 1000 kilometer 1000 kilometre 1000 "
    "in .0254 inch .0254 inche .0254 ft .3048 foot .3048 feet .3048 yd .9144 yard .9144 mi 1609.344 mile 1609.344",
    "mass": "mg .000001 milligram .000001 g .001 gram .001 kg 1 kilogram 1",
    "time": "ms .001 s 1 sec 1 second 1 min 60 minute 60 h 3600 hr 3600 hour 3600 day 86400 week 604800",
    "money": "cent .01 dollar 1",
}


def _convertible() -> dict[str, tuple[str, Fraction]]:
    found = {}
    for dimension, line in _TABLE.items():
        cells = line.split()
        found.update({name: (dimension, Fraction(factor)) for name, factor in zip(cells[::2], cells[1::2], strict=True)})
    return found


_CONVERTIBLE = _convertible()
_OTHERS = set(
    "degree deg radian rad liter litre l ml gallon gal quart pint ounce oz lb pound ton mph kph kmh kmph hz khz mhz newton n joule j kj watt w kw "
    "volt v amp ampere a ohm pascal pa kpa kelvin k celsius mol mole unit sq square cubic year month yuan euro rupee usd people person student way point "
    "piece apple book card coin ball bps bit byte ev mev gev coulomb c tesla t weber henry farad cal kcal calorie rpm items item times time per".split()
)
_NEVER = set(
    "and or if when for not to mod base where otherwise none all except at least most more less than between from in is are no yes true false "
    "undefined infinite infinity impossible only over up with wrong i e any both neither nor but".split()
)
_SCALES = {"dozen": 12, "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_SQUARES = {"sq": 2, "square": 2, "cubic": 3}

_QUOTED = re.compile(r"\\text\{([^{}]*)\}\s*(?:\^\s*(?:\{\s*(-?\d)\s*\}|(\d)))?\s*\.?\s*$")
_POWER = re.compile(r"\^\s*(?:\{\s*(-?\d)\s*\}|(\d))\s*$")
_POWER_OF_LETTER = re.compile(r"[A-Za-z]\^?\{?-?[1-4]\}?")
_SEPARATORS = re.compile(r"[\s/.^\d{}()-]+")
_VALUE_COMMANDS = re.compile(r"\\(?:frac|times|cdot|pi|sqrt)(?![A-Za-z])")


def split_unit(text: str) -> tuple[str, Unit | None]:
    r"""A number without the unit after it, and the unit when it is one that can be converted.

    >>> split_unit("12 square cm")
    ('12', Unit(dimension='length', factor=Fraction(1, 100), power=2))
    >>> split_unit(r"5 \text{ apples}"), split_unit("0.64N")
    (('5', None), ('0.64N', None))
    """
    head, words, power, quoted = _number_and_words(text)
    if not words or not _is_value(head) or re.search(r"\d", _POWER_OF_LETTER.sub("", words)):
        return text, None
    if (half := words.replace(".", "").replace(" ", "").lower()) in ("am", "pm"):
        return head, Unit(half, Fraction(1))
    parts = [word for word in _SEPARATORS.split(words) if word]
    if _is_no_unit(parts):
        return text, None
    if len(parts) == 1 and (scale := _SCALES.get(parts[0].lower())):
        return rf"{head}\cdot {scale}", None
    if any(word.lower() in _SCALES for word in parts) or not (quoted or _reads_as_unit(parts, words)):
        return text, None
    return head, _known_unit([_singular(word) for word in parts], words, power)


def _known_unit(names: list[str], words: str, power: int) -> Unit | None:
    """The unit, when it is one that can be converted; `square` and `cubic` are powers."""
    if names[0] in _SQUARES and len(names) == 2:
        power, names = _SQUARES[names[0]], names[1:]
    convertible = len(names) == 1 and names[0] in _CONVERTIBLE and "/" not in words
    return Unit(*_CONVERTIBLE[names[0]], power) if convertible else None


def _number_and_words(text: str) -> tuple[str, str, int, bool]:
    """(number, words after it, their power, whether the words are marked as text)."""
    if m := _QUOTED.search(text):
        head, words, power = text[: m.start()].rstrip(), m[1].strip(), int(m[2] or m[3] or 1)
        return head.rstrip("\\").rstrip(), words, power, True
    head, words, power = _trailing_words(text)
    return head.rstrip("\\").rstrip(), words, power, False


def _trailing_words(text: str) -> tuple[str, str, int]:
    """(head, words, power) of `12 square cm^2`; words may be empty."""
    text = text.rstrip(" .")
    power = 1
    if m := _POWER.search(text):
        head = text[: m.start()].rstrip()
        if head and head[-1].isalpha():
            text, power = head, int(m[1] or m[2])
    at = len(text)
    while at and _of_words(text[at - 1]):
        at -= 1
    if at and text[at - 1] == "\\":  # the words are a command
        return text, "", 1
    return text[:at], text[at:].strip(), power


def _of_words(ch: str) -> bool:
    return ch.isascii() and (ch.isalpha() or ch in " /.")


def _is_value(text: str) -> bool:
    """A number or a product, quotient or root of numbers: something that can carry a unit."""
    bare = _VALUE_COMMANDS.sub("", text)
    return any(ch.isdigit() for ch in bare) and all(ch in "0123456789.,{}()+-*/^[] " for ch in bare)


def _is_no_unit(parts: list[str]) -> bool:
    """Whether there are no words, or one that changes what the number means: `5 or more`, `3 times seven`."""
    if not parts or any(word.lower() in NUMBER_WORDS for word in parts):
        return True
    return any(word.lower() in _NEVER for word in parts) and parts != ["in"]


def _reads_as_unit(parts: list[str], words: str) -> bool:
    """Whether words that are not marked as text are a unit and not a product of variables or a function."""
    listed = all(_is_listed(_singular(word)) for word in parts)
    shortest, longest = min(map(len, parts)), max(map(len, parts))
    spelt = shortest >= 3 or (listed and shortest > 1)
    quotient = listed and len(parts) == 2 and "/" in words and (longest > 1 or parts == ["m", "s"])
    return (spelt or quotient) and not any(word in FUNCTIONS or word in PLAIN_WORDS or word == "sqrt" for word in parts)


def _is_listed(word: str) -> bool:
    return word in _CONVERTIBLE or word in _OTHERS


def _singular(word: str) -> str:
    word = word.strip(" .").lower()
    if _is_listed(word):
        return word
    return word[:-1] if word.endswith("s") and len(word) > 2 else word


def unit_scale(answer: Unit | None, gold: Unit | None) -> Fraction | None:
    """What one unit of the gold is in units of the answer; 1 when at most one side has a known unit; None: incompatible."""
    if answer is None or gold is None or answer == gold:
        return Fraction(1)
    if answer.dimension != gold.dimension or answer.power != gold.power:
        return None
    return Fraction((gold.factor / answer.factor) ** answer.power)
