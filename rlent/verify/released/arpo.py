"""ARPO: the branch test of one rollout, from lists of likely tokens, as in the authors' `generate_sequences`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from rlent.math.entropy import listed_entropy
from rlent.methods.arpo import branch_value, turn_entropy
from rlent.recipe.mount import Node
from rlent.sampling.tree import Turn
from rlent.types import JsonObject, Request
from rlent.verify.adapter import Adapter
from rlent.verify.compare import Tree


def branch_test(
    first_turn_top_logprobs: Float[Tensor, "first k"],
    current_turn_top_logprobs: Float[Tensor, "now k"],
    uniform: Float[Tensor, " n"],
    *,
    weight: float,
    probability: float,
    top_k: int,
    first_tokens: int,
    vocab: int,
) -> dict[str, Tree]:
    """The test of one rollout, from lists of its most likely tokens."""
    start, now = (turn_entropy(listed_entropy(t, top_k), vocab, first_tokens) for t in (first_turn_top_logprobs, current_turn_top_logprobs))
    value = branch_value(uniform, now - start, weight)
    return {"initial": start, "entropy": now, "delta": now - start, "value": value, "branch": value <= probability}


class Turns(Adapter):
    """Two turns of one rollout, the second with each of the file's uniform numbers; logits are those of the listed tokens and a flat rest."""

    def run(self, node: Node) -> dict[str, Tree]:
        vocab = int(self.config["vocab_size"])
        first, now = (self._logits(self.inputs[f"{name}_turn_top_logprobs"], vocab) for name in ("first", "current"))
        found: dict[str, Any] = {"branch": []}

        def grow(
            requests: Sequence[Request],
            *,
            measure: Callable[[Tensor], Mapping[str, Tensor]],
            decide: Callable[[Turn], bool],
            **rest: object,
        ) -> None:
            for u in self.inputs["uniform"].tolist():
                path: JsonObject = {}
                decide(Turn({"top": measure(first)["top"].tolist()}, u, path))
                found["branch"].append(decide(Turn({"top": measure(now)["top"].tolist()}, u, path)))
                found["initial_entropy"] = path["initial"]

        node({"requests": [], "grow": grow, "vocab": vocab})
        return found

    def _logits(self, listed: Float[Tensor, "n k"], vocab: int) -> Float[Tensor, "n V"]:
        rest = (1 - listed.exp().sum(1, keepdim=True)).clamp(min=1e-300) / (vocab - listed.shape[1])
        return torch.cat([listed, rest.log().expand(-1, vocab - listed.shape[1])], 1)
