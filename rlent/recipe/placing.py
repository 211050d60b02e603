"""Placing: when each function of a recipe runs, from the streams that its signature names, and whether it may read them in its seat."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from rlent.errors import did_you_mean
from rlent.recipe.mount import Node
from rlent.seats import SEATS
from rlent.streams import DRIVER, RULE, STREAMS, When

_PROBE_INPUTS = ("logits", "hidden", "target", "unembed", "mask", "tokens", "response")
_MAKERS = ("advantage", "shape", "regularize", "reward")
"""Seats whose functions may return streams of their own."""

Nodes = Mapping[str, Sequence[Node]]


class Moments:
    """When each stream of a recipe exists: the run's own, those of its frozen models, and those that its functions make."""

    def __init__(self, nodes: Nodes, models: Sequence[str], answering: str | None) -> None:
        self._nodes = nodes
        self._probes = [node.name for node in nodes["probe"]]
        self._known: dict[str, When] = {name: stream.when for name, stream in STREAMS.items()} | {"metrics": "run"}
        for model in models:
            self._known[f"{model}_logp"] = self._known[f"{model}_entropy"] = "look"
        for probe in self._probes:
            self._known[probe], self._known[f"old_{probe}"], self._known[f"now_{probe}"] = "live", "look", "now"
        for node in nodes["reward"]:
            self._known[f"reward_{node.name}"] = "credit"
        if answering is not None:  # a frozen model that answers beside the policy
            self._known[f"{answering}_reward"] = "sample"

    def of(self, stream: str) -> When | None:
        """When a stream exists; None if no part of the run provides it."""
        return self._known.get(stream) or self._made(stream)

    def names(self) -> list[str]:
        """The streams that exist in any case, sorted."""
        return sorted(self._known)

    def _made(self, stream: str) -> When | None:
        """A stream that a function makes: `<node>_<key>`; of a probe that answers with a mapping, `old_<probe>_<key>`."""
        if any(stream.startswith(f"old_{probe}_") for probe in self._probes):
            return "look"
        for members in self._nodes.values():
            for node in members:
                if not stream.startswith(f"{node.name}_"):
                    continue
                if node.seat == "decode":
                    return "sample"
                if node.seat in _MAKERS:
                    reads = {self._known.get(s) for s in node.reads}
                    return "live" if "live" in reads else "now" if "now" in reads else "credit"
        return None


def place(nodes: Nodes, models: Sequence[str], moments: Moments) -> tuple[dict[str, list[Node]], list[str]]:
    """The nodes, each with the moment at which it runs; and what is wrong with the streams that they name."""
    problems: list[str] = []
    placed: dict[str, list[Node]] = {}
    for seat, members in nodes.items():
        alone = seat in ("probe", "decode")  # these run where their streams are made
        placed[seat] = [node if alone else _placed(node, moments, problems) for node in members]
    problems.extend(p for node in nodes["probe"] for p in _probe_problems(node))
    problems.extend(p for node in nodes["decode"] for p in _decode_problems(node, models))
    return placed, problems


def _placed(node: Node, moments: Moments, problems: list[str]) -> Node:
    seat = SEATS[node.seat]
    found: set[When] = set()
    for stream in node.reads:
        when = moments.of(stream)
        if when is None:
            problems.append(
                f"{node.path}: {node.target} asks for '{stream}', which no part of the run provides{did_you_mean(stream, moments.names())}"
            )
            continue
        if when not in seat.sees or stream in seat.barred:
            problems.append(f"{node.path}: a function in seat {node.seat} may not read '{stream}' ({when})")
        found.add(when)
    both = [s for s in node.reads if f"now_{s}" in node.reads]
    problems.extend(f"{node.path}: {node.target} names both '{s}' and 'now_{s}'; choose one" for s in both)
    if node.seat == "control" and "live" in found:
        problems.append(f"{node.path}: a controller acts between updates and cannot read live streams")
    return replace(node, when="live" if "live" in found else "minibatch" if "now" in found else "step")


def _probe_problems(node: Node) -> Iterator[str]:
    for stream in node.reads:
        if stream not in _PROBE_INPUTS and not stream.startswith("hidden_") and stream not in STREAMS:
            yield f"{node.path}: a probe reads logits, hidden, hidden_<k>, target or plain numbers, not '{stream}'"


def _decode_problems(node: Node, models: Sequence[str]) -> Iterator[str]:
    """Decode functions read what the engine has (those that name `logits`), or drive it (those that name `requests`)."""
    kinds = [kind for kind in ("logits", "requests") if kind in node.reads]
    if len(kinds) != 1:
        listed = ", ".join(node.reads)
        yield f"{node.path}: a decode function reads `logits` (inside the engine) or `requests` (around it), found {listed}"
        return
    known = DRIVER if kinds == ["requests"] else RULE
    for stream in node.reads:
        model = stream.removesuffix("_logits")
        if known is RULE and model != stream:
            if model not in models:
                yield f"{node.path}: reads the logits of a model '{model}', which the recipe does not name; add models.{model}.path=PATH"
        elif stream not in known:
            yield f"{node.path}: {node.target} asks for '{stream}'{did_you_mean(stream, known)} (there are {', '.join(known)})"
