"""A run that goes once over a frozen batch: what a method would have done with it.

`Replay` is a `Run` without a sampler and without an optimizer: its loop goes through the same reward, advantage, shapes, objective and
meter. Live streams come from one of two places:

* the kept step itself (`track.keep_batches`): the log-probs and entropies that its updates saw, so that ratios and clips are those of the
  run. Gradients are with respect to them.
* a model: its log-probs, entropies and probes, at its weights for all updates. Gradients of its parameters come too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rlent.analysis.source import Source, before_credit
from rlent.errors import RlentError, UsageError
from rlent.policy.policy import Policy
from rlent.ranks.world import World
from rlent.recipe.compose import Recipe, build
from rlent.recipe.knobs import Knobs
from rlent.recipe.mount import locate
from rlent.streams import STREAMS
from rlent.train.actor import Actor, Minibatch
from rlent.train.ledger import entropy_change_terms
from rlent.train.meter import Meter
from rlent.train.objective import at_the_end
from rlent.train.run import Clock, Run, make_actor, make_objective
from rlent.types import Batch

# ---- actors ---------------------------------------------------------------------------------------------------------


class KeptActor(Actor):
    """The streams that a kept step's updates saw, in the place of a model."""

    leaves: list[tuple[Tensor, dict[str, Tensor]]]
    recorded = True
    """Whether the rows are cut into parts as they were; otherwise by tokens_per_part."""

    def look_back(self, batch: Batch) -> Batch:
        return batch

    def split(self, batch: Batch) -> Iterator[Minibatch]:
        self.leaves = []
        per_epoch = len(self._minibatch_rows(batch, 0))
        for minibatch in super().split(batch):
            prefix = f"update{minibatch.index // per_epoch}:"
            if (minibatch.batch[f"{prefix}index"] != minibatch.index).any():
                raise UsageError(
                    "the batch was trained in other minibatches than this recipe makes; leave seed and trainer.* as they were, or give --model"
                )
            seen = {k.removeprefix(prefix): v for k, v in minibatch.batch.streams.items() if k.startswith(prefix)}
            parts = minibatch.parts
            if self.recorded and "part" in seen:
                parts = [(seen["part"] == number).nonzero()[:, 0].tolist() for number in seen["part"].unique()]
            yield Minibatch(minibatch.batch.with_(**{f"seen:{k}": v for k, v in seen.items()}), minibatch.index, parts)

    def now(self, minibatch: Minibatch) -> Minibatch:
        if minibatch.first:
            return super().now(minibatch)
        streams = {f"now_{k}": minibatch.batch[f"seen:{k}"] for k in self.plan.now}
        return Minibatch(minibatch.batch.with_(**streams), minibatch.index, minibatch.parts)

    def __call__(self, part: Batch) -> dict[str, Tensor]:
        live = {k: part[f"seen:{k}"].clone().requires_grad_(True) for k in self.plan.live}
        self.leaves.append((part.row, live))
        return live


class OldActor(KeptActor):
    """A batch without a record of its updates: all of it is on policy, in one update, with the streams of the look-back."""

    def split(self, batch: Batch) -> Iterator[Minibatch]:
        self.leaves = []
        seen = {f"seen:{k.removeprefix('old_')}": v for k, v in batch.streams.items() if k.startswith("old_")}
        yield Minibatch(batch.with_(**seen), 0, self._parts(batch))


class ModelActor(Actor):
    """A model whose weights stay as they are. `old_*` are the batch's where it has them: the model need not be the one that sampled."""

    def look_back(self, batch: Batch) -> Batch:
        there = {k: batch[k] for k in batch if k.startswith("old_")}
        if {f"old_{k}" for k in (*self.plan.look, *self.plan.now)} - there.keys() or self.plan.models:
            batch = super().look_back(batch).with_(**there)
        return batch

    def now(self, minibatch: Minibatch) -> Minibatch:
        if not self.plan.now:
            return minibatch
        seen = super().now(Minibatch(minibatch.batch, max(minibatch.index, 1), minibatch.parts))  # never the look-back's values
        return Minibatch(seen.batch, minibatch.index, minibatch.parts)

    _as_sampled = Actor._as_it_is  # the model need not be the one that sampled

    @staticmethod
    def on_policy(part: Batch, live: Mapping[str, Tensor]) -> Batch:
        return part


