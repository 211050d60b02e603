"""Worker processes for the symbolic step, and the loop that feeds them.

Each worker is a fresh interpreter over a pipe of its own, one question in flight; the parent holds the clock, kills what
is late and starts another. Late is measured in processor time of the worker where the system tells it, so that verdicts do
not depend on what else the machine does; by the clock a worker gets `PATIENCE` times as long. A worker that was stopped from
outside is replaced when the time is up by the clock, and its question is asked once more.

Workers are started when the first question comes, are not daemons of `multiprocessing` and do not import the caller's main
module, so this works from scripts without a main guard, threads, asyncio, pytest-xdist and processes that are themselves
children. They end when the pipe closes, when the parent is gone, or by their own limits.

Hostile questions must not hold up a batch. Time on questions that did not finish is counted (the processor's, or half of the
clock's if that is more), and a batch may waste `timeout` and a little more per worker on them. In the first round every question has a short slice, shorter once
much was wasted, and questions that look dear (sums, integrals, long formulas) come last, so that ordinary ones, which take
milliseconds, are answered before the waste begins. What does not finish waits, and shares what is left in a second round. So a batch takes
at most about one deadline longer, however many of its questions never end; when there are too many, the last of them are
a `timeout` without a second try.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path

from rlent.errors import GraderError
from rlent.grading.equality import Outcome, Question, Reply
from rlent.grading.worker import PATIENCE

START_LIMIT = 60.0  # seconds for a worker to import and report
RECYCLE = 5_000  # questions
CROWDED = 2  # on a crowded machine a second by the clock counts as half a second of waste
ATTENTION = 0.2  # seconds after which a call notices that it is to end
GRACE = 0.2  # seconds per worker, beside `timeout`, that a batch may waste
START_COST = 0.7  # processor seconds to start a worker in the place of one that was killed
FIRST = 0.5  # processor seconds the first question of a worker may take at least: it fills tables that later ones find
SECOND_TRY = 0.3  # processor seconds a second try needs to be worth it
_KEPT_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "VIRTUAL_ENV", "HOME", "LANG", "LC_ALL", "TMPDIR", "SYSTEMROOT")


class _Worker:
    """One child. `task` is what it works on; `due` is when it is late (monotonic seconds)."""

    def __init__(self) -> None:
        ours, theirs = Pipe(duplex=True)
        root = str(Path(__file__).resolve().parents[2])
        environment = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
        environment["PYTHONPATH"] = os.pathsep.join([root, *[path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]])
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-B", "-m", "rlent.grading.worker", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment,
                cwd=os.path.abspath(os.sep),
                process_group=0,  # a Ctrl-C is for the caller, who may want to finish what is begun
            )
        self.pipe: Connection = ours
        self.ready = self.full = False
        self.task: _Task | None = None
        self.done = 0
        self.sent = self.begun = 0.0
        self.limit = START_LIMIT
        self.due = time.monotonic() + START_LIMIT

    def give(self, task: _Task, soft: float, hard: float) -> None:
        self.task, self.sent, self.limit = task, time.monotonic(), hard
        self.begun = self.processor() or 0.0
        self.due = self.sent + hard
        message = {"answer": task.question.answer, "gold": task.question.gold, "soft": soft, "hard": hard}
        with contextlib.suppress(OSError):  # a dead worker is found when its pipe is read
            self.pipe.send_bytes(json.dumps(message).encode())

    def _stat(self) -> list[bytes]:
        """The child's line in /proc after its name: state, ...; empty where the system does not tell."""
        try:
            with open(f"/proc/{self.process.pid}/stat", "rb") as f:
                return f.read().rpartition(b")")[2].split()
        except OSError:
            return []

    def processor(self) -> float | None:
        """Seconds of processor time of the child so far, None where the system does not tell."""
        try:
            fields = self._stat()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        except (IndexError, ValueError):
            return None

    def stopped(self) -> bool:
        """Whether somebody has stopped the process: it gets no processor time, and the question is not to blame."""
        return self._stat()[:1] in ([b"T"], [b"t"])

    def spent(self, now: float) -> float:
        """Seconds the question in flight has had: of the processor, or of the clock."""
        used = self.processor()
        return now - self.sent if used is None else max(used - self.begun, (now - self.sent) / PATIENCE)

    def late(self, now: float) -> bool:
        """Whether to give up on the worker; otherwise `due` is moved."""
        if now < self.due:
            return False
        if self.task is None or self.stopped():
            return True
        left = self.limit - self.spent(now)
        self.due = now + max(left, 0.01)
        return left <= 0.01

    def read(self) -> tuple[str | None, float]:
        """(reply, seconds of processor time); the reply is None when the worker is gone."""
        try:
            message = json.loads(self.pipe.recv_bytes())
            self.full = bool(message.get("full"))
            return str(message["reply"]), float(message["seconds"])
        except (EOFError, OSError, ValueError, KeyError):
            return None, 0.0

    def end(self) -> None:
        with contextlib.suppress(OSError):
            self.pipe.close()
        with contextlib.suppress(OSError):
            self.process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired, OSError):
            self.process.wait(5)


