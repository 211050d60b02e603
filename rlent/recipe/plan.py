"""The plan: which forwards and statistics a step needs, computed from signatures before any weight is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from rlent.errors import did_you_mean
from rlent.recipe.mount import Node, NodeWhen, locate
from rlent.seats import SEATS
from rlent.streams import DRIVER, RULE, STREAMS, When

_LIVE_BASE = ("logp", "entropy")
_BRINGS = {"demo": "demonstrations", "replay": "replay", "tempered": "tempered"}
"""The shipped sampler that brings rows of a source."""
_PROBE_INPUTS = ("logits", "hidden", "target", "unembed", "mask", "tokens", "response")


@dataclass
class Plan:
    """What the runner will compute.

    `look`: streams of the no-gradient pass before the updates. `now`: streams of the no-gradient pass before each update.
    `live`: streams of the pass with gradient; `grad` those whose gradient is used. `models`: frozen models to ask.
    `pull`: whether the loss's pull is needed before the shapes. `lifted`: live shapes that run on the whole minibatch,
    because the loss does. `from_sampler`: what the engine said as it sampled takes the place of the look-back's pass.
    """

    nodes: dict[str, list[Node]]
    look: set[str] = field(default_factory=set)
    now: set[str] = field(default_factory=set)
    live: set[str] = field(default_factory=set)
    grad: set[str] = field(default_factory=set)
    models: dict[str, set[str]] = field(default_factory=dict)
    probes: list[str] = field(default_factory=list)
    pull: bool = False
    lifted: bool = False
    many_updates: bool = True
    from_sampler: bool = False
    warnings: list[str] = field(default_factory=list)

    @staticmethod
    def make(nodes: dict[str, list[Node]], config: Mapping[str, Any], problems: list[str]) -> Plan:
        """Read the signatures. Problems (unknown streams, wrong seats, missing knobs) are appended to `problems`."""
        plan = Plan(nodes, probes=[n.name for n in nodes["probe"]])
        models = list(config.get("models") or {})
        moments = plan._moments(models, nodes)
        answering = (config.get("sampler") or {}).get("model")  # a frozen model that answers beside the policy
        if answering in models:
            moments[f"{answering}_reward"] = "sample"
            plan.models[answering] = set()
        for seat, members in nodes.items():
            for node in members:
                if seat not in ("probe", "decode"):
                    plan._place(node, moments, problems)
        trainer = config.get("trainer") or {}
        updates = (trainer.get("minibatches") or 1) * (trainer.get("epochs") or 1)
        plan.many_updates = isinstance(updates, int) and updates > 1
        plan._collect(models)
        plan.from_sampler = trainer.get("look_back") == "sampler"
        problems.extend(plan._departures(config))
        if not plan.needs_look:
            plan.live.add("entropy")  # what the step's entropy is measured from
        plan._check_knobs(problems)
        plan._check_probes(problems)
        plan._check_decode(models, problems)
        plan._warn(config)
        return plan

    def fresh(self) -> Plan:
        """The plan with nodes of its own for one run; the recipe's stay as they were composed."""
        return replace(self, nodes={seat: [node.fresh() for node in members] for seat, members in self.nodes.items()})

    def of(self, seat: str, when: NodeWhen) -> list[Node]:
        """The nodes of a seat that run at a moment, in the recipe's order."""
        return [n for n in self.nodes[seat] if n.when == when]

    @property
    def loss(self) -> Node | None:
        return self.nodes["loss"][0] if self.nodes["loss"] else None

    @property
    def advantage(self) -> Node | None:
        return self.nodes["advantage"][0] if self.nodes["advantage"] else None

    def _moments(self, models: list[str], nodes: Mapping[str, list[Node]]) -> dict[str, When]:
        """When each stream of this recipe exists."""
        moments: dict[str, When] = {name: s.when for name, s in STREAMS.items()}
        moments["metrics"] = "run"
        for model in models:
            moments[f"{model}_logp"] = moments[f"{model}_entropy"] = "look"
        for probe in self.probes:
            moments[probe], moments[f"old_{probe}"], moments[f"now_{probe}"] = "live", "look", "now"
        for node in nodes["reward"]:
            moments[f"reward_{node.name}"] = "credit"
        return moments

    def _place(self, node: Node, moments: dict[str, When], problems: list[str]) -> None:
        """Decide when a node runs, and whether its streams exist and may be seen from its seat."""
        seat = SEATS[node.seat]
        found: set[When] = set()
        for stream in node.reads:
            when = moments.get(stream) or self._own_stream(stream, moments)
            if when is None:
                known = sorted(moments)
                problems.append(
                    f"{node.path}: {node.target} asks for '{stream}', which no part of the run provides{did_you_mean(stream, known)}"
                )
                continue
            if when not in seat.sees or stream in seat.barred:
                problems.append(f"{node.path}: a function in seat {node.seat} may not read '{stream}' ({when})")
            found.add(when)
        both = [s for s in node.reads if f"now_{s}" in node.reads]
        problems.extend(f"{node.path}: {node.target} names both '{s}' and 'now_{s}'; choose one" for s in both)
        node.when = "live" if "live" in found else "minibatch" if "now" in found else "step"
        if node.seat == "control" and node.when == "live":
            problems.append(f"{node.path}: a controller acts between updates and cannot read live streams")

    def _own_stream(self, stream: str, moments: Mapping[str, When]) -> When | None:
        """A stream another node makes: `<node>_<key>`; of a probe that answers with a mapping, `old_<probe>_<key>`."""
        if any(stream.startswith(f"old_{probe}_") for probe in self.probes):
            return "look"
        for members in self.nodes.values():
            for node in members:
                if stream.startswith(f"{node.name}_") and node.seat == "decode":
                    return "sample"
                if stream.startswith(f"{node.name}_") and node.seat in ("advantage", "shape", "regularize", "reward"):
                    reads = {moments.get(s) for s in node.reads}
                    return "live" if "live" in reads else "now" if "now" in reads else "credit"
        return None

    def _collect(self, models: list[str]) -> None:
        live_names = {*_LIVE_BASE, *self.probes}
        for node in self.nodes["decode"]:
            for stream in node.reads:
                if stream.endswith("_logits"):
                    self.models.setdefault(stream.removesuffix("_logits"), set()).add("logits")
        loss = self.loss
        self.lifted = loss is not None and loss.when == "minibatch"
        for members in self.nodes.values():
            for node in members:
                part = node.scope == "part" and node.when == "minibatch"
                for stream in node.reads:
                    base = stream.removeprefix("now_")
                    if stream in live_names:
                        self.live.add(stream)
                        if node.seat in ("loss", "regularize"):
                            self.grad.add(stream)
                        if node.when == "live" and node.seat == "shape" and self.lifted:
                            self.now.add(stream)
                    elif stream.startswith("now_") and base in live_names:
                        if not part:
                            self.now.add(base)
                        self.live.add(base)
                        if node.seat in ("loss", "regularize"):
                            self.grad.add(base)
                    elif stream == "now_pull":
                        self.pull = True
                        if not part:
                            self.now.add("logp")
                    elif stream.startswith("old_") and stream.removeprefix("old_") in live_names:
                        self.look.add(stream.removeprefix("old_"))
                    elif made := [p for p in self.probes if stream.startswith(f"old_{p}_")]:
                        self.look.add(max(made, key=len))
                    else:
                        for model in models:
                            if stream.startswith(f"{model}_"):
                                self.models.setdefault(model, set()).add(stream.removeprefix(f"{model}_"))
        if self.pull and loss is not None:
            for stream in loss.reads:
                base = stream.removeprefix("now_")
                if base in live_names and "logp" in self.now:
                    self.now.add(base)
        self.live.add("logp")

    @property
    def needs_look(self) -> bool:
        """False only when one update follows each rollout and old values are asked for inside the update alone."""
        if self.many_updates or self.look - {"logp"}:
            return True
        outside = [n for members in self.nodes.values() for n in members if n.when != "live" and "old_logp" in n.reads]
        return bool(outside) or bool(self.now)

    def _departures(self, config: Mapping[str, Any]) -> list[str]:
        """Where the sampler's numbers are not those that the look-back would have given; empty if they are, or nobody needs them."""
        sampler = config.get("sampler") or {}
        temperature = sampler.get("temperature")
        if not self.from_sampler or not (self.needs_look or temperature != 1):
            return []
        found = []
        for probe in sorted((self.look | self.now) - set(_LIVE_BASE)):
            found.append(f"old_{probe} is asked for, which only the policy's own pass computes")
        if temperature != 1:
            found.append(f"sampler.temperature is {temperature}, and entropy at temperature 1 takes the policy's own pass")
        for option, whole in (("top_p", 1), ("top_k", 0)):
            if sampler.get(option, whole) != whole:
                found.append(f"sampler.{option} is {sampler[option]}: tokens are drawn from a part of the policy's distribution")
        for node in self._changing:
            found.append(f"{node.path}: tokens are not drawn from the policy's distribution")
        for place, says in (("sampler", _faithful), ("engine", _exact)):
            target = (config.get(place) or {}).get("_target_")
            if reason := says(target):
                found.append(f"{place} {target}: {reason}")
        return [f"trainer.look_back: sampler cannot take the look-back's place here, because {reason}; policy can" for reason in found]

    @property
    def _changing(self) -> list[Node]:
        """Decode functions that change what tokens are drawn from."""
        return [n for n in self.nodes["decode"] if "logits" in n.reads or n.card.get("forces")]

    def _check_knobs(self, problems: list[str]) -> None:
        knobs = self.knobs()
        for node in self.nodes["control"]:
            knob = node.options.get("knob")
            if isinstance(knob, str) and knob not in knobs:
                problems.append(
                    f"{node.path}: knob '{knob}' does not exist in this recipe{did_you_mean(knob, knobs)} (knobs: {', '.join(knobs) or 'none'})"
                )

    def _check_probes(self, problems: list[str]) -> None:
        for node in self.nodes["probe"]:
            for stream in node.reads:
                if stream not in _PROBE_INPUTS and not stream.startswith("hidden_") and STREAMS.get(stream) is None:
                    problems.append(f"{node.path}: a probe reads logits, hidden, hidden_<k>, target or plain numbers, not '{stream}'")

    def _check_decode(self, models: list[str], problems: list[str]) -> None:
        """Decode functions read what the engine has (those that name `logits`), or drive it (those that name `requests`)."""
        for node in self.nodes["decode"]:
            kinds = [kind for kind in ("logits", "requests") if kind in node.reads]
            own = [s for s in node.reads if s.endswith("_logits")]
            if len(kinds) != 1:
                problems.append(
                    f"{node.path}: a decode function reads `logits` (inside the engine) or `requests` (around it), found {', '.join(node.reads)}"
                )
                continue
            known = DRIVER if kinds == ["requests"] else RULE
            for stream in node.reads:
                if stream in own and known is RULE:
                    if stream.removesuffix("_logits") not in models:
                        name = stream.removesuffix("_logits")
                        problems.append(
                            f"{node.path}: reads the logits of a model '{name}', which the recipe does not name; add models.{name}.path=PATH"
                        )
                elif stream not in known:
                    problems.append(
                        f"{node.path}: {node.target} asks for '{stream}'{did_you_mean(stream, known)} (there are {', '.join(known)})"
                    )

    def knobs(self) -> dict[str, Node]:
        """Every numeric option of the recipe by its name, and the node that holds it."""
        return {f"{node.path}.{option}": node for members in self.nodes.values() for node in members for option in node.numbers()}

    def _warn(self, config: Mapping[str, Any]) -> None:
        """Say where a method can do nothing in this recipe, from the `card:` of its option file."""
        trainer, sampler = config.get("trainer") or {}, config.get("sampler") or {}
        updates = (trainer.get("minibatches") or 1) * (trainer.get("epochs") or 1)
        present = {n.name for members in self.nodes.values() for n in members}
        brought = {source for n in self.nodes["sampler"] for source in getattr(n.fn, "brings", ())}
        paths = {n.path for members in self.nodes.values() for n in members}
        for members in self.nodes.values():
            for node in members:
                card = node.card
                if updates < card.get("needs_minibatches", 1):
                    self.warnings.append(
                        f"{node.path} does nothing here: it acts on the drift within a step, and this recipe makes {updates} update a step "
                        f"(needs trainer.minibatches * trainer.epochs >= {card['needs_minibatches']})"
                    )
                if (sampler.get("n") or 1) < card.get("needs_group", 1):
                    self.warnings.append(
                        f"{node.path} does nothing here: it compares the responses of a group, and sampler.n is {sampler.get('n')}"
                    )
                self.warnings.extend(
                    f"{node.path} does nothing here: it needs {other}" for other in card.get("needs") or [] if other not in paths
                )
                if (rows := card.get("needs_rows")) and rows not in brought:
                    self.warnings.append(f"{node.path} finds no {rows} rows here: sampler={_BRINGS.get(rows, '...')} brings them")
                for other in card.get("conflicts") or []:
                    name, reason = (other.get("name"), other.get("reason", "")) if isinstance(other, Mapping) else (other, "")
                    if name in present:
                        self.warnings.append(f"{node.path} and {name} do not go together{': ' + reason if reason else ''}")
        changing = [n.path for n in self._changing]
        if changing and not any("sampler_logp" in n.reads for n in (*self.nodes["shape"], *self.nodes["loss"])):
            self.warnings.append(
                f"{', '.join(changing)}: tokens are not drawn from the policy that the update assumes, and no shape "
                f"corrects for it (shape=[truncated_importance] weighs by pi_old / pi_sampler)"
            )
        if (sampler.get("top_p") or 1.0) < 1.0 or (sampler.get("top_k") or 0) > 0:
            self.warnings.append(
                "sampler.top_p or top_k cuts the sampling distribution: log-probabilities of the update are of the whole one"
            )

    def lines(self) -> list[str]:
        """The plan in words."""
        out = []
        if self.needs_look and self.from_sampler:
            out.append("look back: none (trainer.look_back=sampler: old_entropy, old_logp are what the engine said as it sampled)")
        elif self.needs_look:
            out.append(f"look back: one forward without gradient for {_and({'logp', 'entropy'} | self.look, 'old_')}")
        else:
            out.append("look back: none (one update a step, old_logp is the live log-probability)")
        for model, wanted in sorted(self.models.items()):
            if seen := wanted - {"reward", "logits"}:
                out.append(f"model {model}: one forward without gradient for {_and(seen, model + '_')}")
            elif "logits" not in wanted:
                out.append(f"model {model}: answers every prompt beside the policy, for {model}_reward")
            if "logits" in wanted:
                out.append(f"model {model}: reads every token drawn, for {model}_logits")
        if self.now:
            out.append(f"before each update but the first of a step: one forward without gradient for {_and(self.now, 'now_')}")
        if self.pull:
            out.append("pull of the loss on the whole minibatch (scalars only)")
        out.append(
            f"update: forward with gradient for {_and(self.grad or {'logp'}, '')}; without for {_and(self.live - self.grad, '') or 'nothing more'}"
        )
        for seat, members in self.nodes.items():
            for node in members:
                if seat == "sampler":
                    continue
                if seat == "decode":
                    how = "around the engine" if "requests" in node.reads else "at every token drawn"
                    out.append(f"{node.path}: {how}; reads {', '.join(node.reads)}")
                    continue
                if seat == "probe":
                    out.append(f"{node.path}: on the logits, chunk by chunk")
                    continue
                lifted = self.lifted and node.seat == "shape" and node.when == "live"
                scope = ", part by part" if node.scope == "part" and node.when != "live" else ""
                when = {"step": "once a step", "minibatch": "once a minibatch", "live": "inside the update"}["live" if scope else node.when]
                out.append(f"{node.path}: {'once a minibatch (lifted)' if lifted else when}{scope}; reads {', '.join(node.reads)}")
        return out


def _faithful(target: Any) -> str:
    """Why a sampler's rows may have other log-probabilities and entropies than the policy's, or an empty string."""
    own = _says(target)
    if own is None or own.get("faithful"):
        return ""
    return "it does not say that all of its rows are drawn from the policy as it is (`faithful`)"


def _exact(target: Any) -> str:
    """Why an engine does not give the policy's own log-probabilities and exact entropies, or an empty string."""
    own = _says(target)
    if own is None:
        return ""
    if "departs" not in own:
        return "it does not say that its log-probabilities and entropies are the policy's (`departs`)"
    return own["departs"]() or ""


def _says(target: Any) -> Mapping[str, Any] | None:
    """What a class says itself, without what it builds on; None if there is no such class, which is another problem of the recipe."""
    try:
        return vars(locate(target))
    except (ImportError, AttributeError, TypeError):
        return None


def _and(names: set[str], prefix: str) -> str:
    return ", ".join(f"{prefix}{n}" for n in sorted(names))
