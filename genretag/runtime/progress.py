"""Progress of a running job: actors on any node report to a board (a small Ray actor), and the driver reads the board.

`genretag.runtime.display` shows the values of the board.
"""

import resource
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

LAST_WORDS_TIMEOUT_S = 10


class Board:
    """The progress of one job: counters, facts (the latest values by name), and events (texts for the log).

    The board is a Ray actor: call its methods with `.remote`.
    """

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._facts: dict[str, Any] = {}
        self._events: list[str] = []

    def add(self, **counts: int) -> None:
        """Add numbers to the counters with these names, such as `scored=512, failed=3`."""
        self._counts.update(counts)

    def set(self, **facts: Any) -> None:
        """Set facts, such as `epoch=2`, and replace their earlier values."""
        self._facts.update(facts)

    def peak(self, **facts: int) -> None:
        """Set each fact, such as `fetch_bytes=300_000_000`, unless its present value is higher."""
        self._facts.update({name: max(value, self._facts.get(name, value)) for name, value in facts.items()})

    def say(self, event: str) -> None:
        """Append the text of an event, such as the end of an epoch. If actors report the same text, keep it once."""
        if event not in self._events:
            self._events.append(event)

    def read(self, events_seen: int) -> tuple[dict[str, Any], list[str]]:
        """Return the board's values, and its events without the first `events_seen`, which the caller has read already.

        The values are the counters and the facts in one dictionary.
        """
        return {**self._counts, **self._facts}, self._events[events_seen:]


def peak_memory_bytes() -> int:
    """Return the peak resident memory of this process so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def read_board(board: Any, events_seen: int = 0, timeout_s: float = 5.0) -> tuple[dict[str, Any], list[str]] | None:
    """Return the values of a board and its events without the first `events_seen`, as `Board.read` does.

    `board` is the handle of a `Board`, a Ray actor with the progress of a job. If the board is gone or does not
    answer within `timeout_s`, return None, because progress must not fail a job.
    """
    import ray

    try:
        return ray.get(board.read.remote(events_seen), timeout=timeout_s)
    except (ray.exceptions.RayError, TimeoutError):
        return None


def last_words(board: Any) -> dict[str, Any]:
    """Return the values (counters and other facts) of the board, the progress actor of a job that has ended.

    If the board is gone or does not answer within 10 s, return an empty dictionary.
    """
    answer = read_board(board, timeout_s=LAST_WORDS_TIMEOUT_S)
    return answer[0] if answer else {}


class PhaseClock:
    """Measures the phases of a job in this process. `seconds` has the duration of each finished phase, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure the seconds of the `with` block. If the block fails, nothing is recorded."""
        started = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - started
