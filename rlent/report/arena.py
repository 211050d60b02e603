"""The table of all methods: what each came to, its difference from the base, and the same as JSON, CSV, Markdown and a figure."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rlent.eval.compare import by_seed
from rlent.eval.folder import write_json
from rlent.eval.result import Evaluation
from rlent.math.intervals import bootstrap_interval, paired_bootstrap
from rlent.metrics.final import SHARE, at_end
from rlent.plots.figure import clean, figure_of, finish
from rlent.plots.looks import looks
from rlent.track.record import read_metrics, series
from rlent.types import Json

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BASE = "grpo"


@dataclass(frozen=True, slots=True)
class Settings:
    """The budget every method gets. `overrides` apply to all jobs."""

    steps: int = 200
    n: int = 128
    k: int = 64
    problems: int = 128
    overrides: tuple[str, ...] = ()

    @property
    def ks(self) -> list[int]:
        """The k of pass@k in the table."""
        return list(dict.fromkeys((1, self.k)))


@dataclass(frozen=True, slots=True)
class Result:
    """A finished run with its evaluation; `seconds` of processor time, None where they were not kept."""

    seed: int
    run: Path
    evaluation: Path
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float

    def text(self, sign: str = "") -> str:
        return f"{self.value:{sign}.3f} ({self.low:{sign}.3f} .. {self.high:{sign}.3f})"


@dataclass(slots=True)
class Row:
    """What a recipe came to: means over its seeds. Entropies in nats per token; pass@k and its difference from the base by k.

    `evaluations` are those of its seeds; they are not written. `cost` is its time for a step relative to the base's.
    """

    recipe: str
    seeds: list[int]
    reward: float
    entropy_start: float
    entropy_end: float
    entropy_kept: float
    by_seed: dict[str, list[float]]
    passes: dict[int, Estimate]
    evaluations: dict[int, Evaluation]
    seconds_per_step: float | None = None
    cost: float | None = None
    differences: dict[int, Estimate] = field(default_factory=dict)
    note: str | None = None

    def plain(self) -> dict[str, Any]:
        """The row as it is written; what is not known is left out."""
        found = {
            "recipe": self.recipe,
            "seeds": self.seeds,
            "reward": self.reward,
            "entropy_start": self.entropy_start,
            "entropy_end": self.entropy_end,
            "entropy_kept": self.entropy_kept,
            "by_seed": self.by_seed,
            "seconds_per_step": self.seconds_per_step,
            **{f"pass@{k}": asdict(p) for k, p in self.passes.items()},
            "cost": self.cost,
            **{f"pass@{k}_difference": asdict(d) for k, d in self.differences.items()},
            "note": self.note,
        }
        return {name: value for name, value in found.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Table:
    """The rows of methods with finished jobs, what is missing with its reason, and how they were made."""

    settings: Settings
    version: str
    rows: list[Row]
    missing: dict[str, str]

    def plain(self) -> dict[str, Any]:
        """The table as it is written."""
        rows = [row.plain() for row in self.rows]
        return {"settings": asdict(self.settings), "version": self.version, "rows": rows, "missing": self.missing}


def row_of(recipe: str, results: Sequence[Result], ks: Sequence[int], share: float = SHARE) -> Row:
    """The row of a recipe; `share` of the steps are the end (`rlent.metrics.final`)."""
    metrics = [read_metrics(r.run) for r in results]
    evals = [Evaluation.load(r.evaluation / "eval.json") for r in results]
    entropy = [series(rows)[1] for rows in metrics]
    starts, ends = [e[0] for e in entropy], [at_end(e, share=share) for e in entropy]
    reward = [at_end(series(rows, "reward/mean")[1], share=share) for rows in metrics]
    seconds = [r.seconds / len(rows) for r, rows in zip(results, metrics, strict=True) if r.seconds is not None]
    passes = {k: by_seed([evals], k)[0] for k in ks}  # [seeds, problems]
    lists = {"reward": reward, "entropy_end": ends}
    return Row(
        recipe=recipe,
        seeds=[r.seed for r in results],
        reward=float(np.mean(reward)),
        entropy_start=float(np.mean(starts)),
        entropy_end=float(np.mean(ends)),
        entropy_kept=float(np.mean(ends) / np.mean(starts)),
        by_seed=lists | {f"pass@{k}": each.mean(1).tolist() for k, each in passes.items()},
        passes={k: _estimate(each.mean(0)) for k, each in passes.items()},
        evaluations={r.seed: e for r, e in zip(results, evals, strict=True)},
        seconds_per_step=float(np.mean(seconds)) if len(seconds) == len(results) else None,
    )


def _estimate(values: NDArray[np.float64]) -> Estimate:
    """The mean over problems, with a bootstrap interval over them."""
    low, high = bootstrap_interval(values)
    return Estimate(float(values.mean()), float(low), float(high))


def compare(rows: Sequence[Row], base: str = BASE) -> None:
    """Note in the rows what they differ from that of `base` in: time, and pass@k paired by problem over the seeds that both have.

    Rows without one of that name stay as they are.
    """
    first = next((row for row in rows if row.recipe == base), None)
    if first is None:
        return
    for row in rows:
        if row.seconds_per_step is not None and first.seconds_per_step is not None:
            row.cost = row.seconds_per_step / first.seconds_per_step
        if row is not first:
            row.differences = {k: d for k in row.passes if (d := _difference(row, first, k))}


def _difference(row: Row, base: Row, k: int) -> Estimate | None:
    """pass@k of a row less that of the base, paired by problem; None without a seed that both have."""
    seeds = [seed for seed in row.seeds if seed in base.seeds]
    if not seeds:
        return None
    mine, theirs = by_seed([[r.evaluations[seed] for seed in seeds] for r in (row, base)], k)
    d = paired_bootstrap(mine.mean(0), theirs.mean(0))
    return Estimate(d.value, d.low, d.high)


def head(k: int) -> list[str]:
    """The names of the table's columns."""
    return ["recipe", "seeds", "reward", "entropy", "kept", "pass@1", f"pass@{k}", f"pass@{k} - {BASE}", "time"]


