"""URIs -> decoded posters or failures, with a few threads: GETs and decoding overlap, both release the GIL."""

import posixpath
import re
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from genretag.errors import Failure
from genretag.images import BadImage, DecodedImage, ImageLimits, ImageRule, decode
from genretag.images.memory import DecodeMemory
from genretag.storage import Fetched, Storage, StorageError
from genretag.storage.etags import etag_key

OTHER_FILE = "other_file"  # the reason of what is no image and was not called one: a note among the posters
IMAGE_NAME = re.compile(
    r"\.(jpe?g?|jfif|a?png|webp|gif|bmp|dib|tiff?|avif|hei[cf]|jxl|jp2|svg|ico|img)$", re.IGNORECASE
)
DECODES_AT_ONCE = 4  # of one reader; its other threads wait for the store
DECODE_BYTES = 2 * 2**30  # that these may take together, by estimate: two of the largest pictures, many of the usual


@dataclass(frozen=True)
class Poster:
    """A decoded poster and the etag of the version that was read."""

    image: DecodedImage
    etag: str


@dataclass(frozen=True)
class Held:
    """A poster that was fetched and not decoded, as the output has a row of this version of it."""

    etag: str


class PosterReader:
    """Fetches and decodes posters, `threads` at a time, each becoming a `Poster` or a `Failure`.

    A thread that waits for a slow object holds up no other. At most `DECODES_AT_ONCE` of them decode, in at most
    `DECODE_BYTES`, so that more threads cost connections and the bytes of encoded posters only.
    """

    def __init__(self, storage: Storage, rule: ImageRule, threads: int, limits: ImageLimits | None = None) -> None:
        self._storage = storage
        self._rule = rule
        self._limits = limits or ImageLimits()
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="fetch-decode")
        self._decoding = threading.Semaphore(DECODES_AT_ONCE)
        self._memory = DecodeMemory(DECODE_BYTES)
        self._watch = Watch()
        self._fetched_bytes = 0
        self._counting = threading.Lock()
        self.busy = Busy()

    def read_many(self, uris: Sequence[str]) -> list[Poster | Failure]:
        """Reads posters in parallel; the result has the order of `uris`."""
        return list(self._threads.map(self.read, uris))

    def read(self, uri: str) -> Poster | Failure:
        """Reads one poster. What is wrong with it is the value, not an exception."""
        fetched = self._fetch(uri)
        return fetched if isinstance(fetched, Failure) else self._decode(uri, fetched)

    def read_many_new(self, uris: Sequence[str], held: Sequence[Collection[str]]) -> list[Poster | Failure | Held]:
        """Calls `read_new` for each in parallel; the result has the order of `uris`."""
        return list(self._threads.map(self.read_new, uris, held))

    def read_new(self, uri: str, held: Collection[str]) -> Poster | Failure | Held:
        """Reads one poster, unless the version that is there is among `held` (etags as `etag_key` has them)."""
        fetched = self._fetch(uri)
        if isinstance(fetched, Failure):
            return fetched
        return Held(fetched.etag) if fetched.etag in held else self._decode(uri, fetched)

    def _fetch(self, uri: str) -> Fetched | Failure:
        try:
            with self.busy.counted("fetch"):
                fetched = self._storage.get(uri, self._limits.max_bytes)
        except StorageError as error:
            return Failure("fetch", error.reason, str(error))
        with self._counting:
            self._fetched_bytes += len(fetched.data)
        return Fetched(fetched.data, etag_key(fetched.etag))

    def _decode(self, uri: str, fetched: Fetched) -> Poster | Failure:
        try:
            with self._decoding, self.busy.counted("decode"), self._watch.decoding(uri, self._memory) as memory:
                return Poster(decode(fetched.data, self._rule, self._limits, memory), fetched.etag)
        except BadImage as error:
            other = error.reason == "not_an_image" and _claims_to_be_something_else(uri)
            return Failure("decode", OTHER_FILE if other else error.reason, error.message, fetched.etag)

    def take_fetched_bytes(self) -> int:
        """How many bytes were fetched since this was last asked."""
        with self._counting:
            fetched, self._fetched_bytes = self._fetched_bytes, 0
        return fetched

    def overdue(self, limit_s: float) -> str | None:
        """A URI that has been decoding for longer than `limit_s`, if there is one."""
        return self._watch.overdue(limit_s)


def _claims_to_be_something_else(uri: str) -> bool:
    """Whether the name has an ending, and not an image's; many buckets hold images under names without one."""
    return bool(posixpath.splitext(uri)[1]) and not IMAGE_NAME.search(uri)


class Busy:
    """Milliseconds that threads spent with each kind of work, all threads together."""

    def __init__(self) -> None:
        self._spent_s: dict[str, float] = {}
        self._lock = threading.Lock()

    @contextmanager
    def counted(self, work: str) -> Iterator[None]:
        """Counts the block."""
        started = time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                self._spent_s[work] = self._spent_s.get(work, 0.0) + time.monotonic() - started

    def taken(self) -> dict[str, int]:
        """What was counted since the last time, as `fetch_ms` and the like."""
        with self._lock:
            spent, self._spent_s = self._spent_s, {}
        return {f"{work}_ms": round(1000 * seconds) for work, seconds in spent.items()}


class Watch:
    """Which posters are being decoded, and since when; waiting for memory does not count."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}

    @contextmanager
    def decoding(self, uri: str, memory: DecodeMemory) -> Iterator["_ClockedMemory"]:
        """Marks the block as the decoding of `uri`, and gives it the memory to decode in."""
        self.begin(uri)
        try:
            yield _ClockedMemory(uri, memory, self)
        finally:
            self.end(uri)

    def begin(self, uri: str) -> None:
        """Starts the clock of a poster."""
        self._since[uri] = time.monotonic()

    def end(self, uri: str) -> None:
        """Stops it."""
        self._since.pop(uri, None)

    def overdue(self, limit_s: float) -> str | None:
        """The URI that has been decoding for longest, if that is longer than `limit_s`."""
        since = self._since.copy()
        if not since:
            return None
        uri = min(since, key=lambda uri: since[uri])
        return uri if time.monotonic() - since[uri] > limit_s else None


@dataclass(frozen=True)
class _ClockedMemory:
    """Memory for one poster, whose clock stands still while it waits for others to give theirs back."""

    uri: str
    memory: DecodeMemory
    watch: Watch

    @contextmanager
    def reserved(self, size_bytes: int) -> Iterator[None]:
        self.watch.end(self.uri)
        with self.memory.reserved(size_bytes):
            self.watch.begin(self.uri)
            yield
