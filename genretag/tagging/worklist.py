"""What is left to do: the inventory less what the output already holds for this model version.

This one rule gives incremental nights, resume after a crash, and scoring again when object or model changed. DuckDB
joins on disk where memory does not suffice; `tests/benchmarks/worklist.py` measures ten million rows against ten
million. At a billion, cut both sides by a hash of the uri and join one piece after the other, or on several nodes.

What the output holds of an object are the versions in its rows, and those that `versions/` says were listed for them.
A failure that may pass counts only once it has come several times.
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

from genretag.other_files import OTHER_FILE
from genretag.path_syntax import parquet_rows
from genretag.storage import ObjectInfo, Storage, join
from genretag.storage.etags import etag_keys
from genretag.storage.s3_errors import TRANSIENT
from genretag.tagging.database import open_database
from genretag.tagging.held_files import held_files
from genretag.tagging.inventory import Inventory
from genretag.tagging.schema import is_of_model, profile_held
from genretag.tagging.settings import RETRIES
from genretag.tagging.versions import HELD, LIST, LISTED

KEY = ("uri", "etag", "model_version")
TABLES = {  # what is read of each kind of part file, and the table that it becomes
    "predictions": ("scored", KEY),
    "failures": ("tried", (*KEY, "stage", "reason")),
    "versions": ("versions", (*KEY, "listed_etag")),
}
MAY_PASS = f"stage = 'fetch' and reason in {tuple(sorted(TRANSIENT))}"  # failures of the store, not of the poster
READS_AT_ONCE = 16
Profile = tuple[tuple[bytes, bytes], ...]  # `profile_held` of a part file, as a key


@dataclass(frozen=True)
class Worklist:
    """The posters to score, in a Parquet file, and what became of the others.

    Each object has one row, with the inventory's columns and those of `genretag.tagging.versions`.
    """

    file: Path
    to_score: int
    listed: int  # distinct objects of the inventory
    duplicates: int  # inventory rows that named an object again
    already_scored: int
    already_failed: int
    already_other: int = 0  # of these: files that are no posters
    profiles: Mapping[Profile, int] = field(default_factory=dict)  # rows of this model in the output, by profile

    def table(self) -> pa.Table:
        """All posters at once, for those who know that they are few."""
        return pyarrow.parquet.read_table(self.file)


def make_worklist(
    inventory: Inventory,
    output: str,
    model_version: str,
    storage: Storage,
    *,
    retry_failed: bool = False,
    retries: int = RETRIES,
) -> Worklist:
    """Anti-joins the inventory with the output's predictions and failures on (uri, etag, model_version).

    A failure that may pass is left out of that until the poster has failed so on `retries` nights after the first.
    """
    folder = inventory.file.parent
    database = open_database(folder)
    try:
        _load_objects(database, inventory)
        listed = _count_objects(database, "objects", inventory)
        profiles: Counter[Profile] = Counter()
        for kind, (table, columns) in TABLES.items():
            for schema, rows in _load(database, table, columns, join(output, kind), model_version, storage):
                if (profile := profile_held(schema)) and is_of_model(schema, model_version):
                    profiles[tuple(profile.items())] += rows
        given_up = "false" if retry_failed else f"bool_or(({MAY_PASS}) is not true) or count(*) > {retries}"
        failed = f"select uri, etag from tried group by uri, etag having {given_up}"  # noqa: S608
        database.execute(f"create table failed as {failed}")
        for held in HELD:
            _hold_listed(database, held)
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


def held_schema(output: str, storage: Storage) -> pa.Schema | None:
    """The columns of the predictions that the output holds, by its first part file; none where there is none.

    Raises `StorageError` and `OSError` where the output cannot be read.
    """
    for info in held_files(join(output, "predictions"), storage):
        with storage.open(info) as file:
            return pyarrow.parquet.read_schema(file)
    return None


def _load_objects(database: duckdb.DuckDBPyConnection, inventory: Inventory) -> None:
    """Makes the table `objects`: the inventory, each version of an object once."""
    rows = f"select * from {parquet_rows(inventory.file)}"  # noqa: S608
    if inventory.may_repeat:
        rows = f"select unnest(arg_min(i, i.poster_id)) from ({rows}) as i group by i.uri, i.etag"  # noqa: S608
    database.execute(f"create table objects as {rows}")


def _load(
    database: duckdb.DuckDBPyConnection,
    table: str,
    columns: Sequence[str],
    location: str,
    model_version: str,
    storage: Storage,
) -> Iterator[tuple[pa.Schema, int]]:
    """Makes a table of a model version's rows in all part files below a location; yields each one's schema and rows."""
    kept = [name for name in columns if name != "model_version"]
    database.execute(f"create table {table} ({', '.join(f'{name} varchar' for name in kept)})")
    insert = f"insert into {table} select {', '.join(kept)} from part where model_version = ?"  # noqa: S608
    for part in _in_order(partial(_columns_of, columns, storage), held_files(location, storage)):
        database.register("part", part)
        database.execute(insert, [model_version])
        database.unregister("part")
        yield part.schema, len(part)


def _hold_listed(database: duckdb.DuckDBPyConnection, held: str) -> None:
    """Adds to a table of versions that are held those that were listed in place of them."""
    database.execute(f"insert into {held} select uri, listed_etag from versions join {held} using (uri, etag)")  # noqa: S608


def _subtract_held(database: duckdb.DuckDBPyConnection, rows: str, held: str, rest: str) -> None:
    """Makes the table `rest`: `rows` less what is held."""
    database.execute(f"create table {rest} as from {rows} anti join {held} using (uri, etag)")


def _count_other_files(database: duckdb.DuckDBPyConnection) -> int:
    """Return how many of the objects that failed before are no posters."""
    other = f"(from tried where reason = '{OTHER_FILE}')"
    failed = "unscored anti join untried using (uri)"
    query = f"select count(distinct uri) from {failed} semi join {other} as other using (uri)"  # noqa: S608
    return int(database.execute(query).fetchall()[0][0])


def _worklist_of(rows: str, *, may_repeat: bool) -> str:
    """The query of the worklist: one row for each object among `rows`, with what is listed and held of it."""
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
    """These columns of a part file as texts, etags in their one form; null where the file has no such column."""
    with storage.open(info) as file:
        found = pyarrow.parquet.ParquetFile(file).read(columns=list(names))
    if missing := [name for name in KEY if name not in found.column_names]:
        raise pa.ArrowInvalid(f"{info.uri} has no column {missing[0]}")
    for name in names:
        if name not in found.column_names:
            found = found.append_column(name, pa.nulls(len(found), pa.string()))
    return found.set_column(found.column_names.index("etag"), "etag", etag_keys(found["etag"]))


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


def _count_objects(database: duckdb.DuckDBPyConnection, table: str, inventory: Inventory) -> int:
    count = "count(distinct uri)" if inventory.may_repeat else "count(*)"
    return int(database.execute(f"select {count} from {table}").fetchall()[0][0])  # noqa: S608


def _write(database: duckdb.DuckDBPyConnection, query: str, file: Path, schema: pa.Schema) -> None:
    with pyarrow.parquet.ParquetWriter(file, schema, compression="lz4") as writer:
        for batch in database.sql(query).to_arrow_reader(65_536):
            writer.write_table(pa.Table.from_batches([batch]).cast(schema))
