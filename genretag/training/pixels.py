"""Pixels of the labelled posters: Ray tasks decode them once before training and keep them in the cache.

The setting `cache` decides where a worker finds the pixels of a block of posters. With `memory`, they are in Ray's
object store. With a folder or a prefix of a bucket, they are in Parquet files. With `none`, the worker decodes the
images in each epoch. The pixels are the same in all three cases: those of `PosterReader`, which also decodes for
scoring.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import numpy as np

from genretag.errors import Failure, UsageError
from genretag.images import ImageRule
from genretag.scoring.guarded_reader import GuardedReader
from genretag.scoring.labelled_posters import LabelledPosters
from genretag.scoring.reader import Held, Poster, PosterReader
from genretag.scoring.settings import TagSettings
from genretag.storage import Storage, StorageError, resolve
from genretag.training.epoch_order import blocks_of
from genretag.training.pixel_files import Contents, contents_of, file_of, read_pixels, write_pixels
from genretag.training.settings import MEMORY, NO_CACHE


@dataclass(frozen=True, eq=False)
class Block:
    """Posters that are cached and read together.

    Poster i of `pixels` has its labels in row `rows[i]` of `DecodedPosters.labels`. `rows` is int64 (n,).
    """

    rows: np.ndarray
    pixels: "Pixels"


@dataclass(frozen=True, eq=False)
class DecodedPosters:
    """The training or validation posters: labels, and access to pixels by block. Pickling copies no pixels.

    `labels` (posters, L) has a row for each poster of the split, unreadable ones too. The dtype is uint8, or float32 if
    the network also learns the probabilities of other bundles. `len()` gives the number of posters in the blocks
    (groups of posters).
    """

    labels: np.ndarray
    blocks: tuple[Block, ...]
    failures: dict[str, int]  # posters left out, by "stage: reason"
    rule: ImageRule

    def __len__(self) -> int:
        return sum(len(block.rows) for block in self.blocks)


@dataclass(frozen=True)
class _Work:
    """A block of posters for one task to decode.

    `file` is the URI of the cache file for the pixels. None means that the pixels go to Ray's object store.
    """

    uris: tuple[str, ...]
    etags: tuple[str, ...]
    rule: ImageRule
    guard: "Guard"
    file: str | None


def decode_posters(
    posters: LabelledPosters,
    rule: ImageRule,
    cache: str,
    guard: "Guard",
    *,
    at_once: int,
    progress: Callable[[int], None] = lambda _posters: None,
    waiting: Callable[[], None] = lambda: None,
) -> DecodedPosters:
    """Decode the posters that the cache does not hold yet, and return the split with access to all pixels.

    `cache` is `memory`, `none`, or the location of a folder or prefix. `guard` has the store to read and the time limit
    of the decoder. At most `at_once` blocks (groups of posters) are decoded at a time. `progress` is called with the
    number of posters of each finished block. `waiting` is called each second in which no block finishes.

    Posters that cannot be read are left out and counted. If the cache is `none`, nothing is decoded here, and workers
    find unreadable posters during training. Raises `UsageError` if the cache cannot be read or written.
    """
    rows = blocks_of(posters.labelled.ids)
    learned = posters.labelled.multi_hot if posters.targets is None else posters.targets
    works = [_work(block, posters, rule, cache, guard) for block in rows]
    if cache == NO_CACHE:
        pixels = [UndecodedPixels(work.uris, rule, guard) for work in works]
        return DecodedPosters(learned, tuple(map(Block, rows, pixels)), {}, rule)
    blocks: dict[int, Block] = {}
    failures: Counter[str] = Counter()
    for number, contents, reference in _run(works, at_once, waiting):
        file = works[number].file
        kept = FiledPixels(file, guard.storage) if file else StoredPixels(reference)
        blocks[number] = Block(rows[number][contents.readable], kept)
        failures.update(contents.failures)
        progress(len(rows[number]))
    in_order = tuple(block for number in sorted(blocks) if len((block := blocks[number]).rows))
    return DecodedPosters(learned, in_order, dict(failures), rule)


def _work(rows: np.ndarray, posters: LabelledPosters, rule: ImageRule, cache: str, guard: "Guard") -> _Work:
    """Return the decoding task for one block: the posters in `rows`, and the cache file for their pixels.

    `rows` are indices into `posters`. If `cache` is `memory` or `none`, the file is None.
    """
    uris, etags = ([of[row] for row in rows] for of in (posters.uris, posters.etags))
    file = None if cache in (MEMORY, NO_CACHE) else file_of(resolve(cache), rule, uris, etags)
    return _Work(tuple(uris), tuple(etags), rule, guard, file)


def _run(
    works: Sequence[_Work], at_once: int, waiting_for_one: Callable[[], None]
) -> Iterator[tuple[int, Contents, Any]]:
    """Decode the blocks (groups of posters) `works` in Ray tasks, at most `at_once` at a time.

    As each task ends, yield the block's index in `works`, its `Contents`, and Ray's reference to its pixels. If the
    pixels are in a file, the referenced object is None. Call `waiting_for_one` each second in which no task ends.
    Raises `UsageError` if the cache cannot be read or written.
    """
    import ray

    task: Any = ray.remote(num_cpus=1, num_returns=2, max_retries=-1)(_decode)
    waiting = iter(enumerate(works))
    running: dict[Any, tuple[int, Any]] = {}
    while True:
        while len(running) < at_once and (following := next(waiting, None)):
            number, work = following
            contents, pixels = task.remote(work)
            running[contents] = number, pixels
        if not running:
            return
        while not (ready := ray.wait(list(running), num_returns=1, timeout=1)[0]):
            waiting_for_one()
        (ended,) = ready
        number, pixels = running.pop(ended)
        try:
            yield number, ray.get(ended), pixels
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, StorageError):  # errors of posters are values, so this is an error of the cache
                raise UsageError(f"cannot use the cache of --cache: {error.cause}") from error
            raise


def _decode(work: _Work) -> tuple[Contents, np.ndarray | None]:
    """Decode one block in a task. Return its `Contents` and its pixels. If a file has the pixels, return None for them.

    If the cache holds a file for the block whose `Contents.lasting` is True, read only the footer of that file.
    """
    if work.file is None:
        pixels, contents = decode_block(work.uris, work.etags, work.rule, work.guard)
        return contents, pixels
    storage = work.guard.storage
    held = contents_of(work.file, storage)
    if held is not None and held.lasting:
        return held, None
    pixels, contents = decode_block(work.uris, work.etags, work.rule, work.guard)
    write_pixels(work.file, pixels, contents, storage)
    return contents, None


DECODE_THREADS = 4


class Pixels(Protocol):
    """Access to the pixels of one block. Cheap to pickle."""

    def read(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the pixels of some posters of the block, and a mask that is False for unreadable posters.

        `places`, int64 (n,), are the posters' indices in the block, and both results have the same order. Pixels are
        uint8 (n, height, width, 3), the mask is bool (n,). If a poster cannot be read, its pixels are zero.
        """
        ...


