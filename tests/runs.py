"""Small real runs for tests: the embedded model and task, a few seconds each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

SMALL = [
    "sampler.prompts=4",
    "sampler.n=4",
    "sampler.max_tokens=8",
    "trainer.minibatches=2",
    "eval.every=0",
    "track.mode=disabled",
    "track.console=off",
    "track.ledger.rows=4",
]
"""Overrides of a run of a few tenths of a second per step."""


def environment(threads: int = 1) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": str(threads), "WANDB_MODE": "offline", "HF_HUB_OFFLINE": "1"}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "rlent", *arguments]


def rlent(*arguments: str, check: bool = True, cwd: Path | None = None, limit: float = 600) -> subprocess.CompletedProcess[str]:
    """Run `rlent ...` in a process of its own."""
    done = subprocess.run(command(*arguments), env=environment(), capture_output=True, text=True, timeout=limit, cwd=cwd)
    assert not check or done.returncode == 0, f"{arguments}: exit {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done


def parsed(*arguments: str) -> tuple[str, dict[str, Any]]:
    """The command that a line names, and its parameters by name. It is not run.

    Raises:
        ClickException: the command line does not take the line.
    """
    from typer.core import TyperGroup
    from typer.main import get_command

    from rlent.cli.app import app

    root = get_command(app)
    assert isinstance(root, TyperGroup)
    name, *rest = arguments
    with root.make_context("rlent", [name]) as parent:
        command = root.get_command(parent, name)
        assert command is not None, f"there is no command '{name}'"
        found = command.make_context(name, rest, parent=parent).params
    return name, {k: None if v == () else v for k, v in found.items()}  # a list that was not given is None in Python


def train(folder: Path, *overrides: str, small: Sequence[str] = SMALL, config_dirs: Sequence[Path] = ()) -> Path:
    """Train in this process; returns the run folder."""
    from rlent.cli import commands

    assert commands.train([*small, f"run.dir={folder}", *overrides], config_dirs=[str(d) for d in config_dirs]) == 0
    return folder


def own(place: Path, seat: str, name: str, code: str) -> Path:
    """A folder of recipes with a function of one's own, `def NAME(...)` in `code`, as the option `name` of a seat."""
    (place / seat).mkdir(parents=True, exist_ok=True)
    (place / f"own_{seat}_{name}.py").write_text(code)
    (place / seat / f"{name}.yaml").write_text(f"{name}:\n  _target_: own_{seat}_{name}.{name}\n")
    return place


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def started(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(command(*arguments), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(what: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 300) -> None:
    """Wait until something is so; fails if the process ends first."""
    end = time.monotonic() + seconds
    while not what():
        if process.poll() is not None:
            if what():
                return
            raise AssertionError(f"the process ended first: {process.stdout.read() if process.stdout else ''}")
        assert time.monotonic() < end, "timed out"
        time.sleep(0.005)


def lines(folder: Path) -> int:
    file = folder / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.is_file() else 0
