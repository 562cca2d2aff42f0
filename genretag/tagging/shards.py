"""The worklist as files that every node can reach: a shard is what one Ray task scores.

They stand in `OUTPUT/_worklist/<run_id>/` while a run lives. The driver hands out their names only, so that what it
holds does not grow with the posters.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet

from genretag.storage import Storage, join
from genretag.tagging.worklist import Worklist

FOLDER = "_worklist"
SHARD = "shard"
POSTERS_PER_STEP = 256  # what an actor decodes at a time: 42 MB of pixels at 288 x 192, a second of work
SHARDS_AT_MOST = 1024  # Ray tasks of a run: enough for any cluster, few enough for the driver
WRITES_AT_ONCE = 16


def write_shards(worklist: Worklist, output: str, run_id: str, storage: Storage) -> list[pa.Table]:
    """Cuts the worklist into files and returns a table of one row, its URI, for each.

    What a dead run left there is removed.
    """
    remove_shards(output, storage)
    with ThreadPoolExecutor(WRITES_AT_ONCE) as threads:
        uris, writes = [], []
        for number, shard in enumerate(_cut(worklist)):
            uris.append(join(output, FOLDER, run_id, f"shard-{number:05d}.parquet"))
            writes.append(threads.submit(storage.put, uris[-1], _encoded(shard)))
            if len(writes) > 2 * WRITES_AT_ONCE:  # or encoded shards would pile up
                writes.pop(0).result()
        for write in writes:
            write.result()
    return [pa.table({SHARD: [uri]}) for uri in uris]


def posters_of(block: pa.Table, storage: Storage) -> pa.Table:
    """The posters that a block names by their shard, or the block itself where it holds them. Raises `StorageError`."""
    if SHARD not in block.column_names:
        return block
    shard = storage.get(block[SHARD][0].as_py())
    return pyarrow.parquet.read_table(pa.BufferReader(pa.py_buffer(shard.data)))


def remove_shards(output: str, storage: Storage) -> None:
    """Removes the shards of all runs: only the run that holds the output may call this."""
    storage.delete_below(join(output, FOLDER))


def steps(posters: pa.Table) -> Iterator[pa.Table]:
    """Cuts posters into the pieces that an actor works on one after the other."""
    for start in range(0, len(posters), POSTERS_PER_STEP):
        yield posters.slice(start, POSTERS_PER_STEP)


def _cut(worklist: Worklist) -> Iterator[pa.Table]:
    """Tables of whole steps, equally long but for the last one."""
    steps_in_all = -(-worklist.to_score // POSTERS_PER_STEP)
    rows = POSTERS_PER_STEP * -(-steps_in_all // SHARDS_AT_MOST)
    with pyarrow.parquet.ParquetFile(worklist.file) as file:
        for batch in file.iter_batches(rows):
            yield pa.Table.from_batches([batch])


def _encoded(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pyarrow.parquet.write_table(table, sink, compression="zstd")
    return sink.getvalue().to_pybytes()
