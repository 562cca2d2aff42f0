"""What one worker trains and validates on: its share of each batch, read while the step before it runs."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np

from genretag.errors import JobError
from genretag.training.decoding import DecodedPosters
from genretag.training.order import epoch_windows, share_of, worker_windows

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batch(NamedTuple):
    """A worker's share of a step."""

    images: np.ndarray  # uint8 (n, height, width, 3)
    labels: np.ndarray  # float32 (n, L)
    unreadable: int  # posters that others stand in for; only where nothing is cached


def training_batches(
    posters: DecodedPosters, batch_size: int, seed: int, epoch: int, rank: int, workers: int
) -> Iterator[Batch]:
    """Yields a worker's shares of an epoch's batches: the same number of them on each worker.

    Holds at most two windows' share of pixels: one to train on, one that is being read.
    """
    windows = epoch_windows([len(block.rows) for block in posters.blocks], seed, epoch)
    steps = len(posters) // batch_size
    first, stop = share_of(batch_size, rank, workers)
    mine = worker_windows(windows, batch_size, steps, rank, workers)
    for images, labels, readable in _one_ahead(lambda places: _read(posters, places), mine):
        images, labels = _with_stand_ins(images, labels, readable)
        for start in range(0, len(images), stop - first):
            part = slice(start, start + stop - first)
            yield Batch(images[part], labels[part], int(np.count_nonzero(~readable[part])))


def validation_batches(posters: DecodedPosters, rank: int, workers: int) -> Iterator[Batch]:
    """Yields a worker's part of the readable posters, a block or less at a time; all workers' parts make the whole."""
    first, stop = share_of(len(posters), rank, workers)
    start = 0
    for number, block in enumerate(posters.blocks):
        places = np.arange(max(first - start, 0), min(stop - start, len(block.rows)))
        start += len(block.rows)
        if len(places):
            images, labels, readable = _read(posters, np.column_stack([np.full(len(places), number), places]))
            yield Batch(images[readable], labels[readable], int(np.count_nonzero(~readable)))


def _read(posters: DecodedPosters, places: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images, labels and which could be read, of int64 (n, 2) blocks' numbers and places in them, in this order."""
    images = np.empty((len(places), posters.rule.height, posters.rule.width, 3), dtype=np.uint8)
    readable = np.ones(len(places), dtype=bool)
    rows = np.empty(len(places), dtype=np.int64)
    for number in np.unique(places[:, 0]):
        block, here = posters.blocks[number], np.flatnonzero(places[:, 0] == number)
        images[here], readable[here] = block.pixels.read(places[here, 1])
        rows[here] = block.rows[places[here, 1]]
    return images, posters.labels[rows].astype(np.float32), readable


def _with_stand_ins(images: np.ndarray, labels: np.ndarray, readable: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A poster that cannot be read is replaced by the one before it: a batch with a poster less would be another step.

    Raises `JobError` where none can be read.
    """
    if readable.all():
        return images, labels
    if not readable.any():
        raise JobError(f"none of {len(readable)} posters can be read: look at one of them with `genretag predict`")
    source = np.maximum.accumulate(np.where(readable, np.arange(len(readable)), np.argmax(readable)))
    return images[source], labels[source]


def _one_ahead(load: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yields `load` of each item, the next one being loaded while the last one is used."""
    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as thread:
        coming = None
        for item in items:
            following = thread.submit(load, item)
            if coming is not None:
                yield coming.result()
            coming = following
        if coming is not None:
            yield coming.result()
