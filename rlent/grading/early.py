"""Grading while the engine still samples: responses are graded as they finish, in one thread, and verdicts are collected at the end.

Only graders with `parallel = True` get responses early: their work is in other processes, which have nothing to do while the engine samples;
and only while they wait for those processes several times as long as they compute in this one, because what they compute here holds up
the engine by more than it takes. The others are called once, with everything, as if this were not here. Verdicts are the same either way.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from rlent.errors import GraderError
from rlent.types import Problem, Verdict

GAIN = 3.0  # a grader gets responses early while it waits this many times as long as it computes

Judge = Callable[[Sequence[str], Sequence[Problem]], Sequence[Verdict]]


class EarlyGrader:
    """A grader that may get a response before its verdict is wanted.

    Call it as a grader, from one thread. What goes wrong with responses that came early is raised when it is called.
    """

    def __init__(self, grader: Judge) -> None:
        self.grader = grader
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._waiting: list[tuple[str, Problem]] = []
        self._known: dict[tuple[int, str], tuple[Problem, Verdict]] = {}  # with the problem, so that its id is not another's
        self._error: BaseException | None = None
        self._gains = True  # until it is measured

    @property
    def tell(self) -> Callable[[str, Problem], None] | None:
        """Takes a finished response and its problem, and returns at once. None where the grader does not gain by it."""
        return self._tell if self._gains and getattr(self.grader, "parallel", False) else None

    def _tell(self, response: str, problem: Problem) -> None:
        with self._lock:
            if self._error is not None or not self._gains:
                return
            self._waiting.append((response, problem))
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="rlent-grading", daemon=True)
                self._thread.start()

    def _work(self) -> None:
        """Grade what is waiting, all of it at once, until nothing is. The thread ends then, so none is left behind by an error elsewhere."""
        while True:
            with self._lock:
                batch = {(id(p), r): (r, p) for r, p in self._waiting if (id(p), r) not in self._known}
                self._waiting = []
                if not batch:
                    self._thread = None
                    return
            try:
                verdicts = self._judge([r for r, _ in batch.values()], [p for _, p in batch.values()])
            except BaseException as error:
                with self._lock:
                    self._error, self._waiting, self._thread = error, [], None
                return
            with self._lock:
                self._known.update((key, (p, verdict)) for (key, (_, p)), verdict in zip(batch.items(), verdicts, strict=True))

    def __call__(self, responses: Sequence[str], problems: Sequence[Problem]) -> list[Verdict]:
        """One verdict per response, in order: those that are known, and the grader's on the others.

        Raises:
            GraderError: it gave another number of verdicts than it was given responses.
        """
        with self._lock:
            self._waiting, thread = [], self._thread  # what has not begun goes with the rest
        if thread is not None:
            thread.join()
        known, error = self._known, self._error
        self._known, self._error = {}, None
        if error is not None:
            raise error
        found = [known.get((id(p), r)) for r, p in zip(responses, problems, strict=True)]
        left = [i for i, hit in enumerate(found) if hit is None]
        rest = iter(self._judge([responses[i] for i in left], [problems[i] for i in left]) if left else [])
        return [next(rest) if hit is None else hit[1] for hit in found]

    def _judge(self, responses: Sequence[str], problems: Sequence[Problem]) -> list[Verdict]:
        """The grader's verdicts, and whether it waited for them or computed them in this thread."""
        clock, own = time.perf_counter(), time.thread_time()
        verdicts = list(self.grader(responses, problems))
        own = time.thread_time() - own
        self._gains = time.perf_counter() - clock - own > GAIN * own
        if len(verdicts) != len(responses):
            raise GraderError(f"the grader gave {len(verdicts)} verdicts for {len(responses)} responses")
        return verdicts
