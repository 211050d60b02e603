"""The arena: every method on the same task with the same budget, and one table.

A job is one recipe with one seed: `rlent train`, then `rlent eval` on the held-out problems, each a process of its own with
one thread (`rlent.studies.warm`). Jobs are ordered seed by seed, so that an arena that is not finished compares all methods on fewer seeds rather than
fewer methods on all. A job that was stopped is resumed, one that failed is tried again by the same command; the others go on.

    OUT/arena.json              the settings, then the table (see `summary`)
    OUT/runs/<recipe>/seed<N>   the run
    OUT/runs/<recipe>/seed<N>.json   the job: what it cost, or why it failed
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from rlent import __version__
from rlent.errors import RecipeError, UsageError, did_you_mean
from rlent.eval.compare import by_seed
from rlent.eval.folder import write_json
from rlent.eval.result import Evaluation
from rlent.math.intervals import bootstrap_interval, paired_bootstrap
from rlent.plots.figure import clean, figure_of, finish
from rlent.plots.looks import looks
from rlent.recipe.compose import groups, load
from rlent.studies.warm import Warm
from rlent.system.signals import on_stop
from rlent.track.record import read_metrics, series

BASE = "grpo"
LAST_SHARE = 0.05
"""Values "at the end" are means over the last twentieth of the steps, five at least."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The budget every method gets. `overrides` apply to all jobs."""

    steps: int = 200
    n: int = 128
    k: int = 64
    problems: int = 128
    overrides: tuple[str, ...] = ()


QUICK = Settings(
    steps=40,
    n=8,
    k=8,
    problems=32,
    overrides=("sampler.prompts=4", "sampler.n=8", "trainer.minibatches=2", "track.ledger.rows=4", "track.keep_batches=0"),
)


@dataclass(frozen=True, slots=True)
class Job:
    recipe: str
    seed: int
    overrides: tuple[str, ...] = ()  # what the card says of running its method here

    def folder(self, out: Path) -> Path:
        return out / "runs" / self.recipe / f"seed{self.seed}"

    def record(self, out: Path) -> Path:
        return out / "runs" / self.recipe / f"seed{self.seed}.json"

    def evaluation(self, out: Path) -> Path:
        return out / "runs" / self.recipe / f"seed{self.seed}-eval"


