"""`rlent fit`: the law R = -a e^H + b of finished or running runs, its ceiling, and how well its beginning forecasts its end."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rlent.errors import DataError, UsageError
from rlent.math.law import LEVEL, AcrossSizes, Forecast, Law, across_sizes, fit_law, forecast
from rlent.runs.folder import RunFolder
from rlent.track.record import read_rows
from rlent.train.law import ENTROPY, SCORE, interventions, pairs
from rlent.types import Json, JsonObject

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from rlent.plots.looks import Look


@dataclass(frozen=True, slots=True)
class Points:
    """What is fitted: the metrics `x` (entropy) and `y` (score), the share of the points that forecasts use, and whether with interventions."""

    x: str = ENTROPY
    y: str = SCORE
    early: float = 0.15
    force: bool = False


@dataclass(frozen=True)
class Fit:
    """One run's pairs and law, or the reason there is none."""

    run: str
    steps: list[int]
    entropy: list[float]
    score: list[float]
    law: Law | None
    forecast: Forecast | None
    warnings: list[str]
    parameters: int | None


def parameters(folder: Path) -> int | None:
    """Parameters of the exported model without its embeddings, from the headers of its weights."""
    count = 0
    for file in sorted((folder / "model").glob("*.safetensors")):
        with file.open("rb") as handle:
            (length,) = struct.unpack("<Q", handle.read(8))
            header = json.loads(handle.read(length))
        count += sum(math.prod(t["shape"]) for n, t in header.items() if n != "__metadata__" and "embed" not in n and "lm_head" not in n)
    return count or None


def runs_in(places: Sequence[str]) -> list[Path]:
    """Run folders; a sweep's folder stands for its runs.

    Raises:
        UsageError: a place is neither.
    """
    found: list[Path] = []
    for place in places:
        path = Path(place)
        inside = sorted(p.parent for p in path.glob("*/recipe.yaml"))
        if (path / "recipe.yaml").is_file():
            found.append(path)
        elif inside:
            found += inside
        else:
            raise UsageError(f"'{place}' is no run and no sweep: it has no recipe.yaml, and no folder in it has one")
    return found


def _fork(folder: Path) -> int | None:
    """The step from which a branch has a recipe of its own; None for other runs."""
    file = folder / "run.json"
    origin = json.loads(file.read_text()).get("fork") if file.is_file() else None
    return int(origin["step"]) if origin and origin["changed"] else None


def fit_run(folder: Path, points: Points = Points()) -> Fit:
    """The law of one run. A run with an intervention has none unless `points.force`.

    Raises:
        DataError: the run has no metrics, or never logged one of the two.
    """
    rows = read_rows(folder / "metrics.jsonl")
    if not rows:
        raise DataError(f"{folder} has logged no step yet")
    origin = _fork(folder)
    if origin is not None:  # what came before the fork is the parent's, under another recipe
        rows = [r for r in rows if r["step"] > origin]
    for name in (points.x, points.y):
        if not any(r.get(name) is not None for r in rows):
            known = sorted({k for r in rows for k in r if k.split("/")[0] == name.split("/")[0]})
            raise DataError(f"{folder} never logged {name}; it has {', '.join(known) or 'nothing of that group'} (evaluation: eval.every)")
    steps, entropy, score = pairs(rows, x=points.x, y=points.y)
    acting = interventions(RunFolder(folder).config)
    size = parameters(folder)
    warnings = [] if origin is None else [f"a branch: only what came after step {origin} is fitted"]
    if acting and not points.force:
        text = f"the law is not fitted: {', '.join(acting)} acts on entropy, and the result would be no ceiling (--force fits it anyway)"
        return Fit(str(folder), steps, entropy, score, None, None, [text], size)
    if acting:
        warnings.append(f"{', '.join(acting)} acts on entropy: b - a is no ceiling")
    try:
        law = fit_law(entropy, score)
    except ValueError as error:
        return Fit(str(folder), steps, entropy, score, None, None, [*warnings, str(error)], size)
    return Fit(str(folder), steps, entropy, score, law, forecast(entropy, score, points.early), [*warnings, *law.doubts()], size)


