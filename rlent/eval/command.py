"""`rlent eval`: runs, checkpoints or any models, on held-out problems or on a suite of sets; several are compared in pairs."""

from __future__ import annotations

import csv
import json
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypedDict

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from transformers.utils import logging as hf_logging

from rlent.engine.base import Engine
from rlent.errors import RlentError, RunExists, UsageError
from rlent.eval.compare import Comparison, compare
from rlent.eval.evaluate import evaluate
from rlent.eval.figures import plot_pass_at_k, plot_sets
from rlent.eval.folder import write_json
from rlent.eval.report import Report, SuiteComparison, compare_reports
from rlent.eval.result import Evaluation
from rlent.eval.suite import Ask, Bench, Source, benches
from rlent.eval.targets import Target, decoding, targets, weights
from rlent.policy.policy import Policy
from rlent.ranks.world import World
from rlent.recipe.compose import build
from rlent.runs.folder import RunFolder
from rlent.sampling.draw import stop_tokens
from rlent.track import Wandb
from rlent.types import JsonObject, Problem

hf_logging.disable_progress_bar()

DEFAULT_PROBLEMS = 256
_PLAIN_EVERY = 30.0  # seconds between lines of progress where there is no terminal


def main(
    arguments: Sequence[str],
    ask: Ask,
    *,
    out: str | None = None,
    verl: bool = False,
    as_json: bool = False,
    config_dirs: Sequence[str] = (),
) -> int:
    """Evaluate, print tables, and write responses, numbers and figures.

    Everything that can be known to be wrong is reported before a model is loaded. What is in a folder already is not sampled again.

    Raises:
        UsageError: k above n, no run or model named, two options that contradict each other, or an output folder made with other
            settings or in use.
        RecipeError: sets that cannot be read.
    """
    found = targets(arguments, config_dirs)
    made: dict[str, Source] = {}
    sampled = ask.with_overrides(arguments)
    plans = {t.label: benches(t.recipe, sampled, DEFAULT_PROBLEMS, made) for t in found}
    folders = {t.label: _folder(t, plans[t.label], ask, out, several=len(found) > 1) for t in found}
    scale = found[0].recipe["scale"]
    world = World.join(scale["device"], scale["timeout"])
    total = sum(len(b.problems) * b.n for plan in plans.values() for b in plan)
    reports: list[Report] = []
    try:
        with _progress(total, world, quiet=as_json) as advance:
            for target, policy, engine, about in weights(found):
                one = _one(target, plans[target.label], policy, engine, about, folders[target.label], ask, world, advance)
                reports.append(one)
    except KeyboardInterrupt:
        if world.leads:
            print(f"stopped; the same command goes on from what is in {', '.join(map(str, folders.values()))}", file=sys.stderr)
        raise
    finally:
        for source in made.values():
            if hasattr(source.grader, "close"):
                source.grader.close()
    if not world.leads:
        return 0
    for target, report in zip(found, reports, strict=True):
        _write(target, report, folders[target.label], verl=verl)
    together = _compare(reports, found, Path(out) if out else Path("outputs") / "eval") if len(found) > 1 else None
    if as_json:
        print(json.dumps(_document(reports, folders, together, verl)))
        return 0
    _show(reports, folders, together, verl)
    return 0


# --- one model -------------------------------------------------------------------------------------------------------


def _one(
    target: Target,
    plan: Sequence[Bench],
    policy: Policy,
    engine: Engine,
    about: JsonObject,
    folder: Path,
    ask: Ask,
    world: World,
    advance: Callable[[int], None] | None,
) -> Report:
    """All sets of one target, each in a folder of its own if there are several."""
    settings = target.recipe["eval"]
    sampler = build(target.recipe["sampler"])
    suite = bool(settings.get("sets"))
    lock = _lock(folder) if world.leads else None
    found = {}
    try:
        for bench in plan:
            found[bench.name] = evaluate(
                engine,
                policy.tokenizer,
                bench.problems,
                bench.grader,
                n=bench.n,
                ks=bench.ks,
                decoding=bench.decoding,
                seed=settings["seed"] if ask.seed is None else ask.seed,
                template=bench.template,
                stop=stop_tokens(policy.tokenizer, getattr(policy.model, "generation_config", None)),
                batch_rows=settings.get("batch_rows", 1024),
                respond=partial(sampler.respond, decode=decoding(target)),
                out=folder / bench.name if suite else folder,
                progress=advance,
                label=target.label,
                about=about,
                grader_block=bench.block.get("grader"),
                world=world,
            )
    finally:
        if lock is not None:
            lock.release()
    notes: dict[str, list[str]] = {}
    clean: dict[str, JsonObject] = {}
    if world.leads:
        known, trouble = _training_keys(target)
        for bench in plan:
            said = [bench.note] if suite and bench.note else []
            if len(bench.problems) < bench.whole:
                said.append(f"the first {len(bench.problems)} of {bench.whole} problems")
            without = _without(found[bench.name], bench.problems, known)
            if without:
                clean[bench.name] = without
                said.append(
                    f"{without['shared']} of {len(bench.problems)} problems are in the training data; "
                    + (
                        f"avg@n without them {without['avg']:.3f} ({without['problems']} problems)"
                        if without["problems"]
                        else "no other is left"
                    )
                )
            notes[bench.name] = said + ([trouble] if trouble else [])
    return Report(target.label, found, notes, clean)


