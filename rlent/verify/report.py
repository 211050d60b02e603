"""What `rlent verify` prints."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from rlent.verify.compare import Check

SHOWN = 3
"""Failures of a vector that are printed."""


def as_json(checks: Sequence[Check]) -> str:
    """A list with an entry for each vector."""
    return json.dumps([{**vars(c), "passed": not c.failures} for c in checks], indent=1)


def print_table(checks: Sequence[Check]) -> None:
    """A row for each method, the first failures, and how many vectors pass by way of what."""
    table = Table(box=None, pad_edge=False)
    for title in ("METHOD", "AUTHORS' CODE", "CASES", "LARGEST ERROR", "VERDICT"):
        table.add_column(title, justify="right" if title in ("CASES", "LARGEST ERROR") else "left", no_wrap=title != "AUTHORS' CODE")
    for method in sorted({c.method for c in checks}):
        mine = [c for c in checks if c.method == method]
        bad = sum(bool(c.failures) for c in mine)
        verdict = "pass" if not bad else f"FAIL ({bad} of {len(mine)})"
        table.add_row(method, _short(mine[0].reference), str(len(mine)), f"{max(c.error for c in mine):.1e}", verdict)
    console = Console()
    console.print(table)
    for c in checks:
        for failure in c.failures[:SHOWN]:
            console.print(f"{c.file}: {failure}", markup=False, highlight=False, soft_wrap=True)
    console.print(summary(checks), highlight=False, markup=False, soft_wrap=True)


def summary(checks: Sequence[Check]) -> str:
    """How many vectors pass, and what they ran: what a recipe mounts, a metric, or only functions by their path."""
    passed = [c for c in checks if not c.failures]
    recipe, metric, call = (sum(c.through == t for c in passed) for t in ("recipe", "metric", "call"))
    return f"{len(passed)} of {len(checks)} vectors pass: {recipe} through the mounted recipe, {metric} metrics, {call} by `call:`"


def _short(reference: str) -> str:
    """owner/repo@commit of a reference, shortened."""
    first = reference.split()[0].strip("[\"',;") if reference else ""
    return first[: first.index("@") + 8] if "@" in first else first[:40] or "formula"
