"""The plan of a step: which forwards and statistics it needs. Made by `rlent.recipe.planning` before any weight is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from rlent.recipe import words
from rlent.recipe.mount import Node, NodeWhen


@dataclass(frozen=True)
class Plan:
    """What the runner will compute.

    `look`: streams of the no-gradient pass before the updates. `now`: streams of the no-gradient pass before each update.
    `live`: streams of the pass with gradient; `grad` those whose gradient is used. `models`: frozen models to ask, and for what.
    `pull`: whether the gradient of the loss in each log-probability is needed before the shapes. `lifted`: live shapes run on the whole
    minibatch, because the loss does. `many_updates`: more than one update follows a rollout. `from_sampler`: the rollout engine's
    log-probabilities and entropies take the place of the pass before the updates.
    """

    nodes: dict[str, list[Node]]
    look: frozenset[str] = frozenset()
    now: frozenset[str] = frozenset()
    live: frozenset[str] = frozenset()
    grad: frozenset[str] = frozenset()
    models: Mapping[str, frozenset[str]] = field(default_factory=dict)
    probes: tuple[str, ...] = ()
    pull: bool = False
    lifted: bool = False
    many_updates: bool = True
    from_sampler: bool = False

    def fresh(self) -> Plan:
        """The plan with nodes of its own for one run; the recipe's stay as they were composed."""
        return replace(self, nodes={seat: [node.fresh() for node in members] for seat, members in self.nodes.items()})

    def of(self, seat: str, when: NodeWhen) -> list[Node]:
        """The nodes of a seat that run at a moment, in the recipe's order."""
        return [n for n in self.nodes[seat] if n.when == when]

    @property
    def all_nodes(self) -> list[Node]:
        """Every node, seat by seat."""
        return [node for members in self.nodes.values() for node in members]

    @property
    def loss(self) -> Node | None:
        return self.nodes["loss"][0] if self.nodes["loss"] else None

    @property
    def advantage(self) -> Node | None:
        return self.nodes["advantage"][0] if self.nodes["advantage"] else None

    @property
    def needs_look(self) -> bool:
        """False only when one update follows each rollout and old values are asked for inside the update alone."""
        if self.many_updates or self.look - {"logp"}:
            return True
        return bool(self.now) or any(n.when != "live" and "old_logp" in n.reads for n in self.all_nodes)

    def knobs(self) -> dict[str, Node]:
        """Every numeric option of the recipe by its name, and the node that holds it."""
        return {f"{node.path}.{option}": node for node in self.all_nodes for option in node.numbers()}

    def lines(self) -> list[str]:
        """The plan in words: the passes over the policy and the frozen models, then each function with when it runs and what it reads."""
        passes = [words.before_updates(self.needs_look, self.from_sampler, self.look), *words.frozen_models(self.models)]
        if self.now:
            passes.append(words.before_each_update(self.now))
        if self.pull:
            passes.append("pull of the loss on the whole minibatch (scalars only)")
        passes.append(words.update(self.grad, self.live))
        return [*passes, *(words.node(node, lifted=self.lifted) for node in self.all_nodes if node.seat != "sampler")]
