"""The methods table of the README, made from the cards and, where it was run, from the arena's results (docs/arena.json).

python scripts/methods_table.py            # print it
python scripts/methods_table.py --write    # put it between the markers of README.md
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
README, ARENA = ROOT / "README.md", ROOT / "docs" / "arena.json"


def results() -> dict[str, Any] | None:
    """What the arena came to, or None where it was not run."""
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
    """What the arena's cells are, below the table."""
    s, counts = arena["settings"], sorted({len(row["seeds"]) for row in arena["rows"]})
    seeds = f"{counts[0]} seed{'s' if counts[0] != 1 else ''}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"
    return (
        f"The last four columns are `rlent arena`: {s['steps']} steps of the embedded task, {seeds}; exact entropy at the end over that of the first "
        f"step; pass@k on {s['problems']} held-out problems x {s['n']} samples with 95 % bootstrap intervals over problems; processor time per step "
        f"relative to GRPO. An asterisk: not in the paper's form, see [docs/arena.md](docs/arena.md), which also has paired differences."
    )


def link(paper: str) -> str:
    """The address of an `arXiv:` number."""
    return f"https://arxiv.org/abs/{paper.removeprefix('arXiv:')}"


def inserted(text: str, new: str) -> str:
    """`text` with what stands between the markers replaced.

    Raises:
        ValueError: the markers are not there, once each and in order.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{README.name} needs the lines {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{new}\n\n{END}{after}"


def main() -> int:
    parser = argparse.ArgumentParser(description="Make the methods table of the README from the cards.")
    parser.add_argument("--write", action="store_true", help="put it into README.md")
    arguments = parser.parse_args()
    found, problems = cards()
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    arena = results()
    if arguments.write:
        README.write_text(inserted(README.read_text(encoding="utf-8"), table(found, arena)), encoding="utf-8")
    else:
        print(table(found, arena))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
