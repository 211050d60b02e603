"""`rlent budget`: the account of the entropy that a run spent.

The entries are those of `budget.jsonl`: after each step's updates, `train` measures the entropy of the ledger's rows again, token by token.
What is measured is where entropy changed, whatever caused it; what is predicted (d1, d2, STEER's estimate) is where a push lay. Predictions are per unit
step, so one slope for each, fitted through the origin on the steps' totals, turns them into nats; the residual is measured minus predicted.

The measured changes are of the same tokens before and after, so their sum over steps is not the fall of entropy/mean: the rest is that
the policy visits other tokens (`moved`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlent.errors import DataError, UsageError, did_you_mean
from rlent.math.attribution import DIVISIONS, OTHER, add
from rlent.track.record import read_metrics, read_rows
from rlent.train.ledger import TERMS

WAYS = (*DIVISIONS, "token")
PREDICTIONS = TERMS[1:]
NAMES = {"d1": "theorem 1", "d2": "theorem 2", "steer": "STEER"}
WINDOWS = 8


@dataclass(frozen=True)
class Budget:
    """A run's account. `parts[way][label]` is [tokens, measured, d1, d2, steer]: measured in nats, predictions in nats by `slope`.

    `steps`, `series[term]` are by step. `entropy` is entropy/mean before the first of them and after the first `reach` of them; `moved` the
    part of its change that is not a change on the same tokens.
    """

    run: str
    steps: list[int]
    series: dict[str, list[float]]
    slope: dict[str, float]
    parts: dict[str, dict[str, list[float]]]
    texts: dict[str, str]
    entropy: tuple[float, float] | None
    reach: int

    @property
    def total(self) -> dict[str, float]:
        return {k: math.fsum(v) for k, v in self.series.items()}

    @property
    def residual(self) -> dict[str, float]:
        total = self.total
        return {k: total["measured"] - total[k] for k in PREDICTIONS}

    @property
    def moved(self) -> float | None:
        return None if self.entropy is None else self.entropy[1] - self.entropy[0] - math.fsum(self.series["measured"][: self.reach])

    def correlation(self, term: str) -> float | None:
        """Between the steps' measured changes and a prediction."""
        a, b = np.array(self.series["measured"]), np.array(self.series[term])
        return float(np.corrcoef(a, b)[0, 1]) if len(a) > 2 and a.std() > 0 and b.std() > 0 else None

    def to_dict(self) -> dict[str, Any]:
        labels = {k: {"text": self.texts[k]} if k in self.texts else {} for k in self.parts.get("token", {})}
        columns = ("tokens", *TERMS)
        by = {
            way: {
                label: {**dict(zip(columns, v, strict=True)), "residual": v[1] - v[2], **(labels.get(label, {}) if way == "token" else {})}
                for label, v in parts.items()
            }
            for way, parts in self.parts.items()
        }
        return {
            "run": self.run,
            "steps": self.steps,
            "series": self.series,
            "slope": self.slope,
            "total": self.total,
            "residual": self.residual,
            "correlation": {k: self.correlation(k) for k in PREDICTIONS},
            "entropy": self.entropy,
            "reach": self.reach,
            "moved": self.moved,
            "by": by,
        }


def account(folder: Path, *, by: Sequence[str] = (), first: int | None = None, last: int | None = None) -> Budget:
    """The budget of a run, or of some of its steps.

    Raises:
        DataError: the run has no account, or none in these steps.
        UsageError: a way to divide the tokens that does not exist.
    """
    for way in by:
        if way not in WAYS:
            raise UsageError(f"--by: there is no '{way}'{did_you_mean(way, WAYS)} (ways: {', '.join(WAYS)})")
    rows = read_rows(folder / "budget.jsonl")
    if not rows:
        raise DataError(f"{folder} has no account of its entropy (budget.jsonl); train with track.ledger.rows above 0 to have one")
    rows = [r for r in rows if (first is None or r["step"] >= first) and (last is None or r["step"] <= last)]
    if not rows:
        raise DataError(f"{folder} has no account of steps {first or 1} to {last or 'the last'}")
    measured = np.array([r["measured"] for r in rows], dtype=np.float64)
    slope = {}
    for term in PREDICTIONS:
        predicted = np.array([r[term] for r in rows], dtype=np.float64)
        square = float(predicted @ predicted)
        slope[term] = float(predicted @ measured) / square if square > 0 else 0.0
    series = {"measured": measured.tolist(), **{k: [slope[k] * r[k] for r in rows] for k in PREDICTIONS}}
    parts: dict[str, dict[str, list[float]]] = {way: {} for way in (by or WAYS)}
    texts: dict[str, str] = {}
    for row in rows:
        texts |= row.get("texts") or {}
        for way in parts:
            add(parts[way], row["by"].get(way) or {})
    for way, found in parts.items():
        scaled = {k: [v[0], v[1], *(s * x for s, x in zip(slope.values(), v[2:], strict=True))] for k, v in found.items()}
        parts[way] = (
            dict(sorted(scaled.items(), key=lambda kv: kv[1][1]))
            if way == "token"
            else {k: scaled[k] for k in DIVISIONS[way] if k in scaled}
        )
    steps = [r["step"] for r in rows]
    return Budget(str(folder), steps, series, slope, parts, texts, *_entropy(folder, steps))


