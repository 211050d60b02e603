"""`rlent eval --regrade DIR`: grade recorded responses again, without a model, and say what changed.

DIR is the folder of an evaluation, or a folder of such folders. The grader is the one that the evaluation used, as its settings say,
in the code of today; `grader.mode=any` and the like change it. A folder of responses from elsewhere will do: lines with `response`,
`gold` and, if there are any, `problem`, `source`, `sample`, `correct`. The recorded folder is left as it is.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from rlent.data.source import for_template
from rlent.errors import DataError, RecipeError, UsageError
from rlent.eval.compare import Comparison, compare
from rlent.eval.evaluate import describe, versions
from rlent.eval.folder import Sample, changes, read_problems, write_json, write_lines
from rlent.eval.result import Evaluation, ladder, tally
from rlent.recipe import compose as recipes
from rlent.recipe.compose import build
from rlent.system.paths import free
from rlent.types import Config, Grader, Json, JsonObject, Problem

DEFAULT_GRADER = {"_target_": "rlent.grading.math.MathGrader", "mode": "box"}
_BATCH = 2048
_REQUIRED = ("response", "gold")


@dataclass(frozen=True)
class Change:
    """A response whose verdict, answer or status is another one now: a line of `changes.jsonl`."""

    problem: str
    source: str
    sample: int
    gold: object
    response: str
    was: Mapping[str, Json]
    now: Mapping[str, Json]


@dataclass(frozen=True)
class Regraded:
    """One folder before and after. `before` is None where the responses came without verdicts."""

    name: str
    before: Evaluation | None
    after: Evaluation
    changed: tuple[Change, ...]
    moves: Mapping[str, int]  # responses by what changed: `wrong to right`, `right to wrong`, `answer`, `status`
    comparison: Comparison | None
    grader: tuple[str, ...]  # what differs from the grader that was used

    def to_dict(self) -> JsonObject:
        return {
            "responses": self.after.rows,
            "changed": len(self.changed),
            "moves": dict(self.moves),
            "grader": list(self.grader),
            "before": self.before.summary()["avg"] if self.before else None,
            "after": self.after.summary()["avg"],
            "status": self.after.status,
            "difference": self.comparison.to_dict()["differences"]["regraded"]["avg"] if self.comparison else None,
        }


def folders_of(root: Path) -> list[Path]:
    """The folders with responses at or below `root`, those that were made by grading again left out.

    Raises:
        UsageError: there is none.
    """
    if not root.is_dir():
        raise UsageError(f"--regrade {root}: there is no such folder; the folder of an evaluation is expected")
    found = [p for p in (root, *sorted(q for q in root.rglob("*") if q.is_dir())) if any(p.glob("responses*.jsonl"))]
    found = [p for p in found if not any(part.startswith("regraded") for part in p.relative_to(root).parts)]
    if not found:
        raise UsageError(f"--regrade {root}: there is no responses.jsonl in it; `rlent eval` writes one")
    return found


def _rows(folder: Path) -> Iterator[tuple[str, JsonObject]]:
    for path in sorted(folder.glob("responses*.jsonl")):
        lines = path.read_bytes().splitlines(keepends=True)
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
                missing = [name for name in _REQUIRED if name not in row]
            except (ValueError, TypeError) as error:
                if number == len(lines) and not line.endswith(b"\n"):
                    break  # an evaluation that was killed, or is running
                raise DataError(f"{path}, line {number}: not JSON ({error})") from error
            if missing:
                raise DataError(f"{path}, line {number}: a row needs {' and '.join(_REQUIRED)}; it has {', '.join(map(str, row))}")
            yield f"{path.name}:{number}", row


def _settings(folder: Path) -> JsonObject:
    """What the evaluation says of itself; empty for responses from elsewhere."""
    kept = folder / "settings.json"
    return json.loads(kept.read_text()) if kept.is_file() else {}


def read_responses(folder: Path) -> tuple[list[Sample], dict[tuple[str, str], Problem], frozenset[str]]:
    """The recorded samples, the problems they answer, and the fields that every row states (`correct`, `answer`, ...).

    Raises:
        DataError: a broken line, one sample twice, or one problem with two golds.
    """
    kept = folder / "problems.jsonl"
    problems = read_problems(kept) if kept.is_file() else {}
    samples: list[Sample] = []
    seen: Counter[tuple[str, str]] = Counter()
    known = {f.name for f in fields(Sample)}
    stated: set[str] = set(known)
    twice: set[tuple[str, str, int]] = set()
    for place, row in _rows(folder):
        source = str(row.get("source") or folder.name)
        prompt = str(row.get("prompt", ""))
        problem = str(row.get("problem", row.get("id", prompt)))
        stated &= row.keys()
        number = int(row.get("sample", seen[source, problem]))
        seen[source, problem] += 1
        if (source, problem, number) in twice:
            raise DataError(f"{folder / place}: sample {number} of problem '{problem}' is there twice")
        twice.add((source, problem, number))
        blank = {"answer": None, "correct": False, "status": "ok", "method": "none", "finish": "stop", "tokens": 0, "nll": 0.0}
        given = {k: v for k, v in row.items() if k in known}
        samples.append(Sample(**{**blank, **given, "problem": problem, "source": source, "sample": number, "prompt": prompt}))
        if (source, problem) not in problems:
            problems[source, problem] = Problem(problem, prompt, row["gold"], dict(row.get("meta") or {}), source)
        elif (gold := problems[source, problem].gold) != row["gold"]:
            raise DataError(f"{folder / place}: problem '{problem}' has the gold {row['gold']!r} here and {gold!r} before")
    return samples, problems, frozenset(stated)


def regrade(
    folder: Path, grader: Grader, *, name: str = "", progress: Callable[[int], object] | None = None
) -> tuple[Regraded, list[Sample]]:
    """Grade the folder's responses again with `grader`; nothing is written."""
    samples, problems, stated = read_responses(folder)
    settings = _settings(folder)
    cut_is_wrong = bool(settings.get("cut_is_wrong", True))
    now: list[Sample] = []
    for start in range(0, len(samples), _BATCH):
        part = samples[start : start + _BATCH]
        verdicts = grader([s.response for s in part], [problems[s.source, s.problem] for s in part])
        for s, v in zip(part, verdicts, strict=True):
            correct = bool(v.correct) and not (cut_is_wrong and s.finish == "length")
            now.append(replace(s, answer=v.answer, correct=correct, status=v.status, method=v.method))
        if progress is not None:
            progress(len(part))
    about = {**settings, "grader": describe(grader), "versions": versions(), "regraded_from": str(folder)}
    about.pop("fingerprint", None), about.pop("extra", None)
    equal = getattr(grader, "equal", None)
    after = _evaluation("regraded", now, equal, about, cut_is_wrong)
    before = (
        _evaluation("recorded", samples, equal, {**settings, "grader": settings.get("grader")}, cut_is_wrong)
        if "correct" in stated
        else None
    )
    changed, moves = [], Counter[str]()
    for old, new in zip(samples, now, strict=True) if "correct" in stated else ():
        was, is_now = ({"correct": s.correct, "answer": s.answer, "status": s.status, "method": s.method} for s in (old, new))
        if old.correct != new.correct:
            moves["wrong to right" if new.correct else "right to wrong"] += 1
        elif "answer" in stated and old.answer != new.answer:
            moves["another answer, same verdict"] += 1
        elif "status" in stated and old.status != new.status:
            moves["another status, same verdict"] += 1
        else:
            continue
        changed.append(Change(new.problem, new.source, new.sample, new.gold, new.response, was, is_now))
    return (
        Regraded(
            name or folder.name, before, after, tuple(changed), dict(moves),
            compare([before, after]) if before is not None else None,
            tuple(changes(settings.get("grader"), about["grader"], "grader")) if settings.get("grader") else (_called(about["grader"]),),
        ),
        now,
    )  # fmt: skip