def columns(row: Row, k: int) -> list[str]:
    """A row of the table as text."""
    difference = row.differences.get(k)
    return [
        row.recipe + ("*" if row.note else ""),
        str(len(row.seeds)),
        f"{row.reward:.3f}",
        f"{row.entropy_end:.3f}",
        f"{row.entropy_kept:.0%}",
        row.passes[1].text(),
        row.passes[k].text(),
        difference.text("+") if difference else "",
        "" if row.cost is None else f"{row.cost:.2f}",
    ]


def caption(settings: Settings) -> str:
    """What the columns are."""
    s = settings
    return (
        f"{s.steps} steps of the embedded task; means over seeds. reward and entropy (nats per token): means over the last twentieth of the "
        f"steps; kept: entropy at the end over entropy at the first step. pass@k: {s.problems} held-out problems x {s.n} samples, 95 % bootstrap "
        f"intervals over problems; the difference is paired by problem, over the seeds that both have. time: processor seconds per step of the whole training process, relative to {BASE}."
    )


def markdown(table: Table) -> str:
    """The table, its notes and what is missing."""
    k, names = table.settings.k, head(table.settings.k)
    lines = ["| " + " | ".join(names) + " |", "|---|" + "---:|" * (len(names) - 1)]
    lines += ["| " + " | ".join(columns(row, k)) + " |" for row in table.rows]
    notes = [f"\\* `{row.recipe}`: {row.note}" for row in table.rows if row.note]
    gaps = [f"Missing: {name}: {reason.splitlines()[-1]}" for name, reason in table.missing.items()]
    return "\n".join([*lines, "", caption(table.settings), *(f"\n{line}" for line in (*notes, *gaps))])


def write(table: Table, out: Path) -> list[Path]:
    """arena.json, arena.csv, arena.md and, where there are rows, the picture; returns what was written."""
    made = [out / "arena.json", out / "arena.csv", out / "arena.md"]
    write_json(made[0], table.plain())
    with made[1].open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(_cells(table))
    made[2].write_text(markdown(table) + "\n")
    if table.rows:
        made += picture(table, out / "arena-figure")
    return made


