"""Several ranks on this machine, from one command: `rlent train scale.ranks=2 ...`.

It does what torchrun does for one machine (the same environment variables, so `torchrun --nproc-per-node 2 -m rlent train ...` is
the same run), and differs in how it ends. A first Ctrl-C is passed on once, and the ranks finish their step and save,
however long that takes; the exit code is the rank's own; and a rank that dies takes the others with it at once.
"""

from __future__ import annotations

import atexit
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NoReturn

from rlent.errors import RankLost, UsageError
from rlent.system.signals import on_stop

if TYPE_CHECKING:
    from rlent.types import Config

GRACE = 15.0
"""Seconds that the other ranks have to end by themselves once one has died, before they are killed."""


def wanted(scale: Mapping[str, object]) -> int | None:
    """How many ranks this process has to start, or None where it is a rank itself or the only one.

    Raises:
        UsageError: started by torchrun with another number of processes than the recipe says.
    """
    ranks = int(str(scale.get("ranks", 1)))
    given = os.environ.get("WORLD_SIZE")
    if given and ranks > 1 and int(given) != ranks:
        raise UsageError(
            f"scale.ranks is {ranks}, and the launcher started {given} processes (WORLD_SIZE); leave scale.ranks at 1 under torchrun, or give the same number"
        )
    return None if given or ranks == 1 else ranks


def copies(scale: Mapping[str, object]) -> int:
    """How many whole copies of a sharded model there are: `scale.replicas`, or one for each machine of the launcher."""
    if scale["replicas"] != "machines":
        return int(str(scale["replicas"]))
    ranks = int(os.environ.get("WORLD_SIZE", str(scale.get("ranks", 1))))
    return max(1, ranks // int(os.environ.get("LOCAL_WORLD_SIZE", str(ranks))))


def indivisible(config: Config) -> list[str]:
    """What the number of ranks, as far as it is known before they start, would have to be divided by and cannot."""
    scale = config.get("scale") or {}
    ranks = int(os.environ.get("WORLD_SIZE") or scale.get("ranks", 1))
    if ranks == 1:  # torchrun may start more later
        return []
    found = []
    if scale.get("shard") and ranks % copies(scale):
        found.append(("scale.replicas", copies(scale)))
    together = (config.get("engine") or {}).get("tensor_parallel", 1)
    if ranks % together:
        found.append(("engine.tensor_parallel", together))
    return [f"{key}: {value} does not divide the {ranks} ranks (a divisor of {ranks} is accepted)" for key, value in found]


def launch(arguments: Sequence[str], ranks: int) -> int:
    """Run `rlent ARGUMENTS` as `ranks` processes and wait for them. Returns the exit code of the first that failed by itself, or 0."""
    with _port() as port:
        group = {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    threads = str(max(1, (os.cpu_count() or 1) // ranks))
    processes = []
    for rank in range(ranks):
        environment = {"OMP_NUM_THREADS": threads, **os.environ, **group, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        # A session of its own: Ctrl-C reaches the ranks once, from here.
        processes.append(subprocess.Popen([sys.executable, "-m", "rlent", *arguments], env=environment, start_new_session=True))
    with _passing_on(processes):
        return _wait(processes)


def child(arguments: Sequence[str]) -> int:
    """Run `rlent ARGUMENTS` as a process of its own and wait for it, however long it takes to end after a Ctrl-C; returns its exit code."""
    process = subprocess.Popen([sys.executable, "-m", "rlent", *arguments], start_new_session=True)
    with _passing_on([process]):
        code = process.wait()
    return code if code >= 0 else 128 - code


def is_rank() -> bool:
    """Whether this process is one of several ranks, by the environment that torchrun and `launch` give them."""
    return int(os.environ.get("WORLD_SIZE") or 1) > 1


def end_with(command: Callable[[], object]) -> NoReturn:
    """Run a command and end the process as Python does, except that the interpreter is not taken apart.

    Taking it apart aborts a rank (SIGABRT in place of its exit code) when a thread of gloo still holds what the last collective
    was given, and takes seconds when much has been imported.
    """
    code = 0
    try:
        command()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if end.code is not None and not isinstance(end.code, int):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]  # threads that are no daemons end first, then what was registered, as always
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # its reader has gone
            stream.flush()
    os._exit(code)


def _wait(processes: Sequence[subprocess.Popen[bytes]]) -> int:
    cause: tuple[int, int] | None = None
    deadline = float("inf")
    resume = "Continue the run with `rlent train --resume`."
    while True:
        codes = [p.poll() for p in processes]
        if cause is None and (ended := [(rank, code) for rank, code in enumerate(codes) if code]):
            deadline = min(deadline, time.monotonic() + GRACE)
            # Several may have ended since the last look: the one that was killed, or failed by itself, took the others with it.
            rank, code = min(ended, key=lambda found: (found[1] == RankLost.exit_code, found[1] > 0))
            if code != RankLost.exit_code:
                cause = rank, code
                if code != 130 and any(c != code for c in codes):
                    print(f"rank {rank} ended with {_said(code)}; stopping the others. {resume}", file=sys.stderr)
        if all(code is not None for code in codes):
            code = cause[1] if cause else int(any(codes))
            return code if code >= 0 else 128 - code
        if time.monotonic() > deadline:
            deadline = float("inf")
            alive = [rank for rank, code in enumerate(codes) if code is None]
            if cause is None:
                cause = alive[0], 1
                print(f"rank {alive[0]} does not answer; killing it. {resume}", file=sys.stderr)
            for rank in alive:
                processes[rank].kill()
        time.sleep(0.05)


def _said(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


@contextmanager
def _passing_on(processes: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    def pass_on(received: signal.Signals) -> None:
        for p in processes:
            if p.poll() is None:
                p.send_signal(received)

    with on_stop(pass_on):
        try:
            yield
        finally:
            for p in processes:
                if p.poll() is None:
                    p.kill()


@contextmanager
def _port() -> Iterator[int]:
    """A port that is free now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        yield s.getsockname()[1]
