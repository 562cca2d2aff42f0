"""Merging of small part files into large ones: same rows, same order, same columns, same key-value metadata.

The merged files are first written completely. Then `compaction_journal` replaces the old files by the merged files.
"""

import logging
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from genretag.errors import JobError, UsageError, one_line
from genretag.output.compaction_journal import Plan, Step, begin, carry_out, journal_of
from genretag.output.lock import require_held
from genretag.output.schema import require_known_format, writer_options
from genretag.settings import TableSettings
from genretag.storage import ObjectInfo, Storage, in_bucket, join
from genretag.storage.uris import path_in_files

logger = logging.getLogger(__name__)

ROW_GROUP_ROWS = 122_880  # DuckDB reads a row group of this size in one thread
ROW_GROUP_BYTES = 64 * 1024 * 1024  # in memory, before compression: bounds the memory of a merge


@dataclass(frozen=True)
class PartFile:
    """A Parquet file of an output, its size, row count and schema (columns and key-value metadata).

    Part files with the same schema can be merged.
    """

    uri: str
    size_bytes: int
    rows: int
    schema: pa.Schema


def read_footer(info: ObjectInfo, filesystem: Any) -> PartFile:
    """Read a part file's footer, and return its row count and schema as a `PartFile`.

    `filesystem` is the fsspec filesystem of the output. Raises `UsageError` if the file is not a Parquet file, or of an
    unknown format.
    """
    try:
        with filesystem.open(path_in_files(info.uri), "rb") as file:
            footer = pyarrow.parquet.read_metadata(file)
    except pa.ArrowException as error:
        raise UsageError(f"{info.uri} is no part file ({one_line(error)}): remove it, it stands in the way") from error
    schema = footer.schema.to_arrow_schema()
    require_known_format(schema, info.uri)
    return PartFile(info.uri, info.size_bytes, footer.num_rows, schema)


def groups_of(parts: Sequence[PartFile], target_bytes: int) -> list[list[PartFile]]:
    """Return groups of at least two files. Each group can be merged into one file of at most `target_bytes`.

    Files of a group have the same columns and key-value metadata. A file that fits into no group is left out.
    """
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
    """Write the rows of a group into the new file `target`. `filesystem` is the fsspec filesystem of the target.

    At most one small file and one row group are in memory. Raises `StorageError` if a file cannot be read, `OSError` if
    the target cannot be written, and `JobError` if the target lacks rows.
    """
    rows = sum(part.rows for part in group)
    write_whole(_large_row_groups(group, storage), group[0].schema, rows, target, filesystem)


def write_whole(tables: Iterable[pa.Table], schema: pa.Schema, rows: int, target: str, filesystem: Any) -> None:
    """Write tables into the new part file `target`, one row group per table, and check that it has `rows` rows.

    A local file is synced to the disk. `filesystem` is the fsspec filesystem of the target. Raises `OSError` if the
    file cannot be written, and `JobError` if the number of rows differs.
    """
    path = path_in_files(target)
    with (
        _durable(filesystem, path, local=not in_bucket(target)) as sink,
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
    """Open a new file for the block. After the block, sync a local file to the disk.

    Without the sync, a crash of the machine could lose the new file after the old files were deleted.
    """
    if local:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    with filesystem.open(path, "wb") as file:
        yield file
        if local:
            file.flush()
            os.fsync(file.fileno())


def _large_row_groups(group: Sequence[PartFile], storage: Storage) -> Iterator[pa.Table]:
    """Yield the rows of a group's files in tables, each of which becomes one large row group."""
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


FILES_PER_PLAN = 2_000  # if the run dies, it loses at most the merge of this many files
BYTES_PER_PLAN = 8 << 30  # or of this many bytes; old and new files exist together for a while


@dataclass(frozen=True)
class Replacement:
    """Groups of part files in one `dt=` folder (one date) that are replaced together, each group by one new file."""

    folder: str  # below the output
    groups: list[list[PartFile]]
    since: int | None  # sequence number of the table's first commit with one of the files; None if no table reads them

    @property
    def files(self) -> list[PartFile]:
        """All part files to replace, from all groups."""
        return [part for group in self.groups for part in group]

    @property
    def size_bytes(self) -> int:
        """Size of all replaced files together, in bytes."""
        return sum(part.size_bytes for part in self.files)


def replace_files(
    replacements: Iterable[Replacement],
    write: Callable[[list[PartFile], str], None],
    run_id: str,
    output: str,
    storage: Storage,
    table: TableSettings,
    at_once: int = 1,
    *,
    same_rows: bool = True,
) -> Iterator[Replacement]:
    """Replace part files by new files, some thousand files at a time. Yield each replacement after it is done.

    `write(group, location)` writes the rows of a group into one new file at that location. It runs in `at_once`
    threads. Set `same_rows` to False if the new files have other genres. Only the run that holds the output's lock may
    call this.

    Raises `OutputHeldError` if another run took the output over. Also raises `StorageError` and the exceptions of
    `write` and `carry_out`.
    """
    filesystem, _ = storage.filesystem(output)
    journal = journal_of(output, run_id)
    names = (f"part-{run_id}-{number:05d}.parquet" for number in count())
    with ThreadPoolExecutor(at_once) as threads:
        for together in _in_plans(replacements):
            steps = []
            for one in together:
                new = tuple(join(one.folder, next(names)) for _ in one.groups)
                list(threads.map(write, one.groups, [join(journal, name) for name in new]))
                old = tuple(part.uri.removeprefix(output + "/") for part in one.files)
                steps.append(Step(old, new, sum(part.rows for part in one.files)))
            since = min((one.since for one in together if one.since is not None), default=None)
            plan = Plan(run_id, tuple(steps), None if since is None else table.name, since, same_rows)
            require_held(output, run_id, storage)  # otherwise the plan could name files that another run has removed
            begin(plan, output, storage)
            carry_out(plan, output, storage, filesystem, table)
            logger.info("up to %s: %d files became %d", together[-1].folder, len(plan.old), len(plan.new))
            yield from together


def _in_plans(replacements: Iterable[Replacement]) -> Iterator[list[Replacement]]:
    """Divide replacements of part files into lists. The replacements of a list are carried out together.

    Files that an Iceberg table reads and files that it does not read are never in the same list. A list is full when it
    has `FILES_PER_PLAN` files or `BYTES_PER_PLAN` bytes.
    """
    waiting: list[Replacement] = []
    for one in replacements:
        mixed = waiting and (waiting[0].since is None) != (one.since is None)
        full = sum(len(other.files) for other in waiting) >= FILES_PER_PLAN
        if mixed or full or sum(other.size_bytes for other in waiting) >= BYTES_PER_PLAN:
            yield waiting
            waiting = []
        waiting.append(one)
    if waiting:
        yield waiting