# ---- a method on the batch --------------------------------------------------------------------------------------------


class Replay(Run):
    """A run that goes once over a frozen batch. The loop's words are those of `Run`."""

    def __init__(
        self,
        recipe: Recipe,
        source: Source,
        policy: Policy | None = None,
        models: Mapping[str, Policy] | None = None,
        tokenizer: Callable[[], Any] | None = None,
    ) -> None:
        self.recipe, self.plan, self.world = recipe, recipe.plan, World()
        self.source_batch = source
        self.clock, self.kept = Clock(), None
        for node in self.plan.nodes["sampler"]:
            node.fn = SimpleNamespace()  # knobs of the sampler turn nothing here
        self.seed, self.step = int(recipe["seed"]), int(source.batch["step"])
        self.policy: Any = policy or SimpleNamespace(root=None, model=nn.Module(), packs=False)
        kind = ModelActor if policy is not None else KeptActor if source.kept else OldActor
        self.actor = make_actor(recipe, self.policy, models or {}, self.world, kind)
        if isinstance(self.actor, KeptActor) and source.config is not None:
            self.actor.recorded = recipe["trainer"]["tokens_per_part"] == source.config["trainer"]["tokens_per_part"]
        self.objective = make_objective(recipe, self.world)
        self.knobs = Knobs(self.plan.knobs())
        self.meter = Meter(self.world, None, 0)
        self.tracker: Any = SimpleNamespace(say=lambda text: None)
        self._texts = {}
        self._tokenizer = tokenizer
        self.script: Iterator[dict[str, float]] | None = None

    @property
    def tokenizer(self) -> Any:  # type: ignore[override]
        if self._tokenizer is None:
            raise UsageError("the texts of the tokens are not in the batch, and there is no tokenizer here to make them")
        return self._tokenizer()

    @property
    def grader(self) -> Any:  # type: ignore[override]
        return build(self.recipe["data"]).grader

    def as_it_was(self, kept: Mapping[str, Any]) -> None:
        """Give functions the memory, and knobs the values, that they had in the kept step; controllers are not asked again."""
        for path, fn in self._stateful().items():
            if path in kept["functions"]:
                fn.load_state_dict(kept["functions"][path])
        self.script = iter(kept["knobs"])
        self.knobs.load_state_dict(next(self.script))

    def reward(self, batch: Batch) -> Any:
        """As in training; the rewards of a file are taken as they are."""
        if self.source_batch.given:
            return batch.with_(token_reward=at_the_end(batch["reward"], batch["mask"]))
        return super().reward(batch)

    def turn(self, streams: Batch | Mapping[str, Any], at: str) -> None:
        if self.script is None:
            super().turn(streams, at)
        else:
            self.knobs.load_state_dict(next(self.script))

    def go(self) -> Batch:
        """The loop, once, without sampling and without a step of the optimizer. Returns the step's batch as the meter gets it."""
        models = list(self.recipe["models"] or {})
        batch = self.derive(before_credit(self.source_batch.batch, models, given=self.source_batch.given))
        batch = self.actor.look_back(batch)
        batch = self.advantage(self.reward(batch))
        self.turn(batch, at="step")
        batch = self.shape(batch, at="step")
        for minibatch in self.split(batch):
            minibatch = self.now(minibatch)
            self.turn(minibatch.batch, at="minibatch")
            minibatch, scale = self.prepare(minibatch)
            for part in self.parts(minibatch):
                self.accumulate(part, scale, minibatch.index)
        return batch


