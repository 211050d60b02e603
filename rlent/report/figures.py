"""The report's figures. Each says what it shows, in which units, from how many seeds, and carries its numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from rlent.math.law import fit_law
from rlent.metrics import explain
from rlent.plots.figure import running_mean
from rlent.plots.looks import Look
from rlent.plots.style import MUTED, Drawn, legend, sheet
from rlent.report import compare
from rlent.report.collect import Collection, Method, RunData, Tree
from rlent.train.law import interventions, pairs
from rlent.types import Json, JsonObject

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

SMOOTH = 9
"""Steps of the running mean drawn over long curves."""

SHARES = ("0.0002", "0.002", "0.02", "0.2", "0.5")
NAMES = {
    "entropy/mean": ("Entropy", "nats per token"),
    "reward/mean": ("Reward", "mean over responses"),
    "correct/mean": ("Correct", "share of responses"),
    "length/mean": ("Response length", "tokens"),
    "cov/mean": ("Covariance of log-probability and advantage", "nats"),
}


def _handles(
    looks: Mapping[str, Look], labels: Sequence[str], counts: Mapping[str, int] | None = None, marker: bool = False
) -> list[Line2D]:
    from matplotlib.lines import Line2D

    out = []
    for label in labels:
        look = looks[label]
        text = f"{label} ({counts[label]})" if counts and counts[label] > 1 else label
        out.append(
            Line2D(
                [],
                [],
                color=look.colour,
                linestyle=look.dash,
                linewidth=1.9,
                marker=look.marker if marker or not look.plain else None,
                markersize=5,
                label=text,
            )
        )
    return out


def over_seeds(runs: Sequence[RunData], metric: str) -> tuple[list[int], list[float], list[float], list[float]]:
    """Steps that every run with this metric has, the mean over runs, and the lowest and highest."""
    series = [dict(zip(*r.series(metric), strict=True)) for r in runs]
    series = [s for s in series if s]
    if not series:
        return [], [], [], []
    steps = sorted(set.intersection(*(set(s) for s in series)))
    values = [[s[t] for s in series] for t in steps]
    return steps, [math.fsum(v) / len(v) for v in values], [min(v) for v in values], [max(v) for v in values]


def curve(axes: Axes, runs: Sequence[RunData], metric: str, look: Look, *, smooth: int = SMOOTH) -> list[list[Json]]:
    """A method's curve: the mean over seeds, their range as a band; long curves smoothed. Returns rows (step, mean, low, high)."""
    steps, mean, low, high = over_seeds(runs, metric)
    wide = smooth > 1 and len(steps) > 4 * smooth
    shown = [running_mean(v, smooth) for v in (mean, low, high)] if wide else [mean, low, high]
    if len(runs) > 1:
        axes.fill_between(steps, shown[1], shown[2], color=look.colour, alpha=0.16, linewidth=0)
    marks = {"marker": look.marker, "markersize": 4} if len(steps) == 1 else look.sparse(len(steps))
    axes.plot(steps, shown[0], color=look.colour, linestyle=look.dash, linewidth=1.7, **marks)
    return [list(row) for row in zip(steps, mean, low, high, strict=True)]


