"""Tool-Light: entropies of steps and where to branch, from lists of likely tokens, as in the authors' `select_rollout_positions`."""

from collections.abc import Sequence

from torch import Tensor

from rlent.math.entropy import listed_entropy
from rlent.methods.tool_light import largest, step_entropy
from rlent.recipe.mount import Node
from rlent.types import Request, Rollouts
from rlent.verify.adapter import Adapter
from rlent.verify.compare import Tree


def positions(
    step_top_logprobs: Tensor | Sequence[Sequence[Sequence[float]]], *, prefix_lengths: Sequence[int], top_k: int, branch_steps: int
) -> dict[str, Tree]:
    """Entropies of each step and the steps to branch at, from lists of the most likely tokens [step][token, k]."""
    each = [step_entropy(listed_entropy(step, top_k), prefix_lengths) for step in step_top_logprobs]
    return {
        "prefix_entropy": [e[0] for e in each],
        "step_entropy": [e[1] for e in each],
        "best_prefix": [e[2] for e in each],
        "branch_steps": largest([e[1] for e in each], branch_steps),
    }


class Chain(Adapter):
    """A chain of the file's steps, each made as long as the longest by tokens of its own mean entropy, which change no mean of a prefix."""

    def _steps(self) -> list[list[float]]:
        steps = [listed_entropy(step, self.config["top_k"]) for step in self.inputs["step_top_logprobs"]]
        longest = max(map(len, steps))
        return [[*step, *[sum(step) / len(step)] * (longest - len(step))] for step in steps]

    def overrides(self) -> list[str]:
        return [f"decode.tool_light.segment={len(self._steps()[0])}", "decode.tool_light.branches=1"]

    def run(self, node: Node) -> dict[str, Tree]:
        steps = self._steps()
        entropies = [h for step in steps for h in step]

        def generate(requests: Sequence[Request], measure: object) -> Rollouts:
            whole = [entropies[len(r.prefix) :] for r in requests]
            tokens = [[0] * len(h) for h in whole]
            return Rollouts(tokens, [[0.0] * len(h) for h in whole], ["length"] * len(whole), notes={"top": whole})

        wanted = min(self.config["max_branch_steps"], len(steps))
        requests = [Request([0], key=(0, i), max_tokens=len(entropies)) for i in range(1 + wanted)]
        shared = node({"requests": requests, "generate": generate}).counts["shared"][1:]
        return {"branch_steps": [start // len(steps[0]) for start in shared]}
