"""What the verbs of the command line do. Imported late, so that `rlent --help` stays quick."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlent.errors import NonFinite, RankLost, RlentError, UsageError
from rlent.recipe import compose as recipes
from rlent.recipe.compose import Recipe
from rlent.runs.folder import weights_of
from rlent.seats import SEATS


def train(
    overrides: Sequence[str],
    *,
    multirun: bool = False,
    config_dirs: Sequence[str] = (),
    resume: str | None = None,
    start_from: str | None = None,
    dry_run: bool = False,
) -> int:
    """Train, resume, or sweep. Returns the exit code: 0 done, 130 stopped by a signal (resume it)."""
    if multirun:
        if resume or start_from:
            raise UsageError("-m starts new runs; --resume and --from are for one run (the same -m command continues a sweep)")
        from rlent.studies import sweep

        return sweep.run(list(overrides), config_dirs, dry_run=dry_run)
    from rlent.ranks import launch

    if resume:
        found = _resume_overrides(overrides)
        scale = {**_saved_scale(resume), **{k.removeprefix("scale."): v for k, v in found.items() if k.startswith("scale.")}}
        if ranks := launch.wanted(scale):
            return launch.launch(["train", "--resume", resume, *overrides], ranks)
        from rlent.train.run import Run

        run = Run.resume(resume, found)
    else:
        given = list(overrides)
        if start_from:
            given.append(f"model.path={weights_of(start_from)}")
        recipe = recipes.load(given, config_dirs)
        if dry_run:
            print("\n".join(describe(recipe)))
            return 0
        if ranks := launch.wanted(recipe["scale"]):
            folders = [part for folder in config_dirs for part in ("--config-dir", folder)]
            return launch.launch(["train", *folders, *given], ranks)
        from rlent.train.run import Run

        run = Run.start(recipe)
    return _train(run)


def fork(run: str, at: int, overrides: Sequence[str], *, by_part: str | None = None, **options: Any) -> int:
    """Branch from a checkpoint of a run."""
    from rlent.studies import fork as forking

    sizes = [word.strip() for word in (by_part or "").split(",") if word.strip()]
    if not all(s.isdigit() and int(s) for s in sizes):
        raise UsageError(f"--by-part takes numbers of tokens separated by commas (512,2048), found '{by_part}'")
    return forking.main(run, at, overrides, by_part=[int(s) for s in sizes], **options)


def _saved_scale(place: str) -> dict[str, Any]:
    """The scale block of a run; empty if there is no run, which `Run.resume` explains."""
    from rlent.runs.folder import RunFolder

    path = Path(place)
    return dict(RunFolder(path).config.get("scale", {})) if (path / "recipe.yaml").is_file() else {}


def _train(run: Any) -> int:
    from rlent.loop import train as loop

    with run:
        if run.world.leads:
            run.tracker.say(f"run {run.folder.path} ({run.recipe.name}, seed {run.seed}, steps {run.done + 1} to {run.total})")
            run.tracker.say(f"resume with: {run.folder.resume_command}")
            if reason := getattr(run.engine, "reason", None):
                run.tracker.say(f"engine {run.engine.name}: {reason}")
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
            if (said := run.world.lost(error)) is None:
                raise
            raise RankLost(
                f"step {run.step}: another rank has ended, or did not answer within scale.timeout = {run.recipe['scale']['timeout']:g} s ({said}); "
                f"its own output says why. Earlier checkpoints are whole; continue with: {run.folder.resume_command}"
            ) from error
        if run.early and run.world.leads:
            run.tracker.say(f"ended after step {run.done} of {run.total}, {run.early}; to go on all the same: {run.folder.resume_command}")
        elif run.stopped and run.world.leads:
            run.tracker.say(f"{run.stopped} after step {run.done}; continue with: {run.folder.resume_command}")
        elif run.world.leads:
            run.tracker.say(f"done: {run.folder.path}; next: rlent eval --pass-at-k 64 run={run.folder.path}")
    return 130 if run.stopped and "SIG" in run.stopped else 0


def _resume_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """A resumed run is the same run: only its end may be moved."""
    from rlent.recipe.settings import RESUMABLE as allowed

    found = {o.key_or_group: o.value() for o in recipes.parse(overrides)}
    refused = sorted(set(found) - set(allowed))
    if refused:
        raise UsageError(f"--resume continues the same run; {', '.join(refused)} cannot change (only {', '.join(sorted(allowed))})")
    return found


def describe(recipe: Recipe) -> list[str]:
    """What would run: differences from plain GRPO, the plan, the warnings."""
    lines = [f"recipe {recipe.name}", "differs from plain GRPO in:"]
    lines += [f"  {d}" for d in recipes.differences(recipe.config)] or ["  nothing"]
    lines += ["plan:"] + [f"  {line}" for line in recipe.plan.lines()]
    lines += [f"warning: {w}" for w in recipe.warnings]
    return lines


def show(name: str, overrides: Sequence[str] = (), *, config_dirs: Sequence[str] = (), as_json: bool = False) -> int:
    """Print a method's card, its options with the file each value came from, and the plan."""
    recipe = recipes.load([f"recipe={name}", *overrides], config_dirs)
    card = {k: v for k, v in (recipe.config.get("card") or {}).items() if k != "golden"}
    seats = tuple(SEATS)
    flat = recipes.flat({k: recipe.config[k] for k in seats if recipe.config.get(k)})
    options = [{"option": k, "value": v, "from": recipe.sources.get(k, "default")} for k, v in flat.items() if not k.endswith("_target_")]
    if as_json:
        plan = recipe.plan.lines()
        print(
            json.dumps(
                {"card": card, "options": options, "plan": plan, "config": recipe.config, "warnings": recipe.warnings},
                indent=1,
                default=str,
            )
        )
        return 0
    text = _header(name, config_dirs)
    print(text if text else name)
    for key, value in card.items():
        print(f"  {key}: {value}")
    for seat in seats:
        for node in recipe.plan.nodes.get(seat, []):
            print(f"\n{node.path}: {node.target}")
            doc = (type(node.fn) if node.stateful and not isinstance(node.fn, type) else node.fn).__doc__ or ""
            for line in doc.strip().splitlines():
                print(f"    {line.strip()}" if line.strip() else "")
    print("\noptions")
    width = max((len(o["option"]) for o in options), default=10)
    for o in options:
        print(f"  {o['option']:<{width}}  {o['value']!s:<12}  {o['from']}")
    print("\nplan")
    print("\n".join(f"  {line}" for line in recipe.plan.lines()))
    for warning in recipe.warnings:
        print(f"warning: {warning}")
    return 0