def main(
    places: Sequence[str],
    points: Points,
    *,
    predict: float | None = None,
    out: str | None = None,
    as_json: bool = False,
) -> int:
    """Fit, print, and with `out` draw. Returns 1 if no run has a law."""
    fits = [fit_run(folder, points) for folder in runs_in(places)]
    sizes = _sizes(fits)
    if predict is not None and sizes is None:
        raise UsageError("--predict needs laws of models of at least two sizes")
    files = [str(f) for f in _plot(fits, sizes, Path(out), points.y)] if out and any(f.law for f in fits) else []
    if as_json:
        document: dict[str, object] = {"x": points.x, "y": points.y, "level": LEVEL, "runs": [_plain(f) for f in fits], "files": files}
        if sizes is not None:
            document["sizes"] = {**asdict(sizes), "ceiling": None if predict is None else sizes.ceiling(predict)}
        print(json.dumps(document, indent=1, allow_nan=False))
    else:
        _print(fits, sizes, predict, points)
        for file in files:
            print(file)
    return 0 if any(f.law for f in fits) else 1


def _sizes(fits: Sequence[Fit]) -> AcrossSizes | None:
    known = [(f.parameters, f.law) for f in fits if f.law is not None and f.parameters]
    if len({n for n, _ in known}) < 2:
        return None
    return across_sizes([float(n or 0) for n, _ in known], [law for _, law in known])


def _plain(fit: Fit) -> JsonObject:
    found = asdict(fit)
    if fit.law is not None:
        found["law"]["ceiling"] = fit.law.ceiling
        found["law"] = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in found["law"].items()}
    return found


def _print(fits: Sequence[Fit], sizes: AcrossSizes | None, predict: float | None, points: Points) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.width = max(console.width, 110)
    table = Table(title=f"{points.y} = -a exp({points.x}) + b", title_justify="left", caption_justify="left")
    table.caption = (
        f"brackets: {LEVEL:.0%} bootstrap over points; forecast: fitted on the first {points.early:.0%} of the points, error on the rest"
    )
    for name in ("run", "points", "entropy", "a", "b", "ceiling b - a", "R2", "spread", "forecast rmse"):
        table.add_column(name, justify="left" if name == "run" else "right", overflow="fold")
    for fit in fits:
        law = fit.law
        if law is None:
            table.add_row(fit.run, str(len(fit.steps)), *["-"] * 7)
            continue
        low, high = law.ceiling_interval
        table.add_row(
            fit.run,
            str(law.points),
            f"{fit.entropy[0]:.2f} -> {fit.entropy[-1]:.2f}",
            f"{law.a:.3f}",
            f"{law.b:.3f}",
            f"{law.ceiling:.3f} ({low:.3f} .. {high:.3f})",
            f"{law.r2:.2f}",
            f"{law.spread:.3f}",
            f"{fit.forecast.rmse:.3f}" if fit.forecast else "-",
        )
    console.print(table)
    for fit in fits:
        for warning in fit.warnings:
            console.print(f"{fit.run}: {warning}", style="yellow", markup=False, highlight=False)
    if sizes is not None:
        console.print(
            f"across {sizes.sizes} sizes: a = {sizes.a[0]:.4g} + {sizes.a[1]:.4g} ln N, b = {sizes.b[0]:.4g} + {sizes.b[1]:.4g} ln N",
            highlight=False,
        )
        if predict is not None:
            console.print(f"ceiling at N = {predict:.4g}: {sizes.ceiling(predict):.3f}", highlight=False)


def _million(parameters: float) -> str:
    return f"{parameters / 1e6:.3g} M" if parameters < 1e9 else f"{parameters / 1e9:.3g} B"


def _labels(fits: Sequence[Fit], sizes: AcrossSizes | None) -> dict[str, str]:
    """What a run is called in the figure: its folder's name; where models of several sizes are fitted, its size."""
    if sizes is None:
        return {fit.run: Path(fit.run).name for fit in fits}
    order = sorted(fits, key=lambda f: f.parameters or 0)
    return {fit.run: f"{_million(fit.parameters)} parameters" if fit.parameters else Path(fit.run).name for fit in order}


