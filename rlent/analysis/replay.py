"""A recipe's policy update on a saved batch: what a method would have done with it.

The loop goes once through the same trainer as in a run, without sampling and without a step of the optimizer. Live streams come from one of
two places:

* the saved step itself (`track.save_batches`): the log-probs and entropies that its updates saw, so that ratios and clips are those of the
  run. Gradients are with respect to them.
* a model: its log-probs, entropies and probes, at its weights for all updates. Gradients of its parameters come too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlent.analysis.source import Source, before_credit
from rlent.errors import RlentError, UsageError
from rlent.loop import learn
from rlent.policy.policy import Policy
from rlent.ranks.world import World
from rlent.recipe.compose import Recipe, build
from rlent.recipe.knobs import Knobs
from rlent.recipe.mount import locate
from rlent.streams import STREAMS
from rlent.train.actor import Actor
from rlent.train.assemble import make_actor, make_objective
from rlent.train.credit import at_the_end
from rlent.train.derived import Derived
from rlent.train.ledger import entropy_change_terms
from rlent.train.meter import Meter
from rlent.train.records import Minibatch, Scalars, Step
from rlent.train.trainer import Controllers, Trainer
from rlent.types import Batch, Tokenizer

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

# ---- actors ---------------------------------------------------------------------------------------------------------


@dataclass
class SavedActor(Actor):
    """The streams that a saved step's updates saw, in the place of a model.

    `updates` are those streams by epoch (`SavedStep.updates`), in the order of the batch's rows; `recorded` says that rows are cut into parts as
    they were, otherwise by the recipe.
    """

    updates: Sequence[Mapping[str, Tensor]] = ()
    recorded: bool = True

    def balance(self, batch: Batch) -> Batch:
        """The rows where they are."""
        return batch

    def look_back(self, batch: Batch) -> Batch:
        """The batch has its `old_*`."""
        return batch

    def split(self, batch: Batch) -> Iterator[Minibatch]:
        """The step's updates, each with the streams it saw under `seen`.

        Raises:
            UsageError: the recipe makes other minibatches than the run made.
        """
        per_epoch = len(self._minibatch_rows(batch, 0))
        place = {int(r): i for i, r in enumerate(batch.row.tolist())}
        for minibatch in super().split(batch):
            rows = minibatch.batch
            at = torch.tensor([place[int(r)] for r in rows.row.tolist()], dtype=torch.long)
            seen = {k: v[at] if v.ndim < 2 else v[at][:, : rows.width] for k, v in self.updates[minibatch.index // per_epoch].items()}
            if (seen["index"] != minibatch.index).any():
                raise UsageError(
                    "the batch was trained in other minibatches than this recipe makes; leave seed and trainer.* as they were, or give --model"
                )
            parts = minibatch.parts
            if self.recorded and "part" in seen:
                parts = [(seen["part"] == number).nonzero()[:, 0].tolist() for number in seen["part"].unique()]
            yield Minibatch(rows.with_(seen=seen), minibatch.index, parts)

    def now(self, minibatch: Minibatch) -> Minibatch:
        """`now_*` as they were saved."""
        if minibatch.first:
            return super().now(minibatch)
        return minibatch.with_batch(minibatch.batch.with_(**{f"now_{k}": minibatch.batch["seen"][k] for k in self.plan.now}))

    def __call__(self, part: Batch) -> dict[str, Tensor]:
        """The live streams of a part, as leaves."""
        return {k: part["seen"][k].clone().requires_grad_(True) for k in self.plan.live}

    def step(self) -> dict[str, float]:
        """Nothing is updated."""
        return {}


@dataclass
class OldActor(SavedActor):
    """A batch without a record of its updates: all of it is on policy, in one update, with the streams of the old-logprob pass."""

    def split(self, batch: Batch) -> Iterator[Minibatch]:
        """One update with all rows."""
        seen = {k.removeprefix("old_"): v for k, v in batch.streams.items() if k.startswith("old_")}
        yield Minibatch(batch.with_(seen=seen), 0, self._parts(batch))


class ModelActor(Actor):
    """A model whose weights stay as they are. `old_*` are the batch's where it has them: the model need not be the one that sampled."""

    def balance(self, batch: Batch) -> Batch:
        """The rows where they are."""
        return batch

    def look_back(self, batch: Batch) -> Batch:
        """`old_*` of the model where the batch lacks them."""
        there = {k: batch[k] for k in batch if k.startswith("old_")}
        if {f"old_{k}" for k in (*self.plan.look, *self.plan.now)} - there.keys() or self.plan.models:
            batch = super().look_back(batch).with_(**there)
        return batch

    def now(self, minibatch: Minibatch) -> Minibatch:
        """`now_*` of the model, never those of the old-logprob pass."""
        if not self.plan.now:
            return minibatch
        seen = super().now(Minibatch(minibatch.batch, max(minibatch.index, 1), minibatch.parts))
        return minibatch.with_batch(seen.batch)

    def _as_sampled(self, batch: Batch) -> Batch:
        """The model need not be the one that sampled, so its own log-probs are computed."""
        return self._as_it_is(batch)

    @staticmethod
    def on_policy(part: Batch, live: Mapping[str, Tensor]) -> Batch:
        """The part as it is: `old_*` are of the policy that sampled."""
        return part

    def step(self) -> dict[str, float]:
        """Nothing is updated."""
        return {}


