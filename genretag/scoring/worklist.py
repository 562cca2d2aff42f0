"""Worklist: the inventory less what the output already holds for this model version, cut into shards for Ray.

This one rule gives incremental runs, resume after a crash, and scoring again when object or model changed. If memory is
too small, DuckDB joins on disk. `tests/benchmarks/worklist.py` measures ten million rows against ten million. At a
billion rows, cut both sides by a hash of the uri and join one piece after the other, or on several nodes.

The output holds the versions of an object in its rows, and those that `versions/` says were listed for them. A failure
that may pass counts only after several tries.

A shard is a file that every node can reach, and that one Ray task scores. Shards are in `OUTPUT/_worklist/<run_id>/`
while a run lives. The driver hands out only their names, so its memory does not grow with the posters.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet

from genretag.images.file_kinds import OTHER_FILE
from genretag.output import OutputFiles
from genretag.output.run_record import ListedCounts
from genretag.output.schema import HELD, LIST, LISTED, is_of_model, profile_held
from genretag.scoring.database import open_database
from genretag.scoring.inventory import Inventory
from genretag.scoring.settings import RETRIES
from genretag.storage import ObjectInfo, Storage, join
from genretag.storage.objects import etag_keys
from genretag.storage.paths import parquet_rows
from genretag.storage.retries import TRANSIENT

KEY = ("uri", "etag", "model_version")
TABLES = {  # for each kind of part file: the table that it becomes, and the columns to read
    "predictions": ("scored", KEY),
    "failures": ("tried", (*KEY, "stage", "reason")),
    "versions": ("versions", (*KEY, "listed_etag")),
}
MAY_PASS = f"stage = 'fetch' and reason in {tuple(sorted(TRANSIENT))}"  # failures of the store, not of the poster
READS_AT_ONCE = 16
Profile = tuple[tuple[bytes, bytes], ...]  # `profile_held` of a part file, as a key


@dataclass(frozen=True)
class Worklist(ListedCounts):
    """Posters to score, in the Parquet file `file`, and counts of the listed objects that need no scoring.

    Each object has one row, with the inventory's columns, and `LISTED` and the columns of `HELD` from
    `genretag.output.schema`.
    """

    file: Path
    to_score: int
    profiles: Mapping[Profile, int] = field(default_factory=dict)  # rows of this model in the output, by profile

    def table(self) -> pa.Table:
        """Return all posters to score as one table, for callers who know that there are few."""
        return pyarrow.parquet.read_table(self.file)


def make_worklist(
    inventory: Inventory,
    held: OutputFiles,
    model_version: str,
    storage: Storage,
    *,
    retry_failed: bool = False,
    retries: int = RETRIES,
) -> Worklist:
    """Return the inventory less what the output holds: an anti-join on (uri, etag, model_version).

    `held` are the part files of the output. A failure of the store (`MAY_PASS`) is not subtracted until the poster has
    failed so on `retries` runs after the first. If `retry_failed` is true, no failure is subtracted.
    """
    folder = inventory.file.parent
    database = open_database(folder)
    try:
        _load_objects(database, inventory)
        listed = _count_objects(database, "objects", inventory)
        profiles: Counter[Profile] = Counter()
        for kind, (table, columns) in TABLES.items():
            for schema, rows in _load(database, table, columns, held.by_kind[kind], model_version, storage):
                if (profile := profile_held(schema)) and is_of_model(schema, model_version):
                    profiles[tuple(profile.items())] += rows
        given_up = "false" if retry_failed else f"bool_or(({MAY_PASS}) is not true) or count(*) > {retries}"
        failed = f"select uri, etag from tried group by uri, etag having {given_up}"  # noqa: S608
        database.execute(f"create table failed as {failed}")
        for became in HELD:
            _hold_listed(database, became)
        _subtract_held(database, "objects", "scored", "unscored")
        unscored = _count_objects(database, "unscored", inventory)
        _subtract_held(database, "unscored", "failed", "untried")
        to_score = _count_objects(database, "untried", inventory)
        already_other = _count_other_files(database)
        file = folder / "worklist.parquet"
        schema = inventory.schema
        for name in (LISTED, *HELD.values()):
            schema = schema.append(pa.field(name, LIST))
        _write(database, _worklist_of("untried", may_repeat=inventory.may_repeat), file, schema)
    finally:
        database.close()
    return Worklist(
        file=file,
        to_score=to_score,
        listed=listed,
        duplicates=inventory.rows - listed,
        already_scored=listed - unscored,
        already_failed=unscored - to_score,
        already_other=already_other,
        profiles=profiles,
    )


def held_schema(predictions: Iterable[ObjectInfo], storage: Storage) -> pa.Schema | None:
    """Return the schema of the output's predictions, from its first part file; None if there is no part file.

    Raises `StorageError` and `OSError` if the output cannot be read.
    """
    for info in predictions:
        with storage.open(info) as file:
            return pyarrow.parquet.read_schema(file)
    return None


def _load_objects(database: duckdb.DuckDBPyConnection, inventory: Inventory) -> None:
    """Make the table `objects`: the inventory, each version of an object once."""
    rows = f"select * from {parquet_rows(inventory.file)}"  # noqa: S608
    if inventory.may_repeat:
        rows = f"select unnest(arg_min(i, i.poster_id)) from ({rows}) as i group by i.uri, i.etag"  # noqa: S608
    database.execute(f"create table objects as {rows}")


def _load(
    database: duckdb.DuckDBPyConnection,
    table: str,
    columns: Sequence[str],
    files: Sequence[ObjectInfo],
    model_version: str,
    storage: Storage,
) -> Iterator[tuple[pa.Schema, int]]:
    """Make the table `table` from the part files' rows of a model version.

    Yield each file's schema and its number of rows, those of other model versions included.
    """
    kept = [name for name in columns if name != "model_version"]
    database.execute(f"create table {table} ({', '.join(f'{name} varchar' for name in kept)})")
    insert = f"insert into {table} select {', '.join(kept)} from part where model_version = ?"  # noqa: S608
    for part in _in_order(partial(_columns_of, columns, storage), files):
        database.register("part", part)
        database.execute(insert, [model_version])
        database.unregister("part")
        yield part.schema, len(part)


def _hold_listed(database: duckdb.DuckDBPyConnection, held: str) -> None:
    """Add to the table `held` the other etags under which its versions were listed, from the table `versions`.

    `held` is `scored` or `failed`.
    """
    database.execute(f"insert into {held} select uri, listed_etag from versions join {held} using (uri, etag)")  # noqa: S608


def _subtract_held(database: duckdb.DuckDBPyConnection, rows: str, held: str, rest: str) -> None:
    """Make the table `rest`: the rows of the table `rows` whose uri and etag are not in the table `held`."""
    database.execute(f"create table {rest} as from {rows} anti join {held} using (uri, etag)")


def _count_other_files(database: duckdb.DuckDBPyConnection) -> int:
    """Return how many objects are not scored again because an earlier run found that they are no posters."""
    other = f"(from tried where reason = '{OTHER_FILE}')"
    failed = "unscored anti join untried using (uri)"
    query = f"select count(distinct uri) from {failed} semi join {other} as other using (uri)"  # noqa: S608
    return int(database.execute(query).fetchall()[0][0])


def _worklist_of(rows: str, *, may_repeat: bool) -> str:
    """Return the SQL query of the worklist: one row for each object in `rows`, with its listed and held etags."""
    several = f"null::varchar[] as {LISTED}"
    objects = f"select *, {several} from {rows}"  # noqa: S608
    if may_repeat:
        several = f"case when count(*) > 1 then list(r.etag order by r.etag) end as {LISTED}"
        objects = f"select unnest(arg_min(r, r.etag)), {several} from {rows} as r group by r.uri"  # noqa: S608
    joins = "".join(
        f" left join (select uri, list(etag) as {column} from {held} semi join {rows} using (uri) group by uri) "  # noqa: S608
        "using (uri)"
        for held, column in HELD.items()
    )
    return f"select * from ({objects}){joins} order by uri"  # noqa: S608


def _columns_of(names: Sequence[str], storage: Storage, info: ObjectInfo) -> pa.Table:
    """Return columns of a part file, with each etag as `etag_key` gives it; a missing column is null.

    Raises `pyarrow.ArrowInvalid` if a column of `KEY` is missing.
    """
    with storage.open(info) as file:
        found = pyarrow.parquet.ParquetFile(file).read(columns=list(names))
    if missing := [name for name in KEY if name not in found.column_names]:
        raise pa.ArrowInvalid(f"{info.uri} has no column {missing[0]}")
    for name in names:
        if name not in found.column_names:
            found = found.append_column(name, pa.nulls(len(found), pa.string()))
    return found.set_column(found.column_names.index("etag"), "etag", etag_keys(found["etag"]))


def _in_order(read: Callable[[ObjectInfo], pa.Table], files: Iterable[ObjectInfo]) -> Iterator[pa.Table]:
    """Yield the table that `read` returns for each file, in the order of `files`.

    Threads read only a few files ahead, so memory does not grow with the number of files.
    """
    with ThreadPoolExecutor(READS_AT_ONCE) as threads:
        ahead: deque[Future[pa.Table]] = deque()
        for info in files:
            ahead.append(threads.submit(read, info))
            if len(ahead) > READS_AT_ONCE:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def _count_objects(database: duckdb.DuckDBPyConnection, table: str, inventory: Inventory) -> int:
    """Return the number of distinct objects in a table that was made from `inventory`."""
    count = "count(distinct uri)" if inventory.may_repeat else "count(*)"
    return int(database.execute(f"select {count} from {table}").fetchall()[0][0])  # noqa: S608


def _write(database: duckdb.DuckDBPyConnection, query: str, file: Path, schema: pa.Schema) -> None:
    """Write the rows of a query to a Parquet file, cast to `schema`."""
    with pyarrow.parquet.ParquetWriter(file, schema, compression="lz4") as writer:
        for batch in database.sql(query).to_arrow_reader(65_536):
            writer.write_table(pa.Table.from_batches([batch]).cast(schema))


FOLDER = "_worklist"
SHARD = "shard"
POSTERS_PER_STEP = 256  # posters that an actor decodes at a time: 42 MB of pixels at 288 x 192, a second of work
SHARDS_AT_MOST = 1024  # Ray tasks of a run: enough for any cluster, few enough for the driver
WRITES_AT_ONCE = 16


def write_shards(worklist: Worklist, output: str, run_id: str, storage: Storage) -> list[pa.Table]:
    """Write the worklist as shards below the output, and return a block for each: one row with the shard's URI.

    Removes the shards of dead runs first. Raises `StorageError`.
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
    """Return the posters of a block: those of the shard that it names, or its own rows if it names none.

    Raises `StorageError` if the shard cannot be read.
    """
    if SHARD not in block.column_names:
        return block
    shard = storage.get(block[SHARD][0].as_py())
    return pyarrow.parquet.read_table(pa.BufferReader(pa.py_buffer(shard.data)))


