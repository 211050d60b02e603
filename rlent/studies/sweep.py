"""Sweeps: Hydra's multirun, one child process for each job.

Every job is checked before the first one starts. A job is `python -m rlent train ... run.dir=...`, equal to the run
alone; a job that is done is skipped, one that was stopped is resumed, so the same command continues a killed sweep.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import main
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from rlent.errors import RecipeError, UsageError
from rlent.ranks import launch
from rlent.recipe import aliases, experiment
from rlent.recipe.compose import load
from rlent.recipe.values import parse
from rlent.system.paths import recipes_dir

_LONGEST = 160  # letters of a folder's name; file systems take 255
JOBS = "jobs.json"  # in the sweep's folder: the name and the arguments of each job
_ENV_DIR, _NUMBER = "RLENT_SWEEP_DIR", "sweep_job"


def jobs(overrides: Sequence[str]) -> list[list[str]]:
    """The overrides of each job: the product of the swept values, in Hydra's order."""
    return experiment.product([o for o in parse(overrides) if not _is_hydra(o.key_or_group)])


def job_name(job: Sequence[str], fixed: Sequence[str]) -> str:
    """What tells a job from its sisters: `recipe=clipcov,seed=1`."""
    own = [o.lstrip("+~") for o in job if o not in fixed] or ["job"]
    name = re.sub(r"[^A-Za-z0-9_.,=+-]+", "_", ",".join(own))
    return name if len(name) <= _LONGEST else f"{name[:_LONGEST]}-{hashlib.blake2b(name.encode(), digest_size=4).hexdigest()}"


def run(overrides: Sequence[str], config_dirs: Sequence[str] = (), *, dry_run: bool = False) -> int:
    """Run a sweep; returns 1 if a job failed.

    Raises:
        RecipeError: a job's recipe has problems; no job was started.
        UsageError: under torchrun.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError("-m starts its jobs itself and cannot run under torchrun; use one torchrun for each run, or scale=gpus8")
    hydra = [o for o in overrides if _is_hydra(parse([o])[0].key_or_group)]
    listed = _listed([o for o in overrides if o not in hydra], config_dirs)
    _check(listed, config_dirs)
    folder = sweep_dir(overrides)
    for note in aliases.notes(overrides):
        print(f"warning: {note}")
    print(f"{len(listed)} jobs in {folder}")
    _print_states(folder, listed)
    if dry_run:
        return 0
    folder.mkdir(parents=True, exist_ok=True)
    dirs = [argument for d in config_dirs for argument in ("--config-dir", str(Path(d).resolve()))]
    (folder / JOBS).write_text(json.dumps([{"name": name, "arguments": [*dirs, *job]} for name, job in listed.items()], indent=1))
    _multirun(folder, len(listed), hydra)
    if _print_states(folder, listed) != {"finished"}:
        return 1
    print(f"compare: rlent report {folder} -o report.html")
    return 0


def _print_states(folder: Path, names: Iterable[str]) -> set[str]:
    """Print each job's name and state; the states that there are."""
    states = {name: state(folder / name) for name in names}
    print("\n".join(f"  {name}  {s}" for name, s in states.items()))
    return set(states.values())


def _listed(plain: Sequence[str], config_dirs: Sequence[str]) -> dict[str, list[str]]:
    """The overrides of each job by its name.

    Raises:
        RecipeError: two jobs of one name.
    """
    if name := experiment.named(plain):
        found = [(job_name(job.own, []), job.overrides) for job in experiment.expand(name, plain, config_dirs)]
    else:
        fixed = [o.input_line or "" for o in parse(plain) if not o.is_sweep_override()]
        found = [(job_name(job, fixed), job) for job in jobs(plain)]
    names = [name for name, _ in found]
    if twice := {name for name in names if names.count(name) > 1}:
        raise RecipeError([f"{name}: two jobs have this name; a sweep's values must differ" for name in twice])
    return dict(found)


def _check(listed: Mapping[str, Sequence[str]], config_dirs: Sequence[str]) -> None:
    """Compose every job.

    Raises:
        RecipeError: with the problems of all.
    """
    problems: list[str] = []
    for name, job in listed.items():
        try:
            load(job, config_dirs)
        except RecipeError as error:
            problems.extend(f"{name}: {p}" for p in error.problems)
    if problems:
        raise RecipeError(problems)


def _multirun(folder: Path, count: int, hydra: Sequence[str]) -> None:
    """Start the jobs by Hydra's launcher: one number for each, `_job` looks up the rest. Hydra's own main reads the arguments from `sys.argv`."""
    quiet = ["hydra.output_subdir=null", "hydra/job_logging=disabled", "hydra/hydra_logging=disabled", "hydra.sweep.subdir=."]
    own = [] if any(o.startswith("hydra.sweep.dir") for o in hydra) else [f"hydra.sweep.dir={_quote(str(folder))}"]
    numbers = f"++{_NUMBER}={','.join(map(str, range(count)))}"
    os.environ[_ENV_DIR] = str(folder.resolve())
    GlobalHydra.instance().clear()
    given = sys.argv
    sys.argv = ["rlent", "--multirun", *quiet, *own, *hydra, numbers]
    try:
        main(version_base="1.3", config_path=str(recipes_dir().resolve()), config_name="config")(_job)()
    finally:
        sys.argv = given


def sweep_dir(overrides: Sequence[str]) -> Path:
    """The sweep's folder: Hydra's setting if given, else one that the same command finds again."""
    for override in parse(overrides):
        if override.key_or_group == "hydra.sweep.dir":
            return Path(str(override.value()))
    text = " ".join(sorted(o for o in overrides if not o.startswith("hydra")))
    swept = sorted(o.key_or_group.split(".")[-1] for o in parse(overrides) if o.is_sweep_override())
    name = experiment.named([o for o in overrides if not o.startswith("hydra")]) or "-".join(swept) or "single"
    return Path("outputs") / "sweeps" / f"{name}-{hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}"


def state(folder: Path) -> str:
    """new, finished, or what the run's status file says (stopped, failed, running, unknown)."""
    if not (folder / "recipe.yaml").is_file():
        return "new"
    try:
        return str(json.loads((folder / "status.json").read_text())["state"])
    except (OSError, ValueError, KeyError):
        return "unknown"


def _job(config: DictConfig) -> Any:
    """One job, in the launcher's process: start or resume the child, unless it is done."""
    sweep = Path(os.environ[_ENV_DIR])
    job = json.loads((sweep / JOBS).read_text())[int(config[_NUMBER])]
    folder = sweep / job["name"]
    now = state(folder)
    if now == "finished":
        return 0
    print(f"--- {job['name']}", flush=True)
    more = ["--resume", str(folder)] if now != "new" else [*job["arguments"], f"run.dir={_quote(str(folder))}"]
    code = launch.child(["train", *more])
    if code == 130:  # a Ctrl-C is for the sweep, too; the same command continues it
        raise KeyboardInterrupt
    return code


def _is_hydra(key: str) -> bool:
    return key.lstrip("+~").startswith(("hydra.", "hydra/"))


def _quote(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
