"""A vector mapped onto a composed recipe: what every kind of vector needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from rlent.errors import UsageError
from rlent.math.entropy import entropy_from_logits
from rlent.recipe.compose import Recipe, load
from rlent.recipe.mount import Node, locate, mount
from rlent.train.credit import add_advantage, add_reward, at_the_end
from rlent.train.objective import Objective
from rlent.types import Batch, JsonObject
from rlent.verify.adapter import Adapter
from rlent.verify.compare import Check, Through
from rlent.verify.grammar import Block, Golden
from rlent.verify.inputs import place_in_group, rows_of, streams_of
from rlent.verify.settings import settings_of
from rlent.verify.vectors import Vector


class Case:
    """One block on one vector: the recipe it composes, and the file's inputs as streams. Subclasses `run` a kind of vector."""

    through: ClassVar[Through] = "recipe"

    def __init__(self, vector: Vector, golden: Golden, block: Block, config_dirs: Sequence[str] = ()) -> None:
        self.vector, self.block = vector, block
        self.adapter: Adapter = locate(block.adapter)(vector) if block.adapter else Adapter(vector)
        self.settings = settings_of(vector, golden, block)
        overrides = [f"recipe={golden.recipe}", *self.settings.overrides, *self.adapter.overrides()]
        self.recipe: Recipe = load(overrides, config_dirs)
        self.inputs = {**streams_of(vector, block), **self.adapter.streams()}

    def run(self, check: Check) -> None:
        """Compare what the recipe gives with the file's outputs."""
        raise NotImplementedError

    # ---- what the recipe mounts --------------------------------------------------------------------------------------

    def node(self) -> Node:
        """The function that the block names, with what it remembers.

        Raises:
            UsageError: it is not in the composed recipe.
        """
        seat, _, name = str(self.block.node).partition(".")
        self.remember()
        found = next((n for n in self.recipe.plan.nodes[seat] if n.name == (name or seat)), None)
        spec = (self.recipe.config.get(seat) or {}).get(name)
        found = found or (mount(seat, name, spec, []) if spec else None)  # a probe or reward that another node calls
        if found is None:
            raise UsageError(f"{self.block.node} is not in the composed recipe")
        return found

    def remember(self) -> None:
        """Give functions with a state what the adapter says they remember."""
        for path, state in self.adapter.memory().items():
            fn: Any = next(n for members in self.recipe.plan.nodes.values() for n in members if n.path == path).fn
            fn.load_state_dict(state)

    def without_stated_shapes(self) -> None:
        """Take shapes out of the recipe whose own streams (`<node>_<key>`) the file states."""
        nodes = self.recipe.plan.nodes
        nodes["shape"] = [n for n in nodes["shape"] if not any(k.startswith(f"{n.name}_") for k in self.inputs)]

    # ---- streams ---------------------------------------------------------------------------------------------------

    def batch(self, seed: int = 0) -> Batch:
        """The vector's streams as a batch; what it does not state is plain (all rows train, weight 1)."""
        mask = self.inputs["mask"].bool() if "mask" in self.inputs else None
        if mask is None:
            wide = [v for v in self.inputs.values() if isinstance(v, Tensor) and v.ndim == 2]
            mask = torch.ones(wide[0].shape if wide else (rows_of(self.inputs), 1), dtype=torch.bool)
        rows = len(mask)
        zeros = torch.zeros(mask.shape, dtype=torch.float64)
        group = self.inputs.get("group")
        streams = {
            "adv": zeros,
            "train": torch.ones(rows, dtype=torch.bool),
            "problem_key": torch.arange(rows),
            "sample": torch.zeros(rows, dtype=torch.long) if group is None else place_in_group(group),
            "step": 1,
            "steps": 1,
            "seed": seed,
            "temperature": 1.0,
            "max_tokens": mask.shape[1],
            "length": mask.sum(1),
            **self.inputs,
            **self.settings.streams,
            "mask": mask,
            "group": torch.arange(rows) if group is None else group.long(),
        }
        for name in ("old_logp", "old_entropy"):
            streams.setdefault(name, zeros)
        streams["adv"] = streams["adv"] * mask
        return Batch({k: v for k, v in streams.items() if k not in ("logits", "labels")})

    def live(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Live streams [N,T] with gradient, and the leaves whose gradients the file may state, by the file's names."""
        if "logits" not in self.inputs:
            leaves = {k: self.inputs[k].clone().requires_grad_(True) for k in ("logp", "entropy") if k in self.inputs}
            return dict(leaves), {{"logp": "grad_log_prob", "entropy": "grad_entropy"}[k]: v for k, v in leaves.items()}
        raw = self.inputs["logits"].clone().requires_grad_(True)
        logits = raw / float(batch["temperature"])
        target = self.inputs["labels"].long()
        streams = {
            "logp": logits.log_softmax(-1).gather(-1, target[..., None])[..., 0],
            "entropy": entropy_from_logits(logits.flatten(0, 1)).view(target.shape),
        }
        for probe in self.recipe.plan.nodes["probe"]:
            streams[probe.name] = self.probed(probe, raw, batch)
        mask = batch["mask"]
        return {k: torch.where(mask, v, v.new_zeros(())) for k, v in streams.items()}, {"grad_logits": raw}

    def probed(self, probe: Node, raw: Tensor, batch: Batch) -> Tensor:
        """A probe's answer on the file's logits, at the temperature, by token [N,T]."""
        target = self.inputs["labels"].long()
        plain = {k: v for k, v in batch.streams.items() if not isinstance(v, Tensor)}
        flat: Tensor = probe({"logits": (raw / float(batch["temperature"])).flatten(0, 1), "target": target.flatten(), **plain})
        return flat.view(target.shape)

    # ---- the loop's words -----------------------------------------------------------------------------------------

    def objective(self, batch: Batch) -> Objective:
        """The loop's own objective, aggregated as the file says."""
        given, plain = self.settings, self.recipe["objective"]
        empty = bool(plain["empty_rows"])
        length = float(given.length or plain["length"] or batch.width)
        if given.length is None and given.aggregate == "constant":
            length = float(batch.width)
        if given.per_constant:
            rows = len(batch) if empty else int(batch["mask"].any(1).sum())
            length /= max(rows, 1)
        return Objective(self.recipe.plan, aggregate=given.aggregate or plain["aggregate"], length=length, empty_rows=empty)

    def credited(self, batch: Batch) -> Batch:
        """Reward and advantage by the recipe, where the file does not state the advantage."""
        if "adv" in self.inputs or not self.inputs.keys() & {"reward", "correct"}:
            return batch
        self.remember()
        world = self.objective(batch).world
        if "reward" not in self.inputs:
            batch = add_reward(batch, self.recipe.plan.nodes["reward"], world)
        elif batch["reward"].ndim == 2:
            batch = batch.with_(token_reward=batch["reward"], reward=(batch["reward"] * batch["mask"]).sum(1))
        else:
            batch = batch.with_(token_reward=at_the_end(batch["reward"], batch["mask"]))
        return add_advantage(batch, self.recipe.plan.advantage, world)


def outputs_of(vector: Vector, block: Block) -> JsonObject:
    """The file's outputs, with those of the block's `rename` in the place of the usual ones."""
    return {**vector.outputs, **{usual: vector.outputs[theirs] for usual, theirs in block.rename.items()}}