def remove_shards(output: str, storage: Storage) -> None:
    """Remove the shards of all runs. Only the run that holds the output may call this."""
    storage.delete_below(join(output, FOLDER))


def steps(posters: pa.Table) -> Iterator[pa.Table]:
    """Cut posters into tables of `POSTERS_PER_STEP` rows, the last one shorter. An actor works on them one by one."""
    for start in range(0, len(posters), POSTERS_PER_STEP):
        yield posters.slice(start, POSTERS_PER_STEP)


def _cut(worklist: Worklist) -> Iterator[pa.Table]:
    """Yield the worklist in tables of whole steps, equally long except for the last one; at most `SHARDS_AT_MOST`."""
    steps_in_all = -(-worklist.to_score // POSTERS_PER_STEP)
    rows = POSTERS_PER_STEP * -(-steps_in_all // SHARDS_AT_MOST)
    with pyarrow.parquet.ParquetFile(worklist.file) as file:
        for batch in file.iter_batches(rows):
            yield pa.Table.from_batches([batch])


def _encoded(table: pa.Table) -> bytes:
    """Return a table as the bytes of a Parquet file."""
    sink = pa.BufferOutputStream()
    pyarrow.parquet.write_table(table, sink, compression="zstd")
    return sink.getvalue().to_pybytes()
