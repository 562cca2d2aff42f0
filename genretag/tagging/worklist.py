"""What is left to do: the inventory less what the output already holds for this model version.

This one rule gives incremental nights, resume after a crash, and scoring again when object or model changed. DuckDB
joins on disk where memory does not suffice; `tests/benchmarks/worklist.py` measures ten million rows against ten
million. At a billion, cut both sides by a hash of the uri and join one piece after the other, or on several nodes.
"""

from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet

from genretag.storage import Storage, StorageError, join
from genretag.tagging.database import open_database
from genretag.tagging.inventory import Inventory

KEY = pa.schema([("uri", pa.string()), ("etag", pa.string()), ("model_version", pa.string())])


@dataclass(frozen=True)
class Worklist:
    """The posters to score, in a Parquet file with the inventory's columns, and what became of the others."""

    file: Path
    to_score: int
    listed: int  # distinct objects of the inventory
    duplicates: int  # inventory rows that named an object again
    already_scored: int
    already_failed: int

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
        _subtract(database, "objects", "unscored", join(output, "predictions"), model_version, storage)
        unscored = _count(database, "unscored")
        last = "unscored"
        if not retry_failed:
            _subtract(database, "unscored", "untried", join(output, "failures"), model_version, storage)
            last = "untried"
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
    )


def held_schema(output: str, storage: Storage) -> pa.Schema | None:
    """The columns of the predictions that the output holds, by its first part file; none where there is none.

    Raises `StorageError` and `OSError` where the output cannot be read.
    """
    try:
        pages = storage.list(join(output, "predictions"))
        first = next((info.uri for page in pages for info in page if info.uri.endswith(".parquet")), None)
    except StorageError as error:
        if error.reason == "not_found":
            return None
        raise
    if first is None:
        return None
    filesystem, path = storage.filesystem(first)
    with filesystem.open(path, "rb") as file:
        return pyarrow.parquet.read_schema(file)


def _load_objects(database: duckdb.DuckDBPyConnection, inventory: Inventory) -> None:
    file = str(inventory.file).replace("'", "''")
    rows = f"select * from read_parquet('{file}')"  # noqa: S608
    if inventory.may_repeat:
        rows = f"select unnest(arg_min(i, i.poster_id)) from ({rows}) as i group by i.uri, i.etag"  # noqa: S608
    database.execute(f"create table objects as {rows}")


def _subtract(
    database: duckdb.DuckDBPyConnection, rows: str, rest: str, location: str, model_version: str, storage: Storage
) -> None:
    """Makes the table `rest`: `rows` less the objects that the part files below a location know of."""
    database.register(f"without_{rest}", _keys(location, storage))
    database.execute(
        f"create table {rest} as select {rows}.* from {rows} "  # noqa: S608
        f"anti join (select uri, etag from without_{rest} where model_version = ?) using (uri, etag)",
        [model_version],
    )


def _keys(location: str, storage: Storage) -> pyarrow.dataset.Dataset:
    """The key columns of all part files below a location; empty where there is none."""
    filesystem, path = storage.filesystem(location)
    if not filesystem.exists(path):
        return pyarrow.dataset.dataset(KEY.empty_table())
    return pyarrow.dataset.dataset(path, KEY, format="parquet", filesystem=filesystem)


def _count(database: duckdb.DuckDBPyConnection, table: str) -> int:
    return int(database.execute(f"select count(*) from {table}").fetchall()[0][0])  # noqa: S608


def _write(database: duckdb.DuckDBPyConnection, query: str, file: Path, schema: pa.Schema) -> None:
    with pyarrow.parquet.ParquetWriter(file, schema, compression="lz4") as writer:
        for batch in database.sql(query).to_arrow_reader(65_536):
            writer.write_table(pa.Table.from_batches([batch]).cast(schema))
