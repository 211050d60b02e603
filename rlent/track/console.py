"""One line per step with the few numbers that matter, and on a terminal a bar with the time that is left."""

from __future__ import annotations

import math
import re
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TextIO, TypeGuard

if TYPE_CHECKING:
    from rich.progress import Progress

Mode = Literal["auto", "plain", "rich", "off"]

HEADER_EVERY = 25

_OWN = re.compile(r"^select/(?P<select>[^/]+)/share$|^effect/(?P<effect>[^/]+)$")
_SCORE = re.compile(r"^eval/(?:(?P<set>[^/]+)/)?(?:(?P<avg>avg)|pass@(?P<k>\d+))$")
_MEAN = "eval/mean_of_sets"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the table: its heading, the metric in it, and how the number is written (`factor` 100 for per cent)."""

    title: str
    metric: str
    width: int
    digits: int
    factor: float = 1.0

    def cell(self, metrics: Mapping[str, object]) -> str:
        """The number, right-aligned; a dash for what is missing or not finite."""
        value = metrics.get(self.metric)
        if not _is_number(value):
            return f"{'-':>{self.width}}"
        text = f"{value * self.factor:.{self.digits}f}"
        if len(text) >= self.width:  # keep the columns: fewer digits before they touch
            text = f"{value * self.factor:.1e}"
        return f"{text:>{self.width}}"


_REWARD, _PASS = Column("reward", "reward/mean", 9, 3), Column("pass@1", "correct/mean", 9, 3)
_MIDDLE = (
    Column("entropy", "entropy/mean", 9, 4),
    Column("cov", "cov/mean", 10, 5),
    Column("len", "length/mean", 9, 1),
    Column("clip%", "clip/share", 9, 2, 100.0),
)
_SECONDS = Column("s/step", "seconds/step", 9, 2)
_LEFT_WIDTH = 8


@dataclass(slots=True)
class Table:
    """The columns of a run's table. A step may add a column, and none is ever removed.

    `pass@1` (the share of correct responses) is shown once it differs from the mean reward, which it does not where rewards are 0 and 1.
    The method's own number is the first `select/<node>/share` of its recipe, the per cent of tokens that it selects ("clip_cov%"), or
    else the first `effect/<node>`, the per cent of tokens whose gradient it changes ("steer acts%").
    """

    total: int | None = None
    with_left: bool = True
    with_pass: bool = False
    own: Column | None = None

    def look(self, metrics: Mapping[str, object]) -> bool:
        """Take up columns that a step's metrics ask for; whether there are any."""
        before = (self.with_pass, self.own)
        reward, correct = metrics.get(_REWARD.metric), metrics.get(_PASS.metric)
        if _is_number(reward) and _is_number(correct) and not math.isclose(reward, correct, abs_tol=1e-9):
            self.with_pass = True
        self.own = self.own or _own(metrics)
        return (self.with_pass, self.own) != before

    @property
    def columns(self) -> list[Column]:
        return [_REWARD, *([_PASS] if self.with_pass else []), *_MIDDLE, *([self.own] if self.own else []), _SECONDS]

    @property
    def header(self) -> str:
        left = f"{'left':>{_LEFT_WIDTH}}" if self.with_left else ""
        return f"{'step':>{self._step_width}}" + "".join(f"{c.title:>{c.width}}" for c in self.columns) + left

    def line(self, step: int, metrics: Mapping[str, object], left: float | None = None) -> str:
        """A step's line, aligned with `header`. `left` is the time to the end in seconds, None where it is not known."""
        of = f"/{self.total}" if self.total else ""
        time_left = f"{duration(left):>{_LEFT_WIDTH}}" if self.with_left else ""
        return f"{f'{step}{of}':>{self._step_width}}" + "".join(c.cell(metrics) for c in self.columns) + time_left

    @property
    def _step_width(self) -> int:
        return max(6, 2 * len(str(self.total)) + 1) if self.total else 6


