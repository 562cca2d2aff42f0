"""One row per object to be tagged, from a folder, a prefix or a manifest, spooled to disk as it arrives.

Nothing here holds more than a few thousand rows in memory, so that ten million objects cost disk, not the driver.
"""

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from genretag.errors import UsageError
from genretag.storage import ObjectInfo, Storage, StorageError, resolve
from genretag.storage.etags import etag_keys
from genretag.storage.listing_tables import to_table
from genretag.tagging.manifests import is_manifest, is_s3_inventory, read_manifest, read_s3_inventory

SCHEMA = pa.schema(
    [
        pa.field("poster_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("etag", pa.string(), nullable=False),
        pa.field("size", pa.int64()),
        pa.field("last_modified", pa.timestamp("us", "UTC")),
    ]
)
CARRIED = "carried"  # a struct of the manifest's columns that the output is to have
ROWS_PER_GROUP = 65_536
LOOKUPS_AT_ONCE = 64


@dataclass(frozen=True)
class Inventory:
    """Rows of `SCHEMA`, and the struct column `carried` where columns are carried through, in a Parquet file."""

    file: Path
    rows: int
    may_repeat: bool  # a manifest may name an object twice, a listing never does

    @property
    def schema(self) -> pa.Schema:
        """The columns of the rows."""
        return pyarrow.parquet.read_schema(self.file)

    def table(self) -> pa.Table:
        """All rows at once, for those who know that they are few."""
        return pyarrow.parquet.read_table(self.file)


def take_inventory(
    images: str, storage: Storage, folder: Path, leave_out: str | None = None, carry: Sequence[str] = ()
) -> Inventory:
    """Lists a location into a file in `folder`; objects below `leave_out` (the output) do not count.

    Raises `UsageError` where the place is missing, empty, closed to us, or a manifest cannot be read.
    """
    source = resolve(images)
    from_manifest = is_manifest(source)
    try:
        if from_manifest:
            tables = read_manifest(source, storage, folder, carry)
        elif carry:
            raise UsageError(f"--carry takes columns of a manifest, and {source} is none: name a .csv or .parquet file")
        elif is_s3_inventory(source):
            tables = read_s3_inventory(source, storage, folder)
        else:
            tables = storage.list_tables(source)
        inventory = _spool(tables, folder / "inventory.parquet", storage, leave_out, from_manifest)
    except StorageError as error:
        raise UsageError(f"cannot read the images: {error}") from error
    if not inventory.rows:
        raise UsageError(f"there is no image at {source}: name a folder, an s3:// prefix or a manifest")
    return inventory


def read_inventory(images: str, storage: Storage) -> pa.Table:
    """The inventory of a location as one table, where that is known to fit in memory. Raises `UsageError`."""
    with tempfile.TemporaryDirectory(prefix="genretag-") as folder:
        return take_inventory(images, storage, Path(folder)).table()


def inventory_of(uris: list[str]) -> pa.Table:
    """An inventory of objects that were not listed: etags and sizes unknown."""
    return with_all_columns(pa.table({"uri": pa.array(uris, pa.string()), "etag": pa.array([""] * len(uris))}))


def poster_ids(uris: Any) -> Any:
    """The keys' stems: `s3://films/1987/tt0093010.jpg` -> `tt0093010`. An Arrow array of strings to another."""
    names = pc.replace_substring_regex(uris, r"(?s)^.*/([^/]+)/*$", r"\1")
    return pc.replace_substring_regex(names, r"(?s)^(\.*[^.].*)\.[^.]*$", r"\1")


def _spool(
    tables: Iterable[pa.Table], file: Path, storage: Storage, leave_out: str | None, may_repeat: bool
) -> Inventory:
    """Writes tables with at least a `uri` to a Parquet file; what they lack is looked up or filled in.

    Of a manifest (`may_repeat`), objects whose etag is not given are looked up.
    """
    output = f"{resolve(leave_out)}/" if leave_out else None
    writer, rows = None, 0
    with ThreadPoolExecutor(LOOKUPS_AT_ONCE) as threads:
        try:
            for table in _in_groups(tables):
                if output is not None:
                    table = table.filter(pc.invert(pc.starts_with(table["uri"], output)))
                table = _with_etags(table, storage, threads, look_up=may_repeat)
                table = with_all_columns(table)
                writer = writer or pyarrow.parquet.ParquetWriter(file, table.schema, compression="lz4")
                writer.write_table(table)
                rows += len(table)
        finally:
            if writer:
                writer.close()
    return Inventory(file, rows, may_repeat)


def _in_groups(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in tables of about `ROWS_PER_GROUP`: pages of a listing are small."""
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        if sum(map(len, waiting)) >= ROWS_PER_GROUP:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def _with_etags(table: pa.Table, storage: Storage, threads: ThreadPoolExecutor, *, look_up: bool) -> pa.Table:
    """The table with etags in their one form; with `look_up`, objects without one are asked for, one by one."""
    columns = {name: table[name] for name in table.column_names}
    columns["etag"] = etag_keys(columns.get("etag", pa.chunked_array([pa.nulls(len(table), pa.string())])))
    unknown = pc.equal(columns["etag"], "").combine_chunks()
    if look_up and pc.any(unknown).as_py():
        uris = table["uri"].filter(unknown).to_pylist()
        found = to_table(list(threads.map(lambda uri: _stat_or_unknown(uri, storage), uris)))
        for name in ("etag", "size", "last_modified"):
            given = columns.get(name, pa.nulls(len(table), found[name].type))
            columns[name] = pc.replace_with_mask(given, unknown, found[name].combine_chunks())
        columns["etag"] = etag_keys(columns["etag"])
    return pa.table(columns)


def _stat_or_unknown(uri: str, storage: Storage) -> ObjectInfo:
    """An object that cannot be looked up has no etag: fetching it will say what is wrong."""
    try:
        return storage.stat(uri)
    except StorageError:
        return ObjectInfo.unknown(uri)


def with_all_columns(table: pa.Table) -> pa.Table:
    """The columns of `SCHEMA` in its order, unknown ones null, and `carried` where it is there."""
    columns = {name: table[name] for name in table.column_names}
    if "poster_id" not in columns:
        columns["poster_id"] = poster_ids(table["uri"])
    schema = SCHEMA
    if CARRIED in columns:
        schema = SCHEMA.append(pa.field(CARRIED, columns[CARRIED].type))
    values = [columns[f.name].cast(f.type) if f.name in columns else pa.nulls(len(table), f.type) for f in schema]
    return pa.table(values, schema=schema)