@dataclass(slots=True)
class _Task:
    question: Question
    spent: float = 0.0  # processor seconds so far
    granted: float = 0.0  # processor seconds of the try in flight, if it is not the first
    last: float = 0.0  # processor seconds of the try before
    again: bool = False  # asked a second time, because its worker was stopped


_UNDONE = re.compile(r"\\(?:int|iint|iiint|oint|sum|prod|lim|binom|ln|log|sin|cos|tan|sqrt)(?![A-Za-z])|!")


def _dear(question: Question) -> int:
    """How much a question may cost, by the looks of the answer; only the order of asking depends on it."""
    return len(_UNDONE.findall(question.answer)) + len(question.answer) // 100


def _end_all(workers: list[_Worker], owner: int) -> None:
    if os.getpid() == owner:  # a fork shares the children but does not own them
        while workers:
            workers.pop().end()


class Pool:
    """Answers questions with at most `size` workers. `run` may be called from any thread; calls take turns."""

    def __init__(self, size: int, timeout: float) -> None:
        self.size, self.timeout = size, timeout
        self.slice = timeout / 6
        self._workers: list[_Worker] = []
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._owner = os.getpid()
        self._failures = 0
        self._finalizer = weakref.finalize(self, _end_all, self._workers, self._owner)

    def run(self, comparisons: Sequence[Generator[Question, Reply, Outcome]]) -> tuple[list[Outcome], list[float]]:
        """Every comparison to its end. Returns outcomes in order, and the seconds each spent in workers."""
        batch = _Batch(list(comparisons))
        if batch.fresh:
            with self._lock:
                self._adopt()
                self._serve(batch)
        return [outcome if outcome is not None else Outcome(False, "none", "crash") for outcome in batch.outcomes], batch.seconds

    def close(self) -> None:
        """End the workers. A `run` in another thread ends with a GraderError."""
        self._closing.set()
        with self._lock:
            self._closing.clear()
            self._adopt()
            _end_all(self._workers, self._owner)

    @property
    def processes(self) -> list[int]:
        """Process ids of the living workers."""
        return [worker.process.pid for worker in self._workers if worker.process.poll() is None]

    def _adopt(self) -> None:
        """After a fork the workers belong to the parent: leave them alone and begin anew."""
        if os.getpid() != self._owner:
            self._finalizer.detach()
            self._workers = []
            self._owner = os.getpid()
            self._finalizer = weakref.finalize(self, _end_all, self._workers, self._owner)

    def _replace(self, worker: _Worker) -> None:
        worker.end()
        self._workers.remove(worker)

    def _serve(self, batch: _Batch) -> None:
        late: deque[_Task] = deque()
        batch.fresh = deque(sorted(batch.fresh, key=lambda task: _dear(task.question)))
        allowance = self.size * (self.timeout + GRACE)  # processor seconds on questions that do not finish
        while True:
            if self._closing.is_set():
                raise GraderError("the grader was closed while it was grading")
            busy = sum(worker.task is not None for worker in self._workers)
            if not batch.fresh and not late and not busy:
                return
            wanted = min(self.size, busy + len(batch.fresh) + len(late))
            while len(self._workers) < wanted:
                self._workers.append(_Worker())
            self._feed(batch, late, allowance)
            self._listen(batch, late)

    def _feed(self, batch: _Batch, late: deque[_Task], allowance: float) -> None:
        """Give each free worker a question: first those that were not tried yet, and when none of these is in flight, what was cut short."""
        for worker in self._workers:
            if not worker.ready or worker.task is not None:
                continue
            busy = [other.task for other in self._workers if other.task is not None]
            left = allowance - batch.wasted - sum(task.granted for task in busy)
            if batch.fresh:
                self._first_try(worker, batch, left, allowance)
            elif late and not any(task.spent == 0.0 for task in busy):
                self._second_try(worker, batch, late, left)

    def _first_try(self, worker: _Worker, batch: _Batch, left: float, allowance: float) -> None:
        """Give the next question a short slice, shorter when much was wasted, or no try when the allowance is used up."""
        task = batch.fresh.popleft()
        if left <= 0 and batch.burnt >= allowance + self.size * GRACE:
            batch.answer(task, "timeout")
            return
        share = batch.wasted / self.size
        soft = self.slice if share < self.timeout / 8 else min(self.slice, 0.1 if share < self.timeout / 2 else 0.04)
        if worker.done == 0:  # the first question of a worker takes longer
            soft = max(soft, min(self.timeout, FIRST))
        worker.give(task, soft, self.timeout if batch.killed == 0 else min(self.timeout, soft + 0.2))

    def _second_try(self, worker: _Worker, batch: _Batch, late: deque[_Task], left: float) -> None:
        """Give the question that was cut short first its share of what is left, if that is longer than its last try."""
        task = min(late, key=lambda one: one.spent)
        late.remove(task)
        grant = min(self.timeout - task.spent, max(SECOND_TRY, left / (len(late) + 1)))
        if grant > left or grant <= task.last:
            batch.answer(task, "timeout")
            return
        task.granted = grant
        worker.give(task, grant, grant)

    def _listen(self, batch: _Batch, late: deque[_Task]) -> None:
        """Wait for a reply or for somebody to be late; handle both."""
        waiting = [worker for worker in self._workers if worker.task is not None or not worker.ready]
        if not waiting:
            return
        pause = max(0.0, min(worker.due for worker in waiting) - time.monotonic())
        heard = set(map(id, wait([worker.pipe for worker in waiting], timeout=min(pause, ATTENTION))))
        now = time.monotonic()
        for worker in waiting:
            if id(worker.pipe) in heard:
                self._hear(worker, batch, late)
            elif worker.late(now):
                task, spent, stopped = worker.task, worker.spent(now), worker.stopped()
                self._replace(worker)
                if task is None:
                    self._failed("a worker did not start in time")
                elif stopped and not task.again:
                    task.again = True
                    task.granted = 0.0
                    batch.fresh.appendleft(task)
                else:
                    batch.killed += 1
                    batch.wasted += START_COST
                    self._workers.append(_Worker())  # ready when the next question comes
                    self._postpone(task, batch, late, spent, now - worker.sent)

    def _hear(self, worker: _Worker, batch: _Batch, late: deque[_Task]) -> None:
        reply, seconds = worker.read()
        task = worker.task
        if task is None:
            if reply == "ready":
                worker.ready, self._failures = True, 0
            else:
                code = worker.process.poll()
                self._replace(worker)
                self._failed(f"a worker ended before it was ready (exit code {code})")
            return
        worker.task = None
        worker.done += 1
        if reply is None or reply == "memory":
            self._replace(worker)
            batch.answer(task, "crash", seconds)
            return
        if reply == "timeout":
            self._postpone(task, batch, late, seconds, time.monotonic() - worker.sent)
        else:
            batch.answer(task, reply, seconds)  # type: ignore[arg-type]
        if worker.done >= RECYCLE or worker.full:
            self._replace(worker)

    def _postpone(self, task: _Task, batch: _Batch, late: deque[_Task], seconds: float, clock: float) -> None:
        """To the second round, or to the end of its time."""
        task.last, task.granted = max(seconds, 1e-3), 0.0
        task.spent += task.last
        batch.burnt += task.last
        batch.wasted += max(task.last, clock / CROWDED)
        if task.spent < self.timeout - 0.05:
            late.append(task)
        else:
            batch.answer(task, "timeout")

    def _failed(self, why: str) -> None:
        self._failures += 1
        if self._failures >= 3:
            self._failures = 0
            raise GraderError(
                f"grader: {why}, three times in a row. Try `{sys.executable} -c 'import math_verify'`; with antlr the runtime must match the"
                " installed math-verify extra."
            )


