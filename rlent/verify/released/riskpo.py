"""RiskPO: tracked quantiles over steps."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rlent.methods.riskpo import LEVELS, moved
from rlent.verify.adapter import Adapter


def tracked(bundle_scores: Sequence[Sequence[float]], *, rate: float, levels: Sequence[float]) -> dict[str, Tensor]:
    """`q` [steps, levels]: the tracked quantiles after each step's scores."""
    q, history = None, []
    for scores in bundle_scores:
        q = moved(q, torch.as_tensor(scores, dtype=torch.float64), rate, levels)
        history.append(q)
    return {"q": torch.stack(history)}


class Bundles(Adapter):
    """Bundles of the file's size, and tracked quantiles that are the file's at the two levels that are read."""

    def overrides(self) -> list[str]:
        bundle = self.inputs["bundle"].long()
        return [f"advantage.bundle_size={len(torch.unique(self.inputs['group'][bundle == bundle[0]]))}"]

    def memory(self) -> dict[str, dict[str, Any]]:
        down, up = self.inputs["q_down"], self.inputs["q_up"]
        if down is None or up is None:
            return {"advantage": {"q": None}}
        middle = (self.config["quantile_down"] + self.config["quantile_up"]) / 2
        return {"advantage": {"q": [down if level < middle else up for level in LEVELS]}}
