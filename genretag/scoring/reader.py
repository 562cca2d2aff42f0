"""Reader: turns URIs into decoded posters or failures with a few threads; GETs and decoding overlap.

Both GETs and decoding release the GIL.
"""

import threading
import time
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from genretag.errors import Failure
from genretag.images import ImageRule
from genretag.images.decode_cost import DecodeMemory
from genretag.images.decoding import BadImage, DecodedImage, ImageLimits, decode
from genretag.images.file_kinds import OTHER_FILE, is_called_an_image, is_other_content, is_picture, kind_by_name
from genretag.runtime.cpus import cpus_here
from genretag.storage import Fetched, Storage, StorageError
from genretag.storage.objects import etag_key

HEAD_BYTES = 1024  # read from the start of a file that is too large, to find its kind
DECODES_AT_ONCE = 4  # per reader, and at most two per CPU; its other threads wait for the store
DECODES_PER_CPU = 2
DECODE_BYTES = 2 * 2**30  # estimated memory of all decodes of a reader: two of the largest pictures, many usual ones


@dataclass(frozen=True)
class Poster:
    """A decoded poster, and the etag of the version that was read."""

    image: DecodedImage
    etag: str


@dataclass(frozen=True)
class Held:
    """A poster that was fetched and not decoded, because the output already has a row of the version `etag`."""

    etag: str


class PosterReader:
    """Reader that fetches and decodes posters, `threads` at a time. Each poster becomes a `Poster` or a `Failure`.

    A thread that waits for a slow object delays no other thread. At most `DECODES_AT_ONCE` threads decode, within
    `DECODE_BYTES` of memory together. So more threads cost only connections and the bytes of encoded posters. `limits`
    of None means the limits of `ImageLimits`.
    """

    def __init__(self, storage: Storage, rule: ImageRule, threads: int, limits: ImageLimits | None = None) -> None:
        self._storage = storage
        self._rule = rule
        self._limits = limits or ImageLimits()
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="fetch-decode")
        self._decoding = threading.Semaphore(min(DECODES_AT_ONCE, DECODES_PER_CPU * cpus_here()))
        self._memory = DecodeMemory(DECODE_BYTES)
        self._watch = Watch()
        self._fetched_bytes = 0
        self._counting = threading.Lock()
        self.busy = Busy()

    def read_many(self, uris: Sequence[str]) -> list[Poster | Failure]:
        """Read posters in parallel, and return the results in the order of `uris`."""
        return list(self._threads.map(self.read, uris))

    def read(self, uri: str) -> Poster | Failure:
        """Return one decoded poster. An error of the poster is returned as a `Failure`, not raised.

        A file whose name says that it is no poster is not fetched.
        """
        fetched = self._fetch(uri)
        return fetched if isinstance(fetched, Failure) else self._decode(uri, fetched)

    def read_many_new(self, uris: Sequence[str], held: Sequence[Collection[str]]) -> list[Poster | Failure | Held]:
        """Call `read_new` for each poster in parallel, and return the results in the order of `uris`.

        `held` has one collection of etags for each URI.
        """
        return list(self._threads.map(self.read_new, uris, held))

    def read_new(self, uri: str, held: Collection[str]) -> Poster | Failure | Held:
        """Read one poster. If the output already has a row of its current version, do not decode it and return `Held`.

        `held` has the etags of the versions in the output, as `etag_key` returns them.
        """
        fetched = self._fetch(uri)
        if isinstance(fetched, Failure):
            return fetched
        return Held(fetched.etag) if fetched.etag in held else self._decode(uri, fetched)

    def _fetch(self, uri: str) -> Fetched | Failure:
        """Return the bytes of a poster with its etag as `etag_key` gives it, or a failure.

        A file whose name says that it is no poster is not fetched.
        """
        if kind := kind_by_name(uri):
            return Failure("decode", OTHER_FILE, f"{kind}, by its name: not read")
        try:
            with self.busy.counted("fetch"):
                fetched = self._storage.get(uri, self._limits.max_bytes)
        except StorageError as error:
            return self._not_fetched(uri, error)
        with self._counting:
            self._fetched_bytes += len(fetched.data)
        return Fetched(fetched.data, etag_key(fetched.etag))

    def _decode(self, uri: str, fetched: Fetched) -> Poster | Failure:
        """Return the decoded poster or a failure. The thread first waits until decoding threads and memory are free."""
        try:
            with self._decoding, self.busy.counted("decode"), self._watch.decoding(uri, self._memory) as memory:
                return Poster(decode(fetched.data, self._rule, self._limits, memory), fetched.etag)
        except BadImage as error:
            reason = OTHER_FILE if is_other_content(uri, error.reason, fetched.data) else error.reason
            return Failure("decode", reason, error.message, fetched.etag)

    def _not_fetched(self, uri: str, error: StorageError) -> Failure:
        """Return the failure of a poster that could not be fetched because of `error`.

        A file that is too large, has no name of an image and does not begin like a picture counts as no poster.
        """
        if error.reason == "too_many_bytes" and not is_called_an_image(uri):
            try:
                with self._storage.open(self._storage.stat(uri)) as opened:
                    head = opened.read(HEAD_BYTES)
            except (StorageError, OSError):
                head = b""  # the file is still known to be too large
            if head and not is_picture(head):
                return Failure("decode", OTHER_FILE, f"{error}, and it does not begin like a picture")
        return Failure("fetch", error.reason, str(error))

    def take_fetched_bytes(self) -> int:
        """Return the number of bytes fetched since the last call."""
        with self._counting:
            fetched, self._fetched_bytes = self._fetched_bytes, 0
        return fetched

    def overdue(self, limit_s: float) -> str | None:
        """Return the URI that has been decoding for longest, if that is longer than `limit_s` seconds; else None."""
        return self._watch.overdue(limit_s)


