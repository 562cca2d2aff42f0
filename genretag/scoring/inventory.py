"""Inventory: a Parquet file with one row per object to tag, from a folder, an S3 prefix or a manifest.

`take_inventory` writes rows to disk while it lists, and keeps about 65,000 rows in memory. So ten million objects cost
disk, not the driver's memory.

The module also chooses the types of the columns that `--carry` copies from a manifest to the output. All runs must
write the same types.
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
    """Return the fields of the output for the columns that `--carry` copies from a manifest.

    `columns` is the type of the inventory's column `carried`. `held` is the schema of the predictions that the output
    already has, or None if it has none. A timestamp gets the unit and the time zone of the output's column of that
    name, if both columns have a time zone or neither has one. A column without any value (type `null`) gets the type of
    the output's column, or string if the output lacks the column. Other columns keep the type that the manifest has.
    """
    types = {} if held is None else {field.name: field.type for field in held}
    return tuple(column.with_type(_type(column.type, types.get(column.name))) for column in columns)


def _type(tonight: pa.DataType, held: pa.DataType | None) -> pa.DataType:
    """Return the type of one carried column in the output, by the rules of `carried_fields`.

    `tonight` is the column's type in this run's manifest. `held` is its type in the output, or None if the output lacks
    the column.
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
    """A Parquet file with one row per object to tag, in the columns of `SCHEMA`.

    If `--carry` names columns of a manifest, the file also has these, as fields of the struct column `carried`.
    """

    file: Path
    rows: int
    may_repeat: bool  # True for a manifest, which may name an object twice; False for a listing

    @property
    def schema(self) -> pa.Schema:
        """Schema of the rows."""
        return pyarrow.parquet.read_schema(self.file)

    def table(self) -> pa.Table:
        """Return all rows as one table. Use this method only for inventories that fit in memory."""
        return pyarrow.parquet.read_table(self.file)


def take_inventory(
    images: str, storage: Storage, folder: Path, leave_out: str | None = None, carry: Sequence[str] = ()
) -> Inventory:
    """Write one row for each object at `images` to a Parquet file in the local folder `folder`. Return the inventory.

    `images` is a folder, a prefix of a bucket, a manifest or the `manifest.json` of an S3 Inventory. Objects below the
    location `leave_out`, such as the output, are left out. If it is None, no object is left out. `carry` names the
    columns of a manifest to copy to the column `carried`. Raises `UsageError` if `images` is missing, empty or cannot
    be read, if a manifest is invalid, or if `carry` is given without a manifest.
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
        raise UsageError(f"there is no image at {source}: name a folder, a prefix of a bucket or a manifest")
    return inventory


def read_inventory(images: str, storage: Storage) -> pa.Table:
    """Return the objects at the location `images` as one table with the columns of `SCHEMA`.

    The table must fit in memory. Raises `UsageError` if the location is missing, empty or cannot be read, or if a
    manifest is invalid.
    """
    with tempfile.TemporaryDirectory(prefix="genretag-") as folder:
        return take_inventory(images, storage, Path(folder)).table()


def inventory_of(uris: list[str]) -> pa.Table:
    """Return a table with the columns of `SCHEMA` for these URIs. Etags are empty, and sizes and times are null."""
    return with_all_columns(pa.table({"uri": pa.array(uris, pa.string()), "etag": pa.array([""] * len(uris))}))


def poster_ids(uris: Any) -> Any:
    """Return the poster id of each URI: its file name without ending. `s3://films/1987/tt0093010.jpg` -> `tt0093010`.

    `uris` and the result are Arrow arrays of strings.
    """
    names = pc.replace_substring_regex(uris, r"(?s)^.*/([^/]+)/*$", r"\1")
    return pc.replace_substring_regex(names, r"(?s)^(\.*[^.].*)\.[^.]*$", r"\1")


def in_groups(tables: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """Join small tables, such as the pages of a listing, into tables of at least `rows` rows.

    The last table may have fewer rows.
    """
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        if sum(map(len, waiting)) >= rows:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def _spool(
    tables: Iterable[pa.Table], file: Path, storage: Storage, leave_out: str | None, may_repeat: bool
) -> Inventory:
    """Write the rows of `tables` to the Parquet file `file`, and return it as an inventory.

    The tables have at least the column `uri`. Other columns are added if they are missing (`with_all_columns`). Objects
    below the location `leave_out` are left out. If `may_repeat` is true, as for a manifest, look up missing etags in
    the store.
    """
    output = f"{resolve(leave_out)}/" if leave_out else None
    writer, rows = None, 0
    with ThreadPoolExecutor(LOOKUPS_AT_ONCE) as threads:
        try:
            for table in in_groups(tables, ROWS_PER_GROUP):
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


def _with_etags(table: pa.Table, storage: Storage, threads: ThreadPoolExecutor, *, look_up: bool) -> pa.Table:
    """Return the table with etags that `etag_key` normalized. An unknown etag is an empty text.

    If `look_up` is true, first ask the store for the etag, size and time of each object whose etag is unknown.
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
    """Look up an object's etag, size and time in the store. If that fails, return an object with an empty etag.

    The fetch of the object will fail later for the same reason, and will report it.
    """
    try:
        return storage.stat(uri)
    except StorageError:
        return ObjectInfo.unknown(uri)


def with_all_columns(table: pa.Table) -> pa.Table:
    """Return the table with exactly the columns of `SCHEMA`, followed by `carried` if the table has it.

    A missing `poster_id` is made from the URI (`poster_ids`). Other missing columns are null.
    """
    columns = {name: table[name] for name in table.column_names}
    if "poster_id" not in columns:
        columns["poster_id"] = poster_ids(table["uri"])
    schema = SCHEMA
    if CARRIED in columns:
        schema = SCHEMA.append(pa.field(CARRIED, columns[CARRIED].type))
    values = [columns[f.name].cast(f.type) if f.name in columns else pa.nulls(len(table), f.type) for f in schema]
    return pa.table(values, schema=schema)
