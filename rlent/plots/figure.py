"""What every figure of rlent is drawn with: a figure without pyplot, axes without a box, and a picture with its numbers beside it."""

from __future__ import annotations

import csv
import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rlent.types import Json

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def running_mean(values: Sequence[float], width: int) -> list[float]:
    """Mean of the values up to `width // 2` places to either side; fewer at the ends."""
    half = width // 2
    return [math.fsum(part) / len(part) for i in range(len(values)) if (part := values[max(0, i - half) : i + half + 1])]


def clean(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)


def finish(figure: Figure, caption: str, out: Path, table: Sequence[Sequence[Json]], *, dark: bool = False) -> list[Path]:
    """Write the caption, the picture as PNG and SVG, and the numbers as CSV; with `dark` also `<name>-dark.png`, for dark pages."""
    from matplotlib import rc_context

    width = int(figure.get_figwidth() * 16.8)
    lines = textwrap.wrap(caption, width)
    if lines:
        figure.text(0.012, 0.012, "\n".join(lines), fontsize=8, color="#555555", va="bottom", ha="left", linespacing=1.35)
    figure.tight_layout(rect=(0, 0.02 + 0.16 * len(lines) / figure.get_figheight(), 1, 1))
    base = out.with_suffix("") if out.suffix in {".png", ".svg", ".csv"} else out
    base.parent.mkdir(parents=True, exist_ok=True)
    made = [base.with_name(base.name + ending) for ending in (".png", ".svg", ".csv")]
    figure.savefig(made[0], dpi=160, metadata={"Software": "rlent"})
    with rc_context({"svg.hashsalt": "rlent"}):  # names inside the file are otherwise random
        figure.savefig(made[1], metadata={"Date": None, "Creator": "rlent"})
    with made[2].open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(table)
    if dark:
        darken(figure)
        made.append(base.with_name(f"{base.name}-dark.png"))
        figure.savefig(made[3], dpi=160, metadata={"Software": "rlent"})
    return made


ON_DARK = {"#000000": "#ffffff", "#0072b2": "#4ba3dd"}
"""Colours of the palette that a dark page swallows, and what stands for them there."""


def darken(figure: Figure) -> None:
    """Turn a finished figure into one for a dark page: light text and axes on near-black, and the dark colours lightened."""
    from matplotlib.collections import Collection
    from matplotlib.colors import to_hex
    from matplotlib.lines import Line2D
    from matplotlib.text import Text

    ground, ink, faint = "#0d1117", "#e6edf3", "#30363d"
    figure.set_facecolor(ground)
    for axes in figure.axes:
        axes.set_facecolor(ground)
        axes.tick_params(colors=ink, which="both")
        for line in (*axes.get_xgridlines(), *axes.get_ygridlines()):
            line.set_color(faint)
        for spine in axes.spines.values():
            spine.set_color("#8b949e")
    for text in figure.findobj(Text):
        text.set_color("#9da7b3" if text.get_color() == "#555555" else ink)
    for line in figure.findobj(Line2D):
        if (light := ON_DARK.get(to_hex(line.get_color()))) is not None:
            line.set(color=light, markerfacecolor=light, markeredgecolor=light)
    for band in figure.findobj(Collection):
        found = [*band.get_facecolor(), *band.get_edgecolor()]
        if found and (light := ON_DARK.get(to_hex(found[0][:3]))) is not None:
            band.set_color(light)  # the alpha of the artist stays


def figure_of(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    return figure
