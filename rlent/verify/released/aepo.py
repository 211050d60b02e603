"""AEPO: the batch in which picked tempered responses overwrite the first rows, as the authors' `fit` makes it."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from rlent.methods.aepo import heat, picked
from rlent.recipe.mount import Node
from rlent.verify.adapter import Adapter


def mixed(
    last_entropy: float,
    adv: Float[Tensor, " N"],
    extra_adv: Float[Tensor, " n"],
    *,
    target: float,
    hot: float,
    cold: float,
    most: int,
    threshold: float,
) -> dict[str, Any]:
    """The authors' batch: picked responses overwrite the first rows. The same choice as `with_tempered` makes."""
    temperature = heat(last_entropy, target=target, hot=hot, cold=cold)
    chosen = picked(extra_adv, threshold=threshold, most=most, portion=1.0 if temperature == hot else 0.5)
    k = len(chosen)
    return {
        "temperature": temperature,
        "n_replaced": k,
        "source": ["extra"] * k + ["main"] * (len(adv) - k),
        "row": [*chosen.tolist(), *range(k, len(adv))],
        "advantage": torch.cat([torch.ones(k, dtype=adv.dtype), adv[k:]]),
    }


class Switch(Adapter):
    """The controller after a step of the given entropy."""

    def run(self, node: Node) -> dict[str, Any]:
        turned = node({"metrics": {"nll/mean": self.inputs["last_entropy"]}})
        return {"temperature": turned["sampler.heat"]}


class SecondRollout(Adapter):
    """Ordinary responses, then tempered ones, of one token each; the rows that stay in the loss are the authors' batch, in their order."""

    def overrides(self) -> list[str]:
        hot, cold = self.config["temperature_high"], self.config["temperature_low"]
        heated = heat(self.inputs["last_entropy"], target=self.config["entropy_target"], hot=hot, cold=cold)
        return [f"shape.aepo.portion={1.0 if heated == hot else 0.5}"]

    def run(self, node: Node) -> dict[str, Any]:
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