def _training_keys(target: Target) -> tuple[frozenset[str], str]:
    """Keys of the problems that the target was trained on, for a run on a file or a data set; and why they cannot be had."""
    data = target.recipe["data"]
    if target.place is None or not (data.get("path") or data.get("name")) or data.get("use") == "evaluate":
        return frozenset(), ""
    from rlent.data.overlap import key

    try:
        return frozenset(key(p.prompt) for p in build(data).train), ""
    except RlentError as error:
        return frozenset(), f"not compared with the training data ({str(error).splitlines()[0]})"


def _without(found: Evaluation, problems: Sequence[Problem], known: frozenset[str]) -> JsonObject | None:
    """The average over problems that are not in the training data; None if none is."""
    if not known:
        return None
    from rlent.data.overlap import key

    shared = {(p.source, p.id) for p in problems if key(p.prompt) in known}
    if not shared:
        return None
    rest = tuple(t for t in found.problems if (t.source, t.id) not in shared)
    avg = Evaluation(found.label, found.ks, rest, found.settings).average.value if rest else None
    return {"shared": len(shared), "ids": sorted(i for _, i in shared), "problems": len(rest), "avg": avg}


def _write(target: Target, report: Report, folder: Path, *, verl: bool) -> None:
    """Figures, the suite's summary, and W&B."""
    suite = bool(target.recipe["eval"].get("sets"))
    for name, evaluation in report.sets.items() if verl else ():
        write_json((folder / name if suite else folder) / "verl.json", evaluation.verl())
    if suite:
        report.save(folder)
        plot_sets([report], folder / "sets")
    else:
        name, evaluation = next(iter(report.sets.items()))
        plot_pass_at_k([evaluation], folder / "pass_at_k", title=f"pass@k on {name}")
    _log(folder, target, report)


def _log(folder: Path, target: Target, report: Report) -> None:
    """The numbers in W&B, as a run of its own in the evaluation's folder (offline unless logged in); once."""
    if (folder / "wandb").exists():
        return
    track, recipe = target.recipe["track"], target.recipe
    first = next(iter(report.sets.values()))
    numbers = report.metrics() if recipe["eval"].get("sets") else first.metrics()
    run = Wandb(**{k: track[k] for k in ("mode", "project", "entity", "group")}, say=lambda text: print(text, file=sys.stderr))
    tags = ["eval", recipe.name]
    run.start(folder, {**first.settings, "recipe": recipe.name}, uuid.uuid4().hex[:8], name=f"eval {target.label}", tags=tags)
    run.log(0, numbers)
    run.summary(numbers)
    run.finish()


# --- several models --------------------------------------------------------------------------------------------------


class _Together(TypedDict):
    """The comparison of several evaluations, and the folder it is written to."""

    result: Comparison | SuiteComparison
    folder: Path


