"""Option types: what a signature accepts, and the sentence about a value that it does not."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from annotated_types import Interval, Lt
from hypothesis import given
from hypothesis import strategies as st

from rlent.options import AboveOne, Count, NonNegative, Positive, PositiveCount, PositiveShare, Share
from rlent.recipe.compose import groups
from rlent.recipe.mount import Node, locate
from rlent.recipe.option_types import check_options, coerce, describe, mismatch, options_of
from rlent.types import Json


@given(st.floats(allow_nan=True, allow_infinity=True) | st.integers() | st.booleans() | st.text() | st.none())
def test_ranges_accept_exactly_what_they_say(value: object) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    whole = isinstance(value, int) and not isinstance(value, bool)
    for kind, good in (
        (Share, number and 0 <= value <= 1),  # type: ignore[operator]
        (PositiveShare, number and 0 < value <= 1),  # type: ignore[operator]
        (NonNegative, number and value >= 0),  # type: ignore[operator]
        (Positive, number and value > 0),  # type: ignore[operator]
        (AboveOne, number and value > 1),  # type: ignore[operator]
        (Count, whole and value >= 0),
        (PositiveCount, whole and value >= 1),
        (float | None, value is None or number),
        (float | Literal["off"], number or value == "off"),
        (bool, isinstance(value, bool)),
        (str, isinstance(value, str)),
    ):
        assert (mismatch(value, kind) is None) == good, kind


@pytest.mark.parametrize(
    ("value", "kind", "said"),
    [
        (2, Share, "2 is outside [0, 1]"),
        (math.nan, Share, "nan is outside [0, 1]"),
        (0, PositiveShare, "0 is outside (0, 1]"),
        (-1, Positive | None, "-1 is outside (0, inf]"),
        (0, PositiveCount | Literal["machines"], "0 is outside [1, inf]"),
        (5.0, Annotated[float, Lt(5)], "5.0 is outside [-inf, 5)"),
        ("0.5", Share, "'0.5' is not a float"),
        (True, float, "True is not a float"),
        (1.0, int, "1.0 is not an int"),
        (True, PositiveCount, "True is not an int"),
        ("1", int | None, "'1' is not an int"),
        (None, PositiveCount, "None is not an int"),
        (1, bool, "1 is not a bool"),
        (1, str, "1 is not a str"),
        ("a", Sequence[str], "'a' is not a list"),
        ({"a": 1}, list[int], "{'a': 1} is not a list"),
        ([1], Mapping[str, Any], "[1] is not a mapping"),
        ("b", Literal["x", "y"], "'b' is not one of x, y"),
        (["x", "b"], list[Literal["x", "y"]], "in ['x', 'b'], 'b' is not one of x, y"),
        ([0.5, 2], list[Share], "in [0.5, 2], 2 is outside [0, 1]"),
        ([1], Mapping[str, Json], "[1] is not a mapping"),
        ({"a": 1}, Mapping[str, str], "in {'a': 1}, 1 is not a str"),
        (1, None, "1 is not null"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_accepted(value: object, kind: object, said: str) -> None:
    assert mismatch(value, kind) == said


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ([1, 2], tuple[int, ...]),
        ((1, 2), list[int]),
        ([1], set[int]),
        ("a/b", Path),
        (Path("a"), str | Path),
        ([1, 2.5], Sequence[float]),
        (object, type("Unknown", (), {})),
        ({"a": [1, {"b": None}]}, Mapping[str, Json]),
        (7, Node | None),
        ("anything", Any),
    ],
)
def test_what_yaml_can_write_for_a_type_is_accepted(value: object, kind: object) -> None:
    assert mismatch(value, kind) is None


def test_a_whole_number_becomes_a_float_only_where_a_float_is_meant() -> None:
    for kind in (float, Share, Share | None, float | Literal["off"]):
        assert repr(coerce(1, kind)) == "1.0"
    for value, kind in ((1, int), (1, int | float), (1, PositiveCount), (True, bool), ([1], list[float]), ("1", float), (1, Any)):
        assert coerce(value, kind) is value


def test_types_are_described_in_words() -> None:
    assert describe(Share) == "float in [0, 1]" and describe(Annotated[int, Interval(gt=0, lt=9)]) == "int in (0, 9)"
    assert describe(PositiveCount | None) == "int in [1, inf] or null" and describe(Literal["a", "b"]) == "one of a, b"


def targets(tree: object) -> Iterator[str]:
    """Every `_target_` in a tree of option files."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from [str(value)] if key == "_target_" else targets(value)


def test_the_types_of_every_function_that_a_recipe_names_are_read() -> None:
    """A type that cannot be evaluated would leave all options of its function unchecked."""
    files = [file for menu in groups().values() for file in menu.values()]
    for target in sorted({t for file in files for t in targets(yaml.safe_load(file.read_text()))}):
        found = locate(target)
        options = options_of(found.__init__ if isinstance(found, type) else found)
        assert not [name for name, o in options.items() if isinstance(o.annotation, str)], target


def test_all_problems_of_a_call_are_given_at_once() -> None:
    def half(adv: object, *, share: Share, count: Count, low: float = 0.0) -> None: ...

    assert check_options("shape.half", half, {"share": 2, "lwo": 1}, "half") == [
        "shape.half.share: 2 is outside [0, 1] (float in [0, 1] is accepted)",
        "shape.half: half has no option 'lwo'; did you mean 'low'? (options: count, low, share)",
        "shape.half: half needs option 'count' (int in [0, inf]), which the recipe does not give",
    ]
