"""ER-PRM: labels of prefixes for a reward model, as the authors' `calculate_step_score` makes them."""

import torch

from rlent.methods.er_prm import soft_value
from rlent.recipe.mount import Node
from rlent.verify.adapter import Adapter
from rlent.verify.compare import Tree
from rlent.verify.inputs import Ragged


def step_labels(completion_labels: Ragged, final_label: float, *, eta: float) -> dict[str, list[float]]:
    """The label of each prefix, rounded to three decimals, and the outcome as the last one's."""
    means = [sum(float(x) for x in labels) / len(labels) for labels in completion_labels]
    exact = [float(soft_value(p, float(eta))) for p in means]
    return {"mean_label": means, "step_score_unrounded": exact, "step_score": [*(round(x, 3) for x in exact), float(final_label)]}


class Prefixes(Adapter):
    """Each prefix as the prompt of a group, its completions as responses of one token: a response earns its outcome less the value."""

    def run(self, node: Node) -> dict[str, Tree]:
        labels = [[float(x) for x in row] for row in self.inputs["completion_labels"]]
        correct = torch.tensor([x for row in labels for x in row])
        group = torch.tensor([g for g, row in enumerate(labels) for _ in row])
        tokens = torch.zeros(len(correct), 1, dtype=torch.long)
        reward = node({"correct": correct, "tokens": tokens, "mask": torch.ones_like(tokens, dtype=torch.bool), "group": group})
        value = [(correct - reward[:, 0])[group == g] for g in range(len(labels))]
        exact = [float(v.mean()) for v in value]
        return {"step_score_unrounded": exact, "step_score": [*(round(x, 3) for x in exact), float(self.inputs["final_label"])]}
