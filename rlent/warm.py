"""Commands in forks of a process that has imported everything already: `Warm.call` is `rlent ARGUMENTS` without its start.

A start is two seconds of torch and transformers, which is most of a short job. The warm process imports them, starts no thread and no
engine, and forks for every command; commands run one at a time, each in a session of its own.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from rlent.launch import end_with


class Warm:
    """The parent's end. Not shared between threads."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = dict(environment)
        self._process: subprocess.Popen[bytes] | None = None

    def call(self, arguments: Sequence[str], log: Path, began: Callable[[int], None]) -> tuple[int, float]:
        """Exit code, and processor seconds of the command and the processes it waited for. What it prints is added to `log`.

        `began` is told the command's process id.
        """
        process = self._process
        if process is None or process.poll() is not None:
            command = [sys.executable, "-m", "rlent.warm"]
            process = self._process = subprocess.Popen(
                command, env=self.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
            )
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps({"arguments": list(arguments), "log": str(log), "cwd": os.getcwd()}).encode() + b"\n")
            process.stdin.flush()
            began(int(json.loads(process.stdout.readline())["pid"]))
            done = json.loads(process.stdout.readline())
        except (OSError, ValueError):
            return process.wait() or 1, 0.0
        return int(done["code"]), float(done["seconds"])

    def close(self) -> None:
        """End the warm process; a command that runs is not ended."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            self._process.wait()
            self._process = None


def serve() -> None:
    """The warm process: a JSON request a line on stdin, two JSON lines for each on stdout, until stdin ends."""
    from rlent import run  # noqa: F401
    from rlent.eval import command  # noqa: F401
    from rlent.policy.policy import Policy

    Policy.load("tiny")  # libraries import half of themselves when a model is loaded
    gc.freeze()  # a fork does not copy what its collector only looks at
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    for line in sys.stdin.buffer:
        asked = json.loads(line)
        pid = os.fork()
        if pid == 0:
            answers.close()
            _be(asked["arguments"], asked["log"], asked["cwd"])
        answers.write(json.dumps({"pid": pid}).encode() + b"\n")
        _, status, usage = os.wait4(pid, 0)
        done = {"code": os.waitstatus_to_exitcode(status), "seconds": usage.ru_utime + usage.ru_stime}
        answers.write(json.dumps(done).encode() + b"\n")
    os._exit(0)


def _be(arguments: Sequence[str], log: str, cwd: str) -> NoReturn:
    """The fork: the command, and its exit."""
    from rlent.cli import main

    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(cwd)
    out, nothing = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644), os.open(os.devnull, os.O_RDONLY)
    for to, source in ((0, nothing), (1, out), (2, out)):
        os.dup2(source, to)
    sys.argv = ["rlent", *arguments]
    end_with(main)


if __name__ == "__main__":
    serve()
