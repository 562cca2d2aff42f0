"""How many bytes may be in decoding at once: a weighted semaphore for the threads of one process."""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition


class DecodeMemory:
    """Lets threads decode while their estimates fit in `limit_bytes` together; the others wait their turn.

    Turns come in the order of asking, so that a stream of small pictures cannot starve a large one. The price
    is that small ones wait behind it, for as long as the pictures before it take.
    """

    def __init__(self, limit_bytes: int = 2 * 2**30) -> None:
        if limit_bytes < 1:
            raise ValueError(f"the memory for decoding must be positive, not {limit_bytes} bytes")
        self._limit_bytes = limit_bytes
        self._free_bytes = limit_bytes
        self._waiting: deque[object] = deque()  # tickets, the longest waiting first
        self._changed = Condition()

    @contextmanager
    def reserved(self, size_bytes: int) -> Iterator[None]:
        """Holds `size_bytes` while the body runs. More than the limit counts as the limit: it runs alone."""
        size_bytes = min(max(size_bytes, 0), self._limit_bytes)
        self._acquire(size_bytes)
        try:
            yield
        finally:
            with self._changed:
                self._free_bytes += size_bytes
                self._changed.notify_all()

    def _acquire(self, size_bytes: int) -> None:
        ticket = object()
        with self._changed:
            self._waiting.append(ticket)
            try:
                self._changed.wait_for(lambda: self._waiting[0] is ticket and size_bytes <= self._free_bytes)
                self._free_bytes -= size_bytes
            finally:  # an interrupted wait leaves the queue too
                self._waiting.remove(ticket)
                self._changed.notify_all()  # the next in line may fit as well