def entries(names: Sequence[str], config_dirs: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
    """The methods to run, GRPO first, each with its card's `arena:` block (`overrides`, `note`, or `skip`, a reason).

    Raises:
        UsageError: a recipe that does not exist.
    """
    files = groups(config_dirs)["recipe"]
    unknown = [n for n in names if n not in files]
    if unknown:
        raise UsageError("\n".join(f"there is no recipe '{n}'{did_you_mean(n, files)}" for n in unknown))
    order = sorted(names or files, key=lambda n: (n != BASE, n))
    return {n: dict(((yaml.safe_load(files[n].read_text()) or {}).get("card") or {}).get("arena") or {}) for n in order}


def jobs_of(methods: Mapping[str, Mapping[str, Any]], seeds: Sequence[int]) -> list[Job]:
    return [
        Job(name, seed, tuple(about.get("overrides") or ())) for seed in seeds for name, about in methods.items() if "skip" not in about
    ]


def training(job: Job, settings: Settings, out: Path) -> list[str]:
    """The arguments of `rlent train` for a new job."""
    own = [f"recipe={job.recipe}", f"seed={job.seed}", f"trainer.steps={settings.steps}", "eval.every=0", "track.mode=disabled"]
    return [*own, *job.overrides, *settings.overrides, f"run.dir='{job.folder(out)}'"]


# ---- running ----------------------------------------------------------------------------------------------------------------


class Runner:
    """Works through jobs with a few processes at a time; `stop` ends it so that the same command goes on later."""

    def __init__(self, out: Path, settings: Settings, config_dirs: Sequence[str], workers: int) -> None:
        self.out, self.settings, self.workers = out, settings, workers
        self.dirs = [argument for d in config_dirs for argument in ("--config-dir", str(Path(d).resolve()))]
        self.children: set[int] = set()
        self.lock = threading.Lock()
        self.stopped = False

    def run(self, jobs: Sequence[Job]) -> None:
        waiting: queue.SimpleQueue[Job] = queue.SimpleQueue()
        for job in jobs:
            waiting.put(job)
        left = len(jobs)

        def work() -> None:
            nonlocal left
            warm = Warm({**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"})
            while not self.stopped:
                try:
                    job = waiting.get_nowait()
                except queue.Empty:
                    break
                began = time.monotonic()
                failure = self.do(warm, job)
                with self.lock:
                    left -= 1
                    if not self.stopped:
                        said = f"failed: {failure.splitlines()[-1][:200]}" if failure else "done"
                        print(f"{job.recipe} seed {job.seed}: {said} ({time.monotonic() - began:.0f} s, {left} to go)", flush=True)
            warm.close()

        threads = [threading.Thread(target=work) for _ in range(self.workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(0.2)

    def stop(self) -> None:
        """Ask the children to stop after their step; the second time, at once."""
        with self.lock:
            for child in self.children:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGTERM)
        self.stopped = True

    def do(self, warm: Warm, job: Job) -> str | None:
        """Train and evaluate; returns why it failed."""
        folder = job.folder(self.out)
        about = json.loads(job.record(self.out).read_text()) if job.record(self.out).is_file() else {}
        about = {"recipe": job.recipe, "seed": job.seed, "seconds": about.get("seconds", 0.0), "version": __version__}
        state = _state(folder)
        if state != "finished":
            if state != "new" and not (folder / "recipe.yaml").is_file():
                return f"'{folder}' is not a run; remove it"
            resume = state != "new"
            command = ["train", *self.dirs, *(["--resume", str(folder)] if resume else training(job, self.settings, self.out))]
            code, error, seconds = self.call(warm, command, job)
            about["seconds"] += seconds
            if _state(folder) != "finished":
                return self.keep(job, about, error or f"exit code {code}")
        if not (job.evaluation(self.out) / "eval.json").is_file():
            s = self.settings
            sizes = ["--pass-at-k", str(s.k), "--n", str(s.n), "--problems", str(s.problems)]
            command = ["eval", *self.dirs, f"run={folder}", *sizes, "--out", str(job.evaluation(self.out)), "--json"]
            code, error, seconds = self.call(warm, command, job)
            if code:
                return self.keep(job, about, error or f"exit code {code}")
        return self.keep(job, about, None)

    def keep(self, job: Job, about: Mapping[str, Any], failure: str | None) -> str | None:
        write_json(job.record(self.out), {**about, "failure": None if self.stopped else failure})
        return failure

    def call(self, warm: Warm, arguments: Sequence[str], job: Job) -> tuple[int, str, float]:
        """Exit code, the last lines of what went wrong, and processor seconds of a child with one thread."""
        log = job.record(self.out).with_suffix(".log")
        log.parent.mkdir(parents=True, exist_ok=True)
        mine: list[int] = []

        def began(pid: int) -> None:
            with self.lock:
                mine.append(pid)
                self.children.add(pid)
                if self.stopped:
                    os.kill(pid, signal.SIGTERM)

        if self.stopped:
            return 130, "stopped", 0.0
        try:
            code, seconds = warm.call(arguments, log, began)
        finally:
            with self.lock:
                self.children.difference_update(mine)
        tail = log.read_text(errors="replace").strip().splitlines()[-12:] if code and log.is_file() else []
        return code, "\n".join(tail), seconds


def _state(folder: Path) -> str:
    """new, finished, or what the run's status file says."""
    if not folder.is_dir():
        return "new"
    try:
        return str(json.loads((folder / "status.json").read_text())["state"])
    except (OSError, ValueError, KeyError):
        return "unknown"


def _finished(job: Job, out: Path) -> bool:
    return _state(job.folder(out)) == "finished" and (job.evaluation(out) / "eval.json").is_file()


# ---- the table --------------------------------------------------------------------------------------------------------------


def at_the_end(values: Sequence[float], last: int | None = None) -> float:
    """Mean of the `last` values, or of the last twentieth."""
    return float(np.mean(values[-(last or max(5, round(LAST_SHARE * len(values)))) :])) if len(values) else float("nan")


@dataclass(frozen=True, slots=True)
class Result:
    """A finished run with its evaluation; `seconds` of processor time, None where they were not kept."""

    seed: int
    run: Path
    evaluation: Path
    seconds: float | None = None


def row_of(recipe: str, results: Sequence[Result], k: int, last: int | None = None) -> dict[str, Any]:
    """What a recipe came to: means over its seeds, and by seed what `by_seed` lists."""
    metrics = [read_metrics(r.run) for r in results]
    evals = [Evaluation.load(r.evaluation / "eval.json") for r in results]
    entropy = [series(rows)[1] for rows in metrics]
    starts, ends = [float(e[0]) for e in entropy], [at_the_end(e, last) for e in entropy]
    reward = [at_the_end(series(rows, "reward/mean")[1], last) for rows in metrics]
    found: dict[str, Any] = {
        "recipe": recipe,
        "seeds": [r.seed for r in results],
        "reward": float(np.mean(reward)),
        "entropy_start": float(np.mean(starts)),
        "entropy_end": float(np.mean(ends)),
        "entropy_kept": float(np.mean(ends) / np.mean(starts)),
        "by_seed": {"reward": reward, "entropy_end": ends},
    }
    if all(r.seconds is not None for r in results):
        found["seconds_per_step"] = float(np.mean([r.seconds / len(rows) for r, rows in zip(results, metrics, strict=True)]))
    for at in dict.fromkeys((1, k)):
        (each,) = by_seed([evals], at)
        values = each.mean(0)
        low, high = bootstrap_interval(values)
        found[f"pass@{at}"] = {"value": float(values.mean()), "low": float(low), "high": float(high)}
        found["by_seed"][f"pass@{at}"] = each.mean(1).tolist()
    found["_evals"] = {r.seed: e for r, e in zip(results, evals, strict=True)}
    return found


def compared(rows: Sequence[dict[str, Any]], k: int, name: str = BASE) -> list[dict[str, Any]]:
    """The rows with what they differ from that of `name` in: time, and pass@1 and pass@k paired by problem over the seeds that both have.

    Rows without one of that name are as they were.
    """
    base = next((r for r in rows if r["recipe"] == name), None)
    for row in rows if base is not None else ():
        if "seconds_per_step" in row and "seconds_per_step" in base:
            row["cost"] = row["seconds_per_step"] / base["seconds_per_step"]
        seeds = [seed for seed in row["seeds"] if seed in base["seeds"]]
        for at in dict.fromkeys((1, k)):
            if row is not base and seeds:
                mine, theirs = by_seed([[r["_evals"][seed] for seed in seeds] for r in (row, base)], at)
                d = paired_bootstrap(mine.mean(0), theirs.mean(0))
                row[f"pass@{at}_difference"] = {"value": d.value, "low": d.low, "high": d.high}
    return [{key: value for key, value in row.items() if not key.startswith("_")} for row in rows]


def summary(jobs: Sequence[Job], methods: Mapping[str, Mapping[str, Any]], settings: Settings, out: Path) -> dict[str, Any]:
    """Settings, one row for each method with finished jobs, and what is missing with its reason."""
    done: dict[str, list[Result]] = {}
    missing: dict[str, str] = {name: f"skipped: {about['skip']}" for name, about in methods.items() if "skip" in about}
    for job in jobs:
        record = job.record(out)
        about = json.loads(record.read_text()) if record.is_file() else {}
        if _finished(job, out):
            done.setdefault(job.recipe, []).append(Result(job.seed, job.folder(out), job.evaluation(out), about.get("seconds")))
        elif about.get("failure"):
            missing[f"{job.recipe} seed {job.seed}"] = about["failure"]
    rows = compared([row_of(recipe, mine, settings.k) for recipe, mine in done.items()], settings.k)
    for row in rows:
        row["note"] = methods[row["recipe"]].get("note", "")
    return {"settings": asdict(settings), "version": __version__, "rows": rows, "missing": missing}


def columns(row: Mapping[str, Any], k: int) -> list[str]:
    """A row of the table as text."""

    def interval(found: Mapping[str, float] | None, sign: str = "") -> str:
        return f"{found['value']:{sign}.3f} ({found['low']:{sign}.3f} .. {found['high']:{sign}.3f})" if found else ""

    return [
        row["recipe"] + ("*" if row.get("note") else ""),
        str(len(row["seeds"])),
        f"{row['reward']:.3f}",
        f"{row['entropy_end']:.3f}",
        f"{row['entropy_kept']:.0%}",
        interval(row["pass@1"]),
        interval(row[f"pass@{k}"]),
        interval(row.get(f"pass@{k}_difference"), "+"),
        f"{row['cost']:.2f}" if "cost" in row else "",
    ]


def head(k: int) -> list[str]:
    return ["recipe", "seeds", "reward", "entropy", "kept", "pass@1", f"pass@{k}", f"pass@{k} - {BASE}", "time"]


def caption(document: Mapping[str, Any]) -> str:
    s = document["settings"]
    return (
        f"{s['steps']} steps of the embedded task; means over seeds. reward and entropy (nats per token): means over the last twentieth of the "
        f"steps; kept: entropy at the end over entropy at the first step. pass@k: {s['problems']} held-out problems x {s['n']} samples, 95 % bootstrap "
        f"intervals over problems; the difference is paired by problem, over the seeds that both have. time: processor seconds per step of the whole training process, relative to {BASE}."
    )


def markdown(document: Mapping[str, Any]) -> str:
    k = document["settings"]["k"]
    names = head(k)
    lines = ["| " + " | ".join(names) + " |", "|---|" + "---:|" * (len(names) - 1)]
    lines += ["| " + " | ".join(columns(row, k)) + " |" for row in document["rows"]]
    notes = [f"\\* `{row['recipe']}`: {row['note']}" for row in document["rows"] if row.get("note")]
    gaps = [f"Missing: {name}: {reason.splitlines()[-1]}" for name, reason in document["missing"].items()]
    return "\n".join([*lines, "", caption(document), *(f"\n{line}" for line in (*notes, *gaps))])


def write(document: Mapping[str, Any], out: Path) -> list[Path]:
    """arena.json, arena.csv, arena.md and, with two rows or more, the picture; returns what was written."""
    made = [out / "arena.json", out / "arena.csv", out / "arena.md"]
    write_json(made[0], document)
    k = document["settings"]["k"]
    with made[1].open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        names = ["recipe", "seeds", "reward", "entropy_start", "entropy_end", "entropy_kept", "cost"]
        points = ["pass@1", f"pass@{k}", f"pass@{k}_difference"]
        writer.writerow([*names, *(f"{p}{end}" for p in points for end in ("", "_low", "_high"))])
        for row in document["rows"]:
            plain = [len(row["seeds"]) if name == "seeds" else row.get(name, "") for name in names]
            writer.writerow([*plain, *((row.get(p) or {}).get(end, "") for p in points for end in ("value", "low", "high"))])
    made[2].write_text(markdown(document) + "\n")
    if document["rows"]:
        made += picture(document, out / "arena-figure")
    return made


def picture(document: Mapping[str, Any], out: Path) -> list[Path]:
    """Two panels, methods from top to bottom by pass@k: entropy kept (each seed a dot), and pass@1 and pass@k with intervals."""
    k = document["settings"]["k"]
    rows = sorted(document["rows"], key=lambda r: r[f"pass@{k}"]["value"])
    look = looks([BASE, "klcov"])  # two colours of the palette: the base's, and one for the others
    tones = {BASE: look[BASE].colour, "others": look["klcov"].colour}
    figure = figure_of(10.4, 1.9 + 0.235 * len(rows))
    left, right = figure.subplots(1, 2, sharey=True)
    for y, row in enumerate(rows):
        tone = tones[BASE] if row["recipe"] == BASE else tones["others"]
        kept = [e / row["entropy_start"] for e in row["by_seed"]["entropy_end"]]
        left.plot(kept, [y] * len(kept), "o", color=tone, markersize=3.5, alpha=0.6)
        left.plot([row["entropy_kept"]], [y], "|", color=tone, markersize=11, markeredgewidth=2)
        for at, marker in ((1, "s"), (k, "o")):
            p = row[f"pass@{at}"]
            right.plot([p["low"], p["high"]], [y, y], color=tone, linewidth=1.6, alpha=0.55)
            right.plot([p["value"]], [y], marker, color=tone, markersize=4.5, markerfacecolor="white" if at == 1 else tone)
    left.set_yticks(range(len(rows)), [r["recipe"] for r in rows], fontsize=8)
    left.set_ylim(-0.7, len(rows) - 0.3)
    left.set_xlim(left=0)
    right.set_xlim(0, 1)
    left.set_title("Entropy kept", loc="left", fontsize=11, fontweight="bold")
    right.set_title(f"pass@1 (squares) and pass@{k} (dots)", loc="left", fontsize=11, fontweight="bold")
    left.set_xlabel("entropy at the end / at the first step (dots: seeds, bar: mean)")
    right.set_xlabel("share of held-out problems solved")
    for axes in (left, right):
        clean(axes)
    table = [["recipe", "panel", "value", "low", "high"]]
    for row in document["rows"]:
        table.append([row["recipe"], "entropy_kept", row["entropy_kept"], "", ""])
        table += [[row["recipe"], f"pass@{at}", *(row[f"pass@{at}"][e] for e in ("value", "low", "high"))] for at in dict.fromkeys((1, k))]
    return finish(figure, caption(document), out, table)


# ---- the command ------------------------------------------------------------------------------------------------------------


def main(
    names: Sequence[str] = (),
    *,
    out: str | Path = "outputs/arena",
    seeds: Sequence[int] = (0, 1, 2),
    settings: Settings | None = None,
    quick: bool = False,
    workers: int = 2,
    table_only: bool = False,
    as_json: bool = False,
    config_dirs: Sequence[str] = (),
) -> int:
    """Run what is missing, then write and print the table; 1 if a job failed, 130 if it was stopped.

    Raises:
        UsageError: an unknown recipe, or a folder that holds an arena with another budget.
        RecipeError: a method that does not compose; nothing was started.
    """
    out = Path(out)
    settings = settings or (QUICK if quick else Settings())
    if settings.k > settings.n:
        raise UsageError(f"--pass-at-k {settings.k} needs at least as many samples, and --n is {settings.n}")
    seeds = list(dict.fromkeys(seeds))[: 1 if quick else None]
    methods = entries(names, config_dirs)
    kept = out / "arena.json"
    if kept.is_file():
        before = json.loads(kept.read_text())["settings"]
        before = replace(Settings(), **{**before, "overrides": tuple(before["overrides"])})
        if before != settings:
            raise UsageError(f"'{out}' holds an arena with another budget ({_differ(before, settings)}); choose another --out")
    jobs = jobs_of(methods, seeds)
    todo = [job for job in jobs if not _finished(job, out)]
    stopped = False
    if not table_only:
        problems = [f"{job.recipe}: {p}" for job in todo if job.seed == seeds[0] for p in _problems(job, settings, out, config_dirs)]
        if problems:
            raise RecipeError(problems)
        out.mkdir(parents=True, exist_ok=True)
        if not kept.is_file():
            write_json(kept, {"settings": asdict(settings), "version": __version__, "rows": [], "missing": {}})
        print(
            f"{len(todo)} of {len(jobs)} jobs to do in {out}: {len(methods)} methods, {len(seeds)} seeds, {settings.steps} steps each",
            flush=True,
        )
        runner = Runner(out, settings, config_dirs, workers)
        with _stopping(runner):
            runner.run(todo)
        stopped = runner.stopped
    document = summary(jobs, methods, settings, out)
    if table_only and not document["rows"]:
        raise UsageError(f"'{out}' has no finished job of these methods; run it without --table first")
    made = write(document, out)
    if as_json:
        print(json.dumps(document, indent=1))
    else:
        _print(document)
        print("\n".join(str(m) for m in made))
    if stopped:
        print("stopped; the same command goes on", file=sys.stderr)
        return 130
    failed = [job for job in jobs if not _finished(job, out)]
    return 1 if failed else 0


def _print(document: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    k = document["settings"]["k"]
    table = Table(caption=caption(document), caption_justify="left")
    for name in head(k):
        table.add_column(name, justify="left" if name == "recipe" else "right", no_wrap=True)
    for row in document["rows"]:
        table.add_row(*columns(row, k))
    console = Console() if sys.stdout.isatty() else Console(width=160)
    console.print(table)
    for name, reason in document["missing"].items():
        console.print(f"missing: {name}: {reason.splitlines()[-1]}", markup=False)


def _problems(job: Job, settings: Settings, out: Path, config_dirs: Sequence[str]) -> Iterable[str]:
    try:
        load(training(job, settings, out), config_dirs)
    except RecipeError as error:
        return error.problems
    return []


def _differ(a: Settings, b: Settings) -> str:
    one, two = asdict(a), asdict(b)
    return ", ".join(f"{k} {one[k]} there, {two[k]} here" for k in one if one[k] != two[k])


@contextmanager
def _stopping(runner: Runner) -> Iterator[None]:
    """Ctrl-C and SIGTERM stop the runner's children after their step instead of ending this process."""

    def ask(received: signal.Signals) -> None:
        print("stopping after the steps that are running; once more stops at once", file=sys.stderr, flush=True)
        threading.Thread(target=runner.stop).start()  # the lock may be held by what was interrupted

    with on_stop(ask):
        yield
