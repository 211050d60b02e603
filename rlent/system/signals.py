"""Signals that ask a command to stop."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

STOP = (signal.SIGINT, signal.SIGTERM)
"""Ctrl-C, and what a batch system sends before it kills."""


@contextmanager
def on_stop(handler: Callable[[signal.Signals], None]) -> Iterator[None]:
    """Call `handler` for each of `STOP` while the block runs, then restore what was there. Outside the main thread it does nothing."""

    def receive(number: int, frame: object) -> None:
        handler(signal.Signals(number))

    try:
        before = {s: signal.signal(s, receive) for s in STOP}
    except ValueError:  # not the main thread
        before = {}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
