"""`rlent inspect`: one HTML page of sampled responses, their tokens coloured by what is known of them and by what methods would do to them.

The page holds its own data, style and script, asks for nothing over the network, and needs no model to be made.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlent.analysis.command import parse
from rlent.analysis.compare import REFERENCE, Comparison, differing, replay, reweighted
from rlent.analysis.replay import Played
from rlent.analysis.source import Source, open_kept
from rlent.errors import UsageError
from rlent.math.covariance import token_covariance
from rlent.system.paths import free
from rlent.types import Batch, JsonObject

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

TEMPLATE = Path(__file__).parent / "inspect.html"
SELECTED, CLIPPED, REWEIGHTED, DIFFERS = 1, 2, 4, 8
ROWS = 32


def choose(batch: Batch, count: int) -> list[int]:
    """Rows to show: whole prompts, those whose responses differ in reward first, in the order of the step."""
    groups: dict[int, list[int]] = {}
    for i, group in enumerate(batch["group"].tolist()):
        groups.setdefault(group, []).append(i)
    reward = batch["reward"]
    order = sorted(groups.values(), key=lambda rows: bool((reward[rows] == reward[rows[0]]).all()))
    return [i for rows in order for i in rows][:count]


def values(batch: Batch, own: Played) -> dict[str, Floats]:
    """Numbers by token [n], over the response tokens in the order of rows and positions."""
    mask = batch["mask"]
    trained = mask & batch["train"][:, None]
    adv, logp = _wide(own.adv, mask), batch.get("policy_logp", batch["old_logp"])
    found = {
        "entropy": batch["old_entropy"],
        "probability": logp.exp(),
        "covariance": token_covariance(logp.double(), adv, trained),
        "advantage": adv,
        "weight": _wide(own.weight, mask),
        "pull": _wide(own.gradient, mask),
    }
    if "after_entropy" in batch:
        found["change"] = batch["after_entropy"] - batch["old_entropy"]
    return {k: v[mask].double().numpy() for k, v in found.items()}


def _wide(flat: Floats, mask: Tensor) -> Tensor:
    out = mask.double() * 0
    out[mask] = out.new_tensor(flat)
    return out


def colours(found: dict[str, Floats]) -> list[JsonObject]:
    """How each number is coloured: a rising or falling scale, or one with a middle; ends are quantiles, so that outliers do not flatten it."""

    def top(name: str) -> float:
        return max(float(np.quantile(np.abs(found[name]), 0.99)), 1e-6) if len(found[name]) else 1.0

    weight = max(2.0, float(found["weight"].max(initial=1.0)))
    table: list[tuple[str, str, str, str, dict[str, float], str]] = [
        ("entropy", "entropy", "nats", "rising", {"low": 0.0, "high": top("entropy")}, "exact, full vocabulary, when the step began"),
        (
            "probability",
            "probability",
            "",
            "falling",
            {"low": 0.0, "high": 1.0},
            "of the sampled token when the step began; unlikely ones are dark",
        ),
        (
            "covariance",
            "covariance",
            "nats",
            "both",
            {"middle": 0.0, "high": top("covariance")},
            "above 0: an update on the token spends entropy",
        ),
        ("advantage", "advantage", "", "both", {"middle": 0.0, "high": top("advantage")}, "credit of the token"),
        ("weight", "weight", "", "both", {"middle": 1.0, "high": weight}, "of the token's loss after all shapes; 0 where a gate is closed"),
        (
            "pull",
            "pull",
            "per token",
            "both",
            {"middle": 0.0, "high": top("pull")},
            "-d(objective)/d(logp) over the step's updates: above 0 the token is made likelier",
        ),
    ]
    if "change" in found:
        table.append(
            (
                "change",
                "entropy change",
                "nats",
                "both",
                {"middle": 0.0, "high": top("change")},
                "measured over the step's updates; below 0: spent here",
            )
        )
    return [
        {"name": n, "label": label, "unit": unit, "kind": kind, **ends, "open": n not in ("probability", "weight"), "meaning": meaning}
        for n, label, unit, kind, ends, meaning in table
    ]


def page(source: Source, found: Comparison, *, rows: int = ROWS) -> str:
    """The page as text."""
    batch = source.batch
    good = [p for p in found.played if not p.reason]
    base = good[0]
    own = next((p for p in good if p.label.startswith("run (")), base)
    numbers = values(batch, own)
    mask = batch["mask"]
    ends = np.concatenate([[0], np.cumsum(mask.sum(1).numpy())])
    marks = {p.label: _marks(p, base) for p in good if p is not base or len(good) == 1}
    shown = choose(batch, rows)
    sources = batch.get("source") or ["policy"] * len(batch)
    drawn = mask & torch.tensor([s != "demo" for s in sources])[:, None]
    plain = []
    for i in shown:
        at = slice(int(ends[i]), int(ends[i + 1]))
        plain.append(
            {
                "prompt": batch["prompt"][i],
                "group": int(batch["group"][i]),
                "sample": int(batch["sample"][i]),
                "source": sources[i],
                "correct": bool(batch["correct"][i]),
                "reward": float(batch["reward"][i]),
                "finish": batch["finish"][i],
                "tokens": batch["pieces"][i],
                "ids": batch["tokens"][i][: len(batch["pieces"][i])].tolist(),
                "values": {k: _short(v[at]) for k, v in numbers.items()},
                "marks": {k: v[at].tolist() for k, v in marks.items()},
                "weights": {p.label: _short(p.weight[at]) for p in good if p.label in marks},
                "pulls": {p.label: _short(p.gradient[at]) for p in good if p.label in marks},
            }
        )
    rows_of = {r["method"]: r for r in found.rows}
    methods = [
        {
            "name": p.label,
            "label": p.label,
            "reason": p.reason,
            "basis": p.basis,
            "cosine": rows_of[p.label].get("logp_cosine"),
            **{k: rows_of[p.label].get(k) for k in ("selected", "clipped", "reweighted", "differs")},
        }
        for p in found.played
        if p.label in marks or p.reason
    ]
    name = source.name or Path(source.label).stem
    about = f"{len(shown)} of {len(batch)} responses, {int(drawn.sum())} tokens drawn in the step, mean entropy {batch['old_entropy'][drawn].double().mean():.3f} nats. {source.label}"
    data = {"title": f"{name}, step {int(batch['step'])}", "about": about, "colours": colours(numbers), "methods": methods, "rows": plain}
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character, written in (("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026"), ("\u2028", "\\u2028"), ("\u2029", "\\u2029")):
        text = text.replace(character, written)
    return TEMPLATE.read_text(encoding="utf-8").replace("/*DATA*/", text)


def _marks(p: Played, base: Played) -> Ints:
    """Bits of what a method does to each token [n]."""
    chosen = np.zeros(len(p.weight), dtype=bool) if p.selected is None else p.selected
    return chosen * SELECTED + p.clipped * CLIPPED + reweighted(p, base) * REWEIGHTED + differing(p, base) * DIFFERS


def _short(numbers: Floats) -> list[float | None]:
    return [float(f"{v:.4g}") if math.isfinite(v) else None for v in numbers.tolist()]


@dataclass(frozen=True, slots=True)
class View:
    """What the page shows: which saved `step` (None: the last one), what `methods` would do, and how many `rows`."""

    step: int | None = None
    methods: Sequence[str] = ()
    rows: int = ROWS


def main(
    place: str,
    overrides: Sequence[str],
    view: View,
    *,
    out: str | None = None,
    config_dirs: Sequence[str] = (),
) -> int:
    """Write the page and say where it is.

    Raises:
        UsageError: no kept batch, or `out` exists.
    """
    if out is not None and Path(out).exists():
        raise UsageError(f"--out: {out} exists, and nothing is overwritten")
    source = open_kept(place, view.step)
    if "pieces" not in source.batch or "old_entropy" not in source.batch:
        raise UsageError(
            f"{source.label} was kept by an older version, without the texts and entropies of its tokens; train again to inspect it"
        )
    named, rest = parse(overrides)
    names = [n for n in dict.fromkeys([*view.methods, *named]) if n != REFERENCE]
    found = replay(source, names, rest, config_dirs=config_dirs)
    folder = Path(place) / "inspect" if Path(place).is_dir() else Path(place).parent
    path = Path(out) if out is not None else free(folder / f"step_{int(source.batch['step']):06d}.html")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(source, found, rows=view.rows), encoding="utf-8")
    for p in found.played:
        if p.reason:
            print(f"{p.label}: {p.reason}")
    print(f"{path} ({path.stat().st_size / 1e6:.1f} MB); open it in a browser")
    return 0
