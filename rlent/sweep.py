"""Sweeps: Hydra's multirun, one child process for each job.

Every job is checked before the first one starts. A job is `python -m rlent train ... run.dir=...`, equal to the run
alone; a job that is done is skipped, one that was stopped is resumed, so the same command continues a killed sweep.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from rlent import launch
from rlent.errors import RecipeError, UsageError
from rlent.recipe import groups, load, parse, recipes_dir

_LONGEST = 160  # letters of a folder's name; file systems take 255
_ENV_DIRS = "RLENT_SWEEP_CONFIG_DIRS"


def jobs(overrides: Sequence[str]) -> list[list[str]]:
    """The overrides of each job: the product of the swept values, in Hydra's order."""
    plain = [o for o in parse(overrides) if not _is_hydra(o.key_or_group)]
    batches = BasicSweeper.split_arguments(plain, max_batch_size=None)
    return [list(job) for job in batches[0]]


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
    found = jobs(overrides)
    fixed = [o.input_line for o in parse(overrides) if not o.is_sweep_override()]
    problems: list[str] = []
    for job in found:
        try:
            load(job, config_dirs)
        except RecipeError as error:
            problems.extend(f"{job_name(job, fixed)}: {p}" for p in error.problems)
    if problems:
        raise RecipeError(problems)
    folder = sweep_dir(overrides)
    names = [job_name(job, fixed) for job in found]
    print(f"{len(found)} jobs in {folder}")
    for name in names:
        print(f"  {name}  {state(folder / name)}")
    if dry_run:
        return 0
    menus = groups(config_dirs)
    passed = [_for_hydra(o.input_line, o.key_or_group, menus) for o in parse(overrides)]
    search = create_config_search_path(str(recipes_dir().resolve()))
    for directory in config_dirs:
        search.append("user", f"file://{Path(directory).resolve()}")
    os.environ[_ENV_DIRS] = json.dumps([str(Path(d).resolve()) for d in config_dirs])
    quiet = ["hydra.output_subdir=null", "hydra/job_logging=disabled", "hydra/hydra_logging=disabled", "hydra.sweep.subdir=."]
    own = [] if any(o.startswith("hydra.sweep.dir") for o in overrides) else [f"hydra.sweep.dir={_quote(str(folder))}"]
    os.environ["RLENT_SWEEP_FIXED"] = json.dumps(fixed)
    os.environ["RLENT_SWEEP_DIR"] = str(folder)
    Hydra.create_main_hydra2("rlent", search).multirun("config", _job, [*quiet, *own, *passed], with_log_configuration=False)
    states = {name: state(folder / name) for name in names}
    print("\n".join(f"  {name}  {s}" for name, s in states.items()))
    return 0 if all(s == "finished" for s in states.values()) else 1


def sweep_dir(overrides: Sequence[str]) -> Path:
    """The sweep's folder: Hydra's setting if given, else one that the same command finds again."""
    for override in parse(overrides):
        if override.key_or_group == "hydra.sweep.dir":
            return Path(str(override.value()))
    text = " ".join(sorted(o for o in overrides if not o.startswith("hydra")))
    swept = sorted(o.key_or_group.split(".")[-1] for o in parse(overrides) if o.is_sweep_override())
    return Path("outputs") / "sweeps" / f"{'-'.join(swept) or 'single'}-{hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}"


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
    task = [o for o in HydraConfig.get().overrides.task if not _is_hydra(o)]
    fixed = json.loads(os.environ["RLENT_SWEEP_FIXED"])
    plain = [re.sub(r"^\+\+", "", o) for o in task]
    name = job_name([o for o in plain if o not in [re.sub(r"^\++", "", f) for f in fixed]], [])
    folder = Path(os.environ["RLENT_SWEEP_DIR"]) / name
    now = state(folder)
    if now == "finished":
        return 0
    dirs = [argument for d in json.loads(os.environ.get(_ENV_DIRS, "[]")) for argument in ("--config-dir", d)]
    more = ["--resume", str(folder)] if now != "new" else [*plain, f"run.dir={_quote(str(folder))}"]
    print(f"--- {name}", flush=True)
    code = launch.child(["train", *dirs, *more])
    if code == 130:  # a Ctrl-C is for the sweep, too; the same command continues it
        raise KeyboardInterrupt
    return code


def _is_hydra(key: str) -> bool:
    return key.lstrip("+~").startswith(("hydra.", "hydra/"))


def _for_hydra(text: str, key: str, menus: Any) -> str:
    """An override as Hydra takes it: values are added if need be, because rlent has checked them already."""
    if _is_hydra(key) or key.split("@")[0] in menus or text.startswith(("+", "~")):
        return text
    return f"++{text}"


def _quote(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
