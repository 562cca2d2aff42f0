"""URIs -> decoded posters or failures, with a few threads: GETs and decoding overlap, both release the GIL."""

import threading
import time
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from genretag.cpus import cpus_here
from genretag.errors import Failure
from genretag.images import BadImage, DecodedImage, ImageLimits, ImageRule, decode
from genretag.images.memory import DecodeMemory
from genretag.images.signatures import is_picture
from genretag.other_files import OTHER_FILE, is_called_an_image, is_other_content, kind_by_name
from genretag.storage import Fetched, Storage, StorageError
from genretag.storage.etags import etag_key

HEAD_BYTES = 1024  # that are read of what is too large, to see what it is
DECODES_AT_ONCE = 4  # of one reader, and no more than two for each CPU; its other threads wait for the store
DECODES_PER_CPU = 2
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
        self._decoding = threading.Semaphore(min(DECODES_AT_ONCE, DECODES_PER_CPU * cpus_here()))
        self._memory = DecodeMemory(DECODE_BYTES)
        self._watch = Watch()
        self._fetched_bytes = 0
        self._counting = threading.Lock()
        self.busy = Busy()

    def read_many(self, uris: Sequence[str]) -> list[Poster | Failure]:
        """Reads posters in parallel; the result has the order of `uris`."""
        return list(self._threads.map(self.read, uris))

    def read(self, uri: str) -> Poster | Failure:
        """Reads one poster. What is wrong with it is the value, not an exception.

        A file that is no poster by its name is not fetched.
        """
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
        try:
            with self._decoding, self.busy.counted("decode"), self._watch.decoding(uri, self._memory) as memory:
                return Poster(decode(fetched.data, self._rule, self._limits, memory), fetched.etag)
        except BadImage as error:
            reason = OTHER_FILE if is_other_content(uri, error.reason, fetched.data) else error.reason
            return Failure("decode", reason, error.message, fetched.etag)

    def _not_fetched(self, uri: str, error: StorageError) -> Failure:
        """Tells why; what is too large and does not begin like a picture either is no poster."""
        if error.reason == "too_many_bytes" and not is_called_an_image(uri):
            try:
                with self._storage.open(self._storage.stat(uri)) as opened:
                    head = opened.read(HEAD_BYTES)
            except (StorageError, OSError):
                head = b""  # that it is too large is known all the same
            if head and not is_picture(head):
                return Failure("decode", OTHER_FILE, f"{error}, and it does not begin like a picture")
        return Failure("fetch", error.reason, str(error))

    def take_fetched_bytes(self) -> int:
        """How many bytes were fetched since this was last asked."""
        with self._counting:
            fetched, self._fetched_bytes = self._fetched_bytes, 0
        return fetched

    def overdue(self, limit_s: float) -> str | None:
        """A URI that has been decoding for longer than `limit_s`, if there is one."""
        return self._watch.overdue(limit_s)


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
