"""Parallel listers divide a prefix among themselves. Every key comes once, with few more requests than pages."""

import hashlib
import threading
from bisect import bisect_right
from dataclasses import dataclass

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genretag.storage import join
from genretag.storage.aws_settings import AwsSettings
from genretag.storage.key_ranges import KeySpace, OutOfOrderError, list_ranges
from genretag.storage.retries import RetryPolicy
from genretag.storage.s3 import open_client
from genretag.storage.s3_listing import request_page

PREFIX = "posters/"


@dataclass(frozen=True)
class Page:
    keys: list[str]
    token: str | None

    def rows(self, count):
        return self.keys[:count]


class Store:
    """Lists keys in pages, as S3 does, and counts the requests."""

    def __init__(self, keys, page_size):
        self.keys = sorted(PREFIX + key for key in keys)
        self.page_size = page_size
        self.requests = 0
        self._lock = threading.Lock()

    def list_page(self, after, token):
        with self._lock:
            self.requests += 1
        start = bisect_right(self.keys, token or after)
        end = start + self.page_size
        return Page(self.keys[start:end], self.keys[end - 1] if end < len(self.keys) else None)

    @property
    def pages(self):
        return max(1, -(-len(self.keys) // self.page_size))


def listed(store, listers=16):
    """List all keys of the store with parallel listers."""
    first = store.list_page("", None)
    found = list(first.keys)
    for keys in list_ranges(store.list_page, first, PREFIX, listers):
        assert keys
        found += keys
    return found


CLOSE_TOGETHER = st.text("ab/-.\U0010ffff", max_size=6)
PADDED = st.integers(0, 3000).map(lambda number: f"{number:09d}.jpg")
UNICODE = st.text(st.characters(exclude_categories=["Cs"]), max_size=4)
LONG = st.integers(0, 999).map(lambda number: "a/very/long/name/that/all/of/them/share/" * 5 + f"{number}")
KEYS = st.sets(st.one_of(CLOSE_TOGETHER, PADDED, UNICODE, LONG), max_size=200)


@settings(deadline=None, max_examples=300)
@given(KEYS, st.integers(1, 20), st.integers(1, 16))
def test_every_key_comes_once(keys, page_size, listers):
    store = Store(keys, page_size)

    assert sorted(listed(store, listers)) == store.keys


@settings(deadline=None)
@given(st.text(max_size=9), st.text(max_size=9), st.text(max_size=9), st.booleans(), st.lists(UNICODE, max_size=9))
def test_a_split_lies_strictly_inside_the_range(first, position, end, deep, seen):
    first, position, end = (PREFIX + key for key in sorted((first, position, end)))
    space = KeySpace(PREFIX)
    space.learn([PREFIX, *(PREFIX + key for key in seen)])

    inside = space.split_key(first, position, end, deep=deep)
    behind = space.split_key(first, position, None, deep=deep)

    assert inside is None or position < inside < end
    assert behind is None or (position < behind and behind.startswith(PREFIX))


@pytest.mark.parametrize("count", [0, 1, 999, 1000])
def test_keys_that_fit_in_one_page_need_one_request_and_no_thread(count):
    store = Store((f"{number:07d}.jpg" for number in range(count)), 1000)
    threads = threading.active_count()

    assert listed(store) == store.keys
    assert (store.requests, threading.active_count()) == (1, threads)


SHAPES = {
    "numbers": lambda number: f"{number:09d}.jpg",
    "ids": lambda number: f"tt{number:07d}.jpg",
    "hex": lambda number: hashlib.md5(str(number).encode()).hexdigest() + ".jpg",
    "long prefix": lambda number: "a/very/long/name/that/all/of/them/share/" * 20 + f"{number:07d}.jpg",
    "three clusters": lambda number: ("aaaa/", "mmmm-", "映画/")[number % 3] + f"{number:07d}.jpg",
    "years and months": lambda number: f"{1950 + number % 75}/{number % 12:02d}/tt{number:08d}.jpg",
    "chinese": lambda number: "".join(chr(0x4E00 + number * prime % 20_000) for prime in (7919, 104_729)) + str(number),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_overhead_is_small_for_keys_of_every_shape(shape):
    store = Store(map(SHAPES[shape], range(30_000)), 100)

    assert sorted(listed(store)) == store.keys
    assert store.requests <= 2 * store.pages, "each split costs at most a page, and there are fewer of them than pages"


def test_listers_work_at_the_same_time():
    store = Store((f"{number:07d}.jpg" for number in range(20_000)), 100)
    waiting = threading.Semaphore(0)
    met = threading.Event()

    def list_page(after, token):
        if not waiting.acquire(blocking=False):  # the first lister waits for the second
            waiting.release()
            assert met.wait(timeout=30)
        met.set()
        return store.list_page(after, token)

    assert sum(map(len, list_ranges(list_page, store.list_page("", None), PREFIX, 16))) == 19_900


def test_the_error_of_one_lister_ends_the_listing():
    store = Store((f"{number:07d}.jpg" for number in range(20_000)), 100)
    first = store.list_page("", None)

    def list_page(after, token):
        if store.requests > 20:
            raise ConnectionError("the store is gone")
        return store.list_page(after, token)

    with pytest.raises(ConnectionError, match="the store is gone"):
        for _ in list_ranges(list_page, first, PREFIX, 16):
            pass


def test_closing_the_iterator_stops_the_listers():
    store = Store((f"{number:07d}.jpg" for number in range(100_000)), 100)
    pages = list_ranges(store.list_page, store.list_page("", None), PREFIX, 16)
    next(pages)
    listers = [thread for thread in threading.enumerate() if thread.name.startswith("lister-")]
    pages.close()
    for lister in listers:
        lister.join(timeout=30)

    assert not any(lister.is_alive() for lister in listers)
    assert store.requests < store.pages


def test_listers_do_not_run_far_ahead_of_the_reader():
    store = Store((f"{number:07d}.jpg" for number in range(100_000)), 100)
    pages = list_ranges(store.list_page, store.list_page("", None), PREFIX, 4)
    next(pages)

    taken = 1 + sum(1 for _ in zip(range(10), pages, strict=False))
    pages.close()

    assert store.requests <= 1 + taken + 3 * 4 + 16, "two pages per lister wait, each holds one; some found nothing"


def test_a_store_that_lists_out_of_order_is_detected():
    first = Page([PREFIX + "a/1", PREFIX + "a/2"], "on")
    then = Page([PREFIX + "b", PREFIX + "a-"], None)

    with pytest.raises(OutOfOrderError, match="not in order"):
        list(list_ranges(lambda after, token: then, first, PREFIX, 2))


def test_real_keys_come_once(bucket, storage):
    keys = {f"{number:05d}.jpg" for number in range(2500)} | {f"é {number}+%.jpg" for number in range(20)}
    uris = {join(bucket, PREFIX + key) for key in keys}
    for uri in uris:
        storage.put(uri, b"x")
    client = open_client(AwsSettings.read(), RetryPolicy.of_environment())
    requests = []

    def list_page(after, token):
        requests.append(after)
        return request_page(client, bucket, PREFIX, after, token)

    first = list_page("", None)
    tables = [first.rows(len(first.keys)), *list_ranges(list_page, first, PREFIX, 16)]

    assert sorted(pa.concat_tables(tables)["uri"].to_pylist()) == sorted(uris)
    assert len(requests) <= 3 * 3
