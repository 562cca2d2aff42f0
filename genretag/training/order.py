"""In which order posters are trained on: a function of the posters' ids, the seed and the epoch, and of nothing else.

How many workers there are, how fast each is and how posters are cached do not enter: each step's batch is defined
first, and each worker takes its share of it. So two workers at 16 posters do what one does at 32.

Posters lie in blocks, which a cache holds and reads whole. An epoch takes the blocks in random order, puts so many of
them together that they make a window, and shuffles each window's posters: near to a full shuffle, as blocks are random
sets of posters, and no worker needs more than two windows in memory. A set of up to one window is shuffled in full.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

BLOCK_POSTERS = 64  # at most, on average: 10 MB at 288 x 192
WINDOW_POSTERS = 1024


def blocks_of(ids: Sequence[str]) -> list[np.ndarray]:
    """Puts posters into blocks by a hash of the id: int64 arrays of places in `ids`, each place in one of them.

    A poster more or less changes one block, unless their number has to double, so that caches of the others hold.
    """
    if not ids:
        return []
    bits = max(0, (-(-len(ids) // BLOCK_POSTERS) - 1).bit_length())
    places = [_place(poster) for poster in ids]
    order = np.array(sorted(range(len(ids)), key=places.__getitem__))
    blocks = np.array([places[row] >> (64 - bits) for row in order])
    return np.split(order, np.flatnonzero(np.diff(blocks)) + 1)


def _place(poster_id: str) -> int:
    digest = hashlib.blake2b(f"block:{poster_id}".encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big")  # uniform in 64 bits


def epoch_windows(sizes: Sequence[int], seed: int, epoch: int) -> Iterator[np.ndarray]:
    """Yields an epoch's posters in order, by windows: int64 (n, 2), the number of a block and a place in it.

    `sizes` are the blocks' numbers of posters.
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
    """The part of each batch that is a worker's: from which place, and up to which (not included)."""
    return rank * batch_size // workers, (rank + 1) * batch_size // workers


def worker_windows(
    windows: Iterable[np.ndarray], batch_size: int, steps: int, rank: int, workers: int
) -> Iterator[np.ndarray]:
    """Yields one worker's part of an epoch of `steps` batches, as `epoch_windows` does, in whole shares of a batch."""
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
