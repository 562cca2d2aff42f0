"""A listing as Arrow columns, which cost a sixth of Python objects, and as objects, where they are few."""

from collections.abc import Sequence

import pyarrow as pa

from genretag.storage.objects import ObjectInfo

LISTING = pa.schema(
    [
        pa.field("uri", pa.string()),
        pa.field("etag", pa.string()),  # empty where an object could be listed but not looked at
        pa.field("size", pa.int64()),
        pa.field("last_modified", pa.timestamp("us", "UTC")),
    ]
)


def to_table(objects: Sequence[ObjectInfo]) -> pa.Table:
    """Columns of `LISTING`; what is not known of an object is null."""
    columns = [
        [info.uri for info in objects],
        [info.etag for info in objects],
        [info.size_bytes if info.etag else None for info in objects],
        [info.last_modified if info.etag else None for info in objects],
    ]
    return pa.table([pa.array(column, field.type) for column, field in zip(columns, LISTING, strict=True)], LISTING)


def to_objects(table: pa.Table) -> list[ObjectInfo]:
    """The rows of a table of `LISTING`."""
    return [
        ObjectInfo(uri, etag, size, modified) if etag else ObjectInfo.unknown(uri)
        for uri, etag, size, modified in zip(*(column.to_pylist() for column in table.columns), strict=True)
    ]
