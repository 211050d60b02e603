"""`rlent eval`: a run, a checkpoint of it, or any model, on held-out problems."""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers.utils import logging as hf_logging

from rlent import checkpoint
from rlent import recipe as recipes
from rlent.data.problems import Problems
from rlent.engine.make import make_engine
from rlent.errors import UsageError
from rlent.eval.evaluate import evaluate, samples_for
from rlent.eval.plot import plot_pass_at_k
from rlent.folder import RunFolder
from rlent.policy.policy import Policy
from rlent.recipe import Recipe, build
from rlent.sampling.draw import Decoding, stop_tokens
from rlent.track import Wandb
from rlent.world import World

hf_logging.disable_progress_bar()

DEFAULT_PROBLEMS = 256


def main(
    arguments: Sequence[str],
    *,
    pass_at_k: int | None = None,
    n: int | None = None,
    greedy: bool = False,
    temperature: float | None = None,
    problems: int | None = None,
    seed: int | None = None,
    out: str | None = None,
    as_json: bool = False,
    config_dirs: Sequence[str] = (),
) -> int:
    """Evaluate, print the table, write eval.json, responses.jsonl and the pass@k plot.

    Raises:
        UsageError: k above n, no run or model named, or an output folder made with other settings.
    """
    place, recipe, weights, label = target(arguments, config_dirs)
    settings = recipe["eval"]
    if n is not None and pass_at_k is not None and pass_at_k > n:
        raise UsageError(f"--pass-at-k {pass_at_k} needs at least as many samples, and --n is {n}; leave --n out or raise it")
    samples, ks = (
        samples_for(pass_at_k, n)
        if pass_at_k is not None
        else (n or settings["n"], [k for k in settings["ks"] if k <= (n or settings["n"])])
    )
    if greedy:
        samples, ks, temperature = 1, [1], 0.0
        if pass_at_k not in (None, 1):
            raise UsageError(f"--greedy gives one response to each problem; pass@{pass_at_k} needs samples")
    decoding = Decoding(
        temperature=settings["temperature"] if temperature is None else temperature,
        top_p=settings["top_p"],
        top_k=settings["top_k"],
        max_tokens=settings["max_tokens"] or int(recipe["sampler"]["max_tokens"]),
    )
    world = World.join(recipe["scale"]["device"], recipe["scale"]["timeout"])
    source = build(recipe["data"])
    chosen: Problems = source.held_out[: problems or DEFAULT_PROBLEMS]
    policy = load_policy(recipe, place, weights)
    engine = make_engine(recipe["engine"], policy)
    engine.load(policy, weights or 0)
    sampler = build(recipe["sampler"])
    draw_seed = settings["seed"] if seed is None else seed
    folder = (
        Path(out)
        if out
        else (place or Path("outputs"))
        / "eval"
        / _slug(label if place is None else "", weights, samples, decoding, draw_seed, len(chosen), source)
    )
    with _progress(len(chosen) * samples, world, quiet=as_json) as advance:
        result = evaluate(
            engine,
            policy.tokenizer,
            chosen,
            source.grader,
            n=samples,
            ks=ks,
            decoding=decoding,
            seed=draw_seed,
            template=source.template,
            stop=stop_tokens(policy.tokenizer, getattr(policy.model, "generation_config", None)),
            respond=sampler.respond,
            out=folder,
            progress=advance,
            label=label,
            about={"model": recipe["model"]["path"], "checkpoint": weights},
            world=world,
        )
    if hasattr(source.grader, "close"):
        source.grader.close()
    if not world.leads:
        return 0
    plot_pass_at_k([result], folder / "pass_at_k")
    _log(folder, recipe, result, label)
    if as_json:
        print(json.dumps({**result.to_dict(), "folder": str(folder)}))
        return 0
    Console().print(result.table())
    print(f"{folder}: eval.json, responses.jsonl, pass_at_k.png")
    return 0


def _log(folder: Path, recipe: Recipe, result: Any, label: str) -> None:
    """The numbers in W&B, as a run of its own in the evaluation's folder (offline unless logged in); once."""
    if (folder / "wandb").exists():
        return
    track = recipe["track"]
    run = Wandb(**{k: track[k] for k in ("mode", "project", "entity", "group")}, say=lambda text: print(text, file=sys.stderr))
    run.start(folder, {**result.settings, "recipe": recipe.name}, uuid.uuid4().hex[:8], name=f"eval {label}", tags=["eval", recipe.name])
    run.log(0, result.metrics())
    run.summary(result.metrics())
    run.finish()


