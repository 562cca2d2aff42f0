"""Order of the training posters in an epoch: a function of the posters' ids, the seed and the epoch only.

The number of workers, their speed and the setting `cache` do not change the order. Unreadable posters are an exception.
With a cache of decoded posters, they are left out before the order is made. Without a cache, readable posters replace
them during training.

The order decides the batch of each step, and each worker takes a share of the batch. So two workers with 16 posters
each train on the same posters as one worker with 32.

Posters are divided into blocks. A cache stores and reads a block at a time. An epoch takes the blocks in random order,
joins several blocks into a window, and shuffles the posters of each window. The result is close to a full shuffle,
because blocks are random sets of posters. A worker needs memory for its share of two windows. If all posters fit into
one window, the shuffle is full.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from genretag.model.losses import balanced_rows
from genretag.scoring.labelled_posters import LabelledPosters
from genretag.training.settings import TrainSettings


def shown_posters(training: LabelledPosters, settings: TrainSettings) -> LabelledPosters:
    """Return the training posters that each epoch shows, with repetitions if `settings.balanced_sampling`.

    Without balanced sampling, return `training` unchanged. With it, draw the same number of posters with replacement,
    and draw posters with rare labels more often. The draw is made once, so every epoch repeats and leaves out the same
    posters.
    """
    if not settings.balanced_sampling:
        return training
    return training.at(balanced_rows(training.labelled.multi_hot, settings.seed))


BLOCK_POSTERS = 64  # at most this many per block on average; 10 MB at 288 x 192 pixels


WINDOW_POSTERS = 1024  # least number of posters in a window, except in the last one of an epoch


def blocks_of(ids: Sequence[str]) -> list[np.ndarray]:
    """Divide posters into blocks by a hash of the id. Each block is an int64 array of indices into `ids`.

    Each poster is in one block. If `ids` is empty, return an empty list. If a poster is added or removed, only its
    block changes, and the cached pixels of the other blocks stay valid. All blocks change only if the number of blocks
    must double or halve.
    """
    if not ids:
        return []
    bits = max(0, (-(-len(ids) // BLOCK_POSTERS) - 1).bit_length())
    places = [_place(poster) for poster in ids]
    order = np.array(sorted(range(len(ids)), key=places.__getitem__))
    blocks = np.array([places[row] >> (64 - bits) for row in order])
    return np.split(order, np.flatnonzero(np.diff(blocks)) + 1)


def _place(poster_id: str) -> int:
    """Return the poster's 64-bit hash, which decides its block."""
    digest = hashlib.blake2b(f"block:{poster_id}".encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big")  # uniform in 64 bits


def epoch_windows(sizes: Sequence[int], seed: int, epoch: int) -> Iterator[np.ndarray]:
    """Yield the order of an epoch's posters, one window at a time.

    `sizes` has the number of posters of each block. A window is int64 (n, 2). Each of its rows is a poster: the index
    of its block, and its index in that block. All windows but the last hold at least `WINDOW_POSTERS` posters.
    """
    random = np.random.default_rng([seed, epoch])
    waiting: list[np.ndarray] = []
    for block in random.permutation(len(sizes)):
        waiting.append(np.column_stack([np.full(sizes[block], block), np.arange(sizes[block])]))
        if sum(map(len, waiting)) >= WINDOW_POSTERS:
            yield random.permutation(np.concatenate(waiting))
            waiting = []
    if waiting:
        yield random.permutation(np.concatenate(waiting))


def share_of(batch_size: int, rank: int, workers: int) -> tuple[int, int]:
    """Return the part of each batch that worker number `rank` (from 0) takes, as (first, stop).

    The worker takes the posters at positions `first` to `stop` - 1 of the batch. The parts of all `workers` together
    are the batch.
    """
    return rank * batch_size // workers, (rank + 1) * batch_size // workers


def worker_windows(
    windows: Iterable[np.ndarray], batch_size: int, steps: int, rank: int, workers: int
) -> Iterator[np.ndarray]:
    """Yield the posters of worker number `rank` (from 0) in an epoch of `steps` batches, one window at a time.

    `windows` come from `epoch_windows`, and the yielded arrays have the same format. `batch_size` is the number of
    posters in a batch of all `workers` together. The worker's share is the posters that it takes from one batch. Each
    array holds complete shares. If a share is incomplete at the end of a window, it is yielded with the next window.
    Posters after the last whole batch are left out.
    """
    first, stop = share_of(batch_size, rank, workers)
    start, rest = 0, np.empty((0, 2), dtype=np.int64)
    for window in windows:
        places = np.arange(start, start + len(window))
        in_batch = places % batch_size
        mine = window[(places < steps * batch_size) & (in_batch >= first) & (in_batch < stop)]
        start += len(window)
        mine = np.concatenate([rest, mine])
        whole = len(mine) - len(mine) % (stop - first)
        rest = mine[whole:]
        if whole:
            yield mine[:whole]
