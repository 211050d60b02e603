r"""Grading of mathematics by rules.

    with MathGrader(mode="box", workers=2) as grader:
        verdicts = grader(responses, problems)

`grade`, `grade_batch` and `equal` do the same with one grader that is shared by the process. A verdict is right only when
its status is `ok`; the other statuses are worth counting: a jump of `no_answer` is a format problem, of `timeout` a load
problem, of `gold_unparsed` a data problem.

No string that a model wrote is evaluated, and nothing it wrote can hold up a batch for much more than `timeout` seconds
(`rlent.grading.pool`).
"""

from __future__ import annotations

import atexit
import threading
import time
from collections import OrderedDict
from collections.abc import Generator, Sequence
from types import TracebackType

from rlent.errors import GraderError, UsageError, did_you_mean
from rlent.grading.base import MODES, GradePolicy, Mode, accepted
from rlent.grading.equality import Outcome, Question, Reply, compare
from rlent.grading.extract import Found, find, gold_text
from rlent.grading.normalise import normalise
from rlent.grading.pool import Pool
from rlent.grading.structure import Series, Tuple_, structure
from rlent.types import Problem, Verdict

_REMEMBERED = 65_536  # verdicts on (answer, gold)


class MathGrader:
    """Grades responses to mathematical problems; `Problem.gold` is one accepted answer or a list of them.

    mode: where an answer is looked for (`box` for training; see `rlent.grading.extract`).
    workers: processes for the symbolic step, started when first needed.
    timeout: seconds one answer may take in a worker, parsing included, and about what a batch can be held up.
    policy: the choices on which sound graders differ.

    parallel: off, although its workers could be busy while the engine samples: most answers are decided in this process, where they hold
        up the engine, and each smaller batch would have an allowance for questions that never end (both measured: it gained nothing).

    Safe to call from several threads; `close` (or the `with` block) gives the processes back. Raises `UsageError` for options
    that make no sense and `GraderError` when workers cannot be started, never because of a response.
    """

    parallel = False

    def __init__(self, *, mode: Mode = "box", workers: int = 2, timeout: float = 3.0, policy: GradePolicy | None = None) -> None:
        if mode not in MODES:
            raise UsageError(f"grader: mode is {mode!r}, which is not one of {', '.join(MODES)}{did_you_mean(str(mode), MODES)}")
        if workers < 1:
            raise UsageError(f"grader: workers is {workers}; at least 1 is needed")
        if not timeout > 0:
            raise UsageError(f"grader: timeout is {timeout}; it must be more than 0 seconds")
        self.mode: Mode = mode
        self.policy = GradePolicy() if policy is None else policy
        self.pool = Pool(workers, timeout)
        self._known: OrderedDict[tuple[str, str], Outcome] = OrderedDict()
        self._lock = threading.Lock()

    # --- grading ----------------------------------------------------------------------------------------------------

    def __call__(self, responses: Sequence[str], problems: Sequence[Problem]) -> list[Verdict]:
        """One verdict per response, in order. `problems[i]` is what `responses[i]` answers."""
        if len(responses) != len(problems):
            raise UsageError(f"grader: {len(responses)} responses for {len(problems)} problems; one problem per response is needed")
        return self.grade_batch([(response, problem.gold) for response, problem in zip(responses, problems, strict=True)])

    def grade(self, response: str, gold: object) -> Verdict:
        return self.grade_batch([(response, gold)])[0]

    def grade_batch(self, pairs: Sequence[tuple[str, object]]) -> list[Verdict]:
        """Verdicts for (response, gold) pairs, in order; a gold is a string or a list of accepted strings."""
        begun = [time.perf_counter()]
        found: list[Found | None] = []
        comparisons = []
        for response, gold in pairs:
            text = f"<think>{response}" if self.policy.opened else str(response)
            hit = find(text, self.mode, strip_think=bool(self.policy.strip_think))
            found.append(hit)
            comparisons.append(self._against_all(str(response), hit, accepted(gold)))
            begun.append(time.perf_counter())
        # comparisons that need no worker end inside `run`, before it looks for one
        outcomes, seconds = self.pool.run(comparisons)
        verdicts = []
        for i, (hit, outcome) in enumerate(zip(found, outcomes, strict=True)):
            method = "any" if hit is not None and hit.kind == "any" and outcome.correct else outcome.method
            answer = None if hit is None else hit.answer
            verdicts.append(Verdict(outcome.correct, answer, method, outcome.status, begun[i + 1] - begun[i] + seconds[i]))
        return verdicts

    def equal(self, a: str, b: str) -> bool:
        """Whether answer `a` equals answer `b`, both already extracted; `b` is treated as the gold."""
        return self.pool.run([self._remembered(a, str(b))])[0][0].correct

    def check_golds(self, problems: Sequence[Problem]) -> list[str]:
        """Ids of problems whose gold this grader does not accept as an answer to itself.

        Without the shortcut for equal text, because a right answer may be written in another way: a gold that can only be
        matched letter by letter is reported too.
        """
        bad = []
        for problem in problems:
            golds = accepted(problem.gold)
            if not golds or not all(self._sound(gold) for gold in golds):
                bad.append(problem.id)
        return bad

    def _sound(self, gold: str) -> bool:
        text, _ = gold_text(gold)
        return self.pool.run([compare(text, text, self.policy, read=True)])[0][0].correct

    def _against_all(self, response: str, hit: Found | None, golds: list[str]) -> Generator[Question, Reply, Outcome]:
        if hit is None or not hit.answer.strip():
            return Outcome(False, "none", "no_answer")
        if hit.kind == "any" and response.strip() in (gold.strip() for gold in golds):
            return Outcome(True, "string")
        first: Outcome | None = None
        for gold in golds:
            outcome = yield from self._remembered(hit.answer, gold)
            if not outcome.correct and hit.run is not None and self._several(gold):
                outcome = yield from self._remembered(hit.run, gold)
            if outcome.correct:
                return outcome
            first = first or outcome
        return first or Outcome(False, "none", "gold_unparsed")

    def _several(self, gold: str) -> bool:
        """Whether a gold has several elements."""
        text, run = gold_text(gold)
        shape = structure(normalise(run or text, self.policy.decimal_comma).text)
        return isinstance(shape, Series | Tuple_)

    def _remembered(self, answer: str, gold: str) -> Generator[Question, Reply, Outcome]:
        key = (answer, gold)
        with self._lock:
            if (outcome := self._known.get(key)) is not None:
                self._known.move_to_end(key)
                return outcome
        text, run = gold_text(gold)
        if "boxed" in answer or "fbox" in answer:
            answer = gold_text(answer)[0]
        outcome = yield from compare(answer, text, self.policy)
        if not outcome.correct and run is not None:
            outcome = yield from compare(answer, run, self.policy)
        if outcome.status not in ("timeout", "crash"):  # those may be the machine's fault
            with self._lock:
                self._known[key] = outcome
                if len(self._known) > _REMEMBERED:
                    self._known.popitem(last=False)
        return outcome

    # --- life -------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End the workers. The grader can be used again; it starts new ones."""
        self.pool.close()

    def __enter__(self) -> MathGrader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