def target(arguments: Sequence[str], config_dirs: Sequence[str]) -> tuple[Path | None, Recipe, int | None, str]:
    """The run's folder (or None), the recipe, the checkpoint's step (None: the exported model), and a label.

    Raises:
        UsageError: nothing to evaluate was named, or two things were.
    """
    named = {k: v for k, _, v in (a.partition("=") for a in arguments) if k in ("run", "model", "checkpoint", "step")}
    rest = [a for a in arguments if a.partition("=")[0] not in ("run", "model", "checkpoint", "step")]
    if "run" in named and ("model" in named or "checkpoint" in named):
        raise UsageError("name one thing to evaluate: run=DIR, checkpoint=DIR/checkpoints/step_000100, or model=PATH")
    if "checkpoint" in named:
        path = Path(named["checkpoint"])
        if not path.name.startswith("step_"):
            raise UsageError(f"checkpoint='{path}': a folder like RUN/checkpoints/step_000100 is expected")
        named["run"], named["step"] = str(path.parent.parent), path.name.removeprefix("step_")
    if "run" in named:
        return _run_target(Path(named["run"]), named.get("step"), rest, config_dirs)
    if "model" in named:
        menu = recipes.groups(config_dirs)["model"]
        given = named["model"]
        pick = (
            [f"model={given}"] if given in menu else ["model=hf", f"model.path={Path(given).resolve() if Path(given).exists() else given}"]
        )
        return None, recipes.load([*pick, *rest], config_dirs), None, Path(given).name
    raise UsageError(
        "what is to be evaluated? run=DIR (a training run), checkpoint=DIR, or model=PATH (a folder, a Hugging Face id, or tiny)"
    )


def _run_target(path: Path, step: str | None, rest: Sequence[str], config_dirs: Sequence[str]) -> tuple[Path, Recipe, int | None, str]:
    folder = RunFolder(path)
    if not (path / "recipe.yaml").is_file():
        raise UsageError(f"run='{path}' is not a run folder (it has no recipe.yaml)")
    dirs = [*folder.about.get("config_dirs", []), *config_dirs]
    recipe = recipes.from_config(recipes.with_values(folder.config, rest), name=folder.about["name"], config_dirs=dirs)
    saved = checkpoint.steps(path / "checkpoints")
    if step is not None:
        if not step.isdigit() or int(step) not in saved:
            raise UsageError(f"step={step}: run '{path}' has checkpoints of steps {', '.join(map(str, saved)) or 'none'}")
        return path, recipe, int(step), f"{path.name} step {int(step)}"
    if (path / "model" / "config.json").is_file() and folder.read_status().get("state") == "finished":
        return path, recipe, None, path.name
    if not saved:
        raise UsageError(f"run '{path}' has no checkpoint and no exported model yet")
    return path, recipe, saved[-1], f"{path.name} step {saved[-1]}"


def load_policy(recipe: Recipe, place: Path | None, step: int | None) -> Policy:
    """The weights to evaluate: an exported model, a checkpoint's, or those the recipe names."""
    spec = dict(recipe["model"])
    if place is not None and step is None:
        spec["path"] = str(place / "model")
    known = {k: spec[k] for k in ("path", "dtype", "attn", "revision", "trust_remote_code")}
    policy = Policy.load(**known, device=recipe["scale"]["device"])
    if place is not None and step is not None:
        tensors = policy.model_state()
        checkpoint.read_tensors(place / "checkpoints", step, tensors, World())
        policy.load_model_state(tensors)
    return policy


def _slug(label: str, step: int | None, n: int, decoding: Decoding, seed: int, problems: int, source: Any) -> str:
    parts = [label, source.held_out.name, f"n{n}", f"p{problems}", f"t{decoding.temperature:g}", f"seed{seed}"]
    return "-".join(p.replace("/", "_") for p in [*parts, f"step{step}" if step is not None else ""] if p)


class _progress:  # noqa: N801 - used as a function
    """A progress bar on a terminal, nothing in a pipe."""

    def __init__(self, total: int, world: World, *, quiet: bool) -> None:
        show = world.leads and not quiet and sys.stderr.isatty()
        columns = (TextColumn("sampling"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.bar = Progress(*columns, console=Console(stderr=True), transient=True) if show else None
        self.total = total

    def __enter__(self) -> Any:
        if self.bar is None:
            return None
        self.bar.start()
        task = self.bar.add_task("sampling", total=self.total)
        return lambda count: self.bar.advance(task, count)  # type: ignore[union-attr]

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.stop()
