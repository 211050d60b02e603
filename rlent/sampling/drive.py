"""Decode functions around an engine: they decide what is generated, from where, how often and how long.

A function that names `requests` gets them with `generate`, and returns rollouts, one for each request. The first of several is the
outermost. What the engine's own rules do (`rlent.engine.rules`) holds inside every `generate`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from inspect import signature

from torch import Tensor

from rlent.engine.base import Done, Engine
from rlent.engine.rules import Measure
from rlent.errors import EngineError
from rlent.math import noise
from rlent.recipe.mount import Node
from rlent.sampling.tree import grow
from rlent.types import Request, Rollouts, Tokenizer

Measuring = Callable[[Tensor], Mapping[str, Tensor]]


def drives(node: Node) -> bool:
    """Whether a decode function runs around the engine."""
    return "requests" in node.reads


def evaluated(decode: Sequence[Node]) -> list[Node]:
    """The decode functions that hold in evaluation, too: all but those whose `card:` says `only: train`."""
    return [node for node in decode if node.card.get("only") != "train"]


def said(found: Rollouts, row: int) -> dict[str, float]:
    """The numbers decode functions gave for a row: their own, and means over tokens of what they said of each token."""
    told = {name: values[row] for name, values in found.notes.items()}
    means = {name: sum(v) / len(v) for name, v in told.items() if v and all(isinstance(x, int | float) for x in v)}
    own = {name: float(values[row]) for name, values in found.counts.items() if isinstance(values[row], int | float)}
    return means | own


def rollouts(
    engine: Engine,
    tokenizer: Tokenizer,
    requests: Sequence[Request],
    decode: Sequence[Node],
    *,
    entropy: bool = False,
    done: Done | None = None,
) -> Rollouts:
    """One response for each request, drawn as the recipe's decode functions say.

    `done` is told of responses as they end (see `Engine.generate`), unless a decode function runs around the engine and may go on with
    them, or the engine does not know of it.

    Raises:
        EngineError: a function returned rollouts of another size, or a response longer than its request allows.
    """
    rules = [node for node in decode if not drives(node)]

    def plainly(rows: Sequence[Request], measure: Measuring | None = None) -> Rollouts:
        told = [*([Measure(measure)] if measure is not None else []), *rules]
        how: dict[str, object] = {"rules": told} if told else {}  # an engine need not know rules if there are none
        if done is not None and len(rules) == len(decode) and "done" in signature(engine.generate).parameters:
            how["done"] = done
        return engine.generate(rows, entropy=entropy, **how)

    generate: Callable[..., Rollouts] = plainly
    for node in reversed([node for node in decode if drives(node)]):
        generate = _driven(node, tokenizer, generate)
    return generate(requests)


def _driven(node: Node, tokenizer: Tokenizer, generate: Callable[..., Rollouts]) -> Callable[..., Rollouts]:
    def drive(requests: Sequence[Request], measure: Measuring | None = None) -> Rollouts:
        if measure is not None:
            raise EngineError(
                f"{node.path} cannot be asked to measure: a decode function before it wants that; put {node.name} first, or leave one out"
            )

        def draw(request: Request, *counters: int) -> float:
            return float(noise.uniform(*request.key, node.name, *counters))

        found: Rollouts = node(
            {
                "requests": list(requests),
                "generate": generate,
                "grow": lambda rows, **how: grow(rows, generate, draw, **how),
                "noise": draw,
                "encode": lambda text: list(tokenizer.encode(text, add_special_tokens=False)),
                "decode": lambda ids: str(tokenizer.decode(ids, skip_special_tokens=True)),
                "vocab": len(tokenizer),
            }
        )
        if len(found.tokens) != len(requests):
            raise EngineError(f"{node.path} returned {len(found.tokens)} responses to {len(requests)} requests")
        long = [i for i, (r, tokens) in enumerate(zip(requests, found.tokens, strict=True)) if len(tokens) > r.max_tokens]
        if long:
            raise EngineError(
                f"{node.path} returned {len(found.tokens[long[0]])} tokens for row {long[0]}; at most {requests[long[0]].max_tokens} were asked for"
            )
        found.notes = {k if k.startswith(f"{node.name}_") else f"{node.name}_{k}": v for k, v in found.notes.items()}
        found.counts = {k if k.startswith(f"{node.name}_") else f"{node.name}_{k}": v for k, v in found.counts.items()}
        return found

    return drive
