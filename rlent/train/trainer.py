"""The trainer: the words of the loop between sampling and the new weights. `train`, `replay` and `inspect` go through the same ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from rlent.ranks.world import World
from rlent.recipe.knobs import Knobs
from rlent.recipe.mount import Node
from rlent.recipe.plan import Plan
from rlent.train import credit
from rlent.train.actor import Actor
from rlent.train.calls import whole
from rlent.train.derived import Derived
from rlent.train.ledger import sample_rows
from rlent.train.objective import Objective
from rlent.train.records import EntropySample, Minibatch, Out, Scale, Step
from rlent.types import Batch, JsonObject


class Control(Protocol):
    """What sets knobs while a step goes on."""

    knobs: Knobs

    def turn(self, step: Step, streams: Batch | Mapping[str, Mapping[str, float]], at: str) -> None:
        """Set the knobs of a moment (step, minibatch, end) from its streams, or from the metrics at the end."""
        ...


class Controllers:
    """The recipe's controllers."""

    def __init__(self, nodes: Sequence[Node], knobs: Knobs, world: World) -> None:
        self.nodes, self.knobs, self.world = nodes, knobs, world

    def turn(self, step: Step, streams: Batch | Mapping[str, Mapping[str, float]], at: str) -> None:
        """Let the controllers of a moment read their streams and set their knobs."""
        for node in self.nodes:
            if moment(node.reads, node.when) != at:
                continue
            if isinstance(streams, Batch):
                found = whole(node, streams, self.world)
                self.knobs.apply(node, found.get("value", found))
            else:
                self.knobs.apply(node, node({**step.scalars.streams(), **streams}))


def moment(reads: Sequence[str], when: str) -> str:
    """When a controller acts: at the end of the step if it reads metrics, else when its streams exist."""
    return "end" if "metrics" in reads else when


