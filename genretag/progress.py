"""What a running job says of itself: one live line on a terminal, a plain log line every few seconds elsewhere.

Actors on any node report to a small board (a Ray actor without CPU); the driver reads it and prints.
"""

import logging
import resource
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from genretag import logs
from genretag.ray_session import actor_here

TERMINAL_EVERY_S = 0.5
LOG_EVERY_S = 5.0

logger = logging.getLogger(__name__)


class Board:
    """Counts, facts and events of one job. Lives as a Ray actor: call its methods with `.remote`."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._facts: dict[str, Any] = {}
        self._events: list[str] = []

    def add(self, **counts: int) -> None:
        """Adds to counters, such as `scored=512, failed=3`."""
        self._counts.update(counts)

    def set(self, **facts: Any) -> None:
        """Replaces facts, such as `epoch=2`."""
        self._facts.update(facts)

    def peak(self, **facts: int) -> None:
        """Keeps the highest of a fact, such as `fetch_bytes=300_000_000`."""
        self._facts.update({name: max(value, self._facts.get(name, value)) for name, value in facts.items()})

    def say(self, event: str) -> None:
        """Appends a line that stays, such as the end of an epoch."""
        self._events.append(event)

    def read(self, events_seen: int) -> tuple[dict[str, Any], list[str]]:
        """Returns counters and facts together, and the events after the first `events_seen`."""
        return {**self._counts, **self._facts}, self._events[events_seen:]


def peak_memory_bytes() -> int:
    """The most memory that this process has had resident so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def open_board() -> Any:
    """Starts a board on the connected Ray cluster and returns its handle."""
    return actor_here(Board)


@contextmanager
def watch(board: Any, describe: Callable[[dict[str, Any]], str], *, quiet: bool = False) -> Iterator[None]:
    """Prints `describe(board's values)` while the block runs, and the board's events as they come."""
    if quiet:
        yield
        return
    stopped = threading.Event()
    show = _show_on_terminal if sys.stderr.isatty() and not logs.is_json() else _show_in_log
    watcher = threading.Thread(target=show, args=(board, describe, stopped), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        stopped.set()
        watcher.join(timeout=10)


def _show_in_log(board: Any, describe: Callable[[dict[str, Any]], str], stopped: threading.Event) -> None:
    seen = 0
    while True:
        last = stopped.wait(LOG_EVERY_S)
        values, events = _read(board, seen)
        seen += len(events)
        for event in events:
            logger.info(event)
        if last:
            return
        logger.info(describe(values))


def _show_on_terminal(board: Any, describe: Callable[[dict[str, Any]], str], stopped: threading.Event) -> None:
    from rich.console import Console
    from rich.markup import escape

    seen, console = 0, Console(stderr=True, highlight=False)
    with console.status(escape(describe({}))) as status:
        while True:
            last = stopped.wait(TERMINAL_EVERY_S)
            values, events = _read(board, seen)
            seen += len(events)
            for event in events:
                console.print(escape(event))
            if last:
                return
            status.update(escape(describe(values)))


def _read(board: Any, events_seen: int) -> tuple[dict[str, Any], list[str]]:
    import ray

    try:
        return ray.get(board.read.remote(events_seen), timeout=5)
    except (ray.exceptions.RayError, TimeoutError):  # progress is never worth a job
        return {}, []
