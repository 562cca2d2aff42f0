"""Lists one flat prefix with many listers: an idle one takes half of the keys that a busy one still has to list.

A store lists keys in order, a page at a time, and can start after any key. So the keys of a prefix are divided into
disjoint ranges `(position, end]`, one for each lister at work. Nobody knows beforehand where the keys are: a range is
split at a guess, and a guess behind which there is nothing costs one request and tells where no keys are.

Blumofe and Leiserson, "Scheduling multithreaded computations by work stealing", 1999.
"""

import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Generic, Protocol, TypeVar

from genretag.storage.split_keys import KeySpace

Rows = TypeVar("Rows")
Rows_co = TypeVar("Rows_co", covariant=True)

WAITING_PAGES = 2  # per lister: so many may be listed before somebody takes them
MISSES = 2  # guesses without a hit in one range, after which it is guessed otherwise


class KeyPage(Protocol[Rows_co]):
    """What a lister answers: the next keys, and how to go on."""

    @property
    def keys(self) -> Sequence[str]: ...

    @property
    def token(self) -> str | None:
        """The store's own mark for the page after this one; none after the last."""

    def rows(self, count: int) -> Rows_co:
        """What is known of the first `count` keys."""


ListPage = Callable[[str, str | None], KeyPage[Rows]]
"""Lists a page of the keys greater than the first argument, or, where the second is given, goes on from that token."""


class OutOfOrderError(Exception):
    """The store does not list keys in the order of their UTF-8 bytes, so they cannot be divided into ranges."""


def list_ranges(list_page: ListPage[Rows], first: KeyPage[Rows], prefix: str, listers: int) -> Iterator[Rows]:
    """Yields the rows of all pages behind `first`, which is the prefix's first page, in no promised order.

    Every key comes once. What `list_page` raises is raised here, and ends the listing. Closing the iterator stops
    the listers: each ends the request that it is at, and makes no other. Raises `OutOfOrderError`.
    """
    if first.token is None:
        return
    listing = _Listing(list_page, first, prefix, listers)
    try:
        listing.start()
        yield from listing.pages()
    finally:
        listing.stop()


class _Range:
    """What one lister has still to list: the keys after `position` up to and with `end`, if there is an end."""

    def __init__(self, position: str, end: str | None, split_from: "_Range | None" = None) -> None:
        self.position = position
        self.end = end
        self.token: str | None = None
        self.first = position  # of its last page's keys: from here to the position is as far as a page reaches
        self.pages_left = 0.0  # estimated from its last page; 0 from a split until the next page
        self.split_from = split_from  # until its first page tells whether the guess was good
        self.misses = 0

    def take(self, page: KeyPage[Rows]) -> tuple[int, bool]:
        """Moves behind a page; returns how many of its keys lie in the range, and whether the range is done."""
        keys = page.keys
        if (keys and keys[0] <= self.position) or any(after <= before for before, after in pairwise(keys)):
            raise OutOfOrderError(f"after {self.position!r} came {keys[0]!r} to {keys[-1]!r}, which are not in order")
        count = len(keys) if self.end is None else bisect_right(keys, self.end)
        if count:
            self.first, self.position = keys[0], keys[count - 1]
        if self.split_from:
            self.split_from.misses = 0 if count else self.split_from.misses + 1
            self.split_from = None
        self.token = page.token
        return count, count < len(keys) or page.token is None or self.position == self.end


class _Listing(Generic[Rows]):
    """The ranges of one listing and the threads that list them; one lock guards all that changes."""

    def __init__(self, list_page: ListPage[Rows], first: KeyPage[Rows], prefix: str, listers: int) -> None:
        self._list_page = list_page
        self._listers = listers
        self._working = listers
        self._stopped = False
        self._error: BaseException | None = None
        self._waiting: deque[Rows] = deque()
        lock = threading.Lock()
        self._ranges_changed = threading.Condition(lock)
        self._page_waits = threading.Condition(lock)
        self._page_taken = threading.Condition(lock)
        self._space = KeySpace(prefix)
        everything = _Range("", None)
        self._ranges = {everything}  # that are not done
        self._unlisted = [everything]  # that nobody is at yet
        self._take(everything, first)

    def start(self) -> None:
        for number in range(self._listers):
            # daemons: a request that hangs must not keep the process from ending
            threading.Thread(target=self._work, name=f"lister-{number}", daemon=True).start()

    def stop(self) -> None:
        with self._ranges_changed:
            self._stopped = True
            self._wake_all()

    def pages(self) -> Iterator[Rows]:
        while True:
            with self._page_waits:
                self._page_waits.wait_for(lambda: self._waiting or self._error or not self._working)
                if self._error:
                    raise self._error
                if not self._waiting:
                    return
                rows = self._waiting.popleft()
                self._page_taken.notify()
            yield rows

    def _work(self) -> None:
        try:
            while (mine := self._next_range()) is not None:
                self._list_range(mine)
        except BaseException as error:  # noqa: BLE001 - it is raised again where the pages are taken
            with self._ranges_changed:
                self._error = self._error or error
                self._stopped = True
        finally:
            with self._ranges_changed:
                self._working -= 1
                self._wake_all()

    def _next_range(self) -> _Range | None:
        """Waits for a range to list: one that nobody is at, or half of another's. None when all is listed."""
        with self._ranges_changed:
            while self._ranges and not self._stopped:
                if found := self._unlisted.pop() if self._unlisted else self._steal():
                    return found
                self._ranges_changed.wait()
        return None

    def _steal(self) -> _Range | None:
        victim = max(self._ranges, key=lambda other: other.pages_left)
        if victim.pages_left < 1:
            return None
        middle = self._space.split_key(victim.first, victim.position, victim.end, deep=victim.misses >= MISSES)
        victim.pages_left = 0.0
        if middle is None:
            return None
        stolen = _Range(middle, victim.end, split_from=victim)
        victim.end = middle
        self._ranges.add(stolen)
        return stolen

    def _list_range(self, mine: _Range) -> None:
        done = False
        while not done and not self._stopped:
            page = self._list_page(mine.position, mine.token)
            with self._ranges_changed:
                count, done = self._take(mine, page)
                self._ranges_changed.notify_all()
            if count:
                self._hand_over(page.rows(count))

    def _take(self, mine: _Range, page: KeyPage[Rows]) -> tuple[int, bool]:
        count, done = mine.take(page)
        if done:
            self._ranges.remove(mine)
        if count:
            self._space.learn(page.keys)
            mine.pages_left = self._space.pages_left(mine.first, mine.position, mine.end)
        return count, done

    def _hand_over(self, rows: Rows) -> None:
        with self._page_taken:
            self._page_taken.wait_for(lambda: self._stopped or len(self._waiting) < WAITING_PAGES * self._listers)
            self._waiting.append(rows)
            self._page_waits.notify()

    def _wake_all(self) -> None:
        for condition in (self._ranges_changed, self._page_waits, self._page_taken):
            condition.notify_all()
