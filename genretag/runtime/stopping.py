"""The end of a command: Ctrl-C and SIGTERM, and worker processes that do not end.

Ctrl-C and SIGTERM are handled the same way, and the last line of a command says how to go on. Finished part files
stay, and the lock of the output is released. A scheduler, `ray job stop` and the reclaim of a spot machine all send
SIGTERM, and SIGKILL some seconds later.

Ray 2.60 destroys the C++ part of a worker in an exit handler of the C library, after Python has ended. That handler can
wait for ever for a mutex that its own thread holds. The process then keeps its memory, and that of a GPU, until
somebody sends SIGKILL. So `limit_exit` ends such a worker after 5 s, and `leftovers` finds workers of earlier runs.
"""

import _thread
import atexit
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, partial
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

    import psutil


logger = logging.getLogger(__name__)

AGAIN_AFTER_S = 0.05  # from a signal that Python ignored to the next attempt
FROM_THE_START = "nothing was finished, the same command starts again"


class Terminated(KeyboardInterrupt):
    """The process received SIGTERM. A second SIGTERM raises nothing, so that it does not stop the clean-up."""


def end_on_sigterm() -> None:
    """Make SIGTERM raise `Terminated` in the main thread. If another thread calls this function, do nothing."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _Once())


@contextmanager
def losing_no_signal() -> Iterator[None]:
    """Within the block, let neither Ctrl-C nor SIGTERM get lost. Outside the main thread, do nothing.

    Python ignores exceptions where it cannot raise them, such as in `__del__` or in a call from C code. If the
    exception of a signal was ignored, it is raised again a moment later.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before, sys.unraisablehook = sys.unraisablehook, _raise_again
    try:
        yield
    finally:
        sys.unraisablehook = before
        signal.setitimer(signal.ITIMER_REAL, 0)


@contextmanager
def holding_signals() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM wait until the block has ended. Outside the main thread, do nothing.

    Imports of modules made with Cython, such as Ray's, need this: at some places they drop any exception, and one at
    the wrong place also makes Python end by SIGINT in place of its exit code.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting: list[int] = []
    before = {
        number: signal.signal(number, lambda received, _frame: waiting.append(received))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)
        for received in waiting[:1]:
            signal.raise_signal(received)


@cache
def end_quietly() -> None:
    """Let this process print nothing after its exit handlers have run. A second call does nothing.

    DuckDB's Python binding prints a line for each object that is alive when Python ends. A thread that still waits,
    such as for a store, keeps objects alive. The last line that a command prints must be its own.
    """
    atexit.register(discard_output, 2)  # exit handlers run in reverse order, so call this before others are registered


@contextmanager
def going_on(how: str) -> Iterator[None]:
    """If Ctrl-C or SIGTERM ends the block, let the last line that the command prints contain the text `how`.

    `how` tells the user how to continue, such as "the same command goes on". Of nested blocks, the innermost counts.
    """
    try:
        yield
    except KeyboardInterrupt as stop:
        stop.add_note(how)
        raise


def how_to_go_on(stop: KeyboardInterrupt) -> str:
    """Return the text `how` of the innermost `going_on` block that the exception `stop` ended.

    If there was no such block, return `FROM_THE_START`, which says that nothing was finished.
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
    """After the block, restore the SIGTERM handler of `end_on_sigterm`, because `ray.init` replaces it.

    Ray's handler raises `SystemExit`. If `SystemExit` ends the block, raise `Terminated` instead. If another handler
    than ours was set before the block, change nothing.
    """
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit:
        if isinstance(before, _Once):
            before(signal.SIGTERM, None)
        raise
    finally:
        if isinstance(before, _Once) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


@contextmanager
def keeping_ctrl_c() -> Iterator[None]:
    """After the block, restore the Ctrl-C handler, because Ray Train replaces it by a handler of its own.

    With Ray Train's handler, Ctrl-C ends the workers and raises `SystemExit`. If `SystemExit` ends the block, raise
    `KeyboardInterrupt` instead.
    """
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as ended:
        raise KeyboardInterrupt from ended
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)


@contextmanager
def interruptible() -> Iterator[Callable[[], None]]:
    """Yield a function that raises `KeyboardInterrupt` in the main thread. Any thread may call it during the block.

    The interrupt is SIGUSR1 and not SIGINT, because a command that a shell script starts with `&` ignores SIGINT. If
    the block runs outside the main thread, no handler can be set, so the interrupt is SIGINT.
    """
    if threading.current_thread() is not threading.main_thread():
        yield _thread.interrupt_main
        return
    before = signal.signal(signal.SIGUSR1, signal.default_int_handler)
    try:
        yield partial(_thread.interrupt_main, signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before or signal.SIG_DFL)


class _Once:
    """A signal handler that raises `Terminated` at the first signal only."""

    def __init__(self) -> None:
        self._raised = False

    def __call__(self, _signal: int, _frame: FrameType | None) -> None:
        if not self._raised:
            self._raised = True
            raise Terminated


def _raise_again(ignored: "UnraisableHookArgs") -> None:
    """If Python ignored Ctrl-C or SIGTERM, raise the exception again a moment later. Print other exceptions.

    Python calls this function, and ignores its exceptions too. So it only sets a timer.
    """
    if issubclass(ignored.exc_type, KeyboardInterrupt):
        signal.signal(signal.SIGALRM, partial(_raise, ignored.exc_type))
        signal.setitimer(signal.ITIMER_REAL, AGAIN_AFTER_S)
    else:
        sys.__unraisablehook__(ignored)


def _raise(exception: type[BaseException], _signal: int, _frame: FrameType | None) -> None:
    raise exception


EXIT_WITHIN_S = 5


def limit_exit() -> None:
    """Make this process end at the latest `EXIT_WITHIN_S` seconds after Python begins to exit, even if its exit hangs.

    Each worker process calls this function first (`genretag.runtime.worker`).
    """
    atexit.register(_set_alarm)


def leftovers() -> "list[psutil.Process]":
    """Return this user's Ray worker processes on this machine whose raylet has ended. Some may be exiting now.

    A raylet is recognised by its name. In a worker of a container, `RAY_RAYLET_PID` is not the raylet's number here.
    """
    import psutil
    import ray  # noqa: F401 - Ray ships psutil

    found = []
    for process in psutil.process_iter():
        try:
            if process.uids().real == os.getuid() and "".join(process.cmdline()[:1]).startswith("ray::"):
                parent = process.parent()
                if "RAY_RAYLET_PID" in process.environ() and not (parent and parent.name() == "raylet"):
                    found.append(process)
        except psutil.Error:  # the process ended meanwhile
            continue
    return found


def warn_of_leftovers(before: "list[psutil.Process]") -> None:
    """Log a warning if processes of `before`, which `leftovers` returned earlier, still run.

    The warning lists the process ids for `kill`. Such processes hold memory, and nothing else ends them.
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


def discard_output(descriptor: int) -> None:
    """Send what is written to a file descriptor from now on to the null device. 1 is the standard output, 2 errors."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


def _set_alarm() -> None:
    """Let the kernel end this process after `EXIT_WITHIN_S` seconds."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # the kernel then ends the process, even if its threads wait
    signal.alarm(EXIT_WITHIN_S)
