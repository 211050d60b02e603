"""One line per step with the few numbers that matter, and on a terminal a bar with the time that is left."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping
from typing import Any, Literal, TextIO

Mode = Literal["auto", "plain", "rich", "off"]

HEADER_EVERY = 25

_COLUMNS = (  # heading, metric, width, digits, factor
    ("reward", "reward/mean", 9, 3, 1.0),
    ("pass", "correct/mean", 9, 3, 1.0),
    ("entropy", "entropy/mean", 9, 4, 1.0),
    ("cov", "cov/mean", 10, 5, 1.0),
    ("len", "length/mean", 9, 1, 1.0),
    ("clip%", "clip/share", 9, 2, 100.0),
    ("s/step", "seconds/step", 9, 2, 1.0),
)
_STEP_WIDTH = 6

HEADER = f"{'step':>{_STEP_WIDTH}}" + "".join(f"{title:>{width}}" for title, _, width, _, _ in _COLUMNS)


def line(step: int, metrics: Mapping[str, Any]) -> str:
    """A step's line, aligned with `HEADER`; a dash for what is missing or not finite."""
    cells = (_cell(metrics.get(name), width, digits, factor) for _, name, width, digits, factor in _COLUMNS)
    return f"{step:>{_STEP_WIDTH}d}" + "".join(cells)


def _cell(value: Any, width: int, digits: int, factor: float) -> str:
    if not isinstance(value, int | float) or not math.isfinite(value):
        return f"{'-':>{width}}"
    text = f"{value * factor:.{digits}f}"
    if len(text) >= width:  # keep the columns: fewer digits before they touch
        text = f"{value * factor:.1e}"
    return f"{text:>{width}}"


def eval_line(metrics: Mapping[str, Any]) -> str | None:
    """pass@k of an evaluation, or None if the step had none."""
    found = sorted((int(m[1]), name) for name in metrics if (m := re.match(r"^eval/pass@(\d+)$", name)))
    parts = [f"pass@{k} {metrics[name]:.3f}" for k, name in found if isinstance(metrics[name], int | float)]
    return f"{'eval':>{_STEP_WIDTH}}   {'  '.join(parts)}" if parts else None


class Console:
    """Prints steps to a stream: plain lines, and on a terminal a progress bar below them. `off` prints messages only."""

    def __init__(self, mode: Mode = "auto", stream: TextIO | None = None) -> None:
        self.stream = stream if stream is not None else sys.stdout
        if mode == "auto":
            mode = "rich" if self.stream.isatty() else "plain"
        self.mode = mode
        self._printed = 0
        self._progress: Any = None
        self._task: Any = None

    def step(self, step: int, metrics: Mapping[str, Any], total: int | None = None) -> None:
        """Print a step's line, with the headings every 25 lines, and move the bar."""
        if self.mode == "off":
            return
        if self.mode == "rich" and total and self._progress is None:
            self._begin(step - 1, total)
        lines = [HEADER] if self._printed % HEADER_EVERY == 0 else []
        lines.append(line(step, metrics))
        if evaluation := eval_line(metrics):
            lines.append(evaluation)
        self._printed += 1
        self._print("\n".join(lines))
        if self._progress is not None:
            self._progress.update(self._task, completed=step)

    def say(self, message: str) -> None:
        """A message for the person: above the bar on a terminal, on standard error otherwise."""
        if self._progress is not None:
            self._print(message)
        else:
            print(message, file=sys.stderr, flush=True)

    def finish(self) -> None:
        """Remove the bar; the lines stay."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _print(self, text: str) -> None:
        if self._progress is not None:
            self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, file=self.stream, flush=True)

    def _begin(self, done: int, total: int) -> None:
        from rich import console, progress

        self._progress = progress.Progress(
            progress.BarColumn(bar_width=30),
            progress.MofNCompleteColumn(),
            progress.TextColumn("steps,"),
            progress.TimeRemainingColumn(),
            progress.TextColumn("left"),
            console=console.Console(file=self.stream, force_terminal=True if not self.stream.isatty() else None),
            transient=True,
            speed_estimate_period=3600.0,  # steps can take minutes
        )
        self._task = self._progress.add_task("", total=total, completed=done)
        self._progress.start()
