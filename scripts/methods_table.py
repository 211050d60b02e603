"""The table of docs/methods.md, made from the recipes' cards and from the results of `rlent arena` in docs/arena.json.

python scripts/methods_table.py            # print it
python scripts/methods_table.py --write    # put it between the markers of docs/methods.md
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rlent.recipe.catalog import Card, cards

BEGIN, END = "<!-- methods: made by scripts/methods_table.py -->", "<!-- end of methods -->"
ROOT = Path(__file__).parent.parent
PAGE, ARENA = ROOT / "docs" / "methods.md", ROOT / "docs" / "arena.json"


def results() -> dict[str, Any] | None:
    """The arena's results, None where it was not run."""
    return json.loads(ARENA.read_text(encoding="utf-8")) if ARENA.is_file() else None


def table(found: Iterable[Card], arena: Mapping[str, Any] | None = None) -> str:
    """A Markdown table: what to type, what it is, where it sits, what its numbers were compared with, how it did in the arena."""
    k = arena["settings"]["k"] if arena else 0
    results = {row["recipe"]: row for row in arena["rows"]} if arena else {}
    head = ["recipe", "method", "seats", "checked against", *(["entropy kept", "pass@1", f"pass@{k}", "time"] if arena else [])]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * 4 + "---:|" * (len(head) - 4)]
    for card in found:
        checked = {"authors": "authors' code", "formula": "the paper's formula", "none": "nothing"}[card.proof]
        what = card.description.splitlines()[0].partition(": ")[2] if card.description else ""
        title = f"[{card.title}]({link(card.paper)})" if card.paper.startswith("arXiv:") else f"{card.title} ({card.paper})"
        cells = [f"`{card.name}`", f"{title}: {what}", ", ".join(card.seats) or "the baseline", checked]
        if arena:
            cells += measured(results[card.name], k) if card.name in results else [""] * 4
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, *(["", under(arena)] if arena else [])])


def measured(row: Mapping[str, Any], k: int) -> list[str]:
    """A method's cells of the arena."""

    def interval(point: Mapping[str, float]) -> str:
        return f"{point['value']:.2f} ({point['low']:.2f} .. {point['high']:.2f})"

    mark = "" if not row["note"] else "*"
    return [f"{row['entropy_kept']:.0%}{mark}", interval(row["pass@1"]), interval(row[f"pass@{k}"]), f"{row['cost']:.2f}"]


def under(arena: Mapping[str, Any]) -> str:
    """What the arena's columns are, below the table."""
    s, counts = arena["settings"], sorted({len(row["seeds"]) for row in arena["rows"]})
    seeds = f"{counts[0]} seed{'s' if counts[0] != 1 else ''}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"
    same = " and ".join(", ".join(f"`{name}`" for name in names) for names in equal(arena["rows"]))
    return (
        f"The last four columns come from `rlent arena`: {s['steps']} steps of the embedded task, {seeds}; exact entropy at the end over that of the first "
        f"step; pass@k on {s['problems']} held-out problems x {s['n']} samples with 95 % bootstrap intervals over problems, not over seeds; processor time "
        f"per step relative to GRPO. An asterisk: not in the paper's form. [arena.md](arena.md) has the reasons and paired differences."
        + (f" Rows that are one computation on this task, with equal numbers: {same}." if same else "")
    )


def equal(rows: Iterable[Mapping[str, Any]]) -> list[list[str]]:
    """Recipes whose numbers are the same for every seed: on this task they compute the same."""
    alike: dict[str, list[str]] = {}
    for row in rows:
        if "by_seed" in row:
            alike.setdefault(json.dumps(row["by_seed"], sort_keys=True), []).append(row["recipe"])
    return [names for names in alike.values() if len(names) > 1]


def link(paper: str) -> str:
    """The address of an `arXiv:` number."""
    return f"https://arxiv.org/abs/{paper.removeprefix('arXiv:')}"


def inserted(text: str, new: str, begin: str = BEGIN, end: str = END) -> str:
    """`text` with what stands between the lines `begin` and `end` replaced.

    Raises:
        ValueError: these lines are not there, in this order.
    """
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"the document needs the lines {begin} and {end}")
    return f"{before}{begin}\n\n{new}\n\n{end}{after}"


def main() -> int:
    parser = argparse.ArgumentParser(description="Make the table of docs/methods.md from the cards.")
    parser.add_argument("--write", action="store_true", help="put it into docs/methods.md")
    arguments = parser.parse_args()
    found, problems = cards()
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    arena = results()
    if arguments.write:
        PAGE.write_text(inserted(PAGE.read_text(encoding="utf-8"), table(found, arena)), encoding="utf-8")
    else:
        print(table(found, arena))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