def _compare(reports: Sequence[Report], found: Sequence[Target], base: Path) -> _Together:
    """Paired differences from the first, in `comparison.json` and `.csv`, with one figure of all."""
    suite = any(t.recipe["eval"].get("sets") for t in found)
    if suite:
        result: Comparison | SuiteComparison = compare_reports(reports)
    else:
        result = compare([next(iter(r.sets.values())) for r in reports])
    folder = base / _safe("-vs-".join(r.label for r in reports))
    write_json(folder / "comparison.json", result.to_dict())
    with (folder / "comparison.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(result.plain())
    if suite:
        plot_sets(reports, folder / "sets")
    else:
        plot_pass_at_k([next(iter(r.sets.values())) for r in reports], folder / "pass_at_k")
    return {"result": result, "folder": folder}


# --- what is printed -------------------------------------------------------------------------------------------------


def _document(reports: Sequence[Report], folders: dict[str, Path], together: _Together | None, verl: bool) -> JsonObject:
    def one(report: Report) -> JsonObject:
        place = {"folder": str(folders[report.label])}
        first = next(iter(report.sets.values()))
        more = {"verl": {name: e.verl() for name, e in report.sets.items()}} if verl else {}
        if (folders[report.label] / "suite.json").is_file():
            return {**report.to_dict(), **more, **place}
        return {**first.to_dict(), **more, "notes": list(report.notes.get(next(iter(report.sets)), ())), **place}

    if together is None:
        return one(reports[0])
    comparison = {**together["result"].to_dict(), "folder": str(together["folder"])}
    return {"evaluations": [one(r) for r in reports], "comparison": comparison}


def show(console: Console, table: Table) -> None:
    """A table, and its caption below it in lines of its own, which rich would break at the table's width."""
    caption, table.caption = table.caption, None
    console.print(table)
    print(caption)


def _show(reports: Sequence[Report], folders: dict[str, Path], together: _Together | None, verl: bool) -> None:
    console = Console() if sys.stdout.isatty() else Console(width=160)
    for report in reports:
        folder = folders[report.label]
        if (folder / "suite.json").is_file():
            show(console, report.table())
            made = "suite.json, sets.png, and eval.json, responses.jsonl of each set"
        else:
            name, first = next(iter(report.sets.items()))
            show(console, first.table())
            for note in report.notes.get(name, ()):
                print(f"note: {note}")
            made = "eval.json, responses.jsonl, pass_at_k.png"
        if verl:
            for name, e in report.sets.items():
                print(f"{name}, as verl's validation would log it: " + ", ".join(f"{k} {v:.4f}" for k, v in e.verl().items()))
        print(f"{folder}: {made}")
    if together is not None:
        show(console, together["result"].table())
        print(f"{together['folder']}: comparison.json, comparison.csv, figures")


# --- folders ---------------------------------------------------------------------------------------------------------


def _safe(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_.=," else "_" for c in name)


def _folder(target: Target, plan: Sequence[Bench], ask: Ask, out: str | None, *, several: bool) -> Path:
    """Where a target's evaluation is kept. The name says what distinguishes it; settings.json in it says all, and is compared."""
    if out:
        return Path(out) / _safe(target.label) if several else Path(out)
    seed = target.recipe["eval"]["seed"] if ask.seed is None else ask.seed
    parts = [target.label if target.place is None else ""]
    if target.recipe["eval"].get("sets"):
        said = {"k": ask.pass_at_k, "n": ask.n, "p": ask.problems, "t": ask.temperature}
        parts += [target.suite or "suite", *(f"{letter}{value:g}" for letter, value in said.items() if value is not None)]
        parts += ["greedy"] if ask.greedy else []
    else:
        bench = plan[0]
        parts += [bench.name, f"n{bench.n}", f"p{len(bench.problems)}", f"t{bench.decoding.temperature:g}"]
    parts += [node.name for node in decoding(target)]
    parts += [f"seed{seed}", f"step{target.step}" if target.step is not None else ""]
    return (target.place or Path("outputs")) / "eval" / _safe("-".join(p for p in parts if p))


def _lock(folder: Path) -> RunFolder:
    """The folder for this process alone.

    Raises:
        UsageError: another process works in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    held = RunFolder(folder)
    try:
        held.lock()
    except RunExists:
        raise UsageError(f"{folder} is in use by another evaluation; wait for it, or choose another folder with --out") from None
    return held


class _progress:  # noqa: N801 - used as a function
    """A progress bar on a terminal; elsewhere a line on stderr every half minute."""

    def __init__(self, total: int, world: World, *, quiet: bool) -> None:
        self.show = world.leads and not quiet
        columns = (TextColumn("sampling"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        terminal = self.show and sys.stderr.isatty()
        self.bar = Progress(*columns, console=Console(stderr=True), transient=True) if terminal else None
        self.total, self.done, self.said = total, 0, time.monotonic()

    def __enter__(self) -> Callable[[int], None] | None:
        if self.bar is not None:
            self.bar.start()
            self.task = self.bar.add_task("sampling", total=self.total)
        return self._advance if self.show else None

    def _advance(self, count: int) -> None:
        self.done += count
        if self.bar is not None:
            self.bar.advance(self.task, count)
        elif time.monotonic() - self.said > _PLAIN_EVERY:
            self.said = time.monotonic()
            print(f"sampled {self.done} of {self.total} responses", file=sys.stderr, flush=True)

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.stop()
