"""What a running job says of itself: actors on any node report to a small board, and the driver reads it.

`genretag.display` shows it.
"""

import resource
import sys
from collections import Counter
from typing import Any

from genretag.ray_session import actor_here

LAST_WORDS_TIMEOUT_S = 10


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
        """Appends a line that stays, such as the end of an epoch; what many actors say alike, once."""
        if event not in self._events:
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


def read_board(board: Any, events_seen: int = 0, timeout_s: float = 5.0) -> tuple[dict[str, Any], list[str]] | None:
    """What `Board.read` says, or none where it does not answer in time: progress is never worth a job."""
    import ray

    try:
        return ray.get(board.read.remote(events_seen), timeout=timeout_s)
    except (ray.exceptions.RayError, TimeoutError):
        return None


def last_words(board: Any) -> dict[str, Any]:
    """The values of a board whose job has ended."""
    answer = read_board(board, timeout_s=LAST_WORDS_TIMEOUT_S)
    return answer[0] if answer else {}