# ---- a method on the batch --------------------------------------------------------------------------------------------


class Script:
    """Knobs as they were in a saved step, turn by turn; controllers are not asked again."""

    def __init__(self, knobs: Knobs, turns: Sequence[Mapping[str, float]]) -> None:
        self.knobs = knobs
        self._turns = iter(turns)
        self.knobs.load_state_dict(next(self._turns))

    def turn(self, step: Step, streams: Batch | Mapping[str, Mapping[str, float]], at: str) -> None:
        """Set the knobs of the next turn."""
        self.knobs.load_state_dict(next(self._turns))


class Replay:
    """A trainer that goes once over a saved batch, with the streams of its updates or with a model."""

    def __init__(
        self,
        recipe: Recipe,
        source: Source,
        policy: Policy | None = None,
        models: Mapping[str, Policy] | None = None,
        tokenizer: Callable[[], Tokenizer] | None = None,
    ) -> None:
        self.recipe, self.source, world, plan = recipe, source, World(), recipe.plan.fresh()
        knobs = Knobs({name: node for name, node in plan.knobs().items() if node.seat != "sampler"})
        kind = ModelActor if policy is not None else SavedActor if source.kept else OldActor
        actor = make_actor(recipe, plan, policy, models or {}, world, kind)
        if isinstance(actor, SavedActor):
            actor.updates = source.saved.updates
            if source.config is not None:
                actor.recorded = recipe["trainer"]["max_tokens_per_microbatch"] == source.config["trainer"]["max_tokens_per_microbatch"]

        def text() -> Tokenizer:
            if tokenizer is None:
                raise UsageError("the texts of the tokens are not in the batch, and there is no tokenizer here to make them")
            return tokenizer()

        self.trainer = Trainer(
            plan,
            world,
            actor,
            make_objective(recipe, plan, world),
            Controllers(plan.nodes["control"], knobs, world),
            Derived(plan, lambda: build(recipe["data"]).grader, text),
            int(recipe["seed"]),
            credit=_given_rewards if source.given else None,
        )
        batch = source.batch
        self.step = Step(Scalars(**{name: batch.get(name, 0) for name in Scalars.__slots__}))
        self.meter = Meter(world, None)

    def as_it_was(self) -> None:
        """Give functions the memory, and knobs the values, that they had in the saved step."""
        self.trainer.remember(self.source.saved.functions)
        self.trainer.control = Script(self.trainer.control.knobs, self.source.saved.knobs)

    def go(self) -> Batch:
        """The policy update, once. Returns the step's batch as the meter gets it."""
        models = list(self.recipe["models"] or {})
        batch = self.trainer.derive(self.step, before_credit(self.source.batch, models, given=self.source.given))
        return learn(self.trainer, self.step, batch)

    def metrics(self, batch: Batch) -> dict[str, float]:
        """The step's metrics."""
        return self.meter.reduce(self.step, batch, None) or {}


