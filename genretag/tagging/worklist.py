"""What is left to do: the inventory less what the output already holds for this model version.

This one rule gives incremental nights, resume after a crash, and scoring again when object or model changed. DuckDB
joins on disk where memory does not suffice; `tests/benchmarks/worklist.py` measures ten million rows against ten
million. At a billion, cut both sides by a hash of the uri and join one piece after the other, or on several nodes.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet

from genretag.other_files import OTHER_FILE
from genretag.path_syntax import parquet_rows
from genretag.storage import ObjectInfo, Storage, join
from genretag.tagging.database import open_database
from genretag.tagging.held_files import held_files
from genretag.tagging.inventory import Inventory

KEY = ["uri", "etag", "model_version"]
FAILURE_KEY = [*KEY, "reason"]
READS_AT_ONCE = 16


@dataclass(frozen=True)
class Worklist:
    """The posters to score, in a Parquet file with the inventory's columns, and what became of the others."""

    file: Path
    to_score: int
    listed: int  # distinct objects of the inventory
    duplicates: int  # inventory rows that named an object again
    already_scored: int
    already_failed: int
    already_other: int = 0  # of these: files that are no posters

    def table(self) -> pa.Table:
        """All posters at once, for those who know that they are few."""
        return pyarrow.parquet.read_table(self.file)


def make_worklist(
    inventory: Inventory, output: str, model_version: str, storage: Storage, *, retry_failed: bool = False
) -> Worklist:
    """Anti-joins the inventory with the output's predictions and failures on (uri, etag, model_version)."""
    folder = inventory.file.parent
    database = open_database(folder)
    try:
        _load_objects(database, inventory)
        listed = _count(database, "objects")
        _load_held(database, join(output, "predictions"), model_version, storage)
        _subtract_held(database, "objects", "unscored")
        unscored = _count(database, "unscored")
        last, already_other = "unscored", 0
        if not retry_failed:
            _load_held(database, join(output, "failures"), model_version, storage, FAILURE_KEY)
            _subtract_held(database, "unscored", "untried")
            last, already_other = "untried", _count_other_files(database)
        file = folder / "worklist.parquet"
        _write(database, f"select * from {last} order by uri", file, inventory.schema)  # noqa: S608
        to_score = _count(database, last)
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
    )


def held_schema(output: str, storage: Storage) -> pa.Schema | None:
    """The columns of the predictions that the output holds, by its first part file; none where there is none.

    Raises `StorageError` and `OSError` where the output cannot be read.
    """
    for info in held_files(join(output, "predictions"), storage):
        with storage.open(info) as file:
            return pyarrow.parquet.read_schema(file)
    return None


def _load_objects(database: duckdb.DuckDBPyConnection, inventory: Inventory) -> None:
    rows = f"select * from {parquet_rows(inventory.file)}"  # noqa: S608
    if inventory.may_repeat:
        rows = f"select unnest(arg_min(i, i.poster_id)) from ({rows}) as i group by i.uri, i.etag"  # noqa: S608
    database.execute(f"create table objects as {rows}")


def _load_held(
    database: duckdb.DuckDBPyConnection, location: str, model_version: str, storage: Storage, columns: list[str] = KEY
) -> None:
    """Makes the table `held`: the keys of a model version in all part files below a location, of failures why."""
    kept = [name for name in columns if name != "model_version"]
    database.execute(f"create or replace table held ({', '.join(f'{name} varchar' for name in kept)})")
    insert = f"insert into held select {', '.join(kept)} from part where model_version = ?"  # noqa: S608
    for part in _in_order(partial(_keys, storage, columns), held_files(location, storage)):
        database.register("part", part)
        database.execute(insert, [model_version])
        database.unregister("part")


def _subtract_held(database: duckdb.DuckDBPyConnection, rows: str, rest: str) -> None:
    """Makes the table `rest`: `rows` less what is held."""
    database.execute(f"create table {rest} as from {rows} anti join held using (uri, etag)")


def _count_other_files(database: duckdb.DuckDBPyConnection) -> int:
    """Return how many of the objects that failed before are no posters."""
    held = f"(from held where reason = '{OTHER_FILE}')"
    return _count(database, f"unscored semi join {held} as other using (uri, etag)")


def _keys(storage: Storage, columns: list[str], info: ObjectInfo) -> pa.Table:
    with storage.open(info) as file:
        found = pyarrow.parquet.ParquetFile(file).read(columns=columns)
    for name in (name for name in columns if name not in (*KEY, *found.column_names)):
        found = found.append_column(name, pa.nulls(len(found), pa.string()))
    return found


def _in_order(read: Callable[[ObjectInfo], pa.Table], files: Iterable[ObjectInfo]) -> Iterator[pa.Table]:
    """Reads files in threads, a few ahead, so that memory does not grow with their number."""
    with ThreadPoolExecutor(READS_AT_ONCE) as threads:
        ahead: deque[Future[pa.Table]] = deque()
        for info in files:
            ahead.append(threads.submit(read, info))
            if len(ahead) > READS_AT_ONCE:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def _count(database: duckdb.DuckDBPyConnection, table: str) -> int:
    return int(database.execute(f"select count(*) from {table}").fetchall()[0][0])  # noqa: S608


def _write(database: duckdb.DuckDBPyConnection, query: str, file: Path, schema: pa.Schema) -> None:
    with pyarrow.parquet.ParquetWriter(file, schema, compression="lz4") as writer:
        for batch in database.sql(query).to_arrow_reader(65_536):
            writer.write_table(pa.Table.from_batches([batch]).cast(schema))
