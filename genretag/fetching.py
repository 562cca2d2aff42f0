"""URIs -> decoded posters or failures, with a few threads: GETs and decoding overlap, both release the GIL."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from genretag.errors import Failure
from genretag.images import BadImage, DecodedImage, ImageLimits, ImageRule, decode
from genretag.storage import Storage, StorageError


@dataclass(frozen=True)
class Poster:
    """A decoded poster and the etag of the version that was read."""

    image: DecodedImage
    etag: str


class PosterReader:
    """Fetches and decodes posters, `threads` at a time, each becoming a `Poster` or a `Failure`."""

    def __init__(self, storage: Storage, rule: ImageRule, threads: int, limits: ImageLimits | None = None) -> None:
        self._storage = storage
        self._rule = rule
        self._limits = limits or ImageLimits()
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="fetch-decode")

    def read_many(self, uris: Sequence[str]) -> list[Poster | Failure]:
        """Reads posters in parallel; the result has the order of `uris`."""
        return list(self._threads.map(self.read, uris))

    def read(self, uri: str) -> Poster | Failure:
        """Reads one poster. What is wrong with it is the value, not an exception."""
        try:
            fetched = self._storage.get(uri, self._limits.max_bytes)
            return Poster(decode(fetched.data, self._rule, self._limits), fetched.etag)
        except StorageError as error:
            return Failure("fetch", error.reason, str(error))
        except BadImage as error:
            return Failure("decode", error.reason, error.message)
