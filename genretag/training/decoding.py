"""Labelled posters, decoded once by Ray tasks before training starts, and kept where the setting `cache` says."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from genretag.errors import UsageError
from genretag.images import ImageRule
from genretag.storage import Storage, StorageError, resolve
from genretag.training import pixel_files
from genretag.training.labelled_posters import LabelledPosters
from genretag.training.order import blocks_of
from genretag.training.pixels import FiledPixels, Pixels, StoredPixels, UndecodedPixels, decode_block
from genretag.training.settings import MEMORY, NO_CACHE


@dataclass(frozen=True, eq=False)
class Block:
    """Posters that lie together: `rows` int64 (n,) of the labels of those that can be read, in the pixels' order."""

    rows: np.ndarray
    pixels: Pixels


@dataclass(frozen=True, eq=False)
class DecodedPosters:
    """A split as workers train on it: `labels` uint8 or float32 (posters, L), and pixels by blocks. Cheap to pickle."""

    labels: np.ndarray
    blocks: tuple[Block, ...]
    failures: dict[str, int]  # posters left out, by "stage: reason"
    rule: ImageRule

    def __len__(self) -> int:
        return sum(len(block.rows) for block in self.blocks)


@dataclass(frozen=True)
class _Work:
    """What a task decodes, and where its pixels go: into a file, or into the object store where there is none."""

    uris: tuple[str, ...]
    etags: tuple[str, ...]
    rule: ImageRule
    endpoint_url: str | None
    file: str | None


def decode_posters(
    posters: LabelledPosters,
    rule: ImageRule,
    cache: str,
    storage: Storage,
    *,
    at_once: int,
    progress: Callable[[int], None] = lambda _posters: None,
    waiting: Callable[[], None] = lambda: None,
) -> DecodedPosters:
    """Decodes what the cache does not hold yet, `at_once` blocks at a time; no more of them is in flight.

    `progress` is told of posters that are done, and `waiting` is called every second in which no block is.

    Posters that cannot be read are left out and counted; with the cache `none` that comes out in training only.
    """
    rows = blocks_of(posters.labelled.ids)
    learned = posters.labelled.multi_hot if posters.targets is None else posters.targets
    works = [_work(block, posters, rule, cache, storage) for block in rows]
    if cache == NO_CACHE:
        pixels = [UndecodedPixels(work.uris, rule, storage.endpoint_url) for work in works]
        return DecodedPosters(learned, tuple(map(Block, rows, pixels)), {}, rule)
    blocks: dict[int, Block] = {}
    failures: Counter[str] = Counter()
    for number, contents, reference in _run(works, at_once, waiting):
        file = works[number].file
        kept = FiledPixels(file, storage.endpoint_url) if file else StoredPixels(reference)
        blocks[number] = Block(rows[number][contents.readable], kept)
        failures.update(contents.failures)
        progress(len(rows[number]))
    in_order = tuple(block for number in sorted(blocks) if len((block := blocks[number]).rows))
    return DecodedPosters(learned, in_order, dict(failures), rule)


def _work(rows: np.ndarray, posters: LabelledPosters, rule: ImageRule, cache: str, storage: Storage) -> _Work:
    uris, etags = ([of[row] for row in rows] for of in (posters.uris, posters.etags))
    file = None if cache in (MEMORY, NO_CACHE) else pixel_files.file_of(resolve(cache), rule, uris, etags)
    return _Work(tuple(uris), tuple(etags), rule, storage.endpoint_url, file)


def _run(
    works: Sequence[_Work], at_once: int, waiting_for_one: Callable[[], None]
) -> Iterator[tuple[int, pixel_files.Contents, Any]]:
    """Runs the tasks; yields each one's number, what it found, and the reference to its pixels, as they end."""
    import ray

    task: Any = ray.remote(num_cpus=1, num_returns=2)(_decode)
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
            if isinstance(error.cause, StorageError):  # posters' troubles are values: it is the cache's
                raise UsageError(f"cannot use the cache of --cache: {error.cause}") from error
            raise


def _decode(work: _Work) -> tuple[pixel_files.Contents, np.ndarray | None]:
    """What a task does: nothing but a look, where a file of the cache holds the block already."""
    if work.file is None:
        pixels, contents = decode_block(work.uris, work.etags, work.rule, work.endpoint_url)
        return contents, pixels
    storage = Storage(work.endpoint_url)
    held = pixel_files.contents_of(work.file, storage)
    if held is not None and held.lasting:
        return held, None
    pixels, contents = decode_block(work.uris, work.etags, work.rule, work.endpoint_url)
    pixel_files.write_pixels(work.file, pixels, contents, storage)
    return contents, None
