"""What a card names under `adapter:`: a file's inputs in the shape that a mounted function takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlent.recipe.mount import Node
from rlent.types import Stream
from rlent.verify.compare import Tree
from rlent.verify.inputs import tensor
from rlent.verify.vectors import Vector


class Adapter:
    """The base: changes nothing. `inputs` are the file's, by its own names, as float64 tensors; `config` are its options."""

    def __init__(self, vector: Vector) -> None:
        self.inputs: Mapping[str, Any] = {name: tensor(value) for name, value in vector.inputs.items()}
        self.config = vector.config

    def overrides(self) -> list[str]:
        """Overrides of the recipe that follow from the inputs."""
        return []

    def streams(self) -> dict[str, Stream]:
        """Streams beside those that the block's `inputs` name, or in their place."""
        return {}

    def memory(self) -> dict[str, dict[str, Tree]]:
        """What functions with a state remember from before, by node (`advantage`, `shape.epo`)."""
        return {}

    def run(self, node: Node) -> dict[str, Tree]:
        """Call the mounted function; its results by the names of the file's outputs."""
        raise NotImplementedError
