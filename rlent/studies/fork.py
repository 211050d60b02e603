"""`rlent fork`: branches from one checkpoint of a run, each with a method of its own.

A branch is a run folder that begins as a copy of its parent's past: the record up to step N, the checkpoint of step N with its
optimizer state, and a composed recipe. From there it is resumed as any run is. Draws are a function of (seed, step, prompt,
sample, position), so branches see the same prompts and, as long as their policies agree, the same responses: what differs is the
method. A branch with the parent's own recipe is the parent, bit for bit.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from rlent.errors import CheckpointError, RecipeError, RunExists, UsageError
from rlent.ranks import launch
from rlent.recipe import compose as recipes
from rlent.recipe.compare import contrast, differences, identity
from rlent.recipe.compose import Recipe
from rlent.runs import checkpoint
from rlent.runs.folder import RunFolder
from rlent.runs.state import RecipeMark, TrainingState
from rlent.studies import microbatch, sweep
from rlent.track.record import read_rows
from rlent.track.tracker import BUDGET, METRICS, SAMPLES, TIMINGS
from rlent.types import Config, JsonObject

METHOD = ("advantage", "shape", "loss", "regularize", "control", "probe", "models")
"""Blocks that are the method: a branch with another recipe does not take the parent's overrides in them."""

FIXED = ("model.", "data.")
"""What a checkpoint cannot go on without."""

MOVABLE = ("trainer.steps", "trainer.max_time", "checkpoint.", "track.", "scale.", "stop.")
"""Settings that a resumed parent may have changed: branches take the value it had last."""


@dataclass
class Branch:
    """One branch: its folder, its recipe, and what it takes from its parent."""

    name: str
    folder: Path
    recipe: Recipe
    fresh: list[str] = field(default_factory=list)  # functions with state that begin anew
    dropped: list[str] = field(default_factory=list)  # overrides of the parent's method that it does not take
    changed: list[str] = field(default_factory=list)  # `key: parent's -> its own`
    cut: tuple[str, int, str] | None = None  # micro-batch sensitivity: (method, tokens per part, scope)


@dataclass(frozen=True)
class Parent:
    """The run that is forked."""

    path: Path
    config: JsonObject
    about: JsonObject

    @staticmethod
    def read(place: str) -> Parent:
        """The run in a folder; it may still be running.

        Raises:
            UsageError: not a run folder.
        """
        path = Path(place.removeprefix("run="))
        if not (path / "recipe.yaml").is_file() or not (path / "run.json").is_file():
            raise UsageError(f"'{place}' is not a run folder (it has no recipe.yaml); a run prints its folder when it starts")
        folder = RunFolder(path)
        return Parent(path, folder.config, folder.about)

    def check_step(self, at: int) -> None:
        """Whether the checkpoint of a step was kept.

        Raises:
            CheckpointError: it was not; the message lists those that were.
        """
        kept = checkpoint.steps(self.path / "checkpoints")
        if at in kept:
            return
        own = self.config["checkpoint"]
        has = f"it has {', '.join(map(str, kept))}" if kept else "it has none"
        if at == 0:
            raise CheckpointError(
                f"'{self.path}' has no checkpoint of step 0; branches from the start are a sweep: rlent train -m recipe=..."
            )
        raise CheckpointError(
            f"'{self.path}' has no checkpoint of step {at}; {has}. A run writes one every checkpoint.every={own['every']} steps and keeps the "
            f"last checkpoint.keep={own['keep']}; train with checkpoint.keep=1000 to keep them all"
        )