class _Batch:
    """Open comparisons and the questions they wait for. Equal questions are asked once."""

    def __init__(self, comparisons: list[Generator[Question, Reply, Outcome]]) -> None:
        self.comparisons = comparisons
        self.outcomes: list[Outcome | None] = [None] * len(comparisons)
        self.seconds = [0.0] * len(comparisons)
        self.fresh: deque[_Task] = deque()
        self.known: dict[Question, Reply] = {}
        self.open: dict[Question, list[int]] = {}
        self.killed = 0
        self.wasted = 0.0  # seconds on questions that did not finish, with what it takes to start workers again
        self.burnt = 0.0  # of these, processor seconds of the questions alone: what decides whether one is not tried at all
        for i in range(len(comparisons)):
            self._advance(i, None)

    def _advance(self, i: int, reply: Reply | None) -> None:
        """Run comparison i to its next unknown question or to its end."""
        try:
            while True:
                comparison = self.comparisons[i]
                question = next(comparison) if reply is None else comparison.send(reply)
                reply = self.known.get(question)
                if reply is None:
                    if question in self.open:
                        self.open[question].append(i)
                    else:
                        self.open[question] = [i]
                        self.fresh.append(_Task(question))
                    return
        except StopIteration as stop:
            self.outcomes[i] = stop.value

    def answer(self, task: _Task, reply: Reply, seconds: float = 0.0) -> None:
        self.known[task.question] = reply
        for i in self.open.pop(task.question, []):
            self.seconds[i] += task.spent + seconds
            self._advance(i, reply)
