"""Vectors of decode functions: on logits [n,V], or around a model that the file's tables make."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rlent.recipe.knobs import Knobs
from rlent.recipe.mount import Node
from rlent.types import Request, Rollouts
from rlent.verify.case import Case
from rlent.verify.compare import Check, Tree, stated, states


class DecodeCase(Case):
    """A decode function, after the recipe's controllers have read their streams."""

    def run(self, check: Check) -> None:
        node = self.node()
        knobs = Knobs(self.recipe.plan.knobs())
        for control in self.recipe.plan.nodes["control"]:
            if set(control.reads) <= self.inputs.keys():
                knobs.apply(control, control({k: v.bool() if k == "mask" else v for k, v in self.inputs.items()}))
        found = self._around(node) if "requests" in node.reads else self._on_logits(node)
        for name, key in self.block.outputs.items():
            if states(self.vector.outputs, name):
                check.compare_tree(name, found[key] if key in found else knobs.value(key), stated(self.vector.outputs, name))

    def _around(self, node: Node) -> dict[str, Tree]:
        """One request through the function and the table model: its notes and counts, and `sequence`."""
        table = TableModel(self.inputs)
        length = int(self.settings.streams["length"]) - 1
        request = Request([int(self.inputs["start_token"])], key=(0,), max_tokens=length)
        rollouts = node({"requests": [request], "generate": table.generate})
        found = {k: v[0] for k, v in {**rollouts.notes, **rollouts.counts}.items()}
        return {**found, "sequence": [*request.prompt, *rollouts.tokens[0]]}

    def _on_logits(self, node: Node) -> dict[str, Tree]:
        """What the function returns for the file's logits, and `tempered`."""
        logits = self.inputs["logits"]
        rows = logits if logits.ndim == 2 else logits[None]
        heat = float(self.settings.streams.get("temperature", self.recipe["sampler"]["temperature"]))
        asked = torch.full((len(rows),), heat, dtype=rows.dtype)
        found = dict(node({"logits": rows, "temperature": asked, "position": torch.zeros(len(rows)).long(), "memory": None}))
        found["tempered"] = found.get("logits", rows) / found.get("temperature", asked)[:, None]
        return {k: v if logits.ndim == 2 else v[0] for k, v in found.items()}


class TableModel:
    """A model whose logits are a table by last token plus a table by position; its draw is the second most likely token."""

    def __init__(self, tables: Mapping[str, Any]) -> None:
        self.by_token, self.by_position = tables["transition_logits"], tables["position_logits"]

    def generate(self, requests: Sequence[Request], measure: Callable[[Tensor], Mapping[str, Tensor]] | None = None) -> Rollouts:
        """One token for each request that wants any."""
        texts = [[*r.prompt, *r.prefix] for r in requests]
        logits = torch.stack([self.by_token[ids[-1]] + self.by_position[len(ids) - 1] for ids in texts])
        chosen = logits.sort(dim=1, descending=True, stable=True).indices[:, 1].tolist()
        tokens = [[token] if r.max_tokens else [] for r, token in zip(requests, chosen, strict=True)]
        notes = {k: [[v] for v in values.tolist()] for k, values in (measure(logits) if measure else {}).items()}
        return Rollouts(tokens, [[0.0] * len(t) for t in tokens], ["length"] * len(tokens), notes=notes)