def _plot(fits: Sequence[Fit], sizes: AcrossSizes | None, out: Path, y: str) -> list[Path]:
    """Points and laws: score against entropy; with several sizes also their coefficients against the parameter count."""
    from rlent.plots.figure import clean, figure_of, finish
    from rlent.plots.looks import looks

    figure = figure_of(10.4 if sizes else 6.4, 4.6)
    axes, beside = figure.subplots(1, 2, width_ratios=[1.35, 1]) if sizes else (figure.subplots(), None)
    names = _labels(fits, sizes)
    look = looks(names.values())
    runs = list(names.values())
    rows: list[list[Json]] = [["run", "parameters", "step", "entropy", "score", "law"]]
    widest = max(h for fit in fits for h in fit.entropy)
    for index, fit in enumerate(sorted(fits, key=lambda f: list(names).index(f.run))):
        name = names[fit.run]
        at, count = index - runs.index(name), runs.count(name)  # which of the runs with this label
        _points(axes, fit, look[name], f"{name}, {count} runs" if count > 1 else name, first=at == 0)
        rows += _numbers(fit)
        if fit.law is None:
            continue
        _law(axes, fit, fit.law, look[name])
        _ceiling(axes, -0.014 * widest * (index + 1), fit.law, look[name], clip_on=False)  # beside each other, left of zero
        if beside is not None and fit.parameters:
            _ceiling(beside, fit.parameters * 1.03 ** (at - (count - 1) / 2), fit.law, look[name])  # bars side by side
    axes.set_xlabel("entropy (nats per token)")
    axes.set_ylabel(y)
    axes.set_xlim(left=-0.014 * widest * (len(fits) + 1.5))
    clean(axes)
    axes.legend(frameon=False)
    caption = f"Lines: least squares in exp(entropy). Bars left of 0: the ceilings b - a, {LEVEL:.0%} bootstrap over points."
    if beside is not None and sizes is not None:
        _sizes_panel(beside, sizes, sorted({f.parameters for f in fits if f.law is not None and f.parameters}))
        caption += " Right: the same ceilings, and a line in ln N through a and b."
    return finish(figure, caption, out, rows)


def _points(axes: Axes, fit: Fit, look: Look, label: str, *, first: bool) -> None:
    """A run's pairs; the first run of a label has it in the legend."""
    axes.scatter(
        fit.entropy, fit.score, s=16, color=look.colour, marker=look.marker, alpha=0.6, linewidths=0, label=label if first else None
    )


def _law(axes: Axes, fit: Fit, law: Law, look: Look) -> None:
    """A run's law from entropy 0 on."""
    grid = np.linspace(0, max(fit.entropy), 80)
    axes.plot(grid, [law.at(h) for h in grid], color=look.colour, linestyle=look.dash, linewidth=1.6)


def _ceiling(axes: Axes, x: float, law: Law, look: Look, **options: Any) -> None:
    """A law's ceiling with its interval."""
    low, high = law.ceiling_interval
    bar = [[max(0.0, law.ceiling - low)], [max(0.0, high - law.ceiling)]]
    axes.errorbar([x], [law.ceiling], yerr=bar, color=look.colour, capsize=3, fmt=look.marker, markersize=4.5, **options)


def _numbers(fit: Fit) -> list[list[Json]]:
    """The rows of the figure's CSV."""
    name, law = Path(fit.run).name, fit.law
    return [
        [name, fit.parameters, s, h, v, "" if law is None else law.at(h)] for s, h, v in zip(fit.steps, fit.entropy, fit.score, strict=True)
    ]


def _sizes_panel(axes: Axes, sizes: AcrossSizes, counts: Sequence[int]) -> None:
    """The ceiling that the lines through a and b give, over the sizes that were fitted."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    from rlent.plots.figure import clean

    grid = np.geomspace(counts[0] * 0.9, counts[-1] * 1.1, 40)
    axes.plot(grid, [sizes.ceiling(n) for n in grid], color="#7f7f7f", linewidth=1.2, linestyle="--", zorder=1)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(counts))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda n, _: _million(n)))
    axes.set_xlabel("parameters without embeddings, N (log scale)")
    axes.set_ylabel("ceiling b - a")
    clean(axes)
