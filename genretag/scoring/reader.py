"""Reader: fetches and decodes posters in threads of one process; each URI gives a decoded poster or a failure.

Fetching and decoding overlap, because both release the GIL.
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

HEAD_BYTES = 1024  # start of a file that is too large, read to find its kind
DECODES_AT_ONCE = 4  # per reader, and at most `DECODES_PER_CPU` for each CPU; the other threads fetch
DECODES_PER_CPU = 2
DECODE_BYTES = 2 * 2**30  # most estimated memory of a reader's decodes: enough for two of the largest pictures


@dataclass(frozen=True)
class Poster:
    """A decoded poster, and the etag of the object version that was read."""

    image: DecodedImage
    etag: str


@dataclass(frozen=True)
class Held:
    """A poster that was fetched but not decoded, because the output already has a row with its `etag`."""

    etag: str


class PosterReader:
    """Reader that fetches and decodes posters, `threads` at a time. Each poster becomes a `Poster` or a `Failure`.

    A thread that waits for a slow object delays no other thread. At most `DECODES_AT_ONCE` threads decode, and together
    they use at most `DECODE_BYTES` of memory. So a further thread costs only a connection and one encoded poster. If
    `limits` is None, the defaults of `ImageLimits` apply.
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
        """Fetch and decode one poster. If the poster cannot be fetched or decoded, return a `Failure`.

        If the name of a file shows that it is no poster, such as `film.mkv`, return a `Failure` without a fetch.
        """
        fetched = self._fetch(uri)
        return fetched if isinstance(fetched, Failure) else self._decode(uri, fetched)

    def read_many_new(self, uris: Sequence[str], held: Sequence[Collection[str]]) -> list[Poster | Failure | Held]:
        """Call `read_new` for each poster in parallel, and return the results in the order of `uris`.

        `held` has one collection of etags for each URI.
        """
        return list(self._threads.map(self.read_new, uris, held))

    def read_new(self, uri: str, held: Collection[str]) -> Poster | Failure | Held:
        """Fetch one poster. If its etag is in `held`, return `Held`. Else decode and return the poster, as `read` does.

        `held` has the etags with which the object already has a row in the output, normalized by `etag_key`.
        """
        fetched = self._fetch(uri)
        if isinstance(fetched, Failure):
            return fetched
        return Held(fetched.etag) if fetched.etag in held else self._decode(uri, fetched)

    def _fetch(self, uri: str) -> Fetched | Failure:
        """Fetch a poster. Return its bytes and its etag (normalized by `etag_key`), or a failure.

        If the name of a file shows that it is no poster, return a failure without a fetch.
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
        """Return the decoded poster or a failure. First wait for a free decoding slot and free memory."""
        try:
            with self._decoding, self.busy.counted("decode"), self._watch.decoding(uri, self._memory) as memory:
                return Poster(decode(fetched.data, self._rule, self._limits, memory), fetched.etag)
        except BadImage as error:
            reason = OTHER_FILE if is_other_content(uri, error.reason, fetched.data) else error.reason
            return Failure("decode", reason, error.message, fetched.etag)

    def _not_fetched(self, uri: str, error: StorageError) -> Failure:
        """Return the failure of a poster that could not be fetched because of `error`.

        A file that is too large may be no poster at all. If its name lacks an image extension, and its first bytes are
        not those of a picture, the reason is `other_file`.
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
        """Return the number of bytes fetched since the last call of this method."""
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
        """Return the milliseconds of each kind of work since the last call, by names such as `fetch_ms`."""
        with self._lock:
            spent, self._spent_s = self._spent_s, {}
        return {f"{work}_ms": round(1000 * seconds) for work, seconds in spent.items()}


class Watch:
    """Posters that are being decoded, each with the time when its decoding began; waiting for memory does not count."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}

    @contextmanager
    def decoding(self, uri: str, memory: DecodeMemory) -> Iterator["_ClockedMemory"]:
        """Time the block as the decoding of `uri`. Yield an object that reserves memory for the decoder.

        The poster's clock stops while the poster waits for memory, and then starts again at 0.
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
    """The memory to decode one poster. While the poster waits for memory, no decoding time is counted for it."""

    uri: str
    memory: DecodeMemory
    watch: Watch

    @contextmanager
    def reserved(self, size_bytes: int) -> Iterator[None]:
        """Reserve `size_bytes` of memory for the block. The poster's clock stops during the wait for memory."""
        self.watch.end(self.uri)
        with self.memory.reserved(size_bytes):
            self.watch.begin(self.uri)
            yield
