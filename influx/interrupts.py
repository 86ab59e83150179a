"""Orderly stops: a first SIGINT or SIGTERM ends the current unit of work, a second SIGINT ends at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from influx.errors import Interrupted

_received: int | None = None
_forced = False
_handling = False


class Stopped(BaseException):
    """Carries ``reason`` through code that keeps every ``Exception`` and goes on, as Hydra's launchers do."""

    def __init__(self, reason: Exception) -> None:
        super().__init__(reason)
        self.reason = reason


def check() -> None:
    """Call between units of work, when everything finished is on disk.

    Raises:
        Interrupted: a signal has arrived since ``handled`` was entered.
    """
    if _received is not None:
        raise Interrupted(_received)


def check_forced() -> None:
    """Call inside a unit of work that other threads may be doing when a second SIGINT arrives.

    Raises:
        KeyboardInterrupt: it has arrived.
    """
    if _forced:
        raise KeyboardInterrupt


def _receive(signum: int, frame: FrameType | None) -> None:
    del frame
    global _received, _forced
    if _received is not None and signum == signal.SIGINT:
        _forced = True
        raise KeyboardInterrupt
    _received = signum


@contextmanager
def handled() -> Iterator[None]:
    """Turn SIGINT and SIGTERM into orderly stops inside the block (main thread only).

    A block inside another leaves a signal to the outer one: a sweep learns of what arrived in a job's last unit.
    """
    global _received, _forced, _handling
    if _handling or threading.current_thread() is not threading.main_thread():
        yield
        return
    _received, _forced, _handling = None, False, True
    before = {s: signal.signal(s, _receive) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
        _received, _forced, _handling = None, False, False