class Busy:
    """Time that threads spend on each kind of work, added up over all threads."""

    def __init__(self) -> None:
        self._spent_s: dict[str, float] = {}
        self._lock = threading.Lock()

    @contextmanager
    def counted(self, work: str) -> Iterator[None]:
        """Count the time of the block as time spent on `work`, such as `fetch`."""
        started = time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                self._spent_s[work] = self._spent_s.get(work, 0.0) + time.monotonic() - started

    def taken(self) -> dict[str, int]:
        """Return the milliseconds spent since the last call, by kind of work, under names such as `fetch_ms`."""
        with self._lock:
            spent, self._spent_s = self._spent_s, {}
        return {f"{work}_ms": round(1000 * seconds) for work, seconds in spent.items()}


class Watch:
    """Posters that are being decoded, each with the time when its decoding began; waiting for memory does not count."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}

    @contextmanager
    def decoding(self, uri: str, memory: DecodeMemory) -> Iterator["_ClockedMemory"]:
        """Time the block as the decoding of `uri`, and yield the memory to decode in.

        While the poster waits for that memory, its clock is stopped.
        """
        self.begin(uri)
        try:
            yield _ClockedMemory(uri, memory, self)
        finally:
            self.end(uri)

    def begin(self, uri: str) -> None:
        """Note the time at which the decoding of the poster `uri` starts, for `overdue`."""
        self._since[uri] = time.monotonic()

    def end(self, uri: str) -> None:
        """Forget the poster `uri`: its decoding has ended, or it waits for memory."""
        self._since.pop(uri, None)

    def overdue(self, limit_s: float) -> str | None:
        """Return the URI that has been decoding for longest, if that is longer than `limit_s` seconds; else None."""
        since = self._since.copy()
        if not since:
            return None
        uri = min(since, key=lambda uri: since[uri])
        return uri if time.monotonic() - since[uri] > limit_s else None


@dataclass(frozen=True)
class _ClockedMemory:
    """Memory for one poster. The poster's clock stands still while the poster waits for others to release memory."""

    uri: str
    memory: DecodeMemory
    watch: Watch

    @contextmanager
    def reserved(self, size_bytes: int) -> Iterator[None]:
        """Reserve `size_bytes` of memory for the block. While the poster waits for the memory, its clock is stopped."""
        self.watch.end(self.uri)
        with self.memory.reserved(size_bytes):
            self.watch.begin(self.uri)
            yield