@dataclass
class Trainer:
    """The policy update of a recipe, on one rank.

    `credit` replaces the recipe's rewards where they are given (a file of responses). `sampled_rows` is the number of rows on which the change of
    entropy is measured, 0 for none. `say` prints a message for the person who watches.
    """

    plan: Plan
    world: World
    actor: Actor
    objective: Objective
    control: Control
    derived: Derived
    seed: int
    sampled_rows: int = 0
    credit: Callable[[Batch], Batch] | None = None
    say: Callable[[str], None] = print

    # ---- before the updates ---------------------------------------------------------------------------------------

    def derive(self, step: Step, batch: Batch) -> Batch:
        """The batch with the streams that are made from a sample only if some function reads them; a saved step has its token texts."""
        return self.derived.add(batch, pieces=step.kept is not None)

    def look_back(self, step: Step, batch: Batch) -> Batch:
        """The old-logprob pass: `old_*`, `ref_*` and probes without gradient, only what is planned; rows are shared out anew over ranks."""
        with step.clock.lap("look_back"):
            batch = self.actor.look_back(self.actor.balance(batch))
            self._sample_entropy(step, batch)
        if step.kept is not None:
            with step.clock.lap("keep"):
                step.kept.before = self.actor.measure(batch)
        return batch

    def _sample_entropy(self, step: Step, batch: Batch) -> None:
        """Draw the rows on which the change of entropy is measured, from all ranks' rows but demonstrations."""
        if not self.sampled_rows:
            return
        drawn = [r for r, source in zip(batch.row.tolist(), batch["source"], strict=True) if source != "demo"]
        everyone = sorted(r for share in self.world.all_gather(drawn) for r in share)
        chosen = {everyone[i] for i in sample_rows(len(everyone), min(self.sampled_rows, len(everyone)), self.seed, step.number)}
        rows = batch.select([i for i, r in enumerate(batch.row.tolist()) if r in chosen])
        step.sample = EntropySample(rows, self.actor.measure(rows))

    def reward(self, step: Step, batch: Batch) -> Batch:
        """`reward` [N] and `token_reward` [N,T]. A sampler asks, too, for its filter or its buffer."""
        if self.credit is not None:
            return self.credit(batch)
        return credit.add_reward(self.derive(step, batch.with_()), self.plan.nodes["reward"], self.world)

    def advantage(self, batch: Batch) -> Batch:
        """`adv` [N,T]."""
        return credit.add_advantage(batch, self.plan.advantage, self.world)

    def turn(self, step: Step, streams: Batch | Mapping[str, Mapping[str, float]], at: str) -> None:
        """Let the controllers of a moment set their knobs."""
        self.control.turn(step, streams, at)
        if step.kept is not None:
            step.kept.turned(self.control.knobs.turned)

    def shape(self, step: Step, batch: Batch) -> Batch:
        """Token weighting by functions of the whole step."""
        with step.clock.lap("shape"):
            step.batch = batch = self.objective.shape(batch, "step")
        return batch

    # ---- the updates ----------------------------------------------------------------------------------------------

    def split(self, batch: Batch) -> Iterator[Minibatch]:
        """The minibatches of the step, one optimizer update each."""
        return self.actor.split(batch)

    def now(self, step: Step, minibatch: Minibatch) -> Minibatch:
        """`now_*`: the policy as it is before this update, without gradient, only if planned."""
        if step.kept is not None:
            with step.clock.lap("keep"):
                step.kept.see(minibatch.batch, minibatch.parts, self.actor.watch(minibatch), self.world.rank)
        with step.clock.lap("now"):
            return self.actor.now(minibatch)

    def prepare(self, step: Step, minibatch: Minibatch) -> tuple[Minibatch, Scale]:
        """Token weighting of the minibatch, denominators and whole-minibatch gradients, over all ranks."""
        with step.clock.lap("shape"):
            shaped = self.objective.shape(minibatch.batch, "minibatch", minibatch.index)
            shaped, scale = self.objective.prepare(shaped, minibatch.index)
            step.begin_update(scale)
        return minibatch.with_batch(shaped), scale

    def parts(self, step: Step, minibatch: Minibatch) -> Iterator[Batch]:
        """The micro-batches of a minibatch."""
        with step.clock.lap("update"):
            for positions in minibatch.parts:
                yield minibatch.batch.select(positions)

    def accumulate(self, step: Step, part: Batch, scale: Scale, index: int) -> None:
        """Forward, objective and backward of a part; where memory runs out, of its halves."""

        def once(rows: Batch) -> Out:
            live = self.actor(rows)
            rows = self.actor.on_policy(rows, live) if index == 0 else rows
            out = self.objective(rows, live, scale, index)
            out.loss.backward()
            return out

        for out in self.actor.through(once, part, lambda rows: self._halved(step, rows)):
            step.add(out)

    def _halved(self, step: Step, rows: int) -> None:
        """A part of `rows` rows did not fit: say so the first time, count it, and cut smaller from the next step on."""
        if not self.actor.halved:
            self.say(f"step {step.number}: a part of {rows} rows did not fit in memory and was halved; lower trainer.max_tokens_per_microbatch")
        self.actor.halved += 1
        step.note("update/halved", self.actor.halved)

    def update(self, step: Step) -> None:
        """One step of the optimizer; a replay has none."""
        if reported := self.actor.step():
            step.updates.append(reported)

    # ---- after the updates ----------------------------------------------------------------------------------------

    def after(self, step: Step, batch: Batch) -> dict[str, Tensor] | None:
        """Values of the entropy sample after the updates; None without one."""
        if step.sample is None:
            return None
        rows = step.sample.rows
        rows["adv"] = _rows_at(batch["adv"], batch.row, rows)
        return self.actor.measure(rows, moment=False)

    def memory(self) -> JsonObject:
        """What the recipe's functions remember, by their places."""
        return {node.path: node.fn.state_dict() for node in self._stateful()}

    def remember(self, memory: JsonObject) -> None:
        """Give functions what they remembered; those that are not in `memory` begin anew."""
        for node in self._stateful():
            if node.path in memory:
                node.fn.load_state_dict(memory[node.path])

    def _stateful(self) -> list[Node]:
        return [n for members in self.plan.nodes.values() for n in members if n.stateful and hasattr(n.fn, "state_dict")]


def _rows_at(values: Tensor, rows: Tensor, sample: Batch) -> Tensor:
    """The values [N,T] of a sample's rows."""
    place = {int(r): i for i, r in enumerate(rows.tolist())}
    return values[[place[int(r)] for r in sample.row.tolist()]][:, : sample.width]
