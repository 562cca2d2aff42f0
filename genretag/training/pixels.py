"""Where a worker finds the pixels of a block of posters: in Ray's object store, in a Parquet file, or in the images.

The pixels are always those of `PosterReader`, the decoder of scoring; a cache keeps them as they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import numpy as np

from genretag.errors import Failure
from genretag.fetching import Poster, PosterReader
from genretag.images import ImageRule
from genretag.storage import Storage
from genretag.training import pixel_files

DECODE_THREADS = 4


class Pixels(Protocol):
    """The pixels of one block. Cheap to pickle."""

    def read(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns uint8 (n, height, width, 3) of the block's readable posters at `places`, int64 (n,), in their order.

        And bool (n,): which of them could be read; the pixels of others are zero.
        """
        ...


@dataclass(frozen=True)
class StoredPixels:
    """Pixels in Ray's object store, which puts on disk what is more than its memory."""

    reference: Any

    def read(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        import ray

        return ray.get(self.reference)[places], np.ones(len(places), dtype=bool)


@dataclass(frozen=True)
class FiledPixels:
    """Pixels in a Parquet file of the cache."""

    file: str
    endpoint_url: str | None

    def read(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        pixels = pixel_files.read_pixels(self.file, _storage(self.endpoint_url))
        return pixels[places], np.ones(len(places), dtype=bool)


@dataclass(frozen=True)
class UndecodedPixels:
    """Images, which are decoded each time."""

    uris: tuple[str, ...]
    rule: ImageRule
    endpoint_url: str | None

    def read(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        posters = poster_reader(self.endpoint_url, self.rule).read_many([self.uris[place] for place in places])
        pixels = np.zeros((len(places), self.rule.height, self.rule.width, 3), dtype=np.uint8)
        readable = np.array([isinstance(poster, Poster) for poster in posters], dtype=bool)
        for place, poster in enumerate(posters):
            if isinstance(poster, Poster):
                pixels[place] = poster.image.pixels
        return pixels, readable


def decode_block(
    uris: Sequence[str], etags: Sequence[str], rule: ImageRule, endpoint_url: str | None
) -> tuple[np.ndarray, pixel_files.Contents]:
    """Decodes a block: uint8 (readable, height, width, 3), and which posters these are."""
    posters = poster_reader(endpoint_url, rule).read_many(uris)
    images = [poster.image.pixels for poster in posters if isinstance(poster, Poster)]
    failures = [poster for poster in posters if isinstance(poster, Failure)]
    unchanged = all(
        poster.etag == etag for poster, etag in zip(posters, etags, strict=True) if isinstance(poster, Poster)
    )
    contents = pixel_files.Contents(
        np.array([place for place, poster in enumerate(posters) if isinstance(poster, Poster)], dtype=np.int64),
        tuple(f"{failure.stage}: {failure.reason}" for failure in failures),
        lasting=unchanged and all(failure.stage == "decode" for failure in failures),
    )
    return np.stack(images) if images else np.empty((0, rule.height, rule.width, 3), dtype=np.uint8), contents


@cache
def poster_reader(endpoint_url: str | None, rule: ImageRule) -> PosterReader:
    """This process's reader: opening a store and threads for each block would cost more than the block."""
    return PosterReader(_storage(endpoint_url), rule, DECODE_THREADS)


@cache
def _storage(endpoint_url: str | None) -> Storage:
    return Storage(endpoint_url)
