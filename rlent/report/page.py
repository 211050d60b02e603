"""The page: one HTML file without anything from outside, that reads in light and dark and prints."""

from __future__ import annotations

import base64
import itertools
import math
from collections.abc import Sequence
from html import escape

from rlent.plots.looks import Look
from rlent.plots.style import SHADES, Drawn, variable

LIGHT = ("--paper: #ffffff; --ink: #1b1f24; --muted: #5b6470; --grid: #e3e6ea; --soft: #f5f6f8; --link: #0b5cad; ") + "".join(
    f"{name}: {light}; " for light, (name, _) in SHADES.items()
)
DARK = ("--paper: #14171c; --ink: #e8eaed; --muted: #a3abb6; --grid: #333a44; --soft: #1d2127; --link: #7cb8ff; ") + "".join(
    f"{name}: {dark}; " for name, dark in SHADES.values()
)
STYLE = (
    ":root { color-scheme: light dark; " + LIGHT + "}\n@media screen and (prefers-color-scheme: dark) { :root { " + DARK + "} }\n"
    """
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1080px; padding: 28px 24px 60px; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", "Liberation Sans", Arial, sans-serif; }
h1 { font-size: 26px; margin: 0 0 6px; line-height: 1.25; }
h2 { font-size: 19px; margin: 40px 0 8px; }
p { margin: 6px 0 10px; max-width: 78ch; }
.lead { font-size: 18px; margin: 10px 0 18px; }
.small, figcaption, .note { color: var(--muted); font-size: 13.5px; }
figure { margin: 14px 0 8px; break-inside: avoid; }
figcaption { margin-top: 4px; max-width: 100ch; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; margin: 10px 0; }
th, td { text-align: right; padding: 5px 14px 5px 0; border-bottom: 1px solid var(--grid); white-space: nowrap; vertical-align: top; }
th { font-weight: 600; color: var(--muted); }
th.text, th:first-child, td:first-child { text-align: left; }
.text { text-align: left; white-space: normal; }
td .low { display: block; color: var(--muted); font-size: 12.5px; }
.swatch { display: inline-block; width: 11px; height: 11px; border-radius: 2px; margin-right: 7px; print-color-adjust: exact; }
code, pre { font: 13px/1.45 ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; }
pre { background: var(--soft); padding: 10px 12px; overflow-x: auto; border-radius: 4px; white-space: pre-wrap; }
ul { margin: 4px 0 10px; padding-left: 20px; }
li { margin: 2px 0; }
a { color: var(--link); }
svg text { font-family: system-ui, -apple-system, "Segoe UI", "Liberation Sans", Arial, sans-serif !important; }
@media print {
  :root { color-scheme: light; }
  body { max-width: none; padding: 0; font-size: 11pt; }
  h2 { break-after: avoid; }
  a.csv { display: none; }
}
"""
)


def page(title: str, body: Sequence[str]) -> str:
    """The whole document."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<link rel="icon" href="data:,">\n<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n'
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def heading(text: str) -> str:
    return f"<h2>{escape(text)}</h2>"


def paragraph(text: str, kind: str = "") -> str:
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def bullets(lines: Sequence[str], kind: str = "") -> str:
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<ul class="{kind}">{items}</ul>'


def figure(drawn: Drawn, place: str) -> str:
    """A figure with its caption and its numbers, inside the page and beside it."""
    data = base64.b64encode(drawn.csv().encode()).decode()
    link = f'<a class="csv" download="{drawn.name}.csv" href="data:text/csv;base64,{data}">data as CSV</a>'
    return (
        f'<figure id="{drawn.name}">\n{drawn.svg()}\n<figcaption>{escape(drawn.caption)} {link} '
        f'<span class="place">({escape(place)}/{drawn.name}.csv)</span></figcaption>\n</figure>'
    )


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; cells are HTML already (`cell`, `named`, `number`)."""
    words = [any('class="text"' in row[i] for row in rows) for i in range(len(header))]
    head = "".join(f"<th{' class=text' if w else ''}>{escape(h)}</th>" for h, w in zip(header, words, strict=True))
    body = "".join("<tr>" + "".join(c if c.startswith("<td") else f"<td>{c}</td>" for c in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def named(label: str, look: Look | None) -> str:
    """A method's name with its colour; where colours come again, with its dash, too."""
    colour = "var(--muted)" if look is None else variable(look.colour)
    style = f"background:{colour}"
    if look is not None and look.dash != "-":
        ends = list(itertools.accumulate(look.dash[1]))
        bars = zip([colour, "transparent"] * len(ends), [0, *ends], ends, strict=False)
        style = f"width:24px;background:repeating-linear-gradient(90deg,{','.join(f'{c} {a}px {b}px' for c, a, b in bars)})"
    return f'<span class="swatch" style="{style}"></span>{escape(label)}'


def number(value: float, digits: int = 3, low: float = math.nan, high: float = math.nan, sign: bool = False) -> str:
    """A value with its interval below."""
    if math.isnan(value):
        return "–"
    form = f"{'+' if sign else ''}.{digits}f"
    text = format(value, form)
    if not (math.isnan(low) or math.isnan(high)):
        text += f'<span class="low">{format(low, form)} to {format(high, form)}</span>'
    return text


def text_cell(lines: Sequence[str]) -> str:
    return f'<td class="text">{"<br>".join(escape(line) for line in lines)}</td>'