def _own(metrics: Mapping[str, object]) -> Column | None:
    found = [m for name in metrics if (m := _OWN.match(name))]
    best = next((m for m in found if m["select"]), found[0] if found else None)
    if best is None:
        return None
    title = f"{best['select']}%" if best["select"] else f"{best['effect']} acts%"
    return Column(title, best[0], max(9, len(title) + 2), 2, 100.0)


def eval_line(metrics: Mapping[str, object]) -> str | None:
    """The scores of an evaluation on one line, or None if the step had none.

    pass@k for every k on held-out problems; for a suite the average and pass@k at the largest k of each set, and the mean of the sets.
    """
    whole: dict[int, float] = {}
    sets: dict[str, dict[int, float]] = {}
    for name, value in metrics.items():
        m = _SCORE.match(name)
        if m is None or not _is_number(value):
            continue
        if m["set"]:
            sets.setdefault(m["set"], {})[0 if m["avg"] else int(m["k"])] = value
        elif m["k"]:
            whole[int(m["k"])] = value
    parts = [f"pass@{k} {whole[k]:.3f}" for k in sorted(whole)]
    for name, scores in sets.items():
        few = [f"avg {scores[0]:.3f}"] if 0 in scores else []
        many = max(scores)
        parts.append(" ".join([name, *few, *([f"pass@{many} {scores[many]:.3f}"] if many > 1 or not few else [])]))
    if sets and _is_number(metrics.get(_MEAN)):
        parts.append(f"mean of sets {metrics[_MEAN]:.3f}")
    return f"{'eval':>6}   {'  '.join(parts)}" if parts else None


def duration(seconds: float | None) -> str:
    """A time in its two largest units: 45s, 12m30s, 3h05m, 2d04h."""
    if seconds is None or not math.isfinite(seconds) or seconds < 0:
        return "-"
    if seconds >= 1000 * 86400:
        return ">999d"
    whole = round(seconds)
    for unit, below, size, small in (("d", "h", 86400, 3600), ("h", "m", 3600, 60), ("m", "s", 60, 1)):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // small:02d}{below}"
    return f"{whole}s"


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and math.isfinite(value)


@dataclass(slots=True)
class Pace:
    """How long steps take, from the times at which they ended; the first from its own seconds/step."""

    clock: Callable[[], float] = time.monotonic
    _first: tuple[int, float] | None = field(default=None, init=False)

    def left(self, step: int, total: int | None, metrics: Mapping[str, object]) -> float | None:
        """Seconds until the last step has ended, evaluations and checkpoints of the steps so far counted in; None if not known."""
        now = self.clock()
        if self._first is None or step <= self._first[0]:
            self._first = (step, now)
            each = metrics.get(_SECONDS.metric)
        else:
            each = (now - self._first[1]) / (step - self._first[0])
        return each * (total - step) if total and isinstance(each, int | float) else None


class Console:
    """Prints steps to a stream: plain lines, and on a terminal a progress bar below them. `off` prints messages only."""

    def __init__(self, mode: Mode = "auto", stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.stream = stream if stream is not None else sys.stdout
        if mode == "auto":
            mode = "rich" if self.stream.isatty() else "plain"
        self.mode = mode
        self.table = Table(with_left=mode != "rich")  # the bar has the time that is left
        self._pace = Pace(clock)
        self._since_header: int | None = None
        self._progress: Progress | None = None

    def step(self, step: int, metrics: Mapping[str, object], total: int | None = None) -> None:
        """Print a step's line, with the headings every 25 lines and where a column is new, and move the bar."""
        if self.mode == "off":
            return
        if self.mode == "rich" and total and self._progress is None:
            self._begin(step - 1, total)
        self.table.total = total
        grown = self.table.look(metrics)
        lines = []
        if grown or self._since_header is None or self._since_header == HEADER_EVERY:
            lines.append(self.table.header)
            self._since_header = 0
        self._since_header += 1
        lines.append(self.table.line(step, metrics, self._pace.left(step, total, metrics)))
        if evaluation := eval_line(metrics):
            lines.append(evaluation)
        self._print("\n".join(lines))
        if self._progress is not None:
            self._progress.update(self._progress.task_ids[0], completed=step)

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
        self._progress.add_task("", total=total, completed=done)
        self._progress.start()
