"""Cautions: where a method can do nothing in this recipe, or its numbers are not what the update assumes. From the `card:` of option files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlent.recipe.departures import changes_draws
from rlent.recipe.mount import Node
from rlent.recipe.plan import Plan
from rlent.recipe.planning import updates_of

if TYPE_CHECKING:
    from rlent.types import Config

_BRINGS = {"demo": "demonstrations", "replay": "replay", "tempered": "tempered"}
"""The shipped sampler that brings rows of a source."""


@dataclass(frozen=True)
class _Recipe:
    """What a card's conditions are about. `brought`: the sources of the rows that the sampler adds."""

    updates: int
    group: int | None
    names: frozenset[str]
    paths: frozenset[str]
    brought: frozenset[str]


def cautions(plan: Plan, config: Config) -> list[str]:
    """One sentence for each."""
    sampler = config.get("sampler") or {}
    nodes = plan.all_nodes
    about = _Recipe(
        updates=updates_of(config.get("trainer") or {}),
        group=sampler.get("n"),
        names=frozenset(n.name for n in nodes),
        paths=frozenset(n.path for n in nodes),
        brought=frozenset(source for n in plan.nodes["sampler"] for source in getattr(n.fn, "brings", ())),
    )
    found = [line for node in nodes for line in (*_inert(node, about), *_conflicts(node, about))]
    return [*found, *_off_policy(plan, sampler)]


def _off_policy(plan: Plan, sampler: Config) -> Iterator[str]:
    """Where tokens are drawn from another distribution than the update assumes."""
    changing = [n.path for n in plan.nodes["decode"] if changes_draws(n)]
    if changing and not any("sampler_logp" in n.reads for n in (*plan.nodes["shape"], *plan.nodes["loss"])):
        yield (
            f"{', '.join(changing)}: tokens are not drawn from the policy that the update assumes, and no shape "
            f"corrects for it (shape=[truncated_importance] weighs by pi_old / pi_sampler)"
        )
    if (sampler.get("top_p") or 1.0) < 1.0 or (sampler.get("top_k") or 0) > 0:
        yield "sampler.top_p or top_k cuts the sampling distribution: log-probabilities of the update are of the whole one"


def _inert(node: Node, about: _Recipe) -> Iterator[str]:
    """Conditions of a card that this recipe does not meet."""
    card = node.card
    if about.updates < card.get("needs_minibatches", 1):
        yield (
            f"{node.path} does nothing here: it acts on the drift within a step, and this recipe makes {about.updates} update a step "
            f"(needs trainer.minibatches * trainer.epochs >= {card['needs_minibatches']})"
        )
    if (about.group or 1) < card.get("needs_group", 1):
        yield f"{node.path} does nothing here: it compares the responses of a group, and sampler.n is {about.group}"
    for other in card.get("needs") or []:
        if other not in about.paths:
            yield f"{node.path} does nothing here: it needs {other}"
    if (rows := card.get("needs_rows")) and rows not in about.brought:
        yield f"{node.path} finds no {rows} rows here: sampler={_BRINGS.get(rows, '...')} brings them"


def _conflicts(node: Node, about: _Recipe) -> Iterator[str]:
    for other in node.card.get("conflicts") or []:
        name, reason = (other.get("name"), other.get("reason", "")) if isinstance(other, Mapping) else (other, "")
        if name in about.names:
            yield f"{node.path} and {name} do not go together{': ' + reason if reason else ''}"
