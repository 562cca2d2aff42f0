"""Worklist: the posters of the inventory that the output does not have for this model version.

This subtraction alone gives incremental runs, resume after a crash, and new scores for changed objects or a new model.
It is an anti-join in DuckDB, which uses disk if memory is too small. `tests/benchmarks/worklist.py` measures it with
ten million rows on each side. A billion rows would need a join by parts, such as by a hash of the URI.

The output has a version of an object if a row of its predictions or failures has the version's etag. A listing may give
another etag than a later read of the object. The output's folder `versions/` records such etags, and they count too. If
the store failed to deliver a poster, the failure counts only after several runs.
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
from genretag.storage import ObjectInfo, Storage
from genretag.storage.objects import etag_keys
from genretag.storage.paths import parquet_rows
from genretag.storage.retries import TRANSIENT

KEY = ("uri", "etag", "model_version")
TABLES = {  # for each kind of part file: the DuckDB table for its rows, and the columns to read
    "predictions": ("scored", KEY),
    "failures": ("tried", (*KEY, "stage", "reason")),
    "versions": ("versions", (*KEY, "listed_etag")),
}
MAY_PASS = f"stage = 'fetch' and reason in {tuple(sorted(TRANSIENT))}"  # SQL: the store failed, not the poster
READS_AT_ONCE = 16
Profile = tuple[tuple[bytes, bytes], ...]  # the items of `profile_held` for a part file, as a dictionary key


@dataclass(frozen=True)
class Worklist(ListedCounts):
    """The posters to score, as a Parquet file, and the counts of all listed objects.

    `file` has one row per poster to score: the columns of the inventory (the listed objects), and the lists of etags
    `listed_etags`, `scored_etags` and `failed_etags` (see `genretag.output.schema`). `to_score` is the number of rows.
    """

    file: Path
    to_score: int
    profiles: Mapping[Profile, int] = field(default_factory=dict)  # the model's rows in the output, by profile

    def table(self) -> pa.Table:
        """Return all rows of `file` as one table. Use this method only for worklists that fit in memory."""
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
    """Return the posters of the inventory that the output lacks: an anti-join on (uri, etag, model_version).

    `held` are the part files of the output. The worklist's file is written next to the inventory's file. Posters with a
    prediction or a failure are left out, with two exceptions. A poster for which only the store failed (`MAY_PASS`) is
    left out only after more than `retries` failures. If `retry_failed` is true, no failed poster is left out.

    Raises `StorageError`, `OSError`, `pyarrow.ArrowException` or `duckdb.Error` if the output cannot be read.
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
    """Return the schema of the first of the part files `predictions`, or None if there is no part file.

    Raises `StorageError`, `OSError` or `pyarrow.ArrowException` if the file cannot be read.
    """
    for info in predictions:
        with storage.open(info) as file:
            return pyarrow.parquet.read_schema(file)
    return None


def _load_objects(database: duckdb.DuckDBPyConnection, inventory: Inventory) -> None:
    """Create the table `objects` from the inventory. Of rows with the same URI and etag, keep only one."""
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
    """Create the table `table` from those rows of the part files `files` that are of the model version.

    Yield the schema and the number of rows of each file after its rows are inserted. The number includes the rows of
    other model versions.
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
    """Add to the table `held` (`scored` or `failed`) the other etags with which the same objects were listed.

    These etags are in the table `versions`. A row says that an object was listed with the etag `listed_etag`, and then
    read with the etag `etag`.
    """
    database.execute(f"insert into {held} select uri, listed_etag from versions join {held} using (uri, etag)")  # noqa: S608


def _subtract_held(database: duckdb.DuckDBPyConnection, rows: str, held: str, rest: str) -> None:
    """Create the table `rest` from the rows of the table `rows` whose URI and etag are not in the table `held`."""
    database.execute(f"create table {rest} as from {rows} anti join {held} using (uri, etag)")


def _count_other_files(database: duckdb.DuckDBPyConnection) -> int:
    """Return the number of objects that are left out because an earlier run found that they are no posters."""
    other = f"(from tried where reason = '{OTHER_FILE}')"
    failed = "unscored anti join untried using (uri)"
    query = f"select count(distinct uri) from {failed} semi join {other} as other using (uri)"  # noqa: S608
    return int(database.execute(query).fetchall()[0][0])


def _worklist_of(rows: str, *, may_repeat: bool) -> str:
    """Return the SQL query of the worklist: one row per URI in `rows`, with its listed, scored and failed etags."""
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
    """Read the columns `names` of the part file `info`. Etags are normalized by `etag_key`. A missing column is null.

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