def _given_rewards(batch: Batch) -> Batch:
    """The rewards of a file, as they are."""
    return batch.with_(token_reward=at_the_end(batch["reward"], batch["mask"]))


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
    gradient: Floats = field(default_factory=lambda: np.zeros(0))
    by_entropy: Floats = field(default_factory=lambda: np.zeros(0))
    adv: Floats = field(default_factory=lambda: np.zeros(0))
    weight: Floats = field(default_factory=lambda: np.zeros(0))
    selected: Bools | None = None
    clipped: Bools = field(default_factory=lambda: np.zeros(0, dtype=bool))
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
    there = source.saved.updates[0] if source.kept else {k.removeprefix("old_") for k in batch}
    for stream in sorted(plan.live | plan.now):
        if stream not in there:
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
    tokenizer: Callable[[], Tokenizer] | None = None,
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
        replay.as_it_was()
    try:
        batch = replay.go()
    except (RlentError, KeyError) as error:
        played.reason = str(error).strip("'\"").partition(", which is not there yet")[0]
        played.reason += ", which this batch does not have" if isinstance(error, KeyError) else ""
        return played
    played.metrics = replay.metrics(batch)
    _tokens(played, replay, batch)
    _predict(played, replay, batch)
    played.notes = _notes(recipe, source, own)
    if policy is not None:
        trained = [p for p in policy.model.parameters() if p.requires_grad]
        played.parameters = [(torch.zeros_like(p) if p.grad is None else p.grad).detach().double().cpu().flatten() for p in trained]
        policy.model.zero_grad(set_to_none=True)
    return played


def _tokens(played: Played, replay: Replay, batch: Batch) -> None:
    """Token arrays from the records of the updates."""
    shape, mask = batch["mask"].shape, batch["mask"]
    place = {int(r): i for i, r in enumerate(batch.row.tolist())}
    gradient, by_entropy, adv, weight = (torch.zeros(shape, dtype=torch.float64) for _ in range(4))
    clipped, selected, effect = (torch.zeros(shape, dtype=torch.bool) for _ in range(3))
    selecting = acting = False
    for record in (r for parts in replay.step.records for r in parts):
        tokens = record.tokens
        at = (torch.tensor([place[int(r)] for r in tokens.row.tolist()], dtype=torch.long)[:, None], torch.arange(tokens.width))
        trained = tokens["mask"] & tokens["train"][:, None]
        gradient[at] += tokens["gradient"].double()
        if "entropy_gradient" in tokens:
            by_entropy[at] += tokens["entropy_gradient"].double()
        adv[at] = tokens["adv"].double()
        weight[at] = tokens["weight"].double() * (tokens["gate"] & tokens["loss_mask"]).double()
        if "pull" in tokens:
            clipped[at] |= (tokens["pull"] == 0) & (tokens["adv"] != 0) & trained
        for key, value in tokens.streams.items():
            if key.endswith("_selected") and isinstance(value, Tensor) and value.shape == tokens["mask"].shape:
                selecting = True
                selected[at] |= (value > 0) & trained
        for value in record.effects.values():
            if value.shape == tokens["mask"].shape:
                acting = True
                effect[at] |= value & trained
    played.gradient, played.by_entropy, played.adv, played.weight = (x[mask].numpy() for x in (gradient, by_entropy, adv, weight))
    played.clipped = clipped[mask].numpy()
    played.basis = "selected" if selecting else "effect" if acting else ""
    played.selected = (selected if selecting else effect)[mask].numpy() if played.basis else None


def _predict(played: Played, replay: Replay, batch: Batch) -> None:
    """Mean d1 and d2 over the batch's response tokens, as the ledger defines them, from the policy that began the step."""
    before = {k: batch[f"old_{k}"] for k in ("logp", "entropy", "second") if f"old_{k}" in batch}
    before |= {"logp": batch["policy_logp"]} if "policy_logp" in batch else {}  # rows that bring a log-probability have another old_logp
    if len(before) < 3 and isinstance(replay.trainer.actor, ModelActor):
        before = {**replay.trainer.actor.measure(batch), **before}
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
