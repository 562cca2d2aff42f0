"""One row per object to be tagged, from a folder, a prefix, or a manifest with a `uri` column."""

import io
import posixpath
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pyarrow as pa

from genretag.errors import UsageError, one_line
from genretag.storage import S3, ObjectInfo, Storage, StorageError, join, resolve

SCHEMA = pa.schema(
    [
        pa.field("poster_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("etag", pa.string(), nullable=False),
        pa.field("size", pa.int64()),
        pa.field("last_modified", pa.timestamp("us", "UTC")),
    ]
)
MANIFESTS = (".parquet", ".csv")
STAT_THREADS = 32


def read_inventory(images: str, storage: Storage, leave_out: str | None = None) -> pa.Table:
    """Lists a location into a table of `SCHEMA`; objects below `leave_out` (the output) do not count.

    Raises `UsageError` where the place is missing, empty, closed to us, or a manifest cannot be read.
    """
    source = resolve(images)
    try:
        if source.lower().endswith(MANIFESTS):
            return _read_manifest(source, storage)
        pages = storage.list(source)
        output = f"{resolve(leave_out)}/" if leave_out else None
        tables = [_table(info for info in page if output is None or not info.uri.startswith(output)) for page in pages]
    except StorageError as error:
        raise UsageError(f"cannot read the images: {error}") from error
    inventory = pa.concat_tables([SCHEMA.empty_table(), *tables])
    if not len(inventory):
        raise UsageError(f"there is no image at {source}: name a folder, an s3:// prefix or a manifest")
    return inventory


def poster_id_of(uri: str) -> str:
    """The key's stem: `s3://films/1987/tt0093010.jpg` -> `tt0093010`."""
    name = posixpath.basename(uri)
    stem, _ = posixpath.splitext(name)
    return stem or name


def inventory_of(uris: list[str], ids: list[str] | None = None, etags: list[str] | None = None) -> pa.Table:
    """An inventory of objects that were not listed: sizes unknown, and etags too where they are not given."""
    columns = {
        "poster_id": ids or [poster_id_of(uri) for uri in uris],
        "uri": uris,
        "etag": etags or [""] * len(uris),
        **{name: pa.nulls(len(uris), SCHEMA.field(name).type) for name in ("size", "last_modified")},
    }
    return pa.table(columns, schema=SCHEMA)


def _table(objects: Iterable[ObjectInfo], ids: list[str] | None = None) -> pa.Table:
    found = list(objects)
    columns = [
        ids or [poster_id_of(o.uri) for o in found],
        [o.uri for o in found],
        [o.etag for o in found],
        [o.size_bytes for o in found],
        [o.last_modified for o in found],
    ]
    return pa.Table.from_arrays([pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)], schema=SCHEMA)


def _read_manifest(source: str, storage: Storage) -> pa.Table:
    manifest = _parse_manifest(source, bytes(storage.get(source).data))
    if "uri" not in manifest.column_names:
        columns = one_line(", ".join(manifest.column_names))
        raise UsageError(f"the manifest {source} has no column `uri`: it has {columns}")
    uris = _as_strings(manifest, "uri", source)
    if not uris:
        raise UsageError(f"the manifest {source} has no rows")
    folder = posixpath.dirname(source)
    uris = [uri if uri.startswith((S3, "/")) else join(folder, uri) for uri in uris]
    names = manifest.column_names
    ids = _as_strings(manifest, "poster_id", source) if "poster_id" in names else None
    if "etag" in names:
        return inventory_of(uris, ids, _as_strings(manifest, "etag", source))
    with ThreadPoolExecutor(STAT_THREADS) as threads:
        return _table(threads.map(lambda uri: _stat_or_unknown(uri, storage), uris), ids)


def _parse_manifest(source: str, data: bytes) -> pa.Table:
    import pyarrow.csv
    import pyarrow.parquet

    try:
        if source.lower().endswith(".csv"):
            as_text = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(("uri", "poster_id", "etag"), pa.string()))
            return pyarrow.csv.read_csv(io.BytesIO(data), convert_options=as_text)
        return pyarrow.parquet.read_table(io.BytesIO(data))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise UsageError(f"the manifest {source} cannot be read: {one_line(error)}") from error


def _as_strings(manifest: pa.Table, column: str, source: str) -> list[str]:
    values: list[str | None] = manifest[column].cast(pa.string()).to_pylist()
    for row, value in enumerate(values):
        if not value:
            raise UsageError(f"the manifest {source} has no `{column}` in row {row + 1}")
    return [value for value in values if value]


def _stat_or_unknown(uri: str, storage: Storage) -> ObjectInfo:
    """An object that cannot be looked up keeps an empty etag: fetching it will say what is wrong."""
    try:
        return storage.stat(uri)
    except StorageError:
        return ObjectInfo(uri, "", 0, datetime.fromtimestamp(0, UTC))
