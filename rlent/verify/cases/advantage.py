"""Vectors of credit: the recipe's advantage after its shapes."""

from __future__ import annotations

import torch
from torch import Tensor

from rlent.types import Batch
from rlent.verify.case import Case
from rlent.verify.compare import Check


class AdvantageCase(Case):
    """The recipe's credit, and the same with the rows in another order."""

    def run(self, check: Check) -> None:
        self.without_stated_shapes()
        batch = self.batch()
        order = torch.arange(len(batch)).flip(0)
        turned = {k: _flipped(v, order) for k, v in batch.streams.items()}
        found, again = self._shaped(batch), self._shaped(Batch(turned))
        expected = self.vector.outputs
        for name, stream in {"advantages": "adv", **self.block.outputs}.items():
            if name not in expected:
                continue
            want = torch.tensor(expected[name], dtype=torch.float64)
            for label, rows, wanted in (("", found, want), ("rows turned round: ", again, want[order] if want.ndim else want)):
                value = rows[stream]
                if wanted.ndim == 1 and isinstance(value, Tensor) and value.ndim == 2:  # one number per response: on its first token
                    some = rows["mask"].any(1)
                    value, wanted = value[some, 0], wanted[some]
                elif self.block.adapter and isinstance(value, Tensor) and value.ndim == 2:  # released code may leave numbers on padding
                    value, wanted = value * rows["mask"], wanted * rows["mask"]
                check.compare(f"{label}{name}", value, wanted)

    def _shaped(self, batch: Batch) -> Batch:
        """The recipe's credit after its shapes, those inside the update too."""
        batch = self.credited(batch)
        objective = self.objective(batch)
        live = {k: batch[k] for k in ("entropy", *self.recipe.plan.probes) if k in batch}
        live["logp"] = batch["logp"] if "logp" in batch else torch.zeros_like(batch["adv"])
        for name, value in live.items():
            batch[f"now_{name}"] = value
        batch = objective.shape(objective.shape(batch, "step"), "minibatch", 0)
        batch, scale = objective.prepare(batch, 0)
        out = objective(batch, live, scale, 0).record.tokens
        return batch.with_(adv=out["adv"] * out["weight"])


def _flipped(value: object, order: Tensor) -> object:
    """A stream with its rows in another order (backwards)."""
    if isinstance(value, Tensor) and value.ndim:
        return value[order]
    return value[::-1] if isinstance(value, list) else value
