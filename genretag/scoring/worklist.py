"""Worklist: the posters of the inventory that the output does not have for this model version.

This subtraction alone gives incremental runs, resume after a crash, and new scores for changed objects or a new model.
Keys of predictions are looked up in the key index (`key_index.py`), so a run reads only part files that are new. The
rest is SQL in DuckDB, which uses disk if memory is too small. `tests/benchmarks/worklist.py` measures all this with ten
million rows on each side. A billion rows would need more than one pass, such as one for each range of digests.

The output has a version of an object if a row of its predictions or failures has the version's etag. A listing may give
another etag than a later read of the object. The output's folder `versions/` records such etags, and they count too. If
the store failed to deliver a poster, the failure counts only after several runs.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet

from genretag.images.file_kinds import OTHER_FILE
from genretag.output import OutputFiles
from genretag.output.run_record import ListedCounts
from genretag.output.schema import HELD, LIST, LISTED, require_known_format
from genretag.scoring.database import open_database
from genretag.scoring.inventory import Inventory, in_groups
from genretag.scoring.key_index import KeyIndex, Profile
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
LOOKUPS_AT_ONCE = 262_144  # sorted, so that neighbours are looked up in memory that the processor has cached


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
        listed = _count_objects(database, parquet_rows(inventory.file), inventory)
        index = KeyIndex(held, model_version, storage)
        index.add(_unread(index, database, model_version, storage))
        _load(database, "versions", held.by_kind["versions"], model_version, storage)
        index.add_listed(*_listed_keys(index, database))
        others = _create_unscored(database, inventory, index)
        _load(database, "predictions", others, model_version, storage, where="uri in (select uri from unscored)")
        _load(database, "failures", held.by_kind["failures"], model_version, storage)
        given_up = "false" if retry_failed else f"bool_or(({MAY_PASS}) is not true) or count(*) > {retries}"
        failed = f"select uri, etag from tried group by uri, etag having {given_up}"  # noqa: S608
        database.execute(f"create table failed as {failed}")
        for became in HELD:
            _hold_listed(database, became)
        unscored = _count_objects(database, "unscored", inventory)
        database.execute("create table untried as from unscored anti join failed using (uri, etag)")
        to_score = _count_objects(database, "untried", inventory)
        already_other = _count_other_files(database)
        file = folder / "worklist.parquet"
        schema = inventory.schema
        for name in (LISTED, *HELD.values()):
            schema = schema.append(pa.field(name, LIST))
        _write(database, _worklist_of("untried", may_repeat=inventory.may_repeat), file, schema)
        index.save()
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
        profiles=index.profiles(),
    )


def held_schema(predictions: Iterable[ObjectInfo], storage: Storage) -> pa.Schema | None:
    """Return the schema of the first of the part files `predictions`, or None if there is no part file.

    Raises `StorageError`, `OSError` or `pyarrow.ArrowException` if the file cannot be read, and `UsageError` if a newer
    genretag wrote it in another format.
    """
    for info in predictions:
        with storage.open(info) as file:
            schema = pyarrow.parquet.read_schema(file)
        require_known_format(schema, info.uri)
        return schema
    return None


def _unread(
    index: KeyIndex, database: duckdb.DuckDBPyConnection, model_version: str, storage: Storage
) -> Iterator[tuple[ObjectInfo, pa.Table, np.ndarray, np.ndarray]]:
    """Read the part files that the index lacks. Yield what `KeyIndex.add` takes for each of them."""
    query = f"select {_digests('uri', 'etag')} from part where model_version = $model_version"  # noqa: S608
    for info, part in zip(index.unread, _in_order(partial(_columns_of, KEY, storage), index.unread), strict=True):
        database.register("part", part)
        keys = database.sql(query, params={"salt": index.salt, "model_version": model_version}).to_arrow_table()
        database.unregister("part")
        yield info, part, keys["uri"].to_numpy(), keys["etag"].to_numpy()


def _listed_keys(index: KeyIndex, database: duckdb.DuckDBPyConnection) -> tuple[np.ndarray, np.ndarray]:
    """Return the digests of the keys in `versions` whose objects have predictions under the etags that were read."""
    query = f"select {_digests('uri', 'etag', 'listed_etag')} from versions"  # noqa: S608
    keys = database.sql(query, params={"salt": index.salt}).to_arrow_table()
    uris, etags, listed = (column.to_numpy() for column in keys.columns)
    scored, _ = index.look_up(uris, etags)
    return uris[scored], listed[scored]


def _digests(*columns: str) -> str:
    """Return SQL for the digests of text columns in the key index, uint64. The query's parameter `salt` is the salt."""
    return ", ".join(f"hash(concat($salt, {name})) as {name}" for name in columns)


