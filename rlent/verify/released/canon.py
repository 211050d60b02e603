"""CANON: the schedules' weights, read off the mounted advantage."""

import torch

from rlent.recipe.mount import Node
from rlent.verify.adapter import Adapter
from rlent.verify.compare import Tree


class Weights(Adapter):
    """Two responses, one right, at each step of the file: the weight w of intra in (1 - w) inter + w intra."""

    def run(self, node: Node) -> dict[str, Tree]:
        rows = {
            "reward": torch.tensor([1.0, 0.0], dtype=torch.float64),
            "old_entropy": torch.tensor([[0.0], [1.0]], dtype=torch.float64),
            "mask": torch.ones(2, 1, dtype=torch.bool),
            "group": torch.zeros(2, dtype=torch.long),
            "sample": torch.arange(2),
        }
        found = [node({**rows, "step": int(step)}) for step in self.inputs["step"]]
        weights = [(f["adv"] * node.options["length"] - f["inter"])[0] / (f["intra"] - f["inter"])[0] for f in found]
        return {f"intra_weight_{node.options['schedule']}": torch.stack(weights)}
