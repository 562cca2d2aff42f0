"""The end of a command: Ctrl-C and SIGTERM, and worker processes that do not end.

Ctrl-C and SIGTERM are handled the same way, and the last line of a command says how to go on. Finished part files
stay, and the lock of the output is released. A scheduler, `ray job stop` and the reclaim of a spot machine all send
SIGTERM, and SIGKILL some seconds later.

Ray 2.60 destroys the C++ part of a worker in an exit handler of the C library, after Python has ended. That handler can
wait for ever for a mutex that its own thread holds. The process then keeps its memory, and that of a GPU, until
somebody sends SIGKILL. So `limit_exit` ends such a worker after 5 s, and `leftovers` finds workers of earlier runs.
"""

import atexit
import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil


logger = logging.getLogger(__name__)

FROM_THE_START = "nothing was finished, the same command starts again"


class Terminated(KeyboardInterrupt):
    """The process received SIGTERM. Raised once, in the main thread, so that no second signal disturbs the clean-up."""


def end_on_sigterm() -> None:
    """Make SIGTERM raise `Terminated` in the main thread. If another thread calls this function, do nothing."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _Once())


@contextmanager
def going_on(how: str) -> Iterator[None]:
    """If Ctrl-C or SIGTERM ends the block, let the command's last line say `how` to go on.

    `how` is a text such as "the same command goes on". Of nested blocks, the innermost counts.
    """
    try:
        yield
    except KeyboardInterrupt as stop:
        stop.add_note(how)
        raise


def how_to_go_on(stop: KeyboardInterrupt) -> str:
    """Return the text of the innermost `going_on` block that `stop` has left.

    If there was no such block, return a text that says that nothing was finished.
    """
    return getattr(stop, "__notes__", [FROM_THE_START])[0]


@contextmanager
def ignoring_ctrl_c() -> Iterator[None]:
    """Ignore Ctrl-C within the block. Processes that are started within the block ignore Ctrl-C until they end."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def keeping_sigterm() -> Iterator[None]:
    """Restore the handler of `end_on_sigterm` after the block, because `ray.init` replaces it.

    If another handler was set before the block, restore nothing.
    """
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if isinstance(before, _Once) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


@contextmanager
def keeping_ctrl_c() -> Iterator[None]:
    """Restore the Ctrl-C handler after the block, because Ray Train replaces it to end workers and the process.

    With Ray Train's handler, Ctrl-C raises `SystemExit`. If `SystemExit` ends the block, raise `KeyboardInterrupt`
    instead.
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
    """A signal handler that raises `Terminated` at the first signal only."""

    def __init__(self) -> None:
        self._raised = False

    def __call__(self, _signal: int, _frame: FrameType | None) -> None:
        if not self._raised:
            self._raised = True
            raise Terminated


EXIT_WITHIN_S = 5
HOOK = f"{__name__}.limit_exit"  # Ray calls this function in each worker process of a job


def limit_exit() -> None:
    """Make this process end at the latest `EXIT_WITHIN_S` seconds after Python begins to exit, even if its exit hangs.

    Ray calls this function in each worker process (`HOOK`).
    """
    atexit.register(_set_alarm)


def leftovers() -> "list[psutil.Process]":
    """Return this user's Ray worker processes on this machine whose raylet has ended. Some may be exiting now."""
    import psutil
    import ray  # noqa: F401 - Ray ships psutil

    found = []
    for process in psutil.process_iter():
        try:
            if process.uids().real == os.getuid() and "".join(process.cmdline()[:1]).startswith("ray::"):
                raylet = process.environ().get("RAY_RAYLET_PID", "")
                if raylet.isdigit() and process.ppid() != int(raylet):
                    found.append(process)
        except psutil.Error:  # the process ended meanwhile
            continue
    return found


def warn_of_leftovers(before: "list[psutil.Process]") -> None:
    """Log a warning if processes of `before`, which `leftovers` returned earlier, still run.

    The warning lists their ids for `kill`. They hold memory, and nothing else ends them.
    """
    left = [process for process in before if _runs(process)]
    if left:
        logger.warning(
            "%d worker process(es) of earlier runs still hold memory here, though their Ray has ended: kill -9 %s",
            len(left),
            " ".join(str(process.pid) for process in left),
        )


def _runs(process: "psutil.Process") -> bool:
    import psutil

    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _set_alarm() -> None:
    """Let the kernel end this process after `EXIT_WITHIN_S` seconds."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # the kernel then ends the process, even if its threads wait
    signal.alarm(EXIT_WITHIN_S)