def _called(grader: Mapping[str, Json]) -> str:
    return (
        f"graded with {grader['name'].rpartition('.')[2]}, mode {grader.get('mode', 'of its own')}: nothing says how it was graded before"
    )


def _evaluation(
    label: str, samples: Sequence[Sample], equal: Callable[[str, str], bool] | None, settings: Config, cut_is_wrong: bool
) -> Evaluation:
    by_problem: dict[tuple[str, str], list[Sample]] = {}
    for s in samples:
        by_problem.setdefault((s.source, s.problem), []).append(s)
    ks = ladder(min(map(len, by_problem.values())))
    tallies = tuple(tally(mine, ks, equal, cut_is_wrong=cut_is_wrong) for mine in by_problem.values())
    return Evaluation(label, tuple(ks), tallies, dict(settings))


def grader_of(folder: Path, overrides: Sequence[str], config_dirs: Sequence[str] = ()) -> JsonObject:
    """The block of the grader that a folder was graded with, or of `MathGrader`, with `grader.KEY=VALUE` changed.

    Raises:
        RecipeError: an override of something else, or a value the grader does not accept.
    """
    block = dict((_settings(folder).get("extra") or {}).get("grader_block") or DEFAULT_GRADER)
    problems = [f"{o}: only grader.KEY=VALUE can be changed when grading again" for o in overrides if not o.startswith("grader.")]
    if problems:
        raise RecipeError(problems)
    tree: JsonObject = {"grader": block}
    for override in recipes.parse(overrides):
        node, *path = tree, *override.key_or_group.split(".")
        for part in path[:-1]:
            node = node.setdefault(part, {})
        if path[-1] == "_target_":
            tree["grader"] = {}
            node = tree["grader"]
        node[path[-1]] = override.value()
    problems = recipes.check_built("grader", tree["grader"], config_dirs)
    if problems:
        raise RecipeError(problems)
    return dict(tree["grader"])


