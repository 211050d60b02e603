"""The methods table of the README, made from the cards.

python scripts/methods_table.py            # print it
python scripts/methods_table.py --write    # put it between the markers of README.md
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

from rlent.catalog import Card, cards

BEGIN, END = "<!-- methods: made by scripts/methods_table.py -->", "<!-- end of methods -->"
README = Path(__file__).parent.parent / "README.md"


def table(found: Iterable[Card]) -> str:
    """A Markdown table: what to type, what it is, where it sits, what its numbers were compared with."""
    lines = ["| recipe | method | seats | checked against |", "|---|---|---|---|"]
    for card in found:
        checked = {"authors": "authors' code", "formula": "the paper's formula", "none": "nothing"}[card.proof]
        what = card.description.splitlines()[0].partition(": ")[2] if card.description else ""
        title = f"[{card.title}]({link(card.paper)})" if card.paper.startswith("arXiv:") else f"{card.title} ({card.paper})"
        lines.append(f"| `{card.name}` | {title}: {what} | {', '.join(card.seats) or 'the baseline'} | {checked} |")
    return "\n".join(lines)


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
    if arguments.write:
        README.write_text(inserted(README.read_text(encoding="utf-8"), table(found)), encoding="utf-8")
    else:
        print(table(found))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