@dataclass
class Played:
    """What a method did with the batch.

    Token arrays are [n] over the response tokens, in the order of rows and positions. `gradient` is -d(objective)/d(logp) with everything
    applied, summed over the updates, on the scale of a token mean; `by_entropy` the same for the entropy of each position. `weight` is 0
    where a gate is closed or the token is not in the loss. `selected` are the tokens that the method's own nodes name, or else (`basis` is
    effect) those whose gradient they changed.
    """

    name: str
    label: str
    metrics: dict[str, float] = field(default_factory=dict)
    gradient: np.ndarray[Any, Any] = field(default_factory=lambda: np.zeros(0))
    by_entropy: np.ndarray[Any, Any] = field(default_factory=lambda: np.zeros(0))
    adv: np.ndarray[Any, Any] = field(default_factory=lambda: np.zeros(0))
    weight: np.ndarray[Any, Any] = field(default_factory=lambda: np.zeros(0))
    selected: np.ndarray[Any, Any] | None = None
    clipped: np.ndarray[Any, Any] = field(default_factory=lambda: np.zeros(0, dtype=bool))
    basis: str = ""
    d1: float = math.nan
    d2: float = math.nan
    parameters: list[Tensor] | None = None
    notes: list[str] = field(default_factory=list)
    reason: str = ""


def lacking(recipe: Recipe, source: Source, with_model: bool) -> list[str]:
    """What a recipe needs and the batch does not have, as reasons."""
    batch, plan = source.batch, recipe.plan
    reasons = []
    for members in plan.nodes.values():
        for node in members:
            for stream in node.reads:
                known = STREAMS.get(stream)
                made = stream in ("noise", "row_noise", "pieces", "answer_id", "same")
                if (
                    node.seat not in ("probe", "reward" if source.given else "")
                    and known
                    and known.when == "sample"
                    and not made
                    and stream not in batch
                ):
                    reasons.append(f"{node.path} reads {stream}, which this batch does not have")
                if source.given and stream.startswith("reward_"):
                    reasons.append(f"{node.path} reads {stream}, and this file gives the total reward only")
    if with_model:
        return reasons
    tell = "give --model, and it is computed"
    for name, wanted in plan.models.items():
        reasons += [
            f"needs {name}_{k} of the frozen model '{name}', which this batch does not have; {tell}"
            for k in sorted(wanted)
            if f"{name}_{k}" not in batch
        ]
    prefix = "update0:" if source.kept else "old_"
    for stream in sorted(plan.live | plan.now):
        if f"{prefix}{stream}" not in batch:
            reasons.append(f"needs {stream}, which this batch does not have: its run did not compute it; {tell}")
    for stream in sorted(plan.look - plan.live - plan.now):
        if f"old_{stream}" not in batch:
            reasons.append(f"needs old_{stream}, which this batch does not have; {tell}")
    return reasons


def play(
    recipe: Recipe,
    source: Source,
    label: str,
    *,
    policy: Policy | None = None,
    models: Mapping[str, Policy] | None = None,
    tokenizer: Callable[[], Any] | None = None,
    own: bool = False,
) -> Played:
    """One method on the batch. What it lacks is its `reason`; `own` plays the run's own recipe in the state it had."""
    played = Played(recipe.name, label)
    reasons = lacking(recipe, source, policy is not None)
    if reasons:
        played.reason = "; ".join(reasons)
        return played
    if policy is not None:
        policy.model.zero_grad(set_to_none=True)
    replay = Replay(recipe, source, policy, models, tokenizer)
    if own and source.kept and policy is None:
        replay.as_it_was(source.batch["kept"])
    try:
        batch = replay.go()
    except (RlentError, KeyError) as error:
        played.reason = str(error).strip("'\"").partition(", which is not there yet")[0]
        played.reason += ", which this batch does not have" if isinstance(error, KeyError) else ""
        return played
    played.metrics = replay.meter.reduce(batch, None) or {}
    _tokens(played, replay, batch)
    _predict(played, replay, batch)
    played.notes = _notes(recipe, source, own)
    if policy is not None:
        trained = [p for p in policy.model.parameters() if p.requires_grad]
        played.parameters = [(torch.zeros_like(p) if p.grad is None else p.grad).detach().double().cpu().flatten() for p in trained]
        policy.model.zero_grad(set_to_none=True)
    return played