@dataclass(frozen=True)
class StoredPixels:
    """Pixels of a block in Ray's object store, which spills to disk if its memory is full."""

    reference: Any

    def read(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        import ray

        return ray.get(self.reference)[places], np.ones(len(places), dtype=bool)


@dataclass(frozen=True)
class FiledPixels:
    """Pixels of a block in the cache's Parquet file `file`, a URI."""

    file: str
    storage: Storage

    def read(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        pixels = read_pixels(self.file, _shared(self.storage))
        return pixels[places], np.ones(len(places), dtype=bool)


@dataclass(frozen=True)
class UndecodedPixels:
    """A block of posters without a cache: each `read` fetches and decodes the images again."""

    uris: tuple[str, ...]
    rule: ImageRule
    guard: "Guard"

    def read(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        posters = self.guard.read([self.uris[place] for place in places], self.rule)
        pixels = np.zeros((len(places), self.rule.height, self.rule.width, 3), dtype=np.uint8)
        readable = np.array([isinstance(poster, Poster) for poster in posters], dtype=bool)
        for place, poster in enumerate(posters):
            if isinstance(poster, Poster):
                pixels[place] = poster.image.pixels
        return pixels, readable


def decode_block(
    uris: Sequence[str], etags: Sequence[str], rule: ImageRule, guard: "Guard"
) -> tuple[np.ndarray, Contents]:
    """Fetch and decode a block of posters. Return the pixels of its readable posters, and its `Contents`.

    Pixels are uint8 (n, height, width, 3). `etags` are the etags when the posters were listed. If a poster now has
    another etag, `Contents.lasting` is False.
    """
    posters = guard.read(uris, rule)
    images = [poster.image.pixels for poster in posters if isinstance(poster, Poster)]
    failures = [poster for poster in posters if isinstance(poster, Failure)]
    unchanged = all(
        poster.etag == etag for poster, etag in zip(posters, etags, strict=True) if isinstance(poster, Poster)
    )
    contents = Contents(
        np.array([place for place, poster in enumerate(posters) if isinstance(poster, Poster)], dtype=np.int64),
        tuple(f"{failure.stage}: {failure.reason}" for failure in failures),
        lasting=unchanged and all(failure.stage == "decode" for failure in failures),
    )
    return np.stack(images) if images else np.empty((0, rule.height, rule.width, 3), dtype=np.uint8), contents


@dataclass(frozen=True)
class Guard:
    """Settings for reading posters. If the decoder hangs or crashes, the run loses only one poster.

    `ledger` is the handle of the run's ledger actor, which counts the crashes that each poster causes. If a poster
    takes longer than `decode_timeout_s` to decode, the process ends and the poster becomes a failure. `storage` reads
    the posters.
    """

    storage: Storage
    ledger: Any
    decode_timeout_s: float = TagSettings.decode_timeout_s

    def read(self, uris: Sequence[str], rule: ImageRule) -> list[Poster | Failure | Held]:
        """Return decoded posters or failures, in the order of `uris`.

        If the ledger (the actor that counts crashes) stopped the job, return [].
        """
        with GuardedReader(_poster_reader(self.storage, rule), self.ledger, self.decode_timeout_s) as guarded:
            return guarded.read(uris) or []


@cache
def _poster_reader(storage: Storage, rule: ImageRule) -> PosterReader:
    """Return the poster reader of this process, made once for each store and image rule.

    With a new reader for each block, each block would need a new store client and new threads.
    """
    return PosterReader(storage, rule, DECODE_THREADS)


@cache
def _shared(storage: Storage) -> Storage:
    """Return the first storage of this process that equals `storage`, so that all blocks share its clients."""
    return storage
