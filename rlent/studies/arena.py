"""The arena: every method on the same task with the same budget, and one table.

A job is one recipe with one seed: `rlent train`, then `rlent eval` on the held-out problems, each a process of its own with
one thread (`rlent.studies.warm`). Jobs are ordered seed by seed, so that an arena that is not finished compares all methods on fewer seeds rather than
fewer methods on all. A job that was stopped is resumed, one that failed is tried again by the same command; the others go on.

    OUT/arena.json              the settings, then the table (`rlent.report.arena`)
    OUT/runs/<recipe>/seed<N>   the run
    OUT/runs/<recipe>/seed<N>.json   the job: what it cost, or why it failed
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from rlent import __version__
from rlent.errors import RecipeError, UsageError, did_you_mean
from rlent.eval.folder import write_json
from rlent.recipe.compose import groups, load
from rlent.report.arena import BASE, Result, Settings, Table, compare, row_of, settings_of, show, write
from rlent.studies.warm import Warm
from rlent.system.signals import on_stop

KEPT = "arena.json"  # the settings before the first job has run, then the table

QUICK = Settings(
    steps=40,
    n=8,
    k=8,
    problems=32,
    overrides=("sampler.prompts=4", "sampler.n=8", "trainer.minibatches=2", "track.ledger.rows=4", "track.save_batches=0"),
)


@dataclass(frozen=True, slots=True)
class Job:
    """One recipe with one seed, and the places of its files in an arena's folder."""

    recipe: str
    seed: int
    overrides: tuple[str, ...] = ()  # of the card's `arena:` block

    def folder(self, out: Path) -> Path:
        return out / "runs" / self.recipe / f"seed{self.seed}"

    def record(self, out: Path) -> Path:
        return out / "runs" / self.recipe / f"seed{self.seed}.json"

    def evaluation(self, out: Path) -> Path:
        return out / "runs" / self.recipe / f"seed{self.seed}-eval"


@dataclass(slots=True)
class Record:
    """What is kept of a job: processor seconds of its training, and why it failed, if it did."""

    recipe: str
    seed: int
    seconds: float = 0.0
    version: str = __version__
    failure: str | None = None


def recorded(job: Job, out: Path) -> Record | None:
    """The record of a job that has begun."""
    file = job.record(out)
    return Record(**json.loads(file.read_text())) if file.is_file() else None


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
                        outcome = f"failed: {failure.splitlines()[-1][:200]}" if failure else "done"
                        print(f"{job.recipe} seed {job.seed}: {outcome} ({time.monotonic() - began:.0f} s, {left} to go)", flush=True)
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
        before = recorded(job, self.out)
        record = Record(job.recipe, job.seed, before.seconds if before else 0.0)
        state = _state(folder)
        if state != "finished":
            if state != "new" and not (folder / "recipe.yaml").is_file():
                return f"'{folder}' is not a run; remove it"
            resume = state != "new"
            command = ["train", *self.dirs, *(["--resume", str(folder)] if resume else training(job, self.settings, self.out))]
            code, error, seconds = self.call(warm, command, job)
            record.seconds += seconds
            if _state(folder) != "finished":
                return self.keep(job, record, error or f"exit code {code}")
        if not (job.evaluation(self.out) / "eval.json").is_file():
            s = self.settings
            sizes = ["--pass-at-k", str(s.k), "--n", str(s.n), "--problems", str(s.problems)]
            command = ["eval", *self.dirs, f"run={folder}", *sizes, "--out", str(job.evaluation(self.out)), "--json"]
            code, error, seconds = self.call(warm, command, job)
            if code:
                return self.keep(job, record, error or f"exit code {code}")
        return self.keep(job, record, None)

    def keep(self, job: Job, record: Record, failure: str | None) -> str | None:
        """Write the record of a job and return its failure; being stopped is none."""
        record.failure = None if self.stopped else failure
        write_json(job.record(self.out), asdict(record))
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
    """new, finished, or the state in the run's status file."""
    if not folder.is_dir():
        return "new"
    try:
        return str(json.loads((folder / "status.json").read_text())["state"])
    except (OSError, ValueError, KeyError):
        return "unknown"


