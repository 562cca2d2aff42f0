"""List one prefix of a bucket with several threads (listers): an idle lister takes half of a busy lister's range.

A store lists keys in order, one page at a time, and can start after any key. So the keys of a prefix are divided into
disjoint ranges `(position, end]`, one for each busy lister. Nobody knows beforehand where the keys are, so a guess
decides where to split a range. If no key follows the guess, the guess costs one request and shows where no keys are.

The guess is the middle of a range. To compute the middle, a key is read as a fraction whose digits are its characters.
A digit's value is the rank of its character among all characters in the keys listed so far. Zero-padded numbers and hex
digests are spread evenly. So the middle of the fractions of two such keys is about the middle of the keys between them.
A bad guess makes a listing slower, but never wrong.

Source: Blumofe and Leiserson, "Scheduling multithreaded computations by work stealing", 1999.
"""

import threading
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Generic, Protocol, TypeVar

LAST = "\U0010ffff"  # sorts after every other character
DIGITS = 6  # digits of a fraction, from the first character that differs: more precise than a guess needs
SAMPLE = 20  # about this many keys of each page are searched for new characters
MAX_ALPHABET = 256  # characters; if keys have more (Chinese titles), any 256 of them are spread evenly enough


class KeySpace:
    """This class guesses where to split a lister's range of keys, by the characters in the keys listed so far."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._alphabet = [LAST]

    def learn(self, keys: Sequence[str]) -> None:
        """Add the characters in a sample of a page's `keys` to the known characters. `keys` must not be empty."""
        if len(self._alphabet) >= MAX_ALPHABET:
            return
        sample = (keys[-1], *keys[:: max(1, len(keys) // SAMPLE)])
        seen = {character for key in sample for character in key[len(self._prefix) :]}
        self._alphabet = sorted(seen.union(self._alphabet))

    def split_key(self, first: str, position: str, end: str | None, *, deep: bool = False) -> str | None:
        """Return a key near the middle between `position` and `end`, or None if no key between them can be computed.

        `first` and `position` are the first and the last key of the page that was listed last. If `end` is None, the
        range ends with the last key of the prefix. The returned key need not exist in the store.

        Set `deep` if earlier guesses hit no keys. Such misses mean that many keys begin with the same long text. The
        keys of the last page then share a longer beginning than `position` and `end` do. A deep guess cuts `position`
        to the mean length of these two beginnings. It returns a key after all keys that begin with the cut text.
        """
        start = self._start(position, end)
        shared = _shared(first, position)
        if deep and shared - start > 1:
            return _if_between(position, position[: (start + shared) // 2] + LAST, end)
        middle = self._digits_of((self._value(position, start) + self._value(end, start)) // 2)
        for length in range(1, DIGITS + 1):  # return the shortest key that fits
            text = "".join(self._alphabet[digit - 1] for digit in middle[:length] if digit)
            if key := _if_between(position, position[:start] + text, end):
                return key
        return None

    def pages_left(self, first: str, position: str, end: str | None) -> float:
        """Estimate how many pages are left between `position` and `end`.

        If `end` is None, the range ends with the last key of the prefix. The last page went from the key `first` to the
        key `position`. The estimate assumes that the keys after that page are equally dense.
        """
        start = self._start(position, end)
        begin, here, there = (self._value(key, start) for key in (first, position, end))
        return (there - here) / max(here - begin, 1)

    def _start(self, position: str, end: str | None) -> int:
        """Return the index of the first character in which `position` and `end` differ.

        If `end` is None, return the length of the prefix that is listed.
        """
        return len(self._prefix) if end is None else _shared(position, end)

    def _value(self, key: str | None, start: int) -> int:
        """Return a key as a fraction whose digits are its characters from `start` on: an integer of `DIGITS` digits.

        None stands for a key after all others. The digit 0 ends a key, so a key comes before longer keys that begin
        with it.
        """
        base = len(self._alphabet) + 1
        text = LAST * DIGITS if key is None else key[start : start + DIGITS]
        value = 0
        for character in text:
            value = value * base + bisect_left(self._alphabet, character) + 1
        return value * base ** (DIGITS - len(text))

    def _digits_of(self, value: int) -> list[int]:
        """Return the digits of a fraction that `_value` returned, the most significant digit first."""
        digits = []
        for _ in range(DIGITS):
            value, digit = divmod(value, len(self._alphabet) + 1)
            digits.append(digit)
        return digits[::-1]


def _if_between(position: str, key: str, end: str | None) -> str | None:
    """Return `key` if it is after `position` and before `end` (None: no end). Otherwise return None."""
    return key if position < key and (end is None or key < end) else None


def _shared(one: str, other: str) -> int:
    """Return the length of the longest common prefix of two keys."""
    differing = (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(differing, min(len(one), len(other)))


Rows = TypeVar("Rows")
Rows_co = TypeVar("Rows_co", covariant=True)

WAITING_PAGES = 2  # pages per lister that may wait in the queue; listers pause while the queue is full
MISSES = 2  # splits of a range that gave a range without keys, before guesses become `deep`


class KeyPage(Protocol[Rows_co]):
    """The answer of a store to one request for a page of a listing: keys in order, and the token of the next page."""

    @property
    def keys(self) -> Sequence[str]: ...

    @property
    def token(self) -> str | None:
        """The store's token for the request of the next page; None if this page is the last one."""

    def rows(self, count: int) -> Rows_co:
        """Return the rows (such as a table) of the first `count` keys."""


ListPage = Callable[[str, str | None], KeyPage[Rows]]
"""A function that lists a page of keys. If a token (the second argument) is given, the page continues from that token.
Otherwise the page has the keys greater than the first argument."""


class OutOfOrderError(Exception):
    """Error if a store does not list keys in the order of their UTF-8 bytes. Then no range of keys can be listed."""


def list_ranges(list_page: ListPage[Rows], first: KeyPage[Rows], prefix: str, listers: int) -> Iterator[Rows]:
    """Yield the rows of all pages after the page `first`. Each key comes once. The order of the pages is not defined.

    `list_page` requests a page (see `ListPage`), `first` is the first page of the prefix, and `listers` is the number
    of threads. If `first` is the only page, yield nothing. If `list_page` raises an exception, the listing ends and
    raises that exception. If the iterator is closed, each lister finishes its current request and makes no other.
    Raises `OutOfOrderError` if the store does not return keys in ascending order.
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
    """The keys that one lister still has to list: those after `position`, up to and including `end` if there is one."""

    def __init__(self, position: str, end: str | None, split_from: "_Range | None" = None) -> None:
        self.position = position
        self.end = end
        self.token: str | None = None
        self.first = position  # the first key of the range's last page, whose last key is `position`
        self.pages_left = 0.0  # an estimate after each page; 0 from a split until the next page
        self.split_from = split_from  # the range that was split, until the first page shows whether the guess was good
        self.misses = 0  # how many times in a row a split of this range gave a range without keys

    def take(self, page: KeyPage[Rows]) -> tuple[int, bool]:
        """Set `position` to the last of the page's keys that are in this range.

        Return the number of the page's keys that are in the range, and whether the range is done.

        Raises `OutOfOrderError` if the page's keys are not in ascending order, or not after `position`.
        """
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
    """The ranges of one listing and the threads that list them. One lock guards all attributes that change."""

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
        self._ranges = {everything}  # ranges that are not done
        self._unlisted = [everything]  # ranges that no lister works on
        self._take(everything, first)

    def start(self) -> None:
        """Start the listers, one thread each."""
        for number in range(self._listers):
            # daemon threads, because a request that hangs must not keep the process from ending
            threading.Thread(target=self._work, name=f"lister-{number}", daemon=True).start()

    def stop(self) -> None:
        """Tell each lister to end after its current request. Return at once."""
        with self._ranges_changed:
            self._stopped = True
            self._wake_all()

    def pages(self) -> Iterator[Rows]:
        """Yield the rows of each page when it arrives, until all ranges are listed.

        If a lister raises an exception, raise the first such exception.
        """
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
        """List ranges until none is left. Each lister's thread runs this method. `pages` re-raises its exceptions."""
        try:
            while (mine := self._next_range()) is not None:
                self._list_range(mine)
        except BaseException as error:  # noqa: BLE001 - `pages` raises it again
            with self._ranges_changed:
                self._error = self._error or error
                self._stopped = True
        finally:
            with self._ranges_changed:
                self._working -= 1
                self._wake_all()

    def _next_range(self) -> _Range | None:
        """Return the range that the calling lister lists next: one without a lister, or half of another lister's range.

        If no range can be split, wait. Return None if everything is listed or the listing has stopped.
        """
        with self._ranges_changed:
            while self._ranges and not self._stopped:
                if found := self._unlisted.pop() if self._unlisted else self._steal():
                    return found
                self._ranges_changed.wait()
        return None

    def _steal(self) -> _Range | None:
        """Split the range with the most pages left, and return its upper part as a new range.

        Return None if every range has less than a page left, or if no key at which to split the range can be computed.
        """
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
        """Request the pages of a range and queue their rows, until the range is done or the listing has stopped."""
        done = False
        while not done and not self._stopped:
            page = self._list_page(mine.position, mine.token)
            with self._ranges_changed:
                count, done = self._take(mine, page)
                self._ranges_changed.notify_all()
            if count:
                self._hand_over(page.rows(count))

    def _take(self, mine: _Range, page: KeyPage[Rows]) -> tuple[int, bool]:
        """Call `take` of the range with a listed page, and return its result. Estimate how many pages are left."""
        count, done = mine.take(page)
        if done:
            self._ranges.remove(mine)
        if count:
            self._space.learn(page.keys)
            mine.pages_left = self._space.pages_left(mine.first, mine.position, mine.end)
        return count, done

    def _hand_over(self, rows: Rows) -> None:
        """Queue the rows of a page. Wait while the queue is full."""
        with self._page_taken:
            self._page_taken.wait_for(lambda: self._stopped or len(self._waiting) < WAITING_PAGES * self._listers)
            self._waiting.append(rows)
            self._page_waits.notify()

    def _wake_all(self) -> None:
        for condition in (self._ranges_changed, self._page_waits, self._page_taken):
            condition.notify_all()
