"""PEAR: the places of a closing tag as a text that has it there."""

import torch

from rlent.recipe.mount import Node
from rlent.verify.adapter import Adapter
from rlent.verify.compare import Tree


class Tagged(Adapter):
    """Responses whose token at `think_end_index` is the closing tag (-1: none)."""

    def run(self, node: Node) -> dict[str, Tree]:
        entropy, end = self.inputs["entropy"], self.inputs["think_end_index"].long().tolist()
        mask = torch.arange(entropy.shape[1]) < self.inputs["length"][:, None]
        pieces = [[str(node.options["tag"]) if t == at else "a" for t in range(int(row.sum()))] for row, at in zip(mask, end, strict=True)]
        found = node({"correct": self.inputs["correct"], "old_entropy": entropy, "mask": mask, "pieces": pieces})
        return {"reward": found["value"], "think_entropy": found["think"], "answer_entropy": found["answer"], "penalty": found["penalty"]}
