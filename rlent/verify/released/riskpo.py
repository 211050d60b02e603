"""RiskPO: the bundles and tracked quantiles of a vector, for the mounted advantage."""

import torch

from rlent.methods.riskpo import LEVELS
from rlent.recipe.mount import Node
from rlent.verify.adapter import Adapter
from rlent.verify.compare import Tree


class Bundles(Adapter):
    """Bundles of the file's size, and tracked quantiles that are the file's at the two levels that are read."""

    def overrides(self) -> list[str]:
        bundle = self.inputs["bundle"].long()
        return [f"advantage.bundle_size={len(torch.unique(self.inputs['group'][bundle == bundle[0]]))}"]

    def memory(self) -> dict[str, dict[str, Tree]]:
        down, up = self.inputs["q_down"], self.inputs["q_up"]
        if down is None or up is None:
            return {"advantage": {"q": None}}
        middle = (self.config["quantile_down"] + self.config["quantile_up"]) / 2
        return {"advantage": {"q": [down if level < middle else up for level in LEVELS]}}


class OnePrompt(Adapter):
    """A step's scores as the rewards of one prompt, which is a bundle by itself."""

    def run(self, node: Node) -> dict[str, Tree]:
        history = []
        for scores in self.inputs["bundle_scores"]:
            reward = torch.as_tensor(scores, dtype=torch.float64)
            group = torch.zeros(len(reward), dtype=torch.long)
            node({"reward": reward, "group": group, "sample": torch.arange(len(reward))})
            history.append(node.fn.q)  # type: ignore[attr-defined]
        return {"q": torch.stack(history)}
