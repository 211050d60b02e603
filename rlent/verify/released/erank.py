"""Effective rank: the authors' inputs in the shape of the mounted functions."""

import torch

from rlent.recipe.mount import Node
from rlent.verify.adapter import Adapter
from rlent.verify.compare import Tree


class OneResponse(Adapter):
    """The probe on a batch of one response."""

    def run(self, node: Node) -> dict[str, Tree]:
        hidden = self.inputs["hidden"][None]
        return {k: v[0] for k, v in node({"hidden": hidden, "mask": torch.ones(hidden.shape[:2], dtype=torch.bool)}).items()}


class Means(Adapter):
    """The moving means from before the step."""

    def memory(self) -> dict[str, dict[str, Tree]]:
        return {"advantage": {"means": self.inputs["ema_before"], "reward": None}}
