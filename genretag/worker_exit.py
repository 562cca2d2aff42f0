"""Ends Ray's worker processes that hang while they exit, and finds those that earlier runs left behind.

Ray 2.60 destroys the C++ part of a worker in an exit handler of the C library, after Python has ended. That handler can
wait for ever for a mutex that its own thread holds. The process then keeps its memory, and that of a GPU, until
somebody sends SIGKILL.
"""

import atexit
import logging
import os
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

EXIT_WITHIN_S = 5
HOOK = f"{__name__}.limit_exit"  # Ray calls it in each worker process of a job

logger = logging.getLogger(__name__)


def limit_exit() -> None:
    """Let this process take at most `EXIT_WITHIN_S` seconds to exit, counted from when Python begins to end."""
    atexit.register(_set_alarm)


def leftovers() -> "list[psutil.Process]":
    """Return the worker processes of this user on this machine whose Ray has ended; some may be exiting just now."""
    import psutil
    import ray  # noqa: F401 - brings psutil along

    found = []
    for process in psutil.process_iter():
        try:
            if process.uids().real == os.getuid() and "".join(process.cmdline()[:1]).startswith("ray::"):
                raylet = process.environ().get("RAY_RAYLET_PID", "")
                if raylet.isdigit() and process.ppid() != int(raylet):
                    found.append(process)
        except psutil.Error:  # it ended meanwhile
            continue
    return found


def warn_of_leftovers(before: "list[psutil.Process]") -> None:
    """Log a warning that names those of `before` that still run: they hold memory, and nothing else ends them."""
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
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # then the kernel ends the process, whatever its threads wait for
    signal.alarm(EXIT_WITHIN_S)