def _header(name: str, config_dirs: Sequence[str]) -> str:
    file = recipes.groups(config_dirs).get("recipe", {}).get(name)
    if file is None:
        return ""
    lines = []
    for line in file.read_text().splitlines():
        if not line.startswith("#"):
            break
        if "@package" not in line:
            lines.append(line.lstrip("# ").rstrip())
    return "\n".join(lines)


def check(overrides: Sequence[str], *, config_dirs: Sequence[str] = (), as_json: bool = False) -> int:
    """Compose and check a recipe, and its data; nothing is started."""
    recipe = recipes.load(list(overrides), config_dirs)
    source = recipes.build(recipe["data"])
    if hasattr(source, "check"):
        source.check()
    if recipe["eval"]["every"] and recipe["eval"].get("sets"):
        from rlent.eval.suite import Ask, benches

        benches(recipe, Ask())
    found, said = _findings(recipe, source)
    sampler = recipes.build(recipe["sampler"]) if recipe["sampler"] else None
    if hasattr(sampler, "check_problems") and getattr(source, "path", "generated"):  # else they would be fetched
        sampler.check_problems(source.train)
    if as_json:
        data = found.to_dict() if found is not None else None
        print(json.dumps({"recipe": recipe.name, "warnings": recipe.warnings, "plan": recipe.plan.lines(), "data": data, "notes": said}))
    else:
        print("\n".join([*describe(recipe), *(f"data: {line}" for line in said), "no problems"]))
    return 0


