"""Inventory: one row per object to be tagged, from a folder, a prefix or a manifest, spooled to disk as it arrives.

Nothing here holds more than a few thousand rows in memory. So ten million objects cost disk, not the driver's memory.

The module also chooses the types of the columns that are carried from a manifest to the output. The types are the same
in every run, on every machine.
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
from genretag.output.schema import CARRIED
from genretag.scoring.manifests import is_manifest, is_s3_inventory, read_manifest, read_s3_inventory
from genretag.storage import ObjectInfo, Storage, StorageError, resolve
from genretag.storage.objects import etag_keys
from genretag.storage.s3_listing import to_table


def carried_fields(columns: pa.StructType, held: pa.Schema | None) -> tuple[pa.Field, ...]:
    """Return the fields that the output will have for the carried columns of a manifest.

    `columns` is the type of the inventory's column `carried`. `held` is the schema of the output's predictions, None if
    there are none. Times keep the unit and the zone that the output has. A column without a single value (type `null`)
    gets the type of the output's column, or text if there is none yet. Other columns keep the type of the manifest.
    """
    types = {} if held is None else {field.name: field.type for field in held}
    return tuple(column.with_type(_type(column.type, types.get(column.name))) for column in columns)


def _type(tonight: pa.DataType, held: pa.DataType | None) -> pa.DataType:
    """Return the output's type for one carried column.

    `tonight` is its type in the manifest, and `held` its type in the output, None if the output lacks the column.
    """
    if pa.types.is_null(tonight):
        return pa.string() if held is None else held
    if held is None or not (pa.types.is_timestamp(held) and pa.types.is_timestamp(tonight)):
        return tonight
    return held if (held.tz is None) == (tonight.tz is None) else tonight


SCHEMA = pa.schema(
    [
        pa.field("poster_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("etag", pa.string(), nullable=False),
        pa.field("size", pa.int64()),
        pa.field("last_modified", pa.timestamp("us", "UTC")),
    ]
)
ROWS_PER_GROUP = 65_536
LOOKUPS_AT_ONCE = 64


@dataclass(frozen=True)
class Inventory:
    """The Parquet file of an inventory, with rows of `SCHEMA`.

    If columns are carried from a manifest, there is also the struct column `carried`.
    """

    file: Path
    rows: int
    may_repeat: bool  # a manifest may name an object twice, a listing never does

    @property
    def schema(self) -> pa.Schema:
        """Schema of the rows."""
        return pyarrow.parquet.read_schema(self.file)

    def table(self) -> pa.Table:
        """Return all rows as one table, for callers who know that there are few."""
        return pyarrow.parquet.read_table(self.file)


def take_inventory(
    images: str, storage: Storage, folder: Path, leave_out: str | None = None, carry: Sequence[str] = ()
) -> Inventory:
    """List the objects at `images` into a file in `folder`, and return the inventory.

    `images` is a folder, an s3:// prefix, a manifest or an S3 Inventory. Objects below `leave_out`, the output, are
    left out. `carry` names columns of a manifest to keep in `carried`. Raises `UsageError` if the place is missing,
    empty or cannot be read, or if a manifest is wrong.
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
    """Return the inventory of a location as one table, which must fit in memory.

    Raises `UsageError` as `take_inventory` does.
    """
    with tempfile.TemporaryDirectory(prefix="genretag-") as folder:
        return take_inventory(images, storage, Path(folder)).table()


def inventory_of(uris: list[str]) -> pa.Table:
    """Return an inventory of objects that were not listed, from their URIs. Etags are empty and sizes are null."""
    return with_all_columns(pa.table({"uri": pa.array(uris, pa.string()), "etag": pa.array([""] * len(uris))}))


def poster_ids(uris: Any) -> Any:
    """Return the file names of URIs without their endings: `s3://films/1987/tt0093010.jpg` -> `tt0093010`.

    `uris` and the result are Arrow arrays of strings.
    """
    names = pc.replace_substring_regex(uris, r"(?s)^.*/([^/]+)/*$", r"\1")
    return pc.replace_substring_regex(names, r"(?s)^(\.*[^.].*)\.[^.]*$", r"\1")


def _spool(
    tables: Iterable[pa.Table], file: Path, storage: Storage, leave_out: str | None, may_repeat: bool
) -> Inventory:
    """Write the rows of `tables`, which have at least `uri`, to the Parquet file of the returned inventory.

    Missing columns are filled in. Objects below `leave_out` are left out. In a manifest (`may_repeat`), the store is
    asked for missing etags.
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
    """Yield the same rows in tables of at least `ROWS_PER_GROUP` rows, because the pages of a listing are small.

    The last table may have fewer.
    """
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        if sum(map(len, waiting)) >= ROWS_PER_GROUP:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def _with_etags(table: pa.Table, storage: Storage, threads: ThreadPoolExecutor, *, look_up: bool) -> pa.Table:
    """Return the table with each etag as `etag_key` gives it, empty if unknown.

    If `look_up` is true, ask the store for the etag, size and time of objects without an etag.
    """
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
    """Return an object's etag, size and time. If the lookup fails, return no etag.

    Fetching the object will then say what is wrong.
    """
    try:
        return storage.stat(uri)
    except StorageError:
        return ObjectInfo.unknown(uri)


def with_all_columns(table: pa.Table) -> pa.Table:
    """Return the table with the columns of `SCHEMA`, in its order, and `carried` if the table has it.

    A missing `poster_id` comes from the URI. Other missing columns are null.
    """
    columns = {name: table[name] for name in table.column_names}
    if "poster_id" not in columns:
        columns["poster_id"] = poster_ids(table["uri"])
    schema = SCHEMA
    if CARRIED in columns:
        schema = SCHEMA.append(pa.field(CARRIED, columns[CARRIED].type))
    values = [columns[f.name].cast(f.type) if f.name in columns else pa.nulls(len(table), f.type) for f in schema]
    return pa.table(values, schema=schema)
