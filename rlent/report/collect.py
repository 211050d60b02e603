"""Runs, sweeps, forks and evaluations as a report sees them: methods, each with its seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from rlent.errors import DataError, UsageError
from rlent.eval.result import Evaluation
from rlent.metrics.final import at_end
from rlent.recipe.compare import contrast
from rlent.recipe.values import flat
from rlent.runs.folder import RunFolder
from rlent.seats import SEATS
from rlent.track.record import read_rows, series
from rlent.track.tracker import METRICS, TIMINGS
from rlent.types import JsonObject

APART = ("seed", "run.", "track.", "scale.", "checkpoint.", "card.", "stop.", "eval.", "engine.", "trainer.max_time")
"""Settings that do not make another method: runs that differ in nothing else are seeds of one."""


@dataclass
class RunData:
    """One run: its record with timings, its recipe, and the evaluations kept in its folder."""

    path: Path
    name: str
    config: JsonObject
    about: JsonObject
    status: JsonObject
    rows: list[JsonObject]
    evals: list[Evaluation]

    @property
    def seed(self) -> int:
        return int(self.config["seed"])

    @property
    def fork(self) -> JsonObject | None:
        return self.about.get("fork")

    @property
    def last(self) -> int:
        return int(self.rows[-1]["step"])

    def series(self, metric: str) -> tuple[list[int], list[float]]:
        """Steps and finite values of a metric."""
        return series(self.rows, metric)

    def at_end(self, metric: str, steps: int = 1) -> float:
        """Mean over the last `steps` values; NaN where there are none."""
        return at_end(self.series(metric)[1], last=steps)

    def total(self, metric: str) -> float:
        return math.fsum(self.series(metric)[1])

    @cached_property
    def final_eval(self) -> Evaluation | None:
        """The evaluation of the run's last weights with the most responses, if `rlent eval` made one."""
        own = [e for e in self.evals if (e.settings.get("about") or {}).get("checkpoint") in (None, self.last)]
        return max(own, key=lambda e: e.rows, default=None)


@dataclass
class Method:
    """Runs that differ in the seed only."""

    label: str
    runs: list[RunData]
    differences: list[str] = field(default_factory=list)  # from the report's first method

    @property
    def config(self) -> JsonObject:
        return self.runs[0].config

    @property
    def seeds(self) -> list[int]:
        return [r.seed for r in self.runs]


@dataclass
class Tree:
    """Branches of one fork: same parent, same step."""

    parent: RunData | None
    path: str
    name: str
    seed: int
    step: int
    branches: list[tuple[str, RunData]]  # by the label of their method


@dataclass
class Collection:
    """What a report is about. The first method is what the others are compared with."""

    methods: list[Method]
    trees: list[Tree]
    start: Evaluation | None  # of the model before training
    loose: list[Evaluation]  # evaluations that belong to no run
    notes: list[str]

    @property
    def runs(self) -> list[RunData]:
        return [r for m in self.methods for r in m.runs]

    @property
    def base(self) -> Method:
        return self.methods[0]


def places_in(place: str) -> tuple[list[Path], list[Path]]:
    """Run folders and evaluation files behind an argument: a run with its forks, a sweep, a fork, an evaluation.

    Raises:
        UsageError: nothing of the kind is there.
    """
    path = Path(place.removeprefix("run="))
    if (path / "eval.json").is_file() or path.name == "eval.json":
        return [], [path if path.is_file() else path / "eval.json"]
    if (path / "recipe.yaml").is_file():
        return [path, *sorted(p.parent for p in path.glob("forks/*/*/recipe.yaml"))], []
    inside = sorted(p.parent for p in path.glob("*/recipe.yaml"))
    forks = sorted(p.parent for p in path.glob("step_*/*/recipe.yaml")) if not inside else []
    if inside or forks:
        return [*inside, *forks], []
    raise UsageError(f"'{place}' is no run, sweep, fork or evaluation: it has no recipe.yaml or eval.json, and no folder in it has")


def read_run(path: Path) -> RunData | None:
    """A run folder; None if it has logged nothing yet.

    Raises:
        DataError: a file in it cannot be read.
    """
    folder = RunFolder(path)
    rows = read_rows(path / METRICS)
    if not rows:
        return None
    seconds = {r["step"]: r for r in read_rows(path / TIMINGS)}
    rows = [{**r, **seconds.get(r["step"], {})} for r in rows]
    try:
        config, about = folder.config, folder.about
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: the run's description cannot be read ({error})") from error
    files = sorted({*path.glob("eval/*/eval.json"), *path.glob("*/eval.json")})
    return RunData(path, about.get("name", path.name), config, about, folder.read_status(), rows, [Evaluation.load(f) for f in files])