def _tokens(played: Played, replay: Replay, batch: Batch) -> None:
    """Token arrays from the meter's records of the updates."""
    shape = batch["mask"].shape
    place = {int(r): i for i, r in enumerate(batch.row.tolist())}
    wide = {k: torch.zeros(shape, dtype=torch.float64) for k in ("gradient", "by_entropy", "adv", "weight")}
    marks = {k: torch.zeros(shape, dtype=torch.bool) for k in ("clipped", "selected", "effect")}
    found: set[str] = set()
    for number, record in enumerate(r for parts in replay.meter.records for r in parts):
        at = (torch.tensor([place[int(r)] for r in record.row.tolist()], dtype=torch.long)[:, None], torch.arange(record.width))
        trained = record["mask"] & record["train"][:, None]
        wide["gradient"][at] += record["gradient"].double()
        for name in ("adv", "weight"):
            wide[name][at] = record[name].double()
        wide["weight"][at] *= (record["gate"] & record["loss_mask"]).double()
        if "pull" in record:
            marks["clipped"][at] |= (record["pull"] == 0) & (record["adv"] != 0) & trained
        for key, value in record.streams.items():
            kind = "selected" if key.endswith("_selected") else "effect" if key.startswith("effect:") else ""
            if kind and isinstance(value, Tensor) and value.shape == record["mask"].shape:
                found.add(kind)
                marks[kind][at] |= (value > 0) & trained
        if isinstance(replay.actor, KeptActor):
            _, live = replay.actor.leaves[number]
            pull = live["entropy"].grad if "entropy" in live else None
            if pull is not None:
                wide["by_entropy"][at] -= pull.double() * max(int(batch["mask"].sum()), 1)
    mask = batch["mask"]
    for name, value in wide.items():
        setattr(played, name, value[mask].numpy())
    played.clipped = marks["clipped"][mask].numpy()
    played.basis = "selected" if "selected" in found else "effect" if "effect" in found else ""
    played.selected = marks[played.basis][mask].numpy() if played.basis else None


def _predict(played: Played, replay: Replay, batch: Batch) -> None:
    """Mean d1 and d2 over the batch's response tokens, as the ledger defines them, from the policy that began the step."""
    before = {k: batch[f"old_{k}"] for k in ("logp", "entropy", "second") if f"old_{k}" in batch}
    before |= {"logp": batch["policy_logp"]} if "policy_logp" in batch else {}  # rows that bring a log-probability have another old_logp
    if len(before) < 3 and isinstance(replay.actor, ModelActor):
        before = {**replay.actor.measure(batch), **before}
    if len(before) < 3:
        return
    mask = batch["mask"]
    logp, entropy, second = (before[k][mask].double() for k in ("logp", "entropy", "second"))
    d1, d2 = entropy_change_terms(logp, entropy, batch["adv"][mask].double(), torch.from_numpy(played.gradient), second)
    played.d1, played.d2 = float(d1.mean()), float(d2.mean())


def _notes(recipe: Recipe, source: Source, own: bool) -> list[str]:
    notes = []
    if source.given and any(n.name != "correct" for n in recipe.plan.nodes["reward"]):
        names = ", ".join(n.name for n in recipe.plan.nodes["reward"] if n.name != "correct")
        notes.append(f"rewards are the file's: {names} did not run")
    if not own and recipe.plan.nodes["control"]:
        notes.append(f"controllers ({', '.join(n.name for n in recipe.plan.nodes['control'])}) act as in their first step")
    if not own and recipe["sampler"] and recipe["sampler"].get("keep"):
        notes.append("its filter did not choose these groups")
    brought = getattr(locate(recipe["sampler"]["_target_"]), "brings", ()) if recipe["sampler"] else ()
    if not own and "demo" in source.batch.get("source", ()) and "demo" not in brought:
        notes.append("the groups hold demonstrations, which its sampler would not have brought")
    return notes
