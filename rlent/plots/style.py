"""How a report looks: figures whose ink follows the page (light, dark, print)."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rlent.types import Json

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, GRID, BLACK = "#1b1f24", "#5b6470", "#e3e6ea", "#000000"
_LIGHTER = {
    "#0072b2": "#4aa3df",
    "#d55e00": "#f2813a",
    "#009e73": "#2bc79a",
    "#cc79a7": "#dd95bd",
    "#e69f00": "#f0b429",
    "#56b4e9": "#8fd0f5",
    "#000000": "#f4f5f7",
}
SHADES = {light: (f"--c{i}", dark) for i, (light, dark) in enumerate(_LIGHTER.items())}
"""A palette colour's variable on the page, and its shade on dark paper."""


def variable(colour: str) -> str:
    """How a page writes a colour, so that it follows light and dark."""
    inks = {INK: "var(--ink)", MUTED: "var(--muted)", GRID: "var(--grid)"}
    return inks.get(colour) or (f"var({SHADES[colour][0]})" if colour in SHADES else colour)


@dataclass
class Drawn:
    """A figure, the numbers in it, and what is said about it. `name` is the CSV's."""

    name: str
    title: str
    caption: str
    figure: Figure
    table: list[list[Json]] = field(default_factory=list)

    def csv(self) -> str:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(self.table)
        return text.getvalue()

    def svg(self) -> str:
        """The figure as an element of a page: ink from the page's variables, text as text, names of its own."""
        from matplotlib import rc_context

        out = io.StringIO()
        with rc_context({"svg.fonttype": "none", "svg.hashsalt": self.name}):
            self.figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        text = out.getvalue()
        text = text[text.index("<svg") :]
        text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
        for colour in (INK, MUTED, GRID, *SHADES):
            text = re.sub(rf"(fill|stroke): {colour}\b", rf"\1: {variable(colour)}", text)
        text = re.sub(r'\bid="([^"]+)"', rf'id="{self.name}-\1"', text)
        text = re.sub(r'href="#([^"]+)"', rf'href="#{self.name}-\1"', text)
        text = re.sub(r"url\(#([^)]+)\)", rf"url(#{self.name}-\1)", text)
        width = self.figure.get_figwidth() * 96
        head = f'<svg role="img" aria-label="{self.title}" style="width:100%;max-width:{width:.0f}px;height:auto"'
        return re.sub(r"<svg(.*?)>", lambda m: head + re.sub(r'\b(width|height)="[^"]*"', "", m[1]) + ">", text, count=1, flags=re.S)


@contextmanager
def sheet(width: float, height: float, rows: int = 1, columns: int = 1, **options: Any) -> Iterator[tuple[Figure, list[Axes]]]:
    """A figure in the report's ink, with its axes in reading order; laid out when the block ends."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    ink = {
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": MUTED,
        "axes.titlecolor": INK,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "grid.color": GRID,
        "axes.facecolor": "white",
        "font.size": 10,
        "axes.titlesize": 10.5,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "legend.frameon": False,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
    }
    with rc_context(ink):
        figure = Figure(figsize=(width, height), facecolor="white", layout="constrained")
        FigureCanvasAgg(figure)
        made = figure.subplots(rows, columns, squeeze=False, **options)
        yield figure, list(made.ravel())


def legend(figure: Figure, handles: Sequence[Any]) -> None:
    """One legend for all panels, above them."""
    columns = min(len(handles), max(1, int(figure.get_figwidth() / 1.75)))
    length = 2.4 if all(h.get_linestyle() == "-" for h in handles) else 4.2  # a dash needs room to be seen beside its marker
    figure.legend(handles=list(handles), loc="outside upper left", ncols=columns, fontsize=9.5, handlelength=length, columnspacing=1.4)