def collect(places: Sequence[str]) -> Collection:
    """Read everything, and put runs that differ in the seed only together.

    Raises:
        UsageError: no run with a record among the places.
    """
    paths: list[Path] = []
    evals: list[Path] = []
    for place in places:
        runs, files = places_in(place)
        paths += [p for p in runs if p.resolve() not in {q.resolve() for q in paths}]
        evals += files
    notes, read = [], []
    for path in paths:
        run = read_run(path)
        if run is None:
            notes.append(f"{path} has logged no step yet and is left out")
        else:
            read.append(run)
    if not read:
        raise UsageError("no run with a record among the places; a run has one from its first step on")
    for run in read:
        if run.status.get("state") != "finished" or run.status.get("reason"):
            reason = f" ({run.status['reason']})" if run.status.get("reason") else ""
            notes.append(f"{run.path.name}: {run.status.get('state')} at step {run.last}{reason}")
    methods = group(read)
    loaded = [Evaluation.load(f) for f in evals]
    first = str(methods[0].config["model"]["path"])
    starts = [e for e in loaded if (e.settings.get("about") or {}).get("model") == first and e.label == Path(first).name]
    start = max(starts, key=lambda e: e.rows, default=None)
    return Collection(methods, trees(methods), start, [e for e in loaded if e is not start], notes)


def method_keys(configs: Sequence[JsonObject]) -> list[dict[str, str]]:
    """What makes each run another method; runs that agree in it are seeds of one.

    Settings that some of the runs, made with another version, do not have are left out; functions and their options are not.
    """
    flats = [
        {k: repr(v) for k, v in flat(c).items() if not k.startswith(APART) and ".card." not in k and v not in ({}, None)} for c in configs
    ]
    everywhere = set.intersection(*({k for k in flat(c)} for c in configs))
    return [{k: v for k, v in f.items() if k in everywhere or k.split(".")[0] in (*SEATS, "models")} for f in flats]


def group(runs: Sequence[RunData]) -> list[Method]:
    """Methods, the plainest first (grpo, where there is one); labels tell apart what has the same recipe."""
    found: dict[object, list[RunData]] = {}
    keys = method_keys([run.config for run in runs])
    apart: dict[int, dict[str, str]] = {}
    for run, key in zip(runs, keys, strict=True):
        origin = run.fork["step"] if run.fork and run.fork["changed"] else None
        found.setdefault((tuple(sorted(key.items())), origin), []).append(run)
        apart[id(run)] = key
    members = [_unique(m) for m in found.values()]
    names = [m[0].name for m in members]
    labels = []
    for one in members:
        sisters = [m for m in members if m[0].name == one[0].name]
        labels.append(one[0].name if len(sisters) == 1 else f"{one[0].name} {_told_apart(one, sisters, apart)}".strip())
    methods = [Method(label, sorted(m, key=lambda r: r.seed)) for label, m in zip(labels, members, strict=True)]
    order = sorted(range(len(methods)), key=lambda i: (names[i] != "grpo", bool(members[i][0].fork), i))
    methods = [methods[i] for i in order]
    for method in methods[1:]:
        method.differences = contrast(methods[0].config, method.config)
    return methods


def _unique(runs: list[RunData]) -> list[RunData]:
    """A branch with its parent's recipe repeats its parent: where both are there, the longer one stays."""
    kept: dict[object, RunData] = {}
    for run in runs:
        key = (run.fork["id"] if run.fork else run.about["id"]) if not (run.fork and run.fork["changed"]) else run.about["id"]
        if key not in kept or run.last > kept[key].last:
            kept[key] = run
    return list(kept.values())


def _told_apart(one: Sequence[RunData], sisters: Sequence[Sequence[RunData]], apart: Mapping[int, Mapping[str, str]]) -> str:
    """The settings in which runs of one recipe differ, as `coef=0.01`, and the step of a fork."""
    own = [apart[id(s[0])] for s in sisters]
    keys = sorted(k for k in {k for f in own for k in f} if len({f.get(k) for f in own}) > 1)
    mine = flat(one[0].config)
    short = [k for k in keys if not k.endswith("_target_") and k != "trainer.steps"] or keys
    words = [f"{k.split('.')[-1]}={mine[k]}" for k in short if mine.get(k) is not None][:3]
    forks = {s[0].fork["step"] if s[0].fork else 0 for s in sisters}
    if one[0].fork and len(forks) > 1:
        words.append(f"from step {one[0].fork['step']}")
    return " ".join(words)


def trees(methods: Sequence[Method]) -> list[Tree]:
    """Forks among the runs. A parent that is there itself, and went on, is a branch of its own recipe."""
    runs = [(m.label, r) for m in methods for r in m.runs]
    found: dict[tuple[str, int], Tree] = {}
    for label, run in runs:
        if run.fork:
            key = (run.fork["id"], int(run.fork["step"]))
            parent = next((r for _, r in runs if r.about["id"] == run.fork["id"]), None)
            tree = found.setdefault(key, Tree(parent, run.fork["run"], run.fork["name"], run.seed, key[1], []))
            tree.branches.append((label, run))
    for (identity, step), tree in found.items():
        own = next(((label, r) for label, r in runs if r.about["id"] == identity and r.last > step), None)
        if own is not None and not any(not r.fork["changed"] for _, r in tree.branches if r.fork):
            tree.branches.insert(0, own)
    return list(found.values())