def main(root: str, arguments: Sequence[str], *, out: str | None = None, as_json: bool = False, config_dirs: Sequence[str] = ()) -> int:
    """Grade every folder at or below `root` again, print what changed, and write it beside the recorded responses."""
    from rich.console import Console
    from rich.table import Table

    place = Path(root)
    found = folders_of(place)
    blocks = {folder: grader_of(folder, arguments, config_dirs) for folder in found}
    if out and Path(out).exists() and any(Path(out).iterdir()):
        raise UsageError(f"--out {out}: not empty, and nothing is overwritten; choose another folder")
    base = Path(out) if out else free(place / "regraded")
    graders: JsonObject = {}
    results: dict[str, Regraded] = {}
    try:
        for folder in found:
            block, template = blocks[folder], str(_settings(folder).get("template") or "")
            key = repr((block, template))
            if key not in graders:
                graders[key] = for_template(template, build(block))
            grader = graders[key]
            name = str(folder.relative_to(place)) if folder != place else folder.name
            result, samples = regrade(folder, grader, name=name)
            results[name] = result
            where = base / folder.relative_to(place)
            write_lines(where / "responses.jsonl", samples)
            write_json(where / "settings.json", {**result.after.settings, "extra": {"grader_block": block}})
            write_lines(where / "changes.jsonl", result.changed)
            result.after.save(where / "eval.json")
            if not as_json:
                print(f"{name}: {result.after.rows} responses, {len(result.changed)} changed", file=sys.stderr, flush=True)
    finally:
        for grader in graders.values():
            if hasattr(grader, "close"):
                grader.close()
    document = {"folder": str(base), "sets": {name: r.to_dict() for name, r in results.items()}}
    write_json(base / "regraded.json", document)
    if as_json:
        print(json.dumps(document))
        return 0
    console = Console() if sys.stdout.isatty() else Console(width=160)
    table = Table(title="graded again", title_justify="left")
    table.add_column("set", no_wrap=True)
    for column in (
        "problems x samples",
        "avg recorded",
        "avg now",
        "wrong to right",
        "right to wrong",
        "other changes",
        "no answer",
        "timed out",
    ):
        table.add_column(column, justify="right")
    for name, r in results.items():
        up, down = r.moves.get("wrong to right", 0), r.moves.get("right to wrong", 0)
        before = f"{r.before.average.value:.4f}" if r.before else "not graded"
        table.add_row(
            name, r.after.counts(), before, f"{r.after.average.value:.4f}", str(up), str(down), str(len(r.changed) - up - down),
            f"{r.after.unanswered:.1%}", f"{r.after.timed_out:.1%}",
        )  # fmt: skip
    console.print(table)
    print("\n".join(_notes(results)))
    print(f"{base}: regraded.json, and responses.jsonl, changes.jsonl, eval.json of each set")
    return 0


def _notes(results: Mapping[str, Regraded]) -> list[str]:
    notes = list(dict.fromkeys(f"{change}" for r in results.values() for change in r.grader))
    return notes or ["the grader is the one that was used"]
