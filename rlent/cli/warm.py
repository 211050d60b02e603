"""The warm process of `rlent.studies.warm`: it imports everything once, and forks for every command that it is asked for."""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from rlent.ranks.launch import end_with


def serve() -> None:
    """The warm process: a JSON request a line on stdin, two JSON lines for each on stdout, until stdin ends."""
    from rlent.eval import command  # noqa: F401
    from rlent.policy.policy import Policy
    from rlent.train import run  # noqa: F401

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
    from rlent.cli.app import main

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
