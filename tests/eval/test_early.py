"""Grading while the engine still samples: the same verdicts, in the workers' idle time, and no way to hang."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from guesser import make_guesser
from runs import SMALL, rows, train

from rlent.data.countdown import countdown_problems
from rlent.engine.native import NativeEngine
from rlent.errors import GraderError
from rlent.eval.evaluate import evaluate
from rlent.grading import early as hurry
from rlent.grading.countdown import CountdownGrader
from rlent.grading.early import EarlyGrader
from rlent.grading.math import MathGrader
from rlent.policy.policy import Policy
from rlent.recipe.compose import load
from rlent.sampling.draw import Decoding, respond
from rlent.types import Problem, Verdict

ANSWERS = [r"(x+1)^{2}", r"x^{2}+2x+1", r"\frac{1}{2}", "0.5", "7", r"\sqrt{8}"]
PROBLEMS = [
    Problem(id=str(i), prompt=f"Problem {i}?", gold=gold, source="made") for i, gold in enumerate((r"x(x+2)+1", "2^{-1}", r"2\sqrt{2}"))
]
ENDLESS = r"\int_0^\infty \frac{\sin(x^5)\ln(1+x)}{\sqrt{1+x^7}e^{x}} dx"
ITS_GOLD = r"\sum_{k=1}^{\infty} \frac{\cos(k^2)}{k^3+\sqrt{k}}"


@pytest.fixture(scope="module")
def guesser(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_guesser(tmp_path_factory.mktemp("guesser") / "model", dict.fromkeys(ANSWERS, 1.0), stop=0.3)


@pytest.fixture(autouse=True)
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hurry a grader that is `parallel` whatever it gains; the answers of these tests are easy."""
    monkeypatch.setattr(hurry, "GAIN", -float("inf"))


@pytest.fixture
def engine(guesser: Path) -> tuple[NativeEngine, Any]:
    policy = Policy.load(guesser)
    engine = NativeEngine(policy.model, policy.tokenizer.pad_token_id)
    engine.load(policy, 0)
    return engine, policy.tokenizer


class Seen:
    """A grader that says where it was called from, and what it was given."""

    def __init__(self, grader: Any, parallel: bool) -> None:
        self.grader, self.parallel = grader, parallel
        self.calls: list[tuple[str, list[str]]] = []

    def __call__(self, responses: Sequence[str], problems: Sequence[Problem]) -> list[Verdict]:
        self.calls.append((threading.current_thread().name, list(responses)))
        return list(self.grader(responses, problems))


def judged(engine: tuple[NativeEngine, Any], grader: Any, out: Path | None = None, problems: Sequence[Problem] = PROBLEMS) -> Any:
    how: dict[str, Any] = {"n": 24, "ks": [1, 8], "decoding": Decoding(max_tokens=12), "seed": 0, "out": out, "batch_rows": 48}
    return evaluate(*engine, problems, grader, **how)


def test_verdicts_are_those_of_grading_at_the_end(engine: tuple[NativeEngine, Any], tmp_path: Path) -> None:
    with MathGrader(workers=1) as grader:
        early, late = Seen(grader, True), Seen(MathGrader(workers=1), False)
        one, other = judged(engine, early, tmp_path / "early"), judged(engine, late, tmp_path / "late")
        late.grader.close()
    assert (tmp_path / "early" / "responses.jsonl").read_bytes() == (tmp_path / "late" / "responses.jsonl").read_bytes()
    assert one.metrics() == other.metrics() and 0 < one.average.value < 1
    assert [name for name, _ in late.calls] == ["MainThread"] * 2
    threads = {name for name, _ in early.calls}
    assert "rlent-grading" in threads
    written = [json.loads(line) for line in (tmp_path / "early" / "responses.jsonl").read_text().splitlines()]
    given = [text for _, texts in early.calls for text in texts]
    assert len(given) < len(written) and set(given) == {row["response"] for row in written}  # equal ones are asked about once


