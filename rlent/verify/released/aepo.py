"""AEPO: the batch in which picked tempered responses overwrite the first rows, as the authors' `fit` makes it, from what the recipe mounts."""

import torch

from rlent.methods.aepo import heat
from rlent.recipe.mount import Node
from rlent.verify.adapter import Adapter
from rlent.verify.compare import Tree


class Switch(Adapter):
    """The controller after a step of the given entropy."""

    def run(self, node: Node) -> dict[str, Tree]:
        turned = node({"metrics": {"nll/mean": self.inputs["last_entropy"]}})
        return {"temperature": turned["sampler.heat"]}


class SecondRollout(Adapter):
    """Ordinary responses, then tempered ones, of one token each; the rows that stay in the loss are the authors' batch, in their order."""

    def overrides(self) -> list[str]:
        hot, cold = self.config["temperature_high"], self.config["temperature_low"]
        heated = heat(self.inputs["last_entropy"], target=self.config["entropy_target"], hot=hot, cold=cold)
        return [f"shape.aepo.portion={1.0 if heated == hot else 0.5}"]

    def run(self, node: Node) -> dict[str, Tree]:
        main, extra = self.inputs["adv"], self.inputs["extra_adv"]
        adv = torch.cat([main, extra])[:, None]
        source = ["policy"] * len(main) + ["tempered"] * len(extra)
        found = node({"adv": adv, "mask": torch.ones_like(adv, dtype=torch.bool), "source": source})
        kept = found["mask"][:, 0].nonzero()[:, 0].tolist()
        order = [*(i for i in kept if i >= len(main)), *(i for i in kept if i < len(main))]
        return {
            "n_replaced": int(found["selected"].any(1).sum()),
            "source": ["extra" if i >= len(main) else "main" for i in order],
            "row": [i - len(main) if i >= len(main) else i for i in order],
            "advantage": found["adv"][order, 0],
        }