def main(
    run: str,
    at: int,
    overrides: Sequence[str] = (),
    *,
    by_part: Sequence[int] = (),
    out: str | None = None,
    config_dirs: Sequence[str] = (),
    dry_run: bool = False,
) -> int:
    """Make the branches and train them, one after the other. 0 if all finished, 130 if stopped; the same command continues.

    Raises:
        CheckpointError: the checkpoint of step `at` was not kept.
        RecipeError: a branch's recipe has problems; no branch was started.
        RunExists: a branch's folder holds another branch.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError("fork starts its branches itself and cannot run under torchrun; give scale.ranks=N to use several ranks")
    parent = Parent.read(run)
    parent.check_step(at)
    home = Path(out) if out else parent.path / "forks" / checkpoint.name(at)
    branches = plan(parent, at, overrides, home, by_part=by_part, config_dirs=config_dirs)
    print(f"{len(branches)} branch{'es' if len(branches) > 1 else ''} from step {at} of {parent.path}, in {home}")
    for branch in branches:
        print(f"  {branch.name}  {sweep.state(branch.folder)}")
        print("\n".join(f"    {line}" for line in _notes(branch)))
    if dry_run:
        return 0
    for branch in branches:
        _check_folder(branch, parent, at)
    for branch in branches:
        now = sweep.state(branch.folder)
        if now == "finished":
            continue
        if now == "new":
            make(branch, parent, at)
        print(f"--- {branch.name}", flush=True)
        if launch.child(["train", "--resume", str(branch.folder)]) == 130:
            print("stopped; the same command continues", file=sys.stderr)
            return 130
    states = {branch.name: sweep.state(branch.folder) for branch in branches}
    print("\n".join(f"  {name}  {state}" for name, state in states.items()))
    if by_part:
        pairs = microbatch.measure({b.cut: b.folder for b in branches if b.cut}, at)
        print("\n".join(microbatch.lines(pairs)))
        microbatch.write(pairs, home / "artefact.json")
    finished = all(state == "finished" for state in states.values())
    if finished:
        print(f"compare: rlent report {home} -o report.html")
    return 0 if finished else 1


def plan(
    parent: Parent,
    at: int,
    overrides: Sequence[str],
    home: Path,
    *,
    by_part: Sequence[int] = (),
    config_dirs: Sequence[str] = (),
) -> list[Branch]:
    """The branches of the command, composed and checked.

    Raises:
        RecipeError: with the problems of all branches.
    """
    dirs = list(config_dirs) or list(parent.about.get("config_dirs", []))
    found: list[Branch] = []
    problems: list[str] = []
    for job in sweep.jobs(overrides):
        own = [o for o in job if not o.lstrip("+~").startswith(MOVABLE)]
        name = sweep.job_name(own, []) if own else f"recipe={parent.about['name']}"
        for cut, more in _cuts(parent, job, by_part, dirs, problems):
            label = f"{name},part={cut[0]},scope={cut[1]}" if cut else name
            try:
                branch = _compose(parent, at, [*job, *more], label, home / label, dirs)
                branch.cut = (name, *cut) if cut else None
                found.append(branch)
            except RecipeError as error:
                problems.extend(f"{label}: {p}" for p in error.problems)
    if problems:
        raise RecipeError(problems)
    return found


def _compose(parent: Parent, at: int, asked: list[str], name: str, folder: Path, dirs: Sequence[str]) -> Branch:
    taken, dropped = inherited(parent, asked)
    recipe = recipes.load([*taken, *asked], dirs).with_block("run", dir=str(folder))
    own, theirs = recipes.flat(recipe.config), recipes.flat(parent.config)
    different = sorted(k for k in {*own, *theirs} if own.get(k, ...) != theirs.get(k, ...))
    problems = [
        f"{key}: a branch goes on with its parent's ({theirs.get(key, '-')}), found {own.get(key, '-')}"
        for key in different
        if key.startswith(FIXED)
    ]
    if recipe["trainer"]["steps"] <= at:
        problems.append(
            f"trainer.steps: {recipe['trainer']['steps']} is not after step {at}, where the branch begins; add trainer.steps=..."
        )
    if problems:
        raise RecipeError(problems)
    branch = Branch(name, folder, recipe, dropped=dropped)
    branch.changed = contrast(parent.config, recipe.config)
    branch.fresh = [path for path, target in _stateful(recipe).items() if _targets(parent.config).get(path) != target]
    return branch


def inherited(parent: Parent, asked: Sequence[str]) -> tuple[list[str], list[str]]:
    """The parent's overrides that a branch takes, and those of the parent's method that it does not.

    A branch that names another recipe has that recipe's method, so what the parent's command changed in the method's seats stays
    behind; settings of the run, the task and the sampler are kept.
    """
    mine = recipes.parse(asked)
    replaced = {o.key_or_group for o in mine if not o.is_add()}
    name = next((str(o.value()) for o in mine if o.key_or_group == recipes.CARD), parent.about["name"])
    taken, dropped = [], []
    for override in recipes.parse(parent.about["overrides"]):
        key = override.key_or_group
        if key in replaced or key == "run.dir":
            continue
        if key.split(".")[0] in METHOD and name != parent.about["name"]:
            dropped.append(override.input_line or "")
        elif key != recipes.CARD or name == parent.about["name"]:
            taken.append(override.input_line or "")
    if not any(o.key_or_group == recipes.CARD for o in recipes.parse([*taken, *asked])):
        taken.append(f"{recipes.CARD}={name}")
    composed = recipes.flat(recipes.load(parent.about["overrides"], parent.about.get("config_dirs", [])).config)
    for key, value in recipes.flat(parent.config).items():
        if key.startswith(MOVABLE) and composed.get(key, ...) != value and key not in replaced:
            taken = [t for t in taken if recipes.parse([t])[0].key_or_group != key]
            taken.append(f"{key}={json.dumps(value)}")
    return taken, dropped


def _cuts(
    parent: Parent, job: Sequence[str], by_part: Sequence[int], dirs: Sequence[str], problems: list[str]
) -> Iterator[tuple[tuple[int, str] | None, list[str]]]:
    """Micro-batch sensitivity: for each size, the method on the whole mini-batch and micro-batch by micro-batch. Otherwise the job itself."""
    if not by_part:
        yield None, []
        return
    try:
        recipe = recipes.load([*inherited(parent, job)[0], *job], dirs)
    except RecipeError as error:
        problems.extend(error.problems)
        return
    whole = [n for seat in ("shape", "loss", "regularize") for n in recipe.plan.nodes[seat] if n.when == "minibatch"]
    if not whole:
        problems.append(f"--by-microbatch: {recipe.name} has no function that reads a whole mini-batch, so a micro-batch cannot change it")
    options = [f"{n.path}.{k}={v}" for n in whole for k, v in (n.card.get("by_part") or {}).items()]
    for tokens in by_part:
        size = [f"trainer.max_tokens_per_microbatch={tokens}", *options]
        yield (tokens, "minibatch"), size
        yield (tokens, "part"), [*size, *(f"+{n.path}.scope=microbatch" for n in whole)]


def _targets(config: Config) -> dict[str, str]:
    """The function at each place of a recipe."""
    flat = recipes.flat({k: v for k, v in config.items() if k not in ("data", "engine", "card")})
    return {k.removesuffix("._target_"): str(v) for k, v in flat.items() if k.endswith("._target_")}


def _stateful(recipe: Recipe) -> dict[str, str]:
    """Functions with memory, by place."""
    nodes = [n for members in recipe.plan.nodes.values() for n in members if n.stateful and hasattr(n.fn, "state_dict")]
    return {n.path: n.target for n in nodes}


def _notes(branch: Branch) -> list[str]:
    lines = list(branch.changed) or ["the parent's own recipe"]
    if branch.dropped:
        lines.append(f"not taken from the parent, because they belong to its method: {' '.join(branch.dropped)}")
    if branch.fresh:
        lines.append(f"begins without memory, because the parent had none to give: {', '.join(branch.fresh)}")
    if any(c.startswith("seed:") for c in branch.changed):
        lines.append("another seed: other prompts and other draws, so not paired with its sisters")
    return lines


def _check_folder(branch: Branch, parent: Parent, at: int) -> None:
    """A folder that is there must hold this branch of this parent."""
    if not branch.folder.exists():
        return
    now = sweep.state(branch.folder)
    if now == "new":
        raise RunExists(f"'{branch.folder}' exists and is no branch; nothing was overwritten. Choose another place with --out")
    about, config = RunFolder(branch.folder).about, RunFolder(branch.folder).config
    kept, asked = recipes.flat(config), recipes.flat(branch.recipe.config)
    known = [k for k in sorted({*kept, *asked}) if k in kept or k.split(".")[0] in METHOD]  # a later version may have more settings
    other = [k for k in known if kept.get(k) != asked.get(k) and not k.startswith((*MOVABLE, "run.", "card"))]
    origin = about.get("fork", {})
    if (origin.get("id"), origin.get("step")) != (parent.about["id"], at):
        what = f"a branch of {origin['run']} at step {origin['step']}" if origin else "a run that is no branch"
    elif other:
        what = f"another branch: {other[0]} is {kept.get(other[0])} there, {asked.get(other[0])} is asked for"
    else:
        return
    raise RunExists(f"'{branch.folder}' holds {what}; nothing was overwritten. Choose another place with --out")


def make(branch: Branch, parent: Parent, at: int) -> None:
    """Write a branch's folder: whole, or not at all.

    Raises:
        CheckpointError: the checkpoint went away meanwhile (the parent is running and keeps only its last ones).
    """
    final = branch.folder
    partial = final.with_name(f".{final.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    source = parent.path / "checkpoints" / checkpoint.name(at)
    kept = partial / "checkpoints" / checkpoint.name(at)
    try:
        shutil.copytree(source / "tensors", kept / "tensors", copy_function=_link)
        state = state_for(branch, parent, checkpoint.read_state(parent.path / "checkpoints", at))
    except (OSError, shutil.Error) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise CheckpointError(
            f"the checkpoint of step {at} of '{parent.path}' could not be copied ({error}); was it just replaced?"
        ) from error
    (kept / "state.json").write_text(json.dumps(state.to_dict(), indent=1))
    for name in (METRICS, TIMINGS, SAMPLES, BUDGET):
        if (parent.path / name).is_file():
            (partial / name).write_bytes(_until(parent.path / name, at))
    folder = RunFolder(partial)
    about = {
        "id": uuid.uuid4().hex[:8],
        "name": branch.recipe.name,
        "overrides": branch.recipe.overrides,
        "config_dirs": branch.recipe.config_dirs,
        "data": parent.about["data"],
        "fork": {
            "run": str(parent.path.resolve()),
            "id": parent.about["id"],
            "name": parent.about["name"],
            "step": at,
            "changed": branch.changed,
            "fresh": branch.fresh,
        },
    }
    recipe = branch.recipe
    folder.describe(config=recipe.config, differences=differences(recipe.config), plan=recipe.plan.lines(), about=about)
    about = {**folder.about, "resume": RunFolder(final).resume_command}
    folder.write("run.json", json.dumps(about, indent=1))
    folder.status("stopped", at, f"forked from {parent.path}")
    partial.rename(final)


def state_for(branch: Branch, parent: Parent, state: TrainingState) -> TrainingState:
    """A checkpoint's plain state as the branch takes it.

    The memory of a function is kept where the branch has the same function in the same place. Knobs keep what controllers made of
    them only under the same controllers; otherwise they begin at the recipe's values. The learning rate's schedule goes on from the
    same step, however many updates a step has.
    """
    before, after = _targets(parent.config), _targets(branch.recipe.config)
    same = {path for path, target in after.items() if before.get(path) == target}
    controllers = [{p: t for p, t in targets.items() if p.startswith("control.")} for targets in (before, after)]
    known = branch.recipe.plan.knobs()
    return replace(
        state,
        recipe=RecipeMark(branch.recipe.name, identity(branch.recipe.config)),
        functions={path: memory for path, memory in state.functions.items() if path in same},
        knobs={k: v for k, v in state.knobs.items() if k in known} if controllers[0] == controllers[1] else {},
        policy={**state.policy, "count": state.policy["count"] * _updates(branch.recipe.config) // _updates(parent.config)},
        alarms={**state.alarms, "idle": {place: steps for place, steps in state.alarms.get("idle", {}).items() if place in same}},
    )


def _updates(config: Config) -> int:
    """Optimizer updates in a step."""
    return int(config["trainer"]["minibatches"]) * int(config["trainer"]["epochs"])


def _until(file: Path, step: int) -> bytes:
    """The lines of a record up to a step, as they are."""
    count = sum(1 for row in read_rows(file) if row["step"] <= step)
    return b"".join(file.read_bytes().splitlines(keepends=True)[:count])


def _link(source: str, target: str) -> None:
    """The same file under two names where the file system can (checkpoints are never written to again), a copy elsewhere."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