def _finished(job: Job, out: Path) -> bool:
    return _state(job.folder(out)) == "finished" and (job.evaluation(out) / "eval.json").is_file()


# ---- the command ------------------------------------------------------------------------------------------------------------


def summary(jobs: Sequence[Job], methods: Mapping[str, Mapping[str, Any]], settings: Settings, out: Path) -> Table:
    """One row for each method with finished jobs, and what is missing with its reason."""
    done: dict[str, list[Result]] = {}
    missing: dict[str, str] = {name: f"skipped: {about['skip']}" for name, about in methods.items() if "skip" in about}
    for job in jobs:
        record = recorded(job, out)
        if _finished(job, out):
            seconds = record.seconds if record else None
            done.setdefault(job.recipe, []).append(Result(job.seed, job.folder(out), job.evaluation(out), seconds))
        elif record and record.failure:
            missing[f"{job.recipe} seed {job.seed}"] = record.failure
    rows = [row_of(recipe, mine, settings.ks) for recipe, mine in done.items()]
    compare(rows)
    for row in rows:
        row.note = methods[row.recipe].get("note", "")
    return Table(settings, __version__, rows, missing)


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
    methods = entries(names, config_dirs)
    _same_budget(settings, out)
    jobs = jobs_of(methods, list(dict.fromkeys(seeds))[: 1 if quick else None])
    stopped = False if table_only else run(jobs, settings, out, config_dirs, workers)
    table = summary(jobs, methods, settings, out)
    if table_only and not table.rows:
        raise UsageError(f"'{out}' has no finished job of these methods; run it without --table first")
    made = write(table, out)
    if as_json:
        print(json.dumps(table.plain(), indent=1))
    else:
        show(table, wide=not sys.stdout.isatty())
        print("\n".join(str(m) for m in made))
    if stopped:
        print("stopped; the same command goes on", file=sys.stderr)
        return 130
    return 0 if all(_finished(job, out) for job in jobs) else 1


def run(jobs: Sequence[Job], settings: Settings, out: Path, config_dirs: Sequence[str], workers: int) -> bool:
    """Run the jobs that are not finished; returns whether they were stopped.

    Raises:
        RecipeError: a method that does not compose; nothing was started.
    """
    todo = [job for job in jobs if not _finished(job, out)]
    problems = [f"{job.recipe}: {p}" for job in todo if job.seed == jobs[0].seed for p in _problems(job, settings, out, config_dirs)]
    if problems:
        raise RecipeError(problems)
    out.mkdir(parents=True, exist_ok=True)
    if not (out / KEPT).is_file():
        write_json(out / KEPT, Table(settings, __version__, [], {}).plain())
    methods, seeds = len({job.recipe for job in jobs}), len({job.seed for job in jobs})
    print(f"{len(todo)} of {len(jobs)} jobs to do in {out}: {methods} methods, {seeds} seeds, {settings.steps} steps each", flush=True)
    runner = Runner(out, settings, config_dirs, workers)
    with _stopping(runner):
        runner.run(todo)
    return runner.stopped


def _problems(job: Job, settings: Settings, out: Path, config_dirs: Sequence[str]) -> Iterable[str]:
    try:
        load(training(job, settings, out), config_dirs)
    except RecipeError as error:
        return error.problems
    return []


def _same_budget(settings: Settings, out: Path) -> None:
    """Refuse a folder whose jobs had another budget."""
    if not (out / KEPT).is_file():
        return
    one, two = asdict(settings_of(json.loads((out / KEPT).read_text()))), asdict(settings)
    changes = ", ".join(f"{k} {one[k]} there, {two[k]} here" for k in one if one[k] != two[k])
    if changes:
        raise UsageError(f"'{out}' holds an arena with another budget ({changes}); choose another --out")


@contextmanager
def _stopping(runner: Runner) -> Iterator[None]:
    """Ctrl-C and SIGTERM stop the runner's children after their step instead of ending this process."""

    def ask(received: signal.Signals) -> None:
        print("stopping after the steps that are running; once more stops at once", file=sys.stderr, flush=True)
        threading.Thread(target=runner.stop).start()  # the lock may be held by what was interrupted

    with on_stop(ask):
        yield