def test_training_is_the_same_and_waits_less_for_the_grader(guesser: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "problems.jsonl"
    data.write_text("".join(json.dumps({"prompt": f"{p.prompt} {i}", "answer": p.gold}) + "\n" for i in range(4) for p in PROBLEMS))
    wanted = ["data=file", f"data.path={data}", f"model.path={guesser}", "recipe=clipcov", "trainer.steps=2", "sampler.prompts=2"]
    names: list[str] = []
    monkeypatch.setattr(MathGrader, "parallel", True)
    grade = MathGrader.__call__

    def seen(self: MathGrader, *a: Any) -> list[Verdict]:
        names.append(threading.current_thread().name)
        return grade(self, *a)

    monkeypatch.setattr(MathGrader, "__call__", seen)
    found = rows(train(tmp_path / "early", *wanted))
    assert "rlent-grading" in names
    names.clear()
    monkeypatch.setattr(MathGrader, "parallel", False)
    assert rows(train(tmp_path / "late", *wanted)) == found
    assert set(names) == {"MainThread"}


def test_a_cheap_grader_gets_everything_at_once_and_at_the_end(engine: tuple[NativeEngine, Any]) -> None:
    grader = Seen(CountdownGrader(), False)
    assert EarlyGrader(CountdownGrader()).tell is None
    judged(engine, grader, problems=countdown_problems(2, split="held_out"))
    assert [(name, len(texts)) for name, texts in grader.calls] == [("MainThread", 48)]


def test_a_grader_is_hurried_only_while_it_waits_for_other_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    clock = {"wall": 0.0, "own": 0.0}
    monkeypatch.setattr(hurry.time, "perf_counter", lambda: clock["wall"])
    monkeypatch.setattr(hurry.time, "thread_time", lambda: clock["own"])
    takes = {"wall": 1.0, "own": 0.9}

    class Timed:
        parallel = True

        def __call__(self, responses: Sequence[str], problems: Sequence[Problem]) -> list[Verdict]:
            for name, seconds in takes.items():
                clock[name] += seconds
            return [Verdict(True)] * len(responses)

    early = EarlyGrader(Timed())
    kept = early.tell
    assert kept is not None  # nothing is known yet
    early(["a"], PROBLEMS[:1])
    assert early.tell is None
    kept("b", PROBLEMS[0])  # who has asked before is heard, and nothing is begun
    assert early._thread is None and early._waiting == []
    takes["own"] = 0.1
    early(["c"], PROBLEMS[:1])
    assert early.tell is not None


class Broken:
    """A grader that fails on its `at`-th call."""

    parallel = True

    def __init__(self, at: int, said: BaseException | None) -> None:
        self.left, self.said = at, said

    def __call__(self, responses: Sequence[str], problems: Sequence[Problem]) -> list[Verdict]:
        self.left -= 1
        if self.left == 0 and self.said is not None:
            raise self.said
        return [Verdict(True)] * (len(responses) - (self.left == 0))


@pytest.mark.parametrize(
    ("said", "match"), [(GraderError("no more workers"), "no more workers"), (None, "gave [0-9]+ verdicts for [0-9]+ responses")]
)
@pytest.mark.parametrize("at", [1, 2])
def test_what_goes_wrong_in_the_grader_is_raised_where_verdicts_are_asked_for(
    engine: tuple[NativeEngine, Any], at: int, said: Any, match: str
) -> None:
    with pytest.raises(GraderError, match=match):
        judged(engine, Broken(at, said))


def test_a_grader_that_failed_can_be_asked_again() -> None:
    early = EarlyGrader(Broken(1, GraderError("no more workers")))
    assert early.tell is not None
    early.tell("first", PROBLEMS[0])
    with pytest.raises(GraderError, match="no more workers"):
        early(["first"], PROBLEMS[:1])
    assert early(["first"], PROBLEMS[:1]) == [Verdict(True)]


def test_a_response_that_is_being_graded_is_waited_for_and_not_graded_again() -> None:
    asked: list[str] = []
    begun = threading.Event()

    class Slow:
        parallel = True

        def __call__(self, responses: Sequence[str], problems: Sequence[Problem]) -> list[Verdict]:
            asked.extend(responses)
            begun.set()
            threading.Event().wait(0.3)
            return [Verdict(r == "right", r) for r in responses]

    early = EarlyGrader(Slow())
    assert early.tell is not None
    early.tell("right", PROBLEMS[0])
    assert begun.wait(60)
    found = early(["wrong", "right", "right"], [PROBLEMS[0], PROBLEMS[0], PROBLEMS[1]])
    assert [v.correct for v in found] == [False, True, True] and asked == ["right", "wrong", "right"]  # the last is of another problem


@pytest.fixture
def slow() -> Iterator[MathGrader]:
    """Its questions may take ten minutes."""
    with MathGrader(workers=1, timeout=600) as grader:
        yield grader


def test_an_interrupt_does_not_wait_for_the_grader(
    engine: tuple[NativeEngine, Any], slow: MathGrader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine is interrupted while a question that takes ten minutes is being answered; the grader is closed, as a run does."""
    problem, other = (Problem(id="0", prompt="?", gold=gold, source="made") for gold in (ITS_GOLD, "2"))
    monkeypatch.setattr(slow, "parallel", True)
    early = EarlyGrader(slow)
    assert early.tell is not None
    early.tell(f"\\boxed{{{ENDLESS}}}", problem)
    thread = early._thread
    for _ in range(6000):  # until a worker has it
        if slow.pool.processes:
            break
        threading.Event().wait(0.01)
    assert slow.pool.processes

    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        respond(*engine, [problem], n=4, decoding=Decoding(max_tokens=8), key=(0,), ended=interrupted)
    slow.close()
    assert thread is not None
    thread.join(60)
    assert not thread.is_alive() and not slow.pool.processes
    with pytest.raises(GraderError, match="closed while it was grading"):
        early([f"\\boxed{{{ENDLESS}}}"], [problem])
    assert slow(["\\boxed{2}"], [other])[0].correct  # and it can be used again


def test_responses_that_a_decode_function_may_go_on_with_are_not_graded_early(engine: tuple[NativeEngine, Any]) -> None:
    told: list[str] = []
    for decode in ([], ["arpo"]):
        nodes = load([f"decode=[{','.join(decode)}]", *SMALL[:3]]).nodes["decode"]
        found = respond(
            *engine, PROBLEMS, n=4, decoding=Decoding(max_tokens=8), key=(0,), decode=nodes, ended=lambda text, problem: told.append(text)
        )
        assert sorted(told) == ([] if decode else sorted(found.text))
        told.clear()


def test_an_engine_that_does_not_know_of_it_is_left_alone(engine: tuple[NativeEngine, Any]) -> None:
    class Plain:
        version = 0

        def generate(self, requests: Any, *, entropy: bool = False) -> Any:
            return engine[0].generate(requests, entropy=entropy)

    told: list[str] = []
    respond(Plain(), engine[1], PROBLEMS, n=2, decoding=Decoding(max_tokens=4), key=(0,), ended=lambda *a: told.append(a[0]))  # type: ignore[arg-type]
    assert told == []
