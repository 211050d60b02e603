"""EMPG: vectors whose rows are steps, as multi-turn agents store rollouts, for the mounted shape."""

import torch

from rlent.recipe.mount import Node
from rlent.verify.adapter import Adapter
from rlent.verify.compare import Tree


class Trajectories(Adapter):
    """The steps of a trajectory one after the other in one response, as `modulated` has them."""

    def run(self, node: Node) -> dict[str, Tree]:
        mask = self.inputs["mask"].bool()
        names, row = torch.unique(self.inputs["trajectory"], return_inverse=True)
        steps = self.inputs["step"].long()
        wide = {
            "adv": self.inputs["base_advantages"],
            "old_entropy": self.inputs["entropy"],
            "paragraphs_step": steps[:, None].expand_as(mask),
        }
        order = [[i for i in steps.argsort(stable=True).tolist() if row[i] == t] for t in range(len(names))]
        rows = {k: [torch.cat([v[i][mask[i]] for i in mine]) for mine in order] for k, v in wide.items()}
        streams = {k: torch.nn.utils.rnn.pad_sequence(v, batch_first=True) for k, v in rows.items()}
        full = [torch.ones(len(v), dtype=torch.bool) for v in rows["adv"]]
        found = node({**streams, "mask": torch.nn.utils.rnn.pad_sequence(full, batch_first=True)})["adv"]
        out = torch.zeros_like(self.inputs["base_advantages"])
        for credit, mine in zip(found, order, strict=True):
            sizes = [int(mask[i].sum()) for i in mine]
            for i, values in zip(mine, credit[: sum(sizes)].split(sizes), strict=True):
                out[i, mask[i]] = values.mean()
        return {"advantages": out}
