"""`rlent train`: a run, a resumed run, or a sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from rlent.cli.options import ConfigDirs, Overrides
from rlent.errors import NonFinite, RankLost, UsageError

if TYPE_CHECKING:
    from rlent.train.run import Run
    from rlent.types import Json


def train(
    overrides: Overrides = None,
    multirun: Annotated[bool, typer.Option("--multirun", "-m", help="One job for each combination of the comma-separated values.")] = False,
    config_dirs: ConfigDirs = None,
    resume: Annotated[str | None, typer.Option(metavar="DIR", help="Continue the run in DIR from its last checkpoint.")] = None,
    start_from: Annotated[
        str | None,
        typer.Option("--from", metavar="RUN|PATH", help="A new run that starts from the weights of a finished run or of a model folder."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Compose, check, print what would run, and stop.")] = False,
) -> int:
    """Train a recipe.

    \b
    Examples:
      rlent train recipe=clipcov
      rlent train recipe=clipcov shape.clip_cov.fraction=0.01 trainer.steps=50 run.dir=outputs/mine
      rlent train 'shape=[erc,clip_cov]' loss=clip_higher
      rlent train -m recipe=grpo,clipcov,klcov seed=0,1,2
      rlent train --resume outputs/mine
      rlent train --config-dir my/ recipe=mine
    """
    given, dirs = list(overrides or []), list(config_dirs or [])
    if multirun:
        if resume or start_from:
            raise UsageError("-m starts new runs; --resume and --from are for one run (the same -m command continues a sweep)")
        from rlent.studies import sweep

        return sweep.run(given, dirs, dry_run=dry_run)
    from rlent.ranks import launch

    if resume:
        found = _resume_overrides(given)
        scale = {**_saved_scale(resume), **{k.removeprefix("scale."): v for k, v in found.items() if k.startswith("scale.")}}
        if ranks := launch.wanted(scale):
            return launch.launch(["train", "--resume", resume, *given], ranks)
        from rlent.train.run import Run

        return _train(Run.resume(resume, found))
    from rlent.recipe import compose
    from rlent.recipe.describe import describe
    from rlent.runs.folder import weights_of

    if start_from:
        given.append(f"model.path={weights_of(start_from)}")
    recipe = compose.load(given, dirs)
    if dry_run:
        print("\n".join(describe(recipe)))
        return 0
    if ranks := launch.wanted(recipe["scale"]):
        folders = [part for folder in dirs for part in ("--config-dir", folder)]
        return launch.launch(["train", *folders, *given], ranks)
    from rlent.train.run import Run

    return _train(Run.start(recipe))


def _resume_overrides(overrides: Sequence[str]) -> dict[str, Json]:
    """A resumed run is the same run: only its end may be moved."""
    from rlent.recipe import compose
    from rlent.recipe.settings import RESUMABLE as allowed

    found = {o.key_or_group: cast("Json", o.value()) for o in compose.parse(overrides)}
    refused = sorted(set(found) - set(allowed))
    if refused:
        raise UsageError(f"--resume continues the same run; {', '.join(refused)} cannot change (only {', '.join(sorted(allowed))})")
    return found


def _saved_scale(place: str) -> dict[str, object]:
    """The scale block of a run; empty if there is no run, which `Run.resume` explains."""
    from rlent.runs.folder import RunFolder

    path = Path(place)
    scale = RunFolder(path).config.get("scale") if (path / "recipe.yaml").is_file() else None
    return dict(scale) if isinstance(scale, Mapping) else {}


def _train(run: Run) -> int:
    """Run the loop to its end, with messages before and after it. 0 done, 130 stopped by a signal (the run can be resumed)."""
    from rlent.loop import train as loop

    with run:
        if run.world.leads:
            run.tracker.say(f"run {run.folder.path} ({run.recipe.name}, seed {run.seed}, steps {run.done + 1} to {run.total})")
            run.tracker.say(f"resume with: {run.folder.resume_command}")
            if reason := getattr(run.engine, "reason", None):
                run.tracker.say(f"engine {getattr(run.engine, 'name', '')}: {reason}")
            for warning in run.recipe.warnings:
                run.tracker.say(f"warning: {warning}")
            for line in run.findings.lines() if run.findings is not None else []:
                run.tracker.say(f"data: {line}")
        try:
            loop(run)
        except NonFinite as error:
            path = run.keep_failed(error)
            kept = f"; the batch is in {path}" if path else ""
            where = "" if str(error).startswith("step ") else f"step {run.step}: "
            raise NonFinite(f"{where}{error}{kept}. Earlier checkpoints are whole") from error
        except Exception as error:
            if (lost := run.world.lost(error)) is None:
                raise
            raise RankLost(
                f"step {run.step}: another rank has ended, or did not answer within scale.timeout = {run.recipe['scale']['timeout']:g} s ({lost}); "
                f"its own output says why. Earlier checkpoints are whole; continue with: {run.folder.resume_command}"
            ) from error
        if run.early and run.world.leads:
            run.tracker.say(f"ended after step {run.done} of {run.total}, {run.early}; to go on all the same: {run.folder.resume_command}")
        elif run.stopped and run.world.leads:
            run.tracker.say(f"{run.stopped} after step {run.done}; continue with: {run.folder.resume_command}")
        elif run.world.leads:
            run.tracker.say(f"done: {run.folder.path}; next: rlent eval --pass-at-k 64 run={run.folder.path}")
    return 130 if run.stopped and "SIG" in run.stopped else 0