def _cells(table: Table) -> list[list[Json]]:
    """The CSV: the head, and the numbers in full."""
    points = ["pass@1", f"pass@{table.settings.k}", f"pass@{table.settings.k}_difference"]
    names = ["recipe", "seeds", "reward", "entropy_start", "entropy_end", "entropy_kept", "cost"]
    found: list[list[Json]] = [[*names, *(f"{p}{end}" for p in points for end in ("", "_low", "_high"))]]
    for row in table.rows:
        plain = {**row.plain(), "seeds": len(row.seeds)}
        numbers = [plain.get(p, {}).get(end, "") for p in points for end in ("value", "low", "high")]
        found.append([*(plain.get(name, "") for name in names), *numbers])
    return found


def picture(table: Table, out: Path) -> list[Path]:
    """Two panels, methods from top to bottom by pass@k: entropy kept (each seed a dot), and pass@1 and pass@k with intervals."""
    k = table.settings.k
    rows = sorted(table.rows, key=lambda row: row.passes[k].value)
    look = looks([BASE, "klcov"])  # two colours of the palette: the base's, and one for the others
    figure = figure_of(10.4, 1.9 + 0.235 * len(rows))
    left, right = figure.subplots(1, 2, sharey=True)
    for y, row in enumerate(rows):
        _draw(left, right, y, row, k, look[BASE if row.recipe == BASE else "klcov"].colour)
    left.set_yticks(range(len(rows)), [row.recipe for row in rows], fontsize=8)
    left.set_ylim(-0.7, len(rows) - 0.3)
    left.set_xlim(left=0)
    right.set_xlim(0, 1)
    left.set_title("Entropy kept", loc="left", fontsize=11, fontweight="bold")
    right.set_title(f"pass@1 (squares) and pass@{k} (dots)", loc="left", fontsize=11, fontweight="bold")
    left.set_xlabel("entropy at the end / at the first step (dots: seeds, bar: mean)")
    right.set_xlabel("share of held-out problems solved")
    for axes in (left, right):
        clean(axes)
    numbers: list[list[Json]] = [["recipe", "panel", "value", "low", "high"]]
    for row in table.rows:
        numbers.append([row.recipe, "entropy_kept", row.entropy_kept, "", ""])
        numbers += [[row.recipe, f"pass@{at}", p.value, p.low, p.high] for at, p in row.passes.items()]
    return finish(figure, caption(table.settings), out, numbers)


def _draw(left: Axes, right: Axes, y: float, row: Row, k: int, tone: str) -> None:
    """A method's line in both panels."""
    kept = [entropy / row.entropy_start for entropy in row.by_seed["entropy_end"]]
    left.plot(kept, [y] * len(kept), "o", color=tone, markersize=3.5, alpha=0.6)
    left.plot([row.entropy_kept], [y], "|", color=tone, markersize=11, markeredgewidth=2)
    for at, marker in ((1, "s"), (k, "o")):
        p = row.passes[at]
        right.plot([p.low, p.high], [y, y], color=tone, linewidth=1.6, alpha=0.55)
        right.plot([p.value], [y], marker, color=tone, markersize=4.5, markerfacecolor="white" if at == 1 else tone)


def show(table: Table, *, wide: bool) -> None:
    """Print the table; `wide` for a file, which has no width."""
    from rich.console import Console
    from rich.table import Table as Grid

    k = table.settings.k
    grid = Grid(caption=caption(table.settings), caption_justify="left")
    for name in head(k):
        grid.add_column(name, justify="left" if name == "recipe" else "right", no_wrap=True)
    for row in table.rows:
        grid.add_row(*columns(row, k))
    console = Console(width=160) if wide else Console()
    console.print(grid)
    for name, reason in table.missing.items():
        console.print(f"missing: {name}: {reason.splitlines()[-1]}", markup=False)


def settings_of(document: Mapping[str, Any]) -> Settings:
    """The settings of a table that was written."""
    return Settings(**{**document["settings"], "overrides": tuple(document["settings"]["overrides"])})
