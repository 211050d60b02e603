"""The symbolic step, in a process of its own: `python -m rlent.grading.worker FD`.

Reads questions from the pipe FD and answers them with math-verify, one at a time, until the pipe closes. Built so that
nothing a model wrote can hold it, keep it or use it:

* a soft limit on processor time (`ITIMER_VIRTUAL`) stops what runs in Python;
* a hard one (`ITIMER_REAL` with the default action) ends the process, even inside one C call and even when the parent is gone;
* `RLIMIT_AS`, `RLIMIT_CPU`, `RLIMIT_FSIZE` 0 (no file can be written), no core file, an empty folder to work in;
* after the imports an audit hook refuses to compile source text, start processes, open sockets or write files, so a
  string can not become code whatever a library does with it.

Message: {"answer", "gold", "soft", "hard"} (LaTeX; seconds). Reply: {"reply": equal | different | unparsed |
gold_unparsed | timeout | memory, "seconds": processor time, "full": the worker holds too much memory and ends}.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import lru_cache
from multiprocessing.connection import Connection
from types import FrameType
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

if TYPE_CHECKING:
    from sympy import Number

MEMORY = 2 << 30  # bytes of address space
RECYCLE_AT = 1 << 30  # bytes held: the worker answers and ends
PATIENCE = 4  # on a crowded machine a question may take this many times its limit by the clock, if the processor was not given to it
_CHECK_DIGITS = 30
_FORBIDDEN = (
    "compile",
    "os.system",
    "os.exec",
    "os.fork",
    "os.forkpty",
    "os.posix_spawn",
    "os.spawn",
    "os.kill",
    "subprocess.",
    "socket.",
    "shutil.",
    "os.remove",
    "os.rename",
    "os.mkdir",
    "os.rmdir",
    "os.link",
    "os.symlink",
    "os.chmod",
    "os.chown",
    "os.truncate",
    "urllib.",
    "ctypes.dlopen",
    "ftplib.",
    "http.",
)

_FIRST = (r"\frac{1}{2}", r"x^{2}+1", r"\sqrt{2}", r"(-\infty,1)\cup[2,3)")
# The parser learns its grammar as it reads: a form is 10 to 100 times slower the first time. These are read while nothing else is asked.
_EXERCISE = (
    r"\sum_{k=0}^{n-1} a_{k} x^{k}", r"\begin{pmatrix}1\\2\end{pmatrix}", r"f(x)=\sin(x)+\log_{2} x", r"2x+3 \le 5", r"x \in \mathbb{R}\setminus\{1\}",
    r"\int_{0}^{1} x^{2} \, dx", r"\binom{n}{k}", r"F_{n} = \sum_{k=0}^{n-1} F_{k} F_{n-k-1}", r"\lim_{x\to 0} \frac{\sin x}{x}", r"\lfloor x \rfloor",
)  # fmt: skip


class _Message(TypedDict):
    """A question, in LaTeX, and its limits in seconds."""

    answer: str
    gold: str
    soft: NotRequired[float]
    hard: NotRequired[float]


class OutOfTime(BaseException):
    """The soft limit. Not an `Exception`, so that no library swallows it."""


# Library code that writes Python out of numbers and names of its own, never out of an expression.
_GENERATORS = ("/sympy/polys/monomials.py", "/collections/__init__.py", "/dataclasses.py")


def _limit() -> None:
    import resource

    for which, value in ((resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0)):
        _, hard = resource.getrlimit(which)
        ceiling = value if hard == resource.RLIM_INFINITY else min(value, hard)
        with contextlib.suppress(ValueError, OSError):  # some systems refuse RLIMIT_AS
            resource.setrlimit(which, (ceiling, ceiling))


def _limit_processor(seconds: float) -> None:
    """Seconds of processor time from now on, rounded up; what is over it is killed by the system."""
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime + seconds) + 2
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


def _held() -> int:
    """Bytes of memory this process holds; 0 where the system does not tell."""
    try:
        with open("/proc/self/statm", "rb") as f:
            return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def _guard(event: str, args: tuple[object, ...]) -> None:
    if event == "open":
        mode, flags = args[1], args[2]
        if (isinstance(mode, str) and any(ch in mode for ch in "wax+")) or (
            isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        ):
            raise PermissionError("a grader worker does not write")
    elif event == "compile":
        if args[0] is not None:  # source text; a module that is imported late comes with its file name
            name = args[1]
            caller = sys._getframe(1).f_code.co_filename.replace(os.sep, "/")
            if not caller.endswith(_GENERATORS) and not (
                isinstance(name, (str, bytes)) and os.path.isabs(os.fsdecode(name)) and os.path.isfile(name)
            ):
                raise PermissionError("a grader worker does not compile text")
    elif event.startswith(_FORBIDDEN):
        raise PermissionError(f"a grader worker does not use {event}")


def _out_of_time(signum: int, frame: FrameType | None) -> None:
    raise OutOfTime


def _read_number(parser: object, text: str) -> Number:
    """A number token as sympy's number. The library's own method hands the text to `sympify`, which evaluates it."""
    from sympy import Float, Integer

    text = text.replace(",", "")
    if text.isascii() and text.isdigit():
        return Integer(int(text))
    if re.fullmatch(r"\d*\.?\d*(?:[eE][-+]?\d{1,4})?", text):
        return Float(text)
    raise ValueError("not a number")


class Checker:
    """math-verify on single answers, with the checks it lacks."""

    def __init__(self) -> None:
        import sympy.physics.units  # noqa: F401  (imported late by `simplify`, and it builds its tables from strings)
        from latex2sympy2_extended import latex2sympy2

        latex2sympy2._Latex2Sympy.parse_number = _read_number
        latex2sympy2.convert_number = lambda text: _read_number(None, text)
        from math_verify import LatexExtractionConfig, parse, verify

        self._parse, self._verify = parse, verify
        self._config = [LatexExtractionConfig(boxed_match_priority=0)]
        self.parsed = lru_cache(maxsize=2048)(self._parsed)

    def _parsed(self, text: str) -> Any:
        found = self._parse(
            rf"\boxed{{{text}}}", self._config, fallback_mode="no_fallback", extraction_mode="first_match", parsing_timeout=None
        )
        return found[0] if found else None

    def __call__(self, answer: str, gold: str) -> str:
        g = self.parsed(gold)
        if g is None:
            return "gold_unparsed"
        a = self.parsed(answer)
        if a is None:
            return "unparsed"
        if self._swallowed(answer, a) or self._swallowed(gold, g) or self._order_differs(a, g):
            return "different"
        same = self._verify(g, a, float_rounding=12, strict=True, timeout_seconds=None)
        return "equal" if same and not self._constants_differ(a, g) else "different"

    @staticmethod
    def _order_differs(a: object, g: object) -> bool:
        """An ordered pair is not the set of its members."""
        from sympy import FiniteSet, Interval, Tuple

        ordered = (Tuple, Interval)
        return (isinstance(a, ordered) and isinstance(g, FiniteSet)) or (isinstance(g, ordered) and isinstance(a, FiniteSet))

    @staticmethod
    def _swallowed(text: str, value: object) -> bool:
        """The parser took a number from inside a formula it could not read: letters went in, none came out."""
        if not getattr(value, "is_number", False):
            return False
        bare = re.sub(r"\\[A-Za-z]+|_\{[^{}]*\}|[{}]", " ", text)
        return re.search(r"[A-DF-HJ-Za-df-hj-z]", bare) is not None and not re.search(r"\\(?:sum|prod|int|lim)", text)

    @staticmethod
    def _constants_differ(a: object, g: object) -> bool:
        from sympy import Expr

        if not (isinstance(a, Expr) and isinstance(g, Expr)) or a.free_symbols or g.free_symbols:
            return False
        try:
            x, y = a.evalf(_CHECK_DIGITS), g.evalf(_CHECK_DIGITS)
            if not (x.is_number and y.is_number) or not (x.is_finite and y.is_finite):
                return bool(x != y)
            size = max(abs(x), abs(y))
            if size == 0:
                return False
            percent = (1, 100, 0.01) if "UnevaluatedExpr" in str(type(a)) + str(a.func) + str(g.func) else (1,)
            return not any(abs(x - y * k) <= 1e-6 * size for k in percent)
        except (TypeError, ValueError, ArithmeticError, AttributeError):
            return False


def answer_one(checker: Checker, message: _Message) -> str:
    try:
        return checker(message["answer"], message["gold"])
    except MemoryError:
        return "memory"
    except RecursionError:
        return "unparsed"
    except Exception:  # whatever a library raises on hostile text is an answer that could not be read
        return "unparsed"


def serve(connection: Connection) -> None:
    parent = os.getppid()
    checker = Checker()
    for sample in _FIRST:  # imports what is imported late
        checker(sample, sample + " + 0")
    sys.addaudithook(_guard)
    signal.signal(signal.SIGVTALRM, _out_of_time)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    connection.send_bytes(b'{"reply": "ready", "seconds": 0}')
    exercise: Iterator[str] = iter(_EXERCISE)
    while True:
        while not connection.poll(0.0):
            if (known := next(exercise, None)) is not None:
                answer_one(checker, {"answer": known, "gold": known})
            elif connection.poll(2.0):
                break
            elif os.getppid() != parent:
                return
        message = json.loads(connection.recv_bytes())
        soft, hard = float(message["soft"]), float(message["hard"])
        _limit_processor(hard)
        signal.setitimer(signal.ITIMER_REAL, PATIENCE * hard + 1.0)
        reply = "timeout"
        begun = time.process_time()
        try:
            signal.setitimer(signal.ITIMER_VIRTUAL, soft, 0.1)  # again every 0.1 s, should a library swallow the first
            try:
                reply = answer_one(checker, message)
            finally:
                signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        except OutOfTime:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        full = _held() > RECYCLE_AT
        connection.send_bytes(json.dumps({"reply": reply, "seconds": time.process_time() - begun, "full": full}).encode())
        if reply == "memory" or full:
            return


def main() -> None:
    connection = Connection(int(sys.argv[1]))
    logging.disable(logging.CRITICAL)
    quiet = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(quiet, descriptor)
    scratch = tempfile.mkdtemp(prefix="grader-")
    os.chdir(scratch)
    os.rmdir(scratch)  # an empty folder that is gone already: nothing can be created in it
    _limit()
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError, KeyboardInterrupt):
        serve(connection)


if __name__ == "__main__":
    main()
