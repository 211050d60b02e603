"""Vectors of a function by its path, and of an object's method, called for each element of the inputs in turn."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any, ClassVar

import torch
from torch import Tensor

from rlent.recipe.mount import locate
from rlent.types import Config
from rlent.verify.case import Case
from rlent.verify.cases.objective import picked
from rlent.verify.compare import Check, Through, stated, states
from rlent.verify.grammar import Block, Golden
from rlent.verify.inputs import WHOLE_NUMBERS, place_in_group, streams_of
from rlent.verify.settings import settings_of
from rlent.verify.vectors import Vector


class CallCase:
    """A function that a card names by its path: no recipe is composed."""

    through: ClassVar[Through] = "call"

    def __init__(self, vector: Vector, golden: Golden, block: Block, config_dirs: Sequence[str] = ()) -> None:
        self.vector, self.block = vector, block
        self.arguments = settings_of(vector, golden, block).arguments
        self.inputs = streams_of(vector, block)

    def run(self, check: Check) -> None:
        fn, expected = locate(str(self.block.call)), self.vector.outputs
        inputs = {k: v.long() if k in WHOLE_NUMBERS and isinstance(v, Tensor) else v for k, v in self.inputs.items()}
        inputs |= {k: v.bool() for k, v in inputs.items() if k == "mask"}
        for rule in self.block.gradients.values():
            inputs[rule.by] = inputs[rule.by].clone().requires_grad_(True)
        takes = inspect.signature(fn).parameters
        mask = inputs.get("mask") if "mask" in takes else inputs.pop("mask", None)  # it only places what is one number for each response
        if "sample" in takes and "group" in inputs:
            inputs.setdefault("sample", place_in_group(inputs["group"]))
        answer: Mapping[str, Any] = fn(**inputs, **self.arguments)
        for name, key in self.block.outputs.items():
            if states(expected, name):
                value = answer[key]
                spread = name == "advantages" and isinstance(value, Tensor) and value.ndim == 1
                check.compare_tree(name, value[:, None] * mask if spread and mask is not None else value, stated(expected, name))
        for name, rule in self.block.gradients.items():
            if name in expected:
                (grad,) = torch.autograd.grad(answer[rule.of], inputs[rule.by], retain_graph=True)
                check.compare(name, picked(grad, rule), expected[name])


class CalledObjectCase(CallCase):
    """A method of an object that a card names by its class."""

    def run(self, check: Check) -> None:
        made = locate(str(self.block.call))(**self.arguments)
        _follow(self.vector, self.block, self.inputs, {}, made, check)


class MountedObjectCase(Case):
    """A method of a class that the recipe mounts."""

    def run(self, check: Check) -> None:
        _follow(self.vector, self.block, self.inputs, self.settings.arguments, self.node().fn, check)


def _follow(vector: Vector, block: Block, inputs: Mapping[str, Any], more: Config, made: object, check: Check) -> None:
    """Call the method for each element, and compare its answers and what the object holds at the end."""
    calls: list[dict[str, object]] = []
    for name, value in inputs.items():
        items = value.tolist() if isinstance(value, Tensor) else value
        calls = calls or [{} for _ in items]
        for call, item in zip(calls, items, strict=True):
            call |= item if isinstance(item, Mapping) else {name: item}
    method = attrgetter(str(block.method))(made)
    answers = [method(**call, **more) for call in calls]
    expected = vector.outputs
    for name, key in block.outputs.items():
        if states(expected, name):
            check.compare_tree(name, answers if key == "each" else [a[key] for a in answers], stated(expected, name))
    for name, attribute in block.state.items():
        if name in expected:
            check.compare_tree(name, attrgetter(attribute)(made), expected[name])