def _findings(recipe: Recipe, source: Any) -> tuple[Any, list[str]]:
    """What is found in the data (None: nothing to look at, or not without fetching it), and what to say about it."""
    if not hasattr(source, "examine") or not getattr(source, "path", "generated"):
        return None, ["not looked at, because it would be fetched from the hub; give a copy with data.path=FILE"]
    from rlent.policy.load import load_tokenizer

    said, tokenizer, room = [], None, None
    try:
        tokenizer, room = load_tokenizer(**{k: recipe["model"][k] for k in ("path", "revision", "trust_remote_code")})
        found = source.examine(tokenizer, room - 1 if room else None)
    except RlentError as error:
        said = [f"the lengths of prompts were not counted: {error}"]
        found = source.examine()
    if hasattr(source, "grader") and hasattr(source.grader, "close"):
        source.grader.close()
    if found is None:
        return None, said
    source.settle(found)
    trained = (
        "an evaluation set: no recipe trains on it" if getattr(source, "use", "train") == "evaluate" else f"{len(source.train)} to train on"
    )
    return found, [f"{found.name}: {found.problems} problems, {trained}, {found.held_out} held out", *found.lines(), *said]


def verify(*, vectors: str | None = None, only: Sequence[str] = (), config_dirs: Sequence[str] = (), as_json: bool = False) -> int:
    """Run vector files through the composed recipes; 1 if any fails."""
    from rlent.verify import command as verifier

    return verifier.main(Path(vectors) if vectors else None, list(only), list(config_dirs), as_json=as_json)


def evaluate(arguments: Sequence[str], **options: Any) -> int:
    """Evaluate a run, a checkpoint or a model."""
    from rlent.eval.command import main

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    return main(list(arguments), **options)


def fit(runs: Sequence[str], **options: Any) -> int:
    """Fit the law of entropy to runs."""
    from rlent.analysis import fit as fitting

    return fitting.main(runs, **options)


def arena(names: Sequence[str], *, sizes: Mapping[str, Any], quick: bool = False, **options: Any) -> int:
    """Every method with the same budget. `sizes` has the fields of `arena.Settings` that were given."""
    from dataclasses import replace

    from rlent.studies import arena as ground

    settings = ground.QUICK if quick else ground.Settings()
    given = {k: v for k, v in sizes.items() if v is not None}
    given["overrides"] = (*settings.overrides, *given.get("overrides", ()))
    settings = replace(settings, **given)
    return ground.main(names, settings=settings, quick=quick, **options)


def replay(place: str, arguments: Sequence[str], *, fields: Sequence[str | None] = (None,) * 4, **options: Any) -> int:
    """Several methods on one frozen batch."""
    from rlent.analysis.command import main
    from rlent.analysis.dumps import Fields

    return main(place, arguments, fields=Fields(*fields), **options)


def measure(model: str, file: str, overrides: Sequence[str], *, fields: Sequence[str | None] = (None,) * 4, **options: Any) -> int:
    """Entropy, covariance and pass@k of responses in a file."""
    from rlent.analysis.dumps import Fields
    from rlent.analysis.measure import main

    return main(model, file, overrides, fields=Fields(*fields), **options)


def inspect(place: str, overrides: Sequence[str] = (), **options: Any) -> int:
    """A page of a kept step's responses."""
    from rlent.analysis.inspection import main

    return main(place, overrides, **options)


def budget(place: str, **options: Any) -> int:
    """Where a run's entropy went."""
    from rlent.analysis.budget import main

    return main(place, **options)


def report(places: Sequence[str], out: str, **options: Any) -> int:
    """Compare runs on one page."""
    from rlent.report import command

    return command.report(places, out, **options)


def plot(arguments: Sequence[str], out: str, **options: Any) -> int:
    """Draw metrics of runs."""
    from rlent.report import command

    return command.plot(arguments, out, **options)
