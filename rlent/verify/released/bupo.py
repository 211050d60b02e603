"""BuPO: the forward pass of an inner layer's policy and the entropy after each block, as in the authors' `modeling_qwen3.py`."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from rlent.math.entropy import entropy_from_logits
from rlent.methods.bupo import internal_logp
from rlent.recipe.mount import Node
from rlent.verify.adapter import Adapter
from rlent.verify.compare import Tree


def forward(
    hidden_states: Float[Tensor, "L B T D"], lm_head: Float[Tensor, "V D"], labels: Shaped[Tensor, "B T"], *, temperature: float
) -> dict[str, Tree]:
    """Log-probabilities under each block's policy, and the mean entropy (nats, temperature 1) after each block and its change."""

    def unembed(h: Tensor) -> Tensor:
        return h @ lm_head.T / temperature

    flat = hidden_states.flatten(1, 2)
    target = labels.long().flatten()
    logps = [internal_logp(h, h, target, unembed, share=1.0).view(labels.shape) for h in flat[1:]]
    entropy = torch.stack([entropy_from_logits(h @ lm_head.T).mean() for h in flat])
    return {"internal_log_prob": torch.stack(logps), "layer_entropy": entropy, "layer_entropy_change": entropy.diff()}


class Layers(Adapter):
    """The probe on the states after each block; the whole model's states are those after the last."""

    def run(self, node: Node) -> dict[str, Tree]:
        states, head, labels = self.inputs["hidden_states"].flatten(1, 2), self.inputs["lm_head"], self.inputs["labels"].long()

        def unembed(h: Tensor) -> Tensor:
            logits: Tensor = h @ head.T / self.config["temperature"]
            return logits

        def logp(inner: Tensor) -> Tensor:
            streams = {name: inner for name in node.reads if name.startswith("hidden_")}
            found: Tensor = node({**streams, "hidden": states[-1], "target": labels.flatten(), "unembed": unembed})
            return found.view(labels.shape)

        return {"internal_log_prob": torch.stack([logp(inner) for inner in states[1:]])}
