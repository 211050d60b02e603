"""Commands in forks of a process that has imported everything already: `Warm.call` is `rlent ARGUMENTS` without its start.

A start is two seconds of torch and transformers, which is most of a short job. The warm process imports them, starts no thread and no
engine, and forks for every command; commands run one at a time, each in a session of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path


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
            command = [sys.executable, "-m", "rlent.cli.warm"]
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
