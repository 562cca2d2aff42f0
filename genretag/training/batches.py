"""Training and validation batches of one data-parallel worker, and augmentation of the training images.

`epoch_order.py` decides the order of the posters. A thread reads training posters ahead while the worker trains.

Augmentation makes random crops, mirror images and mild changes of colour. It runs in the TensorFlow graph, on uint8
pixels. Posters are not rotated, because real posters hang upright.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import numpy as np

from genretag.errors import JobError
from genretag.training.epoch_order import epoch_windows, share_of, worker_windows
from genretag.training.pixels import DecodedPosters


def augment(images: Any, seed: Any, *, min_crop: float, colour: float, flip: bool) -> Any:
    """Return randomly changed copies of a batch. `images` and the result are uint8 tensors (N, height, width, 3).

    `seed`, int64 (2,), decides the changes: an equal seed makes equal changes.

    Each poster gets a different random crop, scaled back to the full size. The crop keeps a share of the height and a
    share of the width, each between `min_crop` and 1. If `flip`, each poster is mirrored with probability 0.5. Contrast
    and brightness are each multiplied by a random factor from 1 - `colour` to 1 + `colour`.

    If `min_crop` is 1, `colour` is 0 and `flip` is False, the pixels do not change.
    """
    import tensorflow as tf

    if min_crop == 1 and not colour and not flip:
        return images
    crop_seed, colour_seed = tf.unstack(tf.random.split(seed))
    if min_crop < 1 or flip:
        images = _cropped_and_mirrored(images, crop_seed, min_crop, flip)
    return _recoloured(images, colour_seed, colour)


def _cropped_and_mirrored(images: Any, seed: Any, min_crop: float, flip: bool) -> Any:
    """Crop each poster at random, and return float32 pixels in the shape of `images`.

    A crop keeps at least the share `min_crop` of each side. If `flip`, each poster is mirrored with probability 0.5.
    """
    import tensorflow as tf

    count, height, width = tf.shape(images)[0], images.shape[1], images.shape[2]
    size_seed, corner_seed, flip_seed = tf.unstack(tf.random.split(seed, 3))
    size = tf.random.stateless_uniform((count, 2), size_seed, min_crop, 1.0)
    corner = tf.random.stateless_uniform((count, 2), corner_seed) * (1.0 - size)
    top, left = corner[:, 0], corner[:, 1]
    bottom, right = top + size[:, 0], left + size[:, 1]
    mirrored = tf.random.stateless_uniform((count,), flip_seed) < (0.5 if flip else 0.0)
    boxes = tf.stack([top, tf.where(mirrored, right, left), bottom, tf.where(mirrored, left, right)], axis=1)
    return tf.image.crop_and_resize(images, boxes, tf.range(count), (height, width))


def _recoloured(images: Any, seed: Any, colour: float) -> Any:
    """Scale contrast and brightness by random factors from 1 - `colour` to 1 + `colour`. Return uint8 pixels."""
    import tensorflow as tf

    pixels = tf.cast(images, tf.float32)
    shape = (2, tf.shape(pixels)[0], 1, 1, 1)
    contrast, brightness = tf.unstack(tf.random.stateless_uniform(shape, seed, 1 - colour, 1 + colour))
    mean = tf.reduce_mean(pixels, axis=(1, 2), keepdims=True)
    pixels = ((pixels - mean) * contrast + mean) * brightness
    return tf.cast(tf.round(tf.clip_by_value(pixels, 0.0, 255.0)), tf.uint8)


Item = TypeVar("Item")
Result = TypeVar("Result")


class Batch(NamedTuple):
    """One worker's share of a training batch, or some of the worker's validation posters."""

    images: np.ndarray  # uint8 (n, height, width, 3)
    labels: np.ndarray  # float32 (n, L)
    unreadable: int  # number of posters that could not be read; above 0 only if the setting `cache` is none


def training_batches(
    posters: DecodedPosters, batch_size: int, seed: int, epoch: int, rank: int, workers: int
) -> Iterator[Batch]:
    """Yield the share of worker number `rank` (from 0) of each batch of one epoch.

    `posters` is the training split. `batch_size` is the number of posters in a batch of all `workers` together. `seed`
    and `epoch` decide the order. All workers yield the same number of batches. If the last posters of the epoch do not
    fill a batch, they are left out.

    If a poster cannot be read, a readable poster replaces it. Posters are read in windows, groups of consecutive
    posters in the epoch's order. All windows but the last hold at least 1,024 posters. Memory holds the pixels of this
    worker's share of at most two windows: one in use, and one that a thread reads. Raises `JobError` if the worker
    cannot read any poster of its share of a window.
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
    """Yield batches of the validation posters of worker number `rank` (from 0).

    A batch holds posters of one block, a group of posters that are cached and read together. All `workers` together
    yield each readable poster of the validation split once. Unreadable posters are left out and counted in
    `Batch.unreadable`. So a batch may be empty.
    """
    first, stop = share_of(len(posters), rank, workers)
    start = 0
    for number, block in enumerate(posters.blocks):
        places = np.arange(max(first - start, 0), min(stop - start, len(block.rows)))
        start += len(block.rows)
        if len(places):
            images, labels, readable = _read(posters, np.column_stack([np.full(len(places), number), places]))
            yield Batch(images[readable], labels[readable], int(np.count_nonzero(~readable)))


def _read(posters: DecodedPosters, places: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read the posters at `places`, int64 (n, 2).

    Each row of `places` is the index of a block in `posters.blocks` and the index of a poster in that block. Return
    images uint8 (n, height, width, 3), labels float32 (n, L), and a mask bool (n,) that is False for unreadable
    posters. All three have the order of `places`.
    """
    images = np.empty((len(places), posters.rule.height, posters.rule.width, 3), dtype=np.uint8)
    readable = np.ones(len(places), dtype=bool)
    rows = np.empty(len(places), dtype=np.int64)
    for number in np.unique(places[:, 0]):
        block, here = posters.blocks[number], np.flatnonzero(places[:, 0] == number)
        images[here], readable[here] = block.pixels.read(places[here, 1])
        rows[here] = block.rows[places[here, 1]]
    return images, posters.labels[rows].astype(np.float32), readable


def _with_stand_ins(images: np.ndarray, labels: np.ndarray, readable: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return images and labels in which a readable poster replaces each unreadable one. So batches keep their size.

    The replacement is the last readable poster before the unreadable one. If no readable poster comes before, the first
    readable poster of all replaces it. `readable` is bool (n,). Raises `JobError` if no poster can be read.
    """
    if readable.all():
        return images, labels
    if not readable.any():
        raise JobError(f"none of {len(readable)} posters can be read: look at one of them with `genretag predict`")
    source = np.maximum.accumulate(np.where(readable, np.arange(len(readable)), np.argmax(readable)))
    return images[source], labels[source]


def _one_ahead(load: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yield `load(item)` for each item, in order. While the caller uses one result, a thread loads the next."""
    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as thread:
        coming = None
        for item in items:
            following = thread.submit(load, item)
            if coming is not None:
                yield coming.result()
            coming = following
        if coming is not None:
            yield coming.result()
