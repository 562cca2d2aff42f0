"""Merges small Parquet files into large ones: the same rows in the same order, columns and key-value metadata."""

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from genretag.errors import JobError, UsageError, one_line
from genretag.storage import S3, ObjectInfo, Storage
from genretag.tagging.schema import writer_options

ROW_GROUP_ROWS = 122_880  # what DuckDB reads in one thread
ROW_GROUP_BYTES = 64 * 1024 * 1024  # in memory, before compression: this bounds what a merge holds


@dataclass(frozen=True)
class PartFile:
    """A part file, how many rows it has, and what makes it fit another: columns and key-value metadata."""

    uri: str
    size_bytes: int
    rows: int
    schema: pa.Schema


def read_footer(info: ObjectInfo, filesystem: Any) -> PartFile:
    """Reads a part file's footer through the filesystem of its place. Raises `UsageError` where it is none."""
    try:
        with filesystem.open(info.uri.removeprefix(S3), "rb") as file:
            footer = pyarrow.parquet.read_metadata(file)
    except pa.ArrowException as error:
        raise UsageError(f"{info.uri} is no part file ({one_line(error)}): remove it, it stands in the way") from error
    return PartFile(info.uri, info.size_bytes, footer.num_rows, footer.schema.to_arrow_schema())


def groups_of(parts: Sequence[PartFile], target_bytes: int) -> list[list[PartFile]]:
    """Which files go together: equal in columns and key-value metadata, so of one model, and up to the target."""
    alike: dict[bytes, list[PartFile]] = defaultdict(list)
    for part in sorted(parts, key=lambda part: part.uri):
        alike[part.schema.serialize().to_pybytes()].append(part)
    groups: list[list[PartFile]] = []
    for same in alike.values():
        size_bytes = target_bytes + 1  # the first file opens a group
        for part in same:
            size_bytes += part.size_bytes
            if size_bytes > target_bytes:
                groups.append([])
                size_bytes = part.size_bytes
            groups[-1].append(part)
    return [group for group in groups if len(group) > 1]


def concatenate(group: Sequence[PartFile], target: str, storage: Storage, filesystem: Any) -> None:
    """Writes a group's rows into one file, and makes sure that they are there; `filesystem` is that of the target.

    Memory holds one small file and one row group. Raises `StorageError`, `OSError` and `JobError`.
    """
    rows = sum(part.rows for part in group)
    write_whole(_large_row_groups(group, storage), group[0].schema, rows, target, filesystem)


def write_whole(tables: Iterable[pa.Table], schema: pa.Schema, rows: int, target: str, filesystem: Any) -> None:
    """Write tables into one part file, a row group each, and check that it has so many rows; it is then on the disk.

    Raises `OSError` and `JobError`.
    """
    path = target.removeprefix(S3)
    with (
        _durable(filesystem, path, local=not target.startswith(S3)) as sink,
        pyarrow.parquet.ParquetWriter(sink, schema, **writer_options(schema)) as writer,
    ):
        for table in tables:
            writer.write_table(table)
    with filesystem.open(path, "rb") as file:
        written = pyarrow.parquet.read_metadata(file).num_rows
    if written != rows:
        raise JobError(f"{target} has {written} rows instead of {rows}: nothing was replaced by it")


@contextmanager
def _durable(filesystem: Any, path: str, *, local: bool) -> Iterator[Any]:
    """A new file that is on the disk, not only in memory, when the block ends: what it replaces will be deleted."""
    if local:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    with filesystem.open(path, "wb") as file:
        yield file
        if local:
            file.flush()
            os.fsync(file.fileno())


def _large_row_groups(group: Sequence[PartFile], storage: Storage) -> Iterator[pa.Table]:
    waiting: list[pa.Table] = []
    rows = size_bytes = 0
    for part in group:
        with pyarrow.parquet.ParquetFile(pa.BufferReader(pa.py_buffer(storage.get(part.uri).data))) as file:
            for number in range(file.num_row_groups):
                waiting.append(file.read_row_group(number))
                rows += waiting[-1].num_rows
                size_bytes += waiting[-1].nbytes
                if rows >= ROW_GROUP_ROWS or size_bytes >= ROW_GROUP_BYTES:
                    yield pa.concat_tables(waiting)
                    waiting, rows, size_bytes = [], 0, 0
    if waiting:
        yield pa.concat_tables(waiting)