def metric_panels(
    methods: Sequence[Method], metrics: Sequence[str], looks: Mapping[str, Look], *, smooth: int = SMOOTH, columns: int = 3
) -> Drawn:
    """Small multiples: one panel for each metric, one line for each method."""
    columns = 2 if len(metrics) == 4 else min(columns, len(metrics))
    rows = -(-len(metrics) // columns)
    table: list[list[Json]] = [["metric", "method", "step", "mean", "low", "high"]]
    with sheet(3.45 * columns + 0.4, 2.65 * rows + 0.45, rows, columns, sharex=True) as (figure, panels):
        for panel, metric in zip(panels, metrics, strict=False):
            title, unit = NAMES.get(metric) or (metric, (m.unit if (m := explain(metric)) else ""))
            for method in methods:
                found = curve(panel, method.runs, metric, looks[method.label], smooth=smooth)
                table += [[metric, method.label, *row] for row in found]
            panel.set_title(title)
            panel.set_ylabel(unit)
            if metric.startswith("entropy/") or metric == "length/mean":
                panel.set_ylim(bottom=0)
        for panel in panels[len(metrics) :]:
            panel.set_visible(False)
        for i, panel in enumerate(panels[: len(metrics)]):
            if i + columns >= len(metrics):
                panel.set_xlabel("step")
                panel.tick_params(labelbottom=True)
        legend(figure, _handles(looks, [m.label for m in methods], {m.label: len(m.runs) for m in methods}))
    counts = sorted({len(m.runs) for m in methods})
    bands = "Lines: means over seeds (number in brackets); bands: their range. " if counts[-1] > 1 else "One seed each. "
    lines = f"Long curves are means over {smooth} steps; the CSV has every step. " if smooth > 1 else ""
    return Drawn(
        "curves", "Entropy, reward and length while training", bands + lines + "Entropy: exact, over the full vocabulary.", figure, table
    )


def law(collection: Collection, looks: Mapping[str, Look], y: str = "eval/pass@1") -> Drawn | None:
    """Score against the entropy of the same weights, and the law of the methods it holds for."""
    drawn, drawn_laws = False, 0
    table: list[list[Json]] = [["method", "seed", "step", "entropy", "score", "law"]]
    said = []
    with sheet(7.2, 4.1) as (figure, (axes,)):
        for method in collection.methods:
            look = looks[method.label]
            points = [(r, *pairs(_own(r), y=y)) for r in method.runs]
            if not any(s for _, s, _, _ in points):
                continue
            drawn = True
            entropy = [h for _, _, hs, _ in points for h in hs]
            score = [v for _, _, _, vs in points for v in vs]
            axes.scatter(entropy, score, s=20, color=look.colour, marker=look.marker, alpha=0.7, linewidths=0)
            fitted = None
            if not interventions(method.config):
                try:
                    fitted = fit_law(entropy, score)
                except ValueError:
                    fitted = None
            if fitted is not None and not fitted.doubts():
                grid = np.linspace(0, max(entropy), 60)
                axes.plot(grid, [fitted.at(h) for h in grid], color=look.colour, linestyle=look.dash, linewidth=1.6)
                low, high = fitted.ceiling_interval
                drawn_laws += 1
                axes.errorbar(
                    [-0.014 * drawn_laws * max(entropy)], [fitted.ceiling], yerr=[[max(0.0, fitted.ceiling - low)], [max(0.0, high - fitted.ceiling)]],
                    color=look.colour, capsize=3, fmt="none", clip_on=False,
                )  # fmt: skip
                said.append(
                    f"{method.label}: a = {fitted.a:.3f}, b = {fitted.b:.3f}, ceiling {fitted.ceiling:.3f} ({low:.3f} to {high:.3f}), "
                    f"R² {fitted.r2:.2f}, {fitted.points} points"
                )
            elif fitted is not None:
                said.append(f"{method.label}: no law ({'; '.join(fitted.doubts())})")
            for run, steps, hs, vs in points:
                table += [
                    [method.label, run.seed, s, h, v, "" if fitted is None else fitted.at(h)] for s, h, v in zip(steps, hs, vs, strict=True)
                ]
        axes.set_xlabel("entropy of the evaluated weights, nats per token")
        axes.set_ylabel(f"{y.removeprefix('eval/')} on held-out problems")
        axes.set_xlim(left=-0.014 * (drawn_laws + 1.5) * axes.get_xlim()[1])
        legend(figure, _handles(looks, [m.label for m in collection.methods], marker=True))
    if not drawn:
        return None
    caption = "Lines: R = -a exp(H) + b, least squares in exp(H), for methods without intervention; bars left of 0: the ceiling b - a, 95 % bootstrap. "
    caption += ". ".join(said) + "." if said else "No method here has a law: too few evaluations, or all of them intervene on entropy."
    return Drawn("law", "Score against entropy", caption, figure, table)


def _own(run: RunData) -> list[JsonObject]:
    """A run's rows without those that a branch has from its parent, under another recipe."""
    return [r for r in run.rows if not (run.fork and run.fork["changed"]) or r["step"] > run.fork["step"]]


def covariance(methods: Sequence[Method], looks: Mapping[str, Look]) -> Drawn | None:
    """Mean covariance over the run, and its means over the top shares of tokens, early and late."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    table: list[list[Json]] = [["metric", "method", "step or share", "mean", "low", "high"]]
    shares = [float(s) for s in SHARES]
    if not any(over_seeds(m.runs, "cov/mean")[0] for m in methods):
        return None
    with sheet(10.4, 3.4, 1, 3, width_ratios=[1.15, 1, 1]) as (figure, (left, first, last)):
        last.sharey(first)
        for method in methods:
            look = looks[method.label]
            table += [["cov/mean", method.label, *row] for row in curve(left, method.runs, "cov/mean", look, smooth=25)]
            for panel, part in ((first, "first tenth"), (last, "last tenth")):
                values = [_tenth(method.runs, f"cov/top_{s}", late=part.startswith("last")) for s in SHARES]
                panel.plot(shares, values, color=look.colour, linestyle=look.dash, marker=look.marker, markersize=4.5, linewidth=1.6)
                table += [[f"cov/top, {part}", method.label, s, v, "", ""] for s, v in zip(SHARES, values, strict=True)]
        left.set_title("Mean over all tokens")
        left.set_xlabel("step")
        left.set_ylabel("covariance, nats")
        left.axhline(0, color=MUTED, linewidth=0.8)
        for panel, title in ((first, "Top tokens, early"), (last, "Top tokens, late")):
            panel.set_xscale("log")
            if all(row[3] > 0 for row in table[1:] if row[0].startswith("cov/top")):
                panel.set_yscale("log")
            else:
                panel.set_yscale("symlog", linthresh=0.01)
            panel.xaxis.set_major_locator(FixedLocator(shares))
            panel.xaxis.set_minor_locator(NullLocator())
            panel.xaxis.set_major_formatter(FuncFormatter(lambda x, _: "" if x > 0.4 else f"{100 * x:g} %"))
            panel.tick_params(axis="x", labelsize=8.5)
            panel.set_xlabel("share of tokens, largest products")
            panel.set_title(title)
        first.set_ylabel("mean product, nats")
        legend(figure, _handles(looks, [m.label for m in methods], marker=True))
    caption = "The product (log p - mean)(A - mean) of each token; its mean is the covariance that spends entropy. Means over seeds; left: over 25 steps; early and late: the first and last tenth of the run, top 0.02 to 50 % of tokens."
    return Drawn("covariance", "Covariance by share of tokens", caption, figure, table)


def _tenth(runs: Sequence[RunData], metric: str, *, late: bool) -> float:
    values = []
    for run in runs:
        own = run.series(metric)[1]
        count = max(1, len(own) // 10)
        values += own[-count:] if late else own[:count]
    return math.fsum(values) / len(values) if values else math.nan


def pass_at_k(collection: Collection, looks: Mapping[str, Look]) -> Drawn | None:
    """pass@k against k: the model before training (or the first evaluation), and each method at the end."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    lines: list[tuple[str, dict[int, compare.Point], Look]] = []
    how = ""
    grey = Look(MUTED, "", (0, (4, 2)))
    if collection.start is not None:
        start = collection.start
        lines.append(("before training", {k: compare.Point(e.value, e.low, e.high) for k, e in start.pass_at_k.items()}, grey))
    elif any(r.final_eval is None for r in collection.runs) and (found := compare.recorded_curve(collection.base, last=False)):
        lines.append((f"{collection.base.label}, step {compare.first_step(collection.base)}", found[0], grey))
    for method in collection.methods:
        if one := compare.pass_curve(method):
            lines.append((method.label, one[0], looks[method.label]))
            how = one[1]
    for e in collection.loose:
        points = {k: compare.Point(p.value, p.low, p.high) for k, p in e.pass_at_k.items()}
        lines.append((e.label, points, Look(MUTED, "x", (0, (1, 1.5)))))
    if not any(label in looks for label, _, _ in lines):
        return None
    table: list[list[Json]] = [["method", "k", "pass@k", "low", "high"]]
    ticks = sorted({k for _, points, _ in lines for k in points})
    with sheet(7.2, 4.1) as (figure, (axes,)):
        for label, points, look in lines:
            ks = list(points)
            values = list(points.values())
            if not any(math.isnan(p.low) for p in values):
                axes.fill_between(ks, [p.low for p in values], [p.high for p in values], color=look.colour, alpha=0.14, linewidth=0)
            axes.plot(ks, [p.value for p in values], color=look.colour, linestyle=look.dash, marker=look.marker, markersize=5, linewidth=1.7, label=label)  # fmt: skip
            table += [[label, k, p.value, p.low, p.high] for k, p in points.items()]
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axes.set_ylim(bottom=0)
        axes.set_xlabel("k, samples per problem (log scale)")
        axes.set_ylabel("pass@k, share of problems solved")
        handles, _ = axes.get_legend_handles_labels()
        legend(figure, handles)
    final = collection.base.runs[0].final_eval
    size = f"At the end: {final.size()}. " if final and "problems" in how else "From the evaluations made while training. "
    return Drawn("pass_at_k", "pass@k at the start and at the end", f"{size}Unbiased estimates; bands: {how}.", figure, table)


def differences(found: Sequence[compare.Paired], base: str, looks: Mapping[str, Look]) -> Drawn | None:
    """Paired differences from the first method with intervals, one panel for each metric."""
    metrics = list(dict.fromkeys(d.metric for d in found))
    if not metrics:
        return None
    labels = list(dict.fromkeys(d.label for d in found))
    table: list[list[Json]] = [["metric", "method", "difference", "low", "high", "p (Holm)", "pairs", "over"]]
    with sheet(9.4, 1.15 + 0.36 * len(labels), 1, len(metrics), sharey=True) as (figure, panels):
        for panel, metric in zip(panels, metrics, strict=True):
            for d in (d for d in found if d.metric == metric):
                y, look = labels.index(d.label), looks[d.label]
                if not math.isnan(d.low):
                    panel.plot([d.low, d.high], [y, y], color=look.colour, linewidth=2, solid_capstyle="butt")
                panel.plot([d.value], [y], color=look.colour, marker=look.marker, markersize=7, linestyle="none")
                table.append([metric, d.label, d.value, d.low, d.high, d.p, d.pairs, d.over])
            panel.axvline(0, color=MUTED, linewidth=1)
            panel.set_title(metric.removeprefix("eval/"))
            panel.set_xlabel(f"difference from {base}")
            panel.set_yticks(range(len(labels)), labels)
            panel.set_ylim(len(labels) - 0.5, -0.5)
            panel.margins(x=0.12)
    how = (
        "problem by problem, each the mean over seeds; 95 % paired bootstrap over problems; p from Wilcoxon's signed ranks, Holm-corrected"
    )
    if found[0].pairs == 1:
        how = "between two runs of one seed: no interval"
    elif found[0].over == "seeds":
        how = f"seed by seed ({found[0].pairs}); 95 % by Student's t; p from all sign flips, which cannot be below {2 / 2 ** found[0].pairs:g}, Holm-corrected"
    return Drawn("differences", f"Differences from {base}", f"Taken {how}.", figure, table)


def interquartile(methods: Sequence[Method], ks: Sequence[int], looks: Mapping[str, Look]) -> Drawn | None:
    """Interquartile means over seeds and problems with stratified bootstrap intervals."""
    found = {(m.label, k): p for m in methods for k in ks if (p := compare.iqm(m, k))}
    if not found:
        return None
    labels = [m.label for m in methods if (m.label, ks[0]) in found]
    table: list[list[Json]] = [["metric", "method", "interquartile mean", "low", "high"]]
    with sheet(9.4, 1.15 + 0.36 * len(labels), 1, len(ks), sharey=True) as (figure, panels):
        for panel, k in zip(panels, ks, strict=True):
            for y, label in enumerate(labels):
                p, look = found[label, k], looks[label]
                if not math.isnan(p.low):
                    panel.plot([p.low, p.high], [y, y], color=look.colour, linewidth=7, alpha=0.35, solid_capstyle="butt")
                panel.plot([p.value], [y], color=look.colour, marker="|", markersize=15, markeredgewidth=2.4, linestyle="none")
                table.append([f"pass@{k}", label, p.value, p.low, p.high])
            panel.set_title(f"pass@{k}")
            panel.set_xlabel("interquartile mean")
            panel.set_yticks(range(len(labels)), labels)
            panel.set_ylim(len(labels) - 0.5, -0.5)
            panel.margins(x=0.12)
    caption = (
        "Mean of the middle half of all (seed, problem) values of pass@k; 95 % bootstrap over seeds inside each problem (Agarwal et al. 2021). "
        "It leaves out problems that are always or never solved, so it differs from pass@k."
    )
    if any(math.isnan(p.low) for p in found.values()):
        caption += " One seed has no interval."
    return Drawn("interquartile", "Interquartile means", caption, figure, table)


def cost(methods: Sequence[Method], looks: Mapping[str, Look]) -> Drawn | None:
    """Seconds of a step by stage."""
    stages = [
        k.removeprefix("seconds/")
        for k in dict.fromkeys(k for m in methods for r in m.runs for row in r.rows[-3:] for k in row)
        if k.startswith("seconds/") and k != "seconds/step"
    ]
    if not stages:
        return None
    from matplotlib import colormaps

    table: list[list[Json]] = [["method", "stage", "seconds per step"]]
    order = ["sample", "grade", "look_back", "shape", "now", "update", "publish", "measure", "eval", "checkpoint"]
    stages = sorted(set(stages), key=lambda s: (order.index(s) if s in order else 99, s))
    with sheet(9.4, 1.5 + 0.34 * len(methods)) as (figure, (axes,)):
        ramp = colormaps["cividis"](np.linspace(0.3, 1, len(stages)))
        left = [0.0] * len(methods)
        for i, stage in enumerate(stages):
            widths = [math.fsum(r.total(f"seconds/{stage}") for r in m.runs) / max(1, sum(len(r.rows) for r in m.runs)) for m in methods]
            axes.barh(range(len(methods)), widths, left=left, height=0.62, color=ramp[i], label=stage, edgecolor="none")
            left = [a + b for a, b in zip(left, widths, strict=True)]
            table += [[m.label, stage, w] for m, w in zip(methods, widths, strict=True)]
        axes.set_yticks(range(len(methods)), [m.label for m in methods])
        axes.set_ylim(len(methods) - 0.5, -0.5)
        axes.set_xlabel("seconds per step, mean over the run")
        axes.grid(axis="y", visible=False)
        handles, _ = axes.get_legend_handles_labels()
        figure.legend(
            handles=handles,
            loc="outside upper left",
            ncols=len(stages) if len(stages) <= 9 else (len(stages) + 1) // 2,
            fontsize=9,
            handlelength=1,
            columnspacing=1.2,
        )
    return Drawn(
        "cost",
        "Where the time goes",
        "Wall time by stage, evaluations and checkpoints spread over all steps. Other work on the machine is in it.",
        figure,
        table,
    )


def fork_tree(trees: Sequence[Tree], looks: Mapping[str, Look]) -> Drawn:
    """Forks of one step: the trunk and its branches above, paired differences from the first branch below."""
    from matplotlib.lines import Line2D

    step, metrics = trees[0].step, ("entropy/mean", "reward/mean", "length/mean")
    labels = list(dict.fromkeys(label for t in trees for label, _ in t.branches))
    base = labels[0]
    table: list[list[Json]] = [["metric", "branch", "kind", "step", "mean", "low", "high"]]
    with sheet(10.4, 5.4, 2, 3, sharex="col", height_ratios=[1.25, 1]) as (figure, panels):
        for column, metric in enumerate(metrics):
            top, bottom = panels[column], panels[3 + column]
            trunk = [t.branches[0][1] for t in trees]
            steps, mean, low, high = over_seeds(trunk, metric)
            before = [i for i, s in enumerate(steps) if s <= step]
            top.plot([steps[i] for i in before], _smooth([mean[i] for i in before]), color=MUTED, linewidth=2)
            table += [[metric, "trunk", "value", steps[i], mean[i], low[i], high[i]] for i in before]
            for label in labels:
                look = looks[label]
                own = [r for t in trees for name, r in t.branches if name == label]
                table += _branch(top, own, metric, step, look, label)
                if label != base:
                    table += _paired_branch(bottom, trees, label, base, metric, step, look)
            title, unit = NAMES[metric]
            top.set_title(title)
            top.set_ylabel(unit)
            bottom.axhline(0, color=MUTED, linewidth=1)
            bottom.set_ylabel(f"minus {base}")
            bottom.set_xlabel("step")
            for panel in (top, bottom):
                panel.axvline(step, color=MUTED, linewidth=0.9, linestyle=(0, (2, 2)))
        legend(figure, [Line2D([], [], color=MUTED, linewidth=2, label="before the fork"), *_handles(looks, labels)])
    many = (
        f"{len(trees)} parents, one for each seed: means and ranges. "
        if len(trees) > 1
        else "One parent: a paired difference, of one draw of the noise. "
    )
    caption = (
        f"Branches of step {step} (dotted) of {trees[0].name}: same weights, optimizer state, prompts and noise. Above: the trunk in grey, then the "
        f"branches. Below: differences step by step, running means. {many}In the first step after the fork all branches sampled the same responses."
    )
    return Drawn(f"fork_{step}", f"Fork at step {step}", caption, figure, table)


def _smooth(values: Sequence[float]) -> list[float]:
    return running_mean(list(values), SMOOTH) if len(values) > 3 * SMOOTH else list(values)


def _branch(axes: Axes, runs: Sequence[RunData], metric: str, step: int, look: Look, label: str) -> list[list[Json]]:
    steps, mean, low, high = over_seeds(runs, metric)
    after = [i for i, s in enumerate(steps) if s > step]
    x = [steps[i] for i in after]
    if len(runs) > 1:
        axes.fill_between(
            x, _smooth([low[i] for i in after]), _smooth([high[i] for i in after]), color=look.colour, alpha=0.15, linewidth=0
        )
    axes.plot(x, _smooth([mean[i] for i in after]), color=look.colour, linestyle=look.dash, linewidth=1.7, **look.sparse(len(x)))
    return [[metric, label, "value", steps[i], mean[i], low[i], high[i]] for i in after]


def _paired_branch(axes: Axes, trees: Sequence[Tree], label: str, base: str, metric: str, step: int, look: Look) -> list[list[Json]]:
    found = []
    for tree in trees:
        named = dict(tree.branches)
        if label in named and base in named:
            one, two = (dict(zip(*named[n].series(metric), strict=True)) for n in (label, base))
            found.append({s: one[s] - two[s] for s in one if s > step and s in two})
    if not found:
        return []
    steps = sorted(set.intersection(*(set(f) for f in found)))
    values = [[f[s] for f in found] for s in steps]
    mean, low, high = [math.fsum(v) / len(v) for v in values], [min(v) for v in values], [max(v) for v in values]
    if len(found) > 1:
        axes.fill_between(steps, _smooth(low), _smooth(high), color=look.colour, alpha=0.15, linewidth=0)
    axes.plot(steps, _smooth(mean), color=look.colour, linestyle=look.dash, linewidth=1.7, **look.sparse(len(steps)))
    return [[metric, label, f"minus {base}", s, m, lo, hi] for s, m, lo, hi in zip(steps, mean, low, high, strict=True)]
