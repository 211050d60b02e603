"""The chart of the README, in characters, so that it shows where a relative picture does not: entropy and pass@k of `make demo`.

python scripts/readme_chart.py            # print it
python scripts/readme_chart.py --write    # put it between the markers of README.md

Its numbers are those of docs/demo.csv, which `make demo` writes beside the picture docs/demo.png.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterable, Mapping
from pathlib import Path

from methods_table import ROOT, inserted

BEGIN, END = "<!-- chart: made by scripts/readme_chart.py -->", "<!-- end of chart -->"
README, DATA = ROOT / "README.md", ROOT / "docs" / "demo.csv"
METHODS = {"grpo": "GRPO", "clipcov": "Clip-Cov"}
EVERY, MEAN = 50, 10
"""A line for every 50th step: the mean of the 10 steps that end there."""
WIDTH, EIGHTHS = 24, " ▏▎▍▌▋▊▉"

Rows = Iterable[Mapping[str, str]]


def bar(value: float, most: float) -> str:
    """`value` as a bar in eighths of a character; `most` fills the width."""
    whole, rest = divmod(round(max(value, 0.0) / most * WIDTH * 8), 8)
    return "█" * whole + (EIGHTHS[rest] if rest else "")


def entropies(rows: Rows, method: str) -> dict[str, float]:
    """Nats per token at the start, and at every 50th step."""
    found = {int(row["x"]): float(row["value"]) for row in rows if row["name"] == method and row["metric"] == "entropy"}
    ends = {"first steps": MEAN, **{f"step {step}": step for step in range(EVERY, max(found) + 1, EVERY)}}
    return {name: sum(found[step] for step in range(end - MEAN + 1, end + 1)) / MEAN for name, end in ends.items()}


def solved(rows: Rows, method: str) -> dict[str, float]:
    """pass@k at the smallest and the largest k, after training."""
    found = {int(row["x"]): float(row["value"]) for row in rows if row["name"] == method and row["metric"] == "pass_at_k"}
    return {f"pass@{k}": found[k] for k in (min(found), max(found))}


def chart(rows: list[Mapping[str, str]]) -> str:
    """Two panels of bars in a code block, a column for each method."""
    lines = []
    for title, read in (("entropy, nats per token", entropies), ("held-out problems solved", solved)):
        columns = [read(rows, method) for method in METHODS]
        most = max(value for column in columns for value in column.values())
        lines += ["", "  ".join([f"{title:<24}", *(f"{name:<{WIDTH + 5}}" for name in METHODS.values())]).rstrip()]
        for name in columns[0]:
            cells = [f"{column[name]:.2f} {bar(column[name], most):<{WIDTH}}" for column in columns]
            lines.append("  ".join([f"  {name:<22}", *cells]).rstrip())
    return "\n".join(["```text", *lines[1:], "```"])


def read(file: Path = DATA) -> list[Mapping[str, str]]:
    with file.open(encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the chart of the README from docs/demo.csv.")
    parser.add_argument("--write", action="store_true", help="put it into README.md")
    if parser.parse_args().write:
        README.write_text(inserted(README.read_text(encoding="utf-8"), chart(read()), BEGIN, END), encoding="utf-8")
    else:
        print(chart(read()))


if __name__ == "__main__":
    main()
