"""Knobs: the numbers of a recipe that controllers may turn while it runs. They are logged and checkpointed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import SupportsFloat

from rlent.errors import NonFinite
from rlent.recipe.mount import Node


class Knobs:
    """Every numeric option by its recipe name (`regularize.entropy.coef`, `loss.high`)."""

    def __init__(self, nodes: Mapping[str, Node]) -> None:
        self._nodes = dict(nodes)
        self.turned: dict[str, float] = {}

    def __contains__(self, name: object) -> bool:
        return name in self._nodes

    def value(self, name: str) -> float:
        node = self._nodes[name]
        return float(node.numbers()[name.removeprefix(node.path + ".")])

    def set(self, name: str, value: float) -> None:
        """Turn one knob.

        Raises:
            NonFinite: a controller asked for a NaN or an infinity.
            KeyError: no such knob.
        """
        if not math.isfinite(value):
            raise NonFinite(f"a controller set {name} to {value}")
        node = self._nodes[name]
        option = name.removeprefix(node.path + ".")
        kept = node.numbers()[option]
        node.turn(option, round(value) if isinstance(kept, int) and not isinstance(kept, bool) and option != "coef" else float(value))
        self.turned[name] = float(value)

    def apply(self, node: Node, answer: SupportsFloat | Mapping[str, SupportsFloat] | None) -> None:
        """Set what a controller returned: a number for its `knob`, or a mapping of names to numbers."""
        if answer is None:
            return
        settings = answer if isinstance(answer, Mapping) else {node.options["knob"]: answer}
        for name, value in settings.items():
            self.set(name, float(value))

    def state_dict(self) -> dict[str, float]:
        return dict(self.turned)

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        for name, value in state.items():
            self.set(name, value)
