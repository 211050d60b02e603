"""Planning: from the functions of a recipe to the forwards and statistics that a step needs. Signatures decide; nothing is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from rlent.errors import did_you_mean
from rlent.recipe.departures import departures
from rlent.recipe.mount import Node
from rlent.recipe.placing import Moments, Nodes, place
from rlent.recipe.plan import Plan

if TYPE_CHECKING:
    from rlent.types import Config

_LIVE = ("logp", "entropy")
_LEARNT = ("loss", "regularize")
"""Seats whose functions send a gradient through the live streams that they read."""


def make_plan(nodes: Nodes, config: Config) -> tuple[Plan, list[str]]:
    """The plan of a recipe's functions; and the problems: unknown streams, wrong seats, missing knobs.

    Reads `models`, `trainer` and `sampler` of the configuration.
    """
    models = list(config.get("models") or {})
    answering = (config.get("sampler") or {}).get("model")
    answering = answering if answering in models else None
    placed, problems = place(nodes, models, Moments(nodes, models, answering))
    plan = _plan(placed, models, answering, config.get("trainer") or {})
    problems.extend(departures(plan, config))
    if not plan.needs_look:
        plan = replace(plan, live=plan.live | {"entropy"})  # what the step's entropy is measured from
    problems.extend(_missing_knobs(plan))
    return plan, problems


def updates_of(trainer: Config) -> int:
    """Updates of a step; 1 where the settings are not whole numbers, which is another problem of the recipe."""
    updates = (trainer.get("minibatches") or 1) * (trainer.get("epochs") or 1)
    return updates if isinstance(updates, int) else 1


@dataclass
class _Needs:
    """What the functions ask for, gathered while their streams are read."""

    probes: tuple[str, ...]
    look: set[str] = field(default_factory=set)
    now: set[str] = field(default_factory=set)
    live: set[str] = field(default_factory=lambda: {"logp"})
    grad: set[str] = field(default_factory=set)
    models: dict[str, set[str]] = field(default_factory=dict)
    pull: bool = False

    def is_live(self, stream: str) -> bool:
        return stream in _LIVE or stream in self.probes

    def ask(self, node: Node, stream: str, *, lifted: bool) -> None:
        """Add what one stream of one function takes."""
        base = stream.removeprefix("now_")
        cut = node.scope == "microbatch" and node.when == "minibatch"
        if stream == "now_pull":
            self.pull = True
            self.now |= set() if cut else {"logp"}
        elif self.is_live(base):
            self.live.add(base)
            if node.seat in _LEARNT:
                self.grad.add(base)
            if (stream != base and not cut) or (stream == base and lifted and node.seat == "shape" and node.when == "live"):
                self.now.add(base)
        elif looked := self._looked_at(stream):
            self.look.add(looked)
        else:
            for model, wanted in self.models.items():
                if stream.startswith(f"{model}_"):
                    wanted.add(stream.removeprefix(f"{model}_"))

    def _looked_at(self, stream: str) -> str | None:
        """The stream whose old value this is; of a probe that answers with a mapping, the probe."""
        old = stream.removeprefix("old_")
        if old == stream:
            return None
        if self.is_live(old):
            return old
        return max((p for p in self.probes if old.startswith(f"{p}_")), key=len, default=None)


def _plan(nodes: dict[str, list[Node]], models: Sequence[str], answering: str | None, trainer: Config) -> Plan:
    loss = nodes["loss"][0] if nodes["loss"] else None
    lifted = loss is not None and loss.when == "minibatch"
    needs = _needs(nodes, models, lifted)
    if needs.pull and loss is not None and "logp" in needs.now:
        needs.now |= {base for base in (s.removeprefix("now_") for s in loss.reads) if needs.is_live(base)}
    return Plan(
        nodes,
        look=frozenset(needs.look),
        now=frozenset(needs.now),
        live=frozenset(needs.live),
        grad=frozenset(needs.grad),
        models={model: frozenset(wanted) for model, wanted in needs.models.items() if wanted or model == answering},
        probes=needs.probes,
        pull=needs.pull,
        lifted=lifted,
        many_updates=updates_of(trainer) > 1,
        from_sampler=trainer.get("old_logprobs") == "rollout",
    )


def _needs(nodes: Nodes, models: Sequence[str], lifted: bool) -> _Needs:
    needs = _Needs(tuple(node.name for node in nodes["probe"]), models={model: set() for model in models})
    for node in nodes["decode"]:
        for model in (s.removesuffix("_logits") for s in node.reads if s.endswith("_logits")):
            needs.models.setdefault(model, set()).add("logits")
    for members in nodes.values():
        for node in members:
            for stream in node.reads:
                needs.ask(node, stream, lifted=lifted)
    return needs


def _missing_knobs(plan: Plan) -> list[str]:
    knobs = plan.knobs()
    wanted = [(node, node.options.get("knob")) for node in plan.nodes["control"]]
    return [
        f"{node.path}: knob '{knob}' does not exist in this recipe{did_you_mean(knob, knobs)} (knobs: {', '.join(knobs) or 'none'})"
        for node, knob in wanted
        if isinstance(knob, str) and knob not in knobs
    ]
