"""Shards: the worklist cut into Parquet files, one for each Ray task that scores posters.

During a run, the shards are in `OUTPUT/_worklist/<run_id>/`, where every node can read them. The driver passes only
their URIs to Ray, so its memory does not grow with the number of posters.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet

from genretag.storage import Storage, join

if TYPE_CHECKING:
    from genretag.scoring.worklist import Worklist  # not at runtime, because actors import this module without DuckDB

FOLDER = "_worklist"
SHARD = "shard"
POSTERS_PER_STEP = 256  # posters that an actor decodes at a time: 42 MB of pixels at 288 x 192, a second of work
FIRST_POSTERS = 32  # in each of the first shards, so that engines need not wait until a whole step is decoded
SHARDS_AT_MOST = 1024  # Ray tasks of a run: enough for any cluster, few enough for the driver
WRITES_AT_ONCE = 16


def write_shards(worklist: "Worklist", output: str, run_id: str, storage: Storage) -> list[pa.Table]:
    """Write the worklist as shards (Parquet files) below the output. For each shard, return a table with its URI.

    First remove the shards that earlier runs left. Raises `StorageError` if a shard cannot be written or removed.
    """
    remove_shards(output, storage)
    with ThreadPoolExecutor(WRITES_AT_ONCE) as threads:
        uris, writes = [], []
        for number, shard in enumerate(_cut(worklist)):
            uris.append(join(output, FOLDER, run_id, f"shard-{number:05d}.parquet"))
            writes.append(threads.submit(storage.put, uris[-1], _encoded(shard)))
            if len(writes) > 2 * WRITES_AT_ONCE:  # otherwise encoded shards would pile up in memory
                writes.pop(0).result()
        for write in writes:
            write.result()
    return [pa.table({SHARD: [uri]}) for uri in uris]


def posters_of(block: pa.Table, storage: Storage) -> pa.Table:
    """Return the posters of a block. If the block has the URI of a shard (a file of posters), read the shard.

    Otherwise the block has the posters, and is returned itself.

    Raises `StorageError` if the shard cannot be read.
    """
    if SHARD not in block.column_names:
        return block
    shard = storage.get(block[SHARD][0].as_py())
    return pyarrow.parquet.read_table(pa.BufferReader(pa.py_buffer(shard.data)))


def remove_shards(output: str, storage: Storage) -> None:
    """Remove the shards (temporary files) of all runs.

    Only the run that holds the lock of the output may call this function.
    """
    storage.delete_below(join(output, FOLDER))


def steps(posters: pa.Table) -> Iterator[pa.Table]:
    """Yield the posters in tables of `POSTERS_PER_STEP` rows, the last of which may be shorter."""
    for start in range(0, len(posters), POSTERS_PER_STEP):
        yield posters.slice(start, POSTERS_PER_STEP)


def _cut(worklist: "Worklist") -> Iterator[pa.Table]:
    """Yield the worklist in at most `SHARDS_AT_MOST` tables, one for each shard (a Parquet file).

    All tables have the same number of rows, a multiple of `POSTERS_PER_STEP`. Only the last one may be shorter, and the
    first one is divided into tables of `FIRST_POSTERS`.
    """
    steps_in_all = -(-worklist.to_score // POSTERS_PER_STEP)
    rows = POSTERS_PER_STEP * -(-steps_in_all // SHARDS_AT_MOST)
    with pyarrow.parquet.ParquetFile(worklist.file) as file:
        for number, batch in enumerate(file.iter_batches(rows)):
            size = FIRST_POSTERS if number == 0 else rows
            for start in range(0, len(batch), size):
                yield pa.Table.from_batches([batch.slice(start, size)])


def _encoded(table: pa.Table) -> bytes:
    """Return the bytes of a Parquet file with the rows of `table`."""
    sink = pa.BufferOutputStream()
    pyarrow.parquet.write_table(table, sink, compression="zstd")
    return sink.getvalue().to_pybytes()
