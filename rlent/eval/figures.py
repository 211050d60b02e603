"""Figures of an evaluation: pass@k against k, and entropy against step beside it. Each comes with its numbers as CSV.

Figures are drawn without pyplot: nothing global is touched, and no display is needed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rlent.errors import DataError
from rlent.eval.result import LEVEL, Evaluation
from rlent.plots.figure import clean, figure_of, finish, running_mean
from rlent.plots.looks import Look, looks
from rlent.track.record import series
from rlent.types import Json, JsonObject

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from rich.table import Table

    from rlent.eval.report import Mean, Report
    from rlent.math.intervals import Average

Rows = Sequence[JsonObject]

ENTROPY = "entropy/mean"
START = "#7f7f7f"


# --- panels ----------------------------------------------------------------------------------------------------------


def _pass_panel(axes: Axes, evals: Mapping[str, Evaluation], start: Evaluation | None, look: Mapping[str, Look]) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    lines: list[tuple[str, Evaluation, JsonObject]] = []
    if start is not None:
        lines.append((start.label or "start", start, {"color": START, "linestyle": "--", "marker": None, "zorder": 2}))
    for name, e in evals.items():
        lines.append((name, e, {"color": look[name].colour, "linestyle": look[name].dash, "marker": look[name].marker, "zorder": 3}))
    ticks: set[int] = set()
    for name, evaluation, style in lines:
        ks = list(evaluation.pass_at_k)
        points = list(evaluation.pass_at_k.values())
        ticks.update(ks)
        axes.fill_between(ks, [p.low for p in points], [p.high for p in points], color=style["color"], alpha=0.13, linewidth=0)
        axes.plot(ks, [p.value for p in points], label=name, linewidth=1.8, markersize=4.5, **style)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(sorted(t for t in ticks if t.bit_count() == 1)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    top = max(p.high for _, e, _ in lines for p in e.pass_at_k.values())
    axes.set_ylim(0, min(1.02, 1.08 * top + 0.01))
    axes.set_xlabel("k, samples per problem (log scale)")
    axes.set_ylabel("pass@k, share of problems solved")
    clean(axes)


def _sets_panel(axes: Axes, reports: Sequence[Report], names: Sequence[str], look: Mapping[str, Look]) -> None:
    places = [*names, *reports[0].means]
    step = min(0.16, 0.7 / len(reports))
    highest = 0.0
    for i, r in enumerate(reports):
        at = [x + step * (i - (len(reports) - 1) / 2) for x in range(len(places))]
        points: list[Average | Mean] = [*(r.sets[name].average for name in names), *r.means.values()]
        values = [p.value for p in points]
        lows = [p.value if math.isnan(p.low) else p.low for p in points]
        highs = [p.value if math.isnan(p.high) else p.high for p in points]
        highest = max(highest, *highs)
        spread = [[v - x for v, x in zip(values, lows, strict=True)], [x - v for v, x in zip(values, highs, strict=True)]]
        own = look[r.label]
        style: JsonObject = {"color": own.colour, "marker": own.marker, "markersize": 5.5, "linestyle": "none"}
        axes.errorbar(at, values, yerr=spread, label=r.label, elinewidth=1.4, capsize=2.5, zorder=3, clip_on=False, **style)
    axes.axvline(len(names) - 0.5, color="#9a9a9a", linewidth=0.8, linestyle=":")
    axes.set_xticks(range(len(places)), [p.replace("_", "\n", 1) if p in reports[0].means else p.replace("_", "_\n", 1) for p in places])
    axes.tick_params(axis="x", labelsize=8)
    axes.set_xlim(-0.6, len(places) - 0.4)
    axes.set_ylim(0, min(1.02, 1.08 * highest + 0.01))
    axes.set_ylabel("avg@n, share correct")
    clean(axes)
    axes.grid(False, axis="x")
    if len(reports) > 1:
        axes.legend(frameon=False, loc="best", fontsize=9)


def _entropy_panel(axes: Axes, runs: Mapping[str, Rows], look: Mapping[str, Look], smooth: int) -> None:
    highest = 0.0
    for name, rows in runs.items():
        steps, values = series(rows)
        if not steps:
            raise DataError(f"run '{name}' has no finite '{ENTROPY}' in its metrics")
        highest = max(highest, *values)
        wide = smooth > 1 and len(values) > 2 * smooth
        if wide:
            axes.plot(steps, values, color=look[name].colour, alpha=0.25, linewidth=0.8)
        every = max(1, len(steps) // 6)
        axes.plot(
            steps,
            running_mean(values, smooth) if wide else values,
            label=name,
            color=look[name].colour,
            linestyle=look[name].dash,
            linewidth=1.8,
            marker=look[name].marker,
            markersize=4.5,
            markevery=(every // 2, every),
        )
    axes.set_ylim(0, 1.05 * highest or 1.0)
    axes.set_xlabel("step")
    axes.set_ylabel("entropy, nats per token")
    clean(axes)


def _about(evals: Iterable[Evaluation]) -> str:
    sizes = list(dict.fromkeys(e.size() for e in evals))
    return f"pass@k: unbiased estimate, {'; '.join(sizes)}; bands: {LEVEL:.0%} bootstrap intervals over problems."


def _pass_rows(evals: Mapping[str, Evaluation], start: Evaluation | None) -> list[list[Json]]:
    named = {**({start.label or "start": start} if start is not None else {}), **evals}
    return [
        [name, "pass_at_k", k, e.value, e.low, e.high, len(one.problems), one.n]
        for name, one in named.items()
        for k, e in one.pass_at_k.items()
    ]


HEADER = ["name", "metric", "x", "value", "low", "high", "problems", "samples"]


# --- figures ---------------------------------------------------------------------------------------------------------


def plot_pass_at_k(
    evals: Mapping[str, Evaluation] | Sequence[Evaluation],
    out: Path,
    *,
    start: Evaluation | None = None,
    title: str = "",
    caption: str = "",
) -> list[Path]:
    """pass@k against k on a log axis, a line with a band for each evaluation; `start` is the model before training.

    Writes `out`.png, .svg and .csv (name, metric, k, value, low, high, problems, samples) and returns their paths.

    Raises:
        DataError: there is nothing to plot.
    """
    named = dict(evals) if isinstance(evals, Mapping) else {e.label or f"evaluation {i + 1}": e for i, e in enumerate(evals)}
    if not named:
        raise DataError("no evaluation to plot")
    figure = figure_of(6.4, 4.6)
    axes = figure.add_subplot()
    _pass_panel(axes, named, start, looks(named))
    axes.set_title(title or "pass@k", loc="left", fontsize=11, fontweight="bold")
    axes.legend(frameon=False, loc="best")
    shown = [*([start] if start is not None else []), *named.values()]
    return finish(figure, f"{caption} {_about(shown)}".strip(), out, [HEADER, *_pass_rows(named, start)], dark=True)


def plot_sets(reports: Sequence[Report], out: Path, *, title: str = "", caption: str = "") -> list[Path]:
    """avg@n on each set and the two means, a point with its interval for each model, and below it pass@k on the sampled sets.

    Writes `out`.png, .svg, .csv and -dark.png and returns their paths.

    Raises:
        DataError: there is nothing to plot.
    """
    if not reports or not reports[0].sets:
        raise DataError("no sets to plot")
    names = [name for name in reports[0].sets if all(name in r.sets for r in reports)]
    sampled = [name for name in names if all(r.sets[name].ladder[-1] > 1 for r in reports)]
    look = looks(r.label for r in reports)
    columns = min(4, len(sampled))
    lines = -(-len(sampled) // columns) if sampled else 0
    figure = figure_of(max(7.0, 1.15 * (len(names) + 2)), 4.2 + 2.7 * lines)
    grid = figure.add_gridspec(1 + lines, max(1, columns), height_ratios=[1.35] + [1.0] * lines)
    top = figure.add_subplot(grid[0, :])
    _sets_panel(top, reports, names, look)
    top.set_title(title or "avg@n by set", loc="left", fontsize=11, fontweight="bold")
    for i, name in enumerate(sampled):
        axes = figure.add_subplot(grid[1 + i // columns, i % columns])
        _pass_panel(axes, {r.label: r.sets[name] for r in reports}, None, look)
        axes.set_title(f"pass@k on {name}", loc="left", fontsize=10)
        axes.set_xlabel("k (log scale)")
        axes.set_ylabel("share solved" if i % columns == 0 else "")
    sizes = "; ".join(f"{name} {reports[0].sets[name].size()}" for name in names)
    text = f"{caption} {LEVEL:.0%} intervals over problems. {sizes}. mean_of_sets: every set the same weight; mean_of_rows: weight by responses."
    table: list[list[Json]] = []
    for r in reports:
        for name in names:
            e = r.sets[name]
            table.append([r.label, f"{name}/avg", e.n, e.average.value, e.average.low, e.average.high, len(e.problems), e.n])
            table += [[r.label, f"{name}/pass_at_k", k, p.value, p.low, p.high, len(e.problems), e.n] for k, p in e.pass_at_k.items()]
        table += [[r.label, kind, "", m.value, m.low, m.high, "", ""] for kind, m in r.means.items()]
    return finish(figure, text.strip(), out, [HEADER, *table], dark=True)


def curves(
    runs: Mapping[str, Rows],
    evals: Mapping[str, Evaluation],
    out: Path,
    *,
    start: Evaluation | None = None,
    title: str = "",
    caption: str = "",
    smooth: int = 9,
) -> list[Path]:
    """Two panels: entropy against step for each run, and pass@k against k for their evaluations.

    Args:
        runs: rows of `metrics.jsonl` by the run's name, with keys `step` and `entropy/mean`.
        evals: evaluations by the run's name.
        start: the evaluation of the model before training, a dashed grey line.
        smooth: width in steps of the running mean that is drawn over the thin raw line; 1 for none.

    Writes `out`.png, .svg and .csv and returns their paths.

    Raises:
        DataError: nothing to plot, or a run without entropy.
    """
    if not runs or not evals:
        raise DataError("curves need at least one run and one evaluation")
    look = looks([*runs, *evals])
    figure = figure_of(10.4, 4.5)
    left, right = figure.subplots(1, 2)
    _entropy_panel(left, runs, look, smooth)
    left.set_title("Entropy while training", loc="left", fontsize=11, fontweight="bold")
    _pass_panel(right, evals, start, look)
    right.set_title("pass@k after training", loc="left", fontsize=11, fontweight="bold")
    right.legend(frameon=False, loc="best")
    if not set(runs) <= set(evals):
        left.legend(frameon=False, loc="best")
    if title:
        figure.suptitle(title, x=0.012, ha="left", fontsize=12)
    raw = f"thick lines: mean over {smooth} steps. " if smooth > 1 else ""
    shown = [*([start] if start is not None else []), *evals.values()]
    table: list[list[Json]] = [
        [name, "entropy", s, v, "", "", "", ""] for name, rows in runs.items() for s, v in zip(*series(rows), strict=True)
    ]
    text = f"{caption} Entropy: exact, over the full vocabulary; {raw}{_about(shown)}".strip()
    return finish(figure, text, out, [HEADER, *table, *_pass_rows(evals, start)])


def demo_table(runs: Mapping[str, Rows], evals: Mapping[str, Evaluation], start: Evaluation | None = None, *, tail: int = 30) -> Table:
    """What the figure shows, in numbers: entropy at the start and over the last `tail` steps, and pass@1 and pass@K with intervals."""
    from rich.table import Table

    named = {**({start.label or "start": start} if start is not None else {}), **evals}
    most = min(e.ladder[-1] for e in named.values())
    table = Table(caption=next(iter(named.values())).size(), caption_justify="left")
    table.add_column("run", no_wrap=True, min_width=max(map(len, named)))
    for name in ("H first", f"H last {tail}", "pass@1", f"pass@{most}"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, evaluation in named.items():
        values = series(runs[name])[1] if name in runs else []
        last = values[-tail:]
        one, many = evaluation.pass_at_k[1], evaluation.pass_at_k[most]
        table.add_row(
            name,
            f"{values[0]:.2f}" if values else "",
            f"{math.fsum(last) / len(last):.2f}" if last else "",
            f"{one.value:.2f} ({one.low:.2f} .. {one.high:.2f})",
            f"{many.value:.2f} ({many.low:.2f} .. {many.high:.2f})",
        )
    return table