_shared: dict[tuple[Mode, GradePolicy], MathGrader] = {}
_shared_lock = threading.Lock()


def _grader(mode: Mode, policy: GradePolicy | None) -> MathGrader:
    key = (mode, policy or GradePolicy())
    with _shared_lock:
        if key not in _shared:
            grader = MathGrader(mode=mode, policy=key[1])
            for other in _shared.values():
                grader.pool = other.pool  # one set of processes for all modes
                break
            else:
                atexit.register(grader.close)
            _shared[key] = grader
        return _shared[key]


def grade(response: str, gold: object, *, mode: Mode = "box", policy: GradePolicy | None = None) -> Verdict:
    r"""The verdict on one response, with a grader shared by the process.

    >>> grade(r"so $x = \boxed{0.5}$", r"\frac{1}{2}").correct
    True
    """
    return _grader(mode, policy).grade(response, gold)


def grade_batch(pairs: Sequence[tuple[str, object]], *, mode: Mode = "box", policy: GradePolicy | None = None) -> list[Verdict]:
    """Verdicts on (response, gold) pairs, in order, with a grader shared by the process."""
    return _grader(mode, policy).grade_batch(pairs)


def equal(answer: str, gold: str, *, policy: GradePolicy | None = None) -> bool:
    r"""Whether an extracted answer equals a gold, with a grader shared by the process.

    >>> equal("(r+5)(r+5)", "(r+5)^2")
    True
    """
    return _grader("box", policy).equal(answer, gold)


__all__ = ["GraderError", "MathGrader", "equal", "grade", "grade_batch"]
