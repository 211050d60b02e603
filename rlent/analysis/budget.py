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
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rlent.errors import DataError, UsageError, did_you_mean
from rlent.math.attribution import DIVISIONS, OTHER, add
from rlent.track.record import read_metrics, read_rows, series
from rlent.train.ledger import TERMS
from rlent.types import Config, Json

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from rich.table import Table

WAYS = (*DIVISIONS, "token")
PREDICTIONS = TERMS[1:]
NAMES = {"d1": "theorem 1", "d2": "theorem 2", "steer": "STEER"}
WINDOWS = 8


class Part(NamedTuple):
    """Some of the tokens: their number, and the sums of what was measured and predicted of them, in nats."""

    tokens: float
    measured: float
    d1: float
    d2: float
    steer: float

    @property
    def residual(self) -> float:
        return self.measured - self.d1


@dataclass(frozen=True)
class Budget:
    """A run's account. `parts` by the way to divide the tokens and by label; predictions are in nats by `slope`.

    `steps`, `series[term]` are by step. `entropy` is entropy/mean before the first of them and after the first `reach` of them; `moved` the
    part of its change that is not a change on the same tokens.
    """

    run: str
    steps: list[int]
    series: dict[str, list[float]]
    slope: dict[str, float]
    parts: dict[str, dict[str, Part]]
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

    def to_dict(self) -> dict[str, object]:
        by = {
            way: {label: {**part._asdict(), "residual": part.residual, **self._text(way, label)} for label, part in parts.items()}
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

    def _text(self, way: str, label: str) -> dict[str, str]:
        """A token's text, where it is known."""
        return {"text": self.texts[label]} if way == "token" and label in self.texts else {}


def account(folder: Path, *, by: Sequence[str] = (), first: int | None = None, last: int | None = None) -> Budget:
    """The budget of a run, or of some of its steps.

    Raises:
        DataError: the run has no account, or none in these steps.
        UsageError: a way to divide the tokens that does not exist.
    """
    for way in by:
        if way not in WAYS:
            raise UsageError(f"--by: there is no '{way}'{did_you_mean(way, WAYS)} (ways: {', '.join(WAYS)})")
    rows = _rows(folder, first, last)
    slope = {term: _slope(rows, term) for term in PREDICTIONS}
    series = {"measured": [float(r["measured"]) for r in rows], **{k: [slope[k] * r[k] for r in rows] for k in PREDICTIONS}}
    texts: dict[str, str] = {}
    for row in rows:
        texts |= row.get("texts") or {}
    parts = {way: _parts(rows, way, slope) for way in (by or WAYS)}
    steps = [r["step"] for r in rows]
    return Budget(str(folder), steps, series, slope, parts, texts, *_entropy(folder, steps))


def _rows(folder: Path, first: int | None, last: int | None) -> list[dict[str, Any]]:
    """The entries of `budget.jsonl` from step `first` to step `last`."""
    rows: list[Any] = [*read_rows(folder / "budget.jsonl")]
    if not rows:
        raise DataError(f"{folder} has no account of its entropy (budget.jsonl); train with track.ledger.rows above 0 to have one")
    rows = [r for r in rows if (first is None or r["step"] >= first) and (last is None or r["step"] <= last)]
    if not rows:
        raise DataError(f"{folder} has no account of steps {first or 1} to {last or 'the last'}")
    return rows


def _slope(rows: Sequence[Config], term: str) -> float:
    """Of the least-squares line through the origin from a prediction to what was measured."""
    measured, predicted = (np.array([r[name] for r in rows], dtype=np.float64) for name in ("measured", term))
    square = float(predicted @ predicted)
    return float(predicted @ measured) / square if square > 0 else 0.0


def _parts(rows: Sequence[Mapping[str, Any]], way: str, slope: Mapping[str, float]) -> dict[str, Part]:
    """The sums of the rows' parts: in the order of the division, tokens by what was measured."""
    sums: dict[str, list[float]] = {}
    for row in rows:
        add(sums, row["by"].get(way) or {})
    found = {k: Part(v[0], v[1], *(s * x for s, x in zip(slope.values(), v[2:], strict=True))) for k, v in sums.items()}
    if way == "token":
        return dict(sorted(found.items(), key=lambda item: item[1].measured))
    return {k: found[k] for k in DIVISIONS[way] if k in found}


def _entropy(folder: Path, steps: Sequence[int]) -> tuple[tuple[float, float] | None, int]:
    """entropy/mean before the first step and after the last whose next step was logged, and how many of the steps that is."""
    found = dict(zip(*series(read_metrics(folder)), strict=True))
    after = [i for i, step in enumerate(steps) if step + 1 in found]
    if steps[0] not in found or not after:
        return None, 0
    return (found[steps[0]], found[steps[after[-1]] + 1]), after[-1] + 1


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

    console = Console()
    console.width = max(console.width, 100)
    for i, line in enumerate(_lines(budget)):
        console.print(line, highlight=False, soft_wrap=i == 0)
    for table in (_windows(budget), *(_table(budget, way, parts, tokens) for way, parts in budget.parts.items())):
        console.print()
        console.print(table)


def _lines(budget: Budget) -> list[str]:
    """The totals as text."""
    total, residual, first = budget.total, budget.residual, budget.steps[0]
    found = [
        f"{budget.run}, steps {first} to {budget.steps[-1]}: entropy of the same tokens before and after each step's updates, nats per token",
        f"  measured   {total['measured']:+.4f}, the sum over {len(budget.steps)} steps",
    ]
    for term in PREDICTIONS:
        corr = budget.correlation(term)
        more = f", correlation over steps {corr:.2f}" if corr is not None else ""
        found.append(f"  {NAMES[term]:<9}  {total[term]:+.4f}, residual {residual[term]:+.4f} (slope {budget.slope[term]:.3g}{more})")
    if budget.entropy is not None and budget.moved is not None:
        start, end = budget.entropy
        found.append(
            f"  entropy/mean went from {start:.4f} at step {first} to {end:.4f} at step {budget.steps[budget.reach - 1] + 1} ({end - start:+.4f}); "
            f"{budget.moved:+.4f} of it is that other tokens are visited"
        )
    return found


def _windows(budget: Budget) -> Table:
    """The account over time, in a few windows of steps."""
    table = _grid("steps", "measured", "cumulated", "theorem 1", "residual", text=False)
    bounds = np.linspace(0, len(budget.steps), min(WINDOWS, len(budget.steps)) + 1).astype(int)
    cumulated = np.cumsum(budget.series["measured"])
    for a, b in zip(bounds[:-1], bounds[1:], strict=True):
        measured, predicted = math.fsum(budget.series["measured"][a:b]), math.fsum(budget.series["d1"][a:b])
        numbers = (measured, cumulated[b - 1], predicted, measured - predicted)
        table.add_row(f"{budget.steps[a]}-{budget.steps[b - 1]}", *(f"{x:+.4f}" for x in numbers))
    return table


def _grid(first: str, *names: str, text: bool) -> Table:
    """A table without lines; numbers to the right."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column(first, justify="left" if text else "right", no_wrap=True)
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _table(budget: Budget, way: str, parts: Mapping[str, Part], tokens: int) -> Table:
    """One division of the tokens; of single tokens those that changed most, and the others together."""
    table = _grid(way, "tokens", "measured", "of all", "theorem 1", "residual", "theorem 2", "STEER", text=True)
    count = sum(p.tokens for p in parts.values()) or 1.0
    whole = budget.total["measured"] or math.nan
    shown = dict(parts)
    if way == "token" and len(parts) > tokens:
        largest = _largest(parts, tokens)
        shown = {k: p for k, p in parts.items() if k in largest}
        shown["others"] = Part(*map(math.fsum, zip(*(p for k, p in parts.items() if k not in largest), strict=True)))
    for label, p in shown.items():
        share = p.measured / whole
        table.add_row(
            repr(budget.texts[label]) if label in budget.texts else label,
            f"{p.tokens / count:.1%}",
            f"{p.measured:+.4f}",
            f"{share:.0%}" if math.isfinite(share) else "-",
            *(f"{x:+.4f}" for x in (p.d1, p.residual, p.d2, p.steer)),
        )
    return table


def _largest(parts: Mapping[str, Part], count: int) -> list[str]:
    """The labels of single tokens that changed most, the largest first."""
    return sorted((k for k in parts if k != OTHER), key=lambda k: -abs(parts[k].measured))[:count]


def _plot(budget: Budget, out: Path) -> list[Path]:
    """Two panels: the account cumulated over steps, and the parts at its end."""
    from rlent.plots.figure import clean, figure_of, finish

    figure = figure_of(10.4, 5.2)
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.15))
    _when(left, budget)
    _where(right, budget)
    clean(left)
    clean(right)
    right.grid(axis="y", visible=False)
    rows: list[list[Json]] = [["kind", "name", "part", "step", "tokens", *TERMS]]
    rows += [["step", "", "", s, "", *(budget.series[t][i] for t in TERMS)] for i, s in enumerate(budget.steps)]
    rows += [["part", way, budget.texts.get(k, k), "", *part] for way, parts in budget.parts.items() for k, part in parts.items()]
    slopes = ", ".join(f"{NAMES[k]} {v:.3g}" for k, v in budget.slope.items())
    caption = f"{Path(budget.run).name}: predictions scaled by one slope each ({slopes}), fitted through the origin on the steps' totals. Parts of each division add up to the whole."
    return finish(figure, caption, out, rows)


def _when(axes: Axes, budget: Budget) -> None:
    """What was measured and predicted, cumulated over steps."""
    styles = {"measured": ("#000000", "-"), "d1": ("#0072b2", "--"), "d2": ("#d55e00", "-."), "steer": ("#009e73", ":")}
    for term, (colour, line) in styles.items():
        axes.plot(budget.steps, np.cumsum(budget.series[term]), color=colour, linestyle=line, linewidth=1.8, label=NAMES.get(term, term))
    residual = np.cumsum(np.array(budget.series["measured"]) - budget.series["d1"])
    axes.plot(budget.steps, residual, color="#999999", linewidth=1.2, label="measured - theorem 1")
    axes.axhline(0, color="#7f7f7f", linewidth=0.8)
    axes.set_xlabel("step")
    axes.set_ylabel("cumulated change of entropy (nats per token)")
    axes.set_title("When", loc="left", fontsize=11, fontweight="bold")
    axes.legend(frameon=False)


def _where(axes: Axes, budget: Budget) -> None:
    """The parts of each division, those of single tokens that changed most; a gap between divisions."""
    bars: list[tuple[str, float, float]] = []
    for way, parts in budget.parts.items():
        for k in _largest(parts, 6) if way == "token" else parts:
            label = f"token {budget.texts.get(k, k)!r}" if way == "token" else f"{way}: {k}"
            bars.append((label, parts[k].measured, parts[k].d1))
        bars.append(("", math.nan, math.nan))
    labels, measured, predicted = zip(*bars, strict=True)
    places = -np.arange(len(bars))
    axes.barh(places, measured, height=0.72, color="#9ecae1", label="measured")
    axes.plot(predicted, places, linestyle="none", marker="D", markersize=4, color="#0072b2", label="theorem 1")
    axes.axvline(0, color="#7f7f7f", linewidth=0.8)
    axes.set_yticks(places, [label.replace("$", r"\$") for label in labels], fontsize=7.5)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("share of the change (nats per token)")
    axes.set_title("On which tokens", loc="left", fontsize=11, fontweight="bold")
    axes.legend(frameon=False, fontsize=8)
