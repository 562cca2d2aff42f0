"""SIGTERM ends a command as Ctrl-C does: finished part files stay, and the output's lock is given back.

A scheduler, `ray job stop` and the reclaim of a spot machine all send it, and SIGKILL some seconds later.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(KeyboardInterrupt):
    """The process was told to end. Raised in the main thread, once: what tidies up after it is not disturbed."""


def end_on_sigterm() -> None:
    """Makes SIGTERM raise `Terminated`."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _Once())


@contextmanager
def keeping_sigterm() -> Iterator[None]:
    """Gives SIGTERM back to us after the block, in which `ray.init` takes it for itself."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if isinstance(before, _Once) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


class _Once:
    """A signal handler that raises at the first signal only."""

    def __init__(self) -> None:
        self._raised = False

    def __call__(self, _signal: int, _frame: FrameType | None) -> None:
        if not self._raised:
            self._raised = True
            raise Terminated
