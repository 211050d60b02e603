"""Methods are told apart in every figure, by the colour-blind and in print without colour, however many there are."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from rlent.plots.looks import KEPT, MARKERS, PALETTE, Look, looks
from rlent.recipe.catalog import cards

MANY = ["steer", "klcov", "klcov coef=2", "grpo", "erc", "gspo", "clipcov", "hapo", "siren", "kl"]


def test_a_method_keeps_its_colour_whatever_is_beside_it() -> None:
    alone = looks(["klcov"])["klcov"]
    found = looks(MANY)
    assert found["klcov"] == alone and found["grpo"].colour == "#d55e00"
    assert looks(["Clip-Cov", "GRPO"])["GRPO"] == looks(["grpo", "mine"])["grpo"]
    rival = next(n for n in (f"m{i}" for i in range(99)) if looks([n])[n].colour == KEPT["grpo"])
    assert looks([rival, "grpo"])["grpo"] == looks(["grpo"])["grpo"] != looks([rival, "grpo"])[rival]
    assert looks(["GRPO", "KL-Cov"])["KL-Cov"].colour == KEPT["klcov"]


def test_seven_methods_have_seven_colours_and_markers_and_solid_lines() -> None:
    seven = looks(["mine", "other", "GRPO", "KL-Cov", "a", "b", "c"])
    assert {look.colour for look in seven.values()} == set(PALETTE) and all(look.plain for look in seven.values())
    assert all(look.sparse(600) == {} for look in seven.values())


@pytest.mark.parametrize("labels", [MANY, [f"m{i}" for i in range(28)], [f"grpo lr={i}" for i in range(4)]])
def test_beyond_seven_a_shared_colour_has_another_dash_and_another_marker(labels: list[str]) -> None:
    found = looks(labels)
    for one, two in itertools.combinations(found.values(), 2):
        if one.colour == two.colour:
            assert one.marker != two.marker, "points are told apart"
            assert one.dash != two.dash, "lines are told apart"
    marked = {(str(look.dash), look.marker) for look in found.values()}
    assert len(marked) == len(labels), "in print without colour, too"


def test_every_method_that_ships_can_be_in_one_figure() -> None:
    names = [card.name for card in cards()[0]]
    found = looks(names)
    assert len(names) > 50 and len(set(found.values())) == len(names)
    assert {look.marker for look in found.values()} == set(MARKERS)


def test_a_line_that_shares_its_colour_carries_its_marker_here_and_there() -> None:
    second = looks(["grpo", "grpo lr=2"])["grpo lr=2"]
    assert not second.plain and second.sparse(600) == {"marker": second.marker, "markevery": (50, 100), "markersize": 4.5}


def test_the_seven_colours_are_told_apart_by_those_who_see_no_red_or_no_green() -> None:
    """Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB; the least distance is far above that of two greys of one step."""
    protan = np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]])
    deutan = np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]])
    rgb = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in PALETTE]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    for matrix in (protan, deutan):
        seen = (linear @ matrix.T).clip(0, 1)
        shown = np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055)
        apart = [np.abs(shown[i] - shown[j]).max() for i, j in itertools.combinations(range(len(PALETTE)), 2)]
        assert min(apart) > 0.1
    assert Look("#0072b2", "o").plain
