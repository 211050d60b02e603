"""Micro-batch sensitivity: what a method does on whole mini-batches and micro-batch by micro-batch, from the branches of a fork.

Branches come in pairs with micro-batches of the same size, so a pair differs in the scope of the method's functions and in nothing else.
In the first step after the fork both have the same weights, prompts, responses and advantages: what differs there is the effect of the
micro-batch, without noise. Later the pair drifts apart; how far branches on whole mini-batches drift among themselves, for sizes of
micro-batch that should not matter, is the noise to hold it against.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rlent.metrics.final import LAST, at_end
from rlent.track.record import read_rows


@dataclass(frozen=True)
class Pair:
    """One method at one size of part: [whole minibatch, part by part]. Entropies in nats.

    `acts`: trained tokens whose gradient the method's shapes and regularizers changed in the first step after the fork (share; NaN where
    it acts through the loss). `gradient`: mean |pull| then.
    `entropy`: mean over the last steps. `noise`: range of the whole-minibatch entropies over all sizes of part; NaN with one size.
    """

    method: str
    tokens: int
    acts: tuple[float, float]
    gradient: tuple[float, float]
    entropy: tuple[float, float]
    noise: float


def measure(branches: Mapping[tuple[str, int, str], Path], at: int) -> list[Pair]:
    """Pairs from folders by (method, tokens per part, scope); a pair that is not complete is left out."""
    found: dict[tuple[str, int, str], tuple[float, float, float]] = {}
    for key, folder in branches.items():
        rows = [r for r in read_rows(folder / "metrics.jsonl") if r["step"] > at]
        if rows:
            effects = [v for k, v in rows[0].items() if k.startswith("effect/") and v is not None]
            entropy = at_end([r["entropy/mean"] for r in rows])
            found[key] = (max(effects, default=math.nan), rows[0].get("pull/abs", math.nan), entropy)
    pairs = []
    for method in dict.fromkeys(m for m, _, _ in found):
        whole = [v[2] for (m, _, scope), v in found.items() if m == method and scope == "minibatch"]
        noise = max(whole) - min(whole) if len(whole) > 1 else math.nan
        for tokens in sorted({t for m, t, _ in found if m == method}):
            one, other = found.get((method, tokens, "minibatch")), found.get((method, tokens, "part"))
            if one and other:
                pairs.append(Pair(method, tokens, (one[0], other[0]), (one[1], other[1]), (one[2], other[2]), noise))
    return pairs


def write(pairs: Sequence[Pair], file: Path) -> None:
    """The pairs as JSON; what is not a number is null."""

    def known(value: Any) -> Any:
        if isinstance(value, tuple):
            return [known(v) for v in value]
        return None if isinstance(value, float) and math.isnan(value) else value

    plain = [{k: known(v) for k, v in asdict(p).items()} for p in pairs]
    file.write_text(json.dumps(plain, indent=1) + "\n")


def lines(pairs: Sequence[Pair]) -> list[str]:
    """The table as text."""
    rows = [("method", "tokens/micro-batch", "acts %", "|pull|", "entropy", "change", "noise")]
    for p in pairs:
        rows.append(
            (
                p.method.removeprefix("recipe="),
                str(p.tokens),
                "-" if math.isnan(p.acts[0]) else f"{100 * p.acts[0]:.2f} -> {100 * p.acts[1]:.2f}",
                f"{p.gradient[0]:.4f} -> {p.gradient[1]:.4f}",
                f"{p.entropy[0]:.3f} -> {p.entropy[1]:.3f}",
                f"{p.entropy[1] - p.entropy[0]:+.3f}",
                "-" if math.isnan(p.noise) else f"{p.noise:.3f}",
            )
        )
    widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
    text = ["  ".join(f"{c:<{w}}" if i == 0 else f"{c:>{w}}" for i, (c, w) in enumerate(zip(r, widths, strict=True))) for r in rows]
    return [
        "micro-batch sensitivity: on whole mini-batches -> micro-batch by micro-batch",
        *text,
        "acts, |pull|: first step after the fork, same weights and batch (share of tokens whose gradient the method changes; mean).",
        f"entropy: last {LAST} steps, nats. noise: its range over sizes of micro-batch on whole mini-batches, where size should not matter.",
    ]
