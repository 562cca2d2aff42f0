"""Each epoch shows every poster once, in the same batches for any number of workers."""

import numpy as np
import pytest

from genretag.training.epoch_order import (
    BLOCK_POSTERS,
    WINDOW_POSTERS,
    blocks_of,
    epoch_windows,
    share_of,
    worker_windows,
)

SIZES = [40, 64, 7, 55, 61, 33]  # number of posters in each block, 260 in total


def batches(workers, *, sizes=SIZES, batch_size=32, seed=0, epoch=0):
    """Return the batch of each step, put together from the shares of all workers.

    A batch is a list of pairs of block and place in the block.
    """
    steps = sum(sizes) // batch_size
    parts = []
    for rank in range(workers):
        first, stop = share_of(batch_size, rank, workers)
        mine = np.concatenate(list(worker_windows(epoch_windows(sizes, seed, epoch), batch_size, steps, rank, workers)))
        assert len(mine) == steps * (stop - first), "each worker takes the same number of steps"
        parts.append(mine.reshape(steps, stop - first, 2))
    return [list(map(tuple, np.concatenate([part[step] for part in parts]).tolist())) for step in range(steps)]


def test_a_batch_is_the_same_on_one_worker_two_or_three():
    assert batches(1) == batches(2) == batches(3)


def test_an_epoch_shows_every_poster_once_but_for_an_incomplete_batch():
    shown = [poster for batch in batches(2) for poster in batch]

    assert len(shown) == len(set(shown)) == 256
    assert set(shown) <= {(block, place) for block, size in enumerate(SIZES) for place in range(size)}


def test_seed_and_epoch_decide_the_order():
    assert batches(1, seed=1, epoch=2) == batches(1, seed=1, epoch=2)
    assert batches(1, seed=1, epoch=2) != batches(1, seed=1, epoch=3)
    assert batches(1, seed=1, epoch=2) != batches(1, seed=2, epoch=2)


def test_a_batch_mixes_blocks():
    assert all(len({block for block, _ in batch}) > 3 for batch in batches(1))


def test_a_worker_never_reads_much_more_than_a_window_at_once():
    windows = list(epoch_windows([BLOCK_POSTERS] * 100, seed=0, epoch=0))

    assert sum(map(len, windows)) == 6400
    assert max(map(len, windows)) < WINDOW_POSTERS + BLOCK_POSTERS
    mine = list(worker_windows(iter(windows), 32, 200, rank=1, workers=2))
    assert max(map(len, mine)) <= (WINDOW_POSTERS + BLOCK_POSTERS) // 2 + 16


@pytest.mark.parametrize(("workers", "shares"), [(1, [32]), (2, [16, 16]), (3, [10, 11, 11])])
def test_the_shares_of_a_batch_differ_by_at_most_one_poster(workers, shares):
    assert [stop - first for first, stop in (share_of(32, rank, workers) for rank in range(workers))] == shares


def test_blocks_hold_every_poster_once_and_are_of_even_size():
    blocks = blocks_of([f"tt{number:07d}" for number in range(5000)])

    assert sorted(np.concatenate(blocks).tolist()) == list(range(5000))
    assert len(blocks) == 128
    assert max(map(len, blocks)) < 2 * BLOCK_POSTERS


def test_an_additional_poster_changes_only_one_block():
    ids = [f"tt{number:07d}" for number in range(300)]
    before = [{ids[row] for row in block} for block in blocks_of(ids)]
    after = [{[*ids, "new"][row] for row in block} for block in blocks_of([*ids, "new"])]

    assert len([block for block in after if block not in before]) == 1


def test_few_posters_give_one_block_and_no_posters_give_no_block():
    assert [block.tolist() for block in blocks_of(["b"])] == [[0]]
    assert blocks_of([]) == []
