"""Every command, by the name one types, in the order of `rlent --help`.

A command is a function: its signature declares its options once, for the command line and for Python, and it returns the exit code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rlent.cli.analyse import budget, fit, inspect, measure, replay
from rlent.cli.arena import arena
from rlent.cli.doctor import doctor
from rlent.cli.evaluate import evaluate
from rlent.cli.fork import fork
from rlent.cli.grade import grade
from rlent.cli.new import new
from rlent.cli.recipes import check, explain, ls, show, verify
from rlent.cli.report import plot, report
from rlent.cli.train import train
from rlent.cli.upload import upload

COMMANDS: dict[str, Callable[..., Any]] = {
    "train": train,
    "fork": fork,
    "eval": evaluate,
    "grade": grade,
    "fit": fit,
    "arena": arena,
    "replay": replay,
    "measure": measure,
    "inspect": inspect,
    "budget": budget,
    "report": report,
    "plot": plot,
    "ls": ls,
    "show": show,
    "check": check,
    "verify": verify,
    "explain": explain,
    "new": new,
    "doctor": doctor,
    "upload": upload,
}