def _entropy(folder: Path, steps: Sequence[int]) -> tuple[tuple[float, float] | None, int]:
    """entropy/mean before the first step and after the last whose next step was logged, and how many of the steps that is."""
    found = {r["step"]: r["entropy/mean"] for r in read_metrics(folder) if r.get("entropy/mean") is not None}
    after = [i for i, step in enumerate(steps) if step + 1 in found]
    if steps[0] not in found or not after:
        return None, 0
    return (float(found[steps[0]]), float(found[steps[after[-1]] + 1])), after[-1] + 1


def main(
    place: str,
    *,
    by: Sequence[str] = (),
    first: int | None = None,
    last: int | None = None,
    tokens: int = 8,
    out: str | None = None,
    as_json: bool = False,
) -> int:
    """Print the account; with `out` draw it.

    Raises:
        UsageError: not a run folder.
    """
    folder = Path(place)
    if not (folder / "recipe.yaml").is_file():
        raise UsageError(f"'{place}' is not a run folder (it has no recipe.yaml); a run prints its folder when it starts")
    budget = account(folder, by=by, first=first, last=last)
    files = [str(f) for f in _plot(budget, Path(out))] if out is not None else []
    if as_json:
        print(json.dumps({**budget.to_dict(), "files": files}, indent=1, allow_nan=False))
        return 0
    _print(budget, tokens)
    for file in files:
        print(file)
    return 0


def _print(budget: Budget, tokens: int) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.width = max(console.width, 100)
    total, residual = budget.total, budget.residual
    first, last = budget.steps[0], budget.steps[-1]
    console.print(
        f"{budget.run}, steps {first} to {last}: entropy of the same tokens before and after each step's updates, nats per token",
        highlight=False,
        soft_wrap=True,
    )
    console.print(f"  measured   {total['measured']:+.4f}, the sum over {len(budget.steps)} steps", highlight=False)
    for term in PREDICTIONS:
        corr = budget.correlation(term)
        said = f", correlation over steps {corr:.2f}" if corr is not None else ""
        console.print(
            f"  {NAMES[term]:<9}  {total[term]:+.4f}, residual {residual[term]:+.4f} (slope {budget.slope[term]:.3g}{said})",
            highlight=False,
        )
    if budget.entropy is not None and budget.moved is not None:
        start, end = budget.entropy
        console.print(
            f"  entropy/mean went from {start:.4f} at step {first} to {end:.4f} at step {budget.steps[budget.reach - 1] + 1} ({end - start:+.4f}); "
            f"{budget.moved:+.4f} of it is that other tokens are visited",
            highlight=False,
        )
    console.print()
    when = Table(box=None, pad_edge=False)
    for name in ("steps", "measured", "cumulated", "theorem 1", "residual"):
        when.add_column(name, justify="right", no_wrap=True)
    bounds = np.linspace(0, len(budget.steps), min(WINDOWS, len(budget.steps)) + 1).astype(int)
    cumulated = np.cumsum(budget.series["measured"])
    for a, b in zip(bounds[:-1], bounds[1:], strict=True):
        measured, predicted = math.fsum(budget.series["measured"][a:b]), math.fsum(budget.series["d1"][a:b])
        when.add_row(
            f"{budget.steps[a]}-{budget.steps[b - 1]}",
            f"{measured:+.4f}",
            f"{cumulated[b - 1]:+.4f}",
            f"{predicted:+.4f}",
            f"{measured - predicted:+.4f}",
        )
    console.print(when)
    for way, parts in budget.parts.items():
        console.print()
        console.print(_table(budget, way, parts, tokens))