def _create_unscored(
    database: duckdb.DuckDBPyConnection, inventory: Inventory, index: KeyIndex
) -> Collection[ObjectInfo]:
    """Create the table `unscored` from the objects of the inventory whose keys the index does not have.

    Of rows with the same URI and etag, keep only one. Return the part files with other etags of these objects.
    """
    rows, others = parquet_rows(inventory.file), dict[str, ObjectInfo]()
    if len(index):
        missing = []
        with database.cursor() as cursor:
            query = f"select file_row_number, {_digests('uri', 'etag')} from {rows}"  # noqa: S608
            keys = cursor.sql(query, params={"salt": index.salt})
            batches = (pa.Table.from_batches([batch]) for batch in keys.to_arrow_reader(65_536))
            for batch in in_groups(batches, LOOKUPS_AT_ONCE):
                numbers, uris, etags = (column.to_numpy() for column in batch.columns)
                scored, holding = index.look_up(uris, etags)
                missing.append(numbers[~scored])
                others |= {info.uri: info for info in holding}
        database.register("missing", pa.table({"file_row_number": np.concatenate(missing)}))
        rows += " semi join missing using (file_row_number)"
    query = f"select * from {rows}"  # noqa: S608
    if inventory.may_repeat:
        query = f"select unnest(arg_min(i, i.poster_id)) from ({query}) as i group by i.uri, i.etag"  # noqa: S608
    database.execute(f"create table unscored as {query}")
    return others.values()


def _load(
    database: duckdb.DuckDBPyConnection,
    kind: str,
    files: Collection[ObjectInfo],
    model_version: str,
    storage: Storage,
    *,
    where: str = "true",
) -> None:
    """Create the table of a kind of part file (see `TABLES`) from those rows of `files` that are of the model version.

    `where` is a further condition in SQL.
    """
    table, columns = TABLES[kind]
    kept = [name for name in columns if name != "model_version"]
    database.execute(f"create table {table} ({', '.join(f'{name} varchar' for name in kept)})")
    insert = f"insert into {table} select {', '.join(kept)} from part where model_version = ? and {where}"  # noqa: S608
    for part in _in_order(partial(_columns_of, columns, storage), files):
        database.register("part", part)
        database.execute(insert, [model_version])
        database.unregister("part")


def _hold_listed(database: duckdb.DuckDBPyConnection, held: str) -> None:
    """Add to the table `held` (`scored` or `failed`) the other etags with which the same objects were listed.

    These etags are in the table `versions`. A row says that an object was listed with the etag `listed_etag`, and then
    read with the etag `etag`.
    """
    database.execute(f"insert into {held} select uri, listed_etag from versions join {held} using (uri, etag)")  # noqa: S608


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


def _columns_of(names: Collection[str], storage: Storage, info: ObjectInfo) -> pa.Table:
    """Read the columns `names` of the part file `info`. Etags are normalized by `etag_key`. A missing column is null.

    Raises `pyarrow.ArrowInvalid` if a column of `KEY` is missing, and `UsageError` if the format is unknown.
    """
    with storage.open(info) as file:
        found = pyarrow.parquet.ParquetFile(file).read(columns=list(names))
    require_known_format(found.schema, info.uri)
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
