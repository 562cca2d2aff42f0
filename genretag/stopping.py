"""What ends a command from outside: Ctrl-C, and SIGTERM just so; its last line then says how to go on.

Finished part files stay, and the output's lock is given back. A scheduler, `ray job stop` and the reclaim of a spot
machine all send SIGTERM, and SIGKILL some seconds later.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

FROM_THE_START = "nothing was finished, the same command starts again"


class Terminated(KeyboardInterrupt):
    """The process was told to end. Raised in the main thread, once: what tidies up after it is not disturbed."""


def end_on_sigterm() -> None:
    """Makes SIGTERM raise `Terminated`."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _Once())


@contextmanager
def going_on(how: str) -> Iterator[None]:
    """Has a command that is stopped in the block say `how` it can go on."""
    try:
        yield
    except KeyboardInterrupt as stop:
        stop.add_note(how)
        raise


def how_to_go_on(stop: KeyboardInterrupt) -> str:
    """What the innermost `going_on` said; without one there is nothing to go on from."""
    return getattr(stop, "__notes__", [FROM_THE_START])[0]


@contextmanager
def ignoring_ctrl_c() -> Iterator[None]:
    """Ignores Ctrl-C in the block; a process that is started in it goes on to."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def keeping_sigterm() -> Iterator[None]:
    """Gives SIGTERM back to us after the block, in which `ray.init` takes it for itself."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if isinstance(before, _Once) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


@contextmanager
def keeping_ctrl_c() -> Iterator[None]:
    """Gives Ctrl-C back to us after the block, in which Ray Train takes it for itself, to end workers and the process.

    Then `KeyboardInterrupt` is raised all the same.
    """
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as ended:
        raise KeyboardInterrupt from ended
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)


class _Once:
    """A signal handler that raises at the first signal only."""

    def __init__(self) -> None:
        self._raised = False

    def __call__(self, _signal: int, _frame: FrameType | None) -> None:
        if not self._raised:
            self._raised = True
            raise Terminated