def _table(budget: Budget, way: str, parts: Mapping[str, list[float]], tokens: int) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column(way, no_wrap=True)
    for name in ("tokens", "measured", "of all", "theorem 1", "residual", "theorem 2", "STEER"):
        table.add_column(name, justify="right", no_wrap=True)
    count = sum(v[0] for v in parts.values()) or 1.0
    whole = budget.total["measured"] or math.nan
    shown = dict(parts)
    if way == "token" and len(parts) > tokens:
        largest = sorted((k for k in parts if k != OTHER), key=lambda k: -abs(parts[k][1]))[:tokens]
        shown = {k: parts[k] for k in parts if k in largest}
        shown["others"] = [math.fsum(column) for column in zip(*(v for k, v in parts.items() if k not in largest), strict=True)]
    for label, v in shown.items():
        share = v[1] / whole
        text = repr(budget.texts[label]) if label in budget.texts else label
        table.add_row(
            text,
            f"{v[0] / count:.1%}",
            f"{v[1]:+.4f}",
            f"{share:.0%}" if math.isfinite(share) else "-",
            f"{v[2]:+.4f}",
            f"{v[1] - v[2]:+.4f}",
            f"{v[3]:+.4f}",
            f"{v[4]:+.4f}",
        )
    return table


def _plot(budget: Budget, out: Path) -> list[Path]:
    """Two panels: the account cumulated over steps, and the parts at its end."""
    from rlent.plots.figure import clean, figure_of, finish

    rows: list[list[Any]] = [["kind", "name", "part", "step", "tokens", *TERMS]]
    figure = figure_of(10.4, 5.2)
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.15))
    looks = {"measured": ("#000000", "-"), "d1": ("#0072b2", "--"), "d2": ("#d55e00", "-."), "steer": ("#009e73", ":")}
    for term, (colour, line) in looks.items():
        left.plot(budget.steps, np.cumsum(budget.series[term]), color=colour, linestyle=line, linewidth=1.8, label=NAMES.get(term, term))
    left.plot(
        budget.steps,
        np.cumsum(np.array(budget.series["measured"]) - budget.series["d1"]),
        color="#999999",
        linewidth=1.2,
        label="measured - theorem 1",
    )
    left.axhline(0, color="#7f7f7f", linewidth=0.8)
    left.set_xlabel("step")
    left.set_ylabel("cumulated change of entropy (nats per token)")
    left.set_title("When", loc="left", fontsize=11, fontweight="bold")
    left.legend(frameon=False)
    clean(left)
    rows += [["step", "", "", s, "", *(budget.series[t][i] for t in TERMS)] for i, s in enumerate(budget.steps)]
    labels, measured, predicted = [], [], []
    for way, parts in budget.parts.items():
        rows += [["part", way, budget.texts.get(k, k), "", *v] for k, v in parts.items()]
        chosen = list(parts)
        if way == "token":
            chosen = sorted((k for k in parts if k != OTHER), key=lambda k: -abs(parts[k][1]))[:6]
        for k in chosen:
            labels.append(f"token {budget.texts.get(k, k)!r}" if way == "token" else f"{way}: {k}")
            measured.append(parts[k][1])
            predicted.append(parts[k][2])
        labels.append("")
        measured.append(math.nan)
        predicted.append(math.nan)
    places = -np.arange(len(labels))
    right.barh(places, measured, height=0.72, color="#9ecae1", label="measured")
    right.plot(predicted, places, linestyle="none", marker="D", markersize=4, color="#0072b2", label="theorem 1")
    right.axvline(0, color="#7f7f7f", linewidth=0.8)
    right.set_yticks(places, [label.replace("$", r"\$") for label in labels], fontsize=7.5)
    right.tick_params(axis="y", length=0)
    right.set_xlabel("share of the change (nats per token)")
    right.set_title("On which tokens", loc="left", fontsize=11, fontweight="bold")
    right.legend(frameon=False, fontsize=8)
    clean(right)
    right.grid(axis="y", visible=False)
    slopes = ", ".join(f"{NAMES[k]} {v:.3g}" for k, v in budget.slope.items())
    caption = f"{Path(budget.run).name}: predictions scaled by one slope each ({slopes}), fitted through the origin on the steps' totals. Parts of each division add up to the whole."
    return finish(figure, caption, out, rows)
