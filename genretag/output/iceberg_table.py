"""Iceberg table of an output: commits a run's part files in one snapshot, and switches a table to merged files.

A commit adds all prediction files of a finished run or none of them. The table refers to the files at their locations,
without a copy. The table is not partitioned, because `dt` (the date of a run) is in the names of folders and not in a
column. Readers can still skip files by day, because the table knows the range of `scored_at` in each file.

The table's properties `genretag.runs.YYYY-MM` list the runs whose files were committed. The commit that adds the files
also adds their runs. So no run is committed twice, and the next run commits the files of a dead run. If another program
rewrites the table's files or removes rows, later commits do not add the old files again.

A switch to other files with the same rows is also one commit. So readers of the table always see every row once.
"""

import logging
import posixpath
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

import pyarrow as pa
import pyarrow.parquet

from genretag.errors import UsageError, one_line
from genretag.output import parquet_files
from genretag.output.iceberg_catalog import (
    create_table,
    errors_of_the_catalog,
    is_new_database,
    load_table,
    named_if_missing,
    open_catalog,
)
from genretag.output.table_mark import mark, require_mark
from genretag.runtime.compat import require_iceberg_types
from genretag.settings import TableSettings
from genretag.storage import Storage, StorageError, join

if TYPE_CHECKING:
    from pyiceberg.manifest import ManifestEntry
    from pyiceberg.table import Table


logger = logging.getLogger(__name__)

Result = TypeVar("Result")

RUNS = "genretag.runs."
ATTEMPTS = 5  # to commit, if other writers commit first
WAIT_S = 0.1  # after the first attempt; doubled after each further attempt
PART = re.compile(r"part-(.+)-\d+\.parquet")


def require_table(settings: TableSettings, output: str, schema: pa.Schema, storage: Storage) -> None:
    """Check that the table can take rows of `schema`, before anything is scored or written.

    A table that does not exist yet passes the check. Raises `UsageError` if the table cannot be reached, has other
    columns, or is not the table that `OUTPUT/_table.json` names.
    """
    with errors_of_the_catalog(settings, output, retry_helps=False):
        new = is_new_database(settings, output)
        try:
            require_mark(settings, output, storage)
        except StorageError as error:
            raise UsageError(f"cannot read the output {output}: {error}") from error
        _require_types(schema)
        if new:
            return
        with open_catalog(settings, output, storage) as catalog:
            table = load_table(catalog, settings)
            if table is not None:
                _require_columns(table, schema)


def commit_parts(settings: TableSettings, output: str, run_id: str, model_version: str, storage: Storage) -> int | None:
    """Add all prediction files that were never committed to the table, in one commit. Return the snapshot's id.

    Return None if there is nothing to add. The snapshot's properties name the run and the model
    version. Only the run that holds the output's lock may call this. Raises `UsageError` or `JobError`; the table is
    then unchanged.
    """
    parts = _part_files(output, storage)
    if not parts:
        return None
    mark(settings, output, storage)

    def add(table: "Table") -> int | None:
        held, taken = entries(table), runs_taken(table)
        new = [uri for uri in parts if _run_of(uri) not in taken and uri not in held]
        if not new:
            return None
        with table.transaction() as transaction:
            transaction.set_properties(runs_property(table, new))
            named = {"genretag.run_id": run_id, "genretag.model_version": model_version}
            transaction.add_files(new, snapshot_properties=named, check_duplicate_files=False)  # checked above
        snapshot = table.current_snapshot()
        logger.info("%d files committed to the table %s", len(new), settings.table)
        return snapshot.snapshot_id if snapshot else None

    with errors_of_the_catalog(settings, output, retry_helps=True):
        return change_table(settings, output, storage, add, _columns(parts[0], storage))


def change_table(
    settings: TableSettings,
    output: str,
    storage: Storage,
    change: Callable[["Table"], Result],
    schema: pa.Schema | None = None,
) -> Result | None:
    """Load the table, call `change` on it, which commits a change, and return the result of `change`.

    If another writer committed first, load the table again and call `change` again, up to `ATTEMPTS` times in all. If
    the table does not exist, create it with the columns of `schema`; without `schema` return None. Pyiceberg's own
    retries are off: they would repeat the first attempt's change, and add the same files twice.
    """
    from pyiceberg.exceptions import CommitFailedException

    with open_catalog(settings, output, storage) as catalog:
        for attempt in range(ATTEMPTS):
            table = load_table(catalog, settings)
            if table is None and schema is not None:
                table = create_table(catalog, settings, output, schema)
            if table is None:
                return None
            table.metadata.properties["commit.retry.num-retries"] = "0"  # in this copy, not in the table
            try:
                return change(table)
            except CommitFailedException as error:
                if attempt == ATTEMPTS - 1:
                    raise
                logger.warning("another writer changed the table %s first: %s", settings.table, one_line(error))
                time.sleep(WAIT_S * 2**attempt)
    raise AssertionError("the last attempt returns or raises")


def entries(table: "Table") -> dict[str, "ManifestEntry"]:
    """Return the manifest entries of the table's current data files, by the files' URIs.

    If the table has no snapshot, return an empty dictionary.
    """
    from pyiceberg.utils.concurrent import ExecutorFactory

    snapshot = table.current_snapshot()
    if snapshot is None:
        return {}
    read = ExecutorFactory.get_or_create().map(lambda m: m.fetch_manifest_entry(table.io), snapshot.manifests(table.io))
    return {entry.data_file.file_path: entry for found in read for entry in found}


def runs_taken(table: "Table") -> set[str]:
    """Return the ids of the runs whose files were ever committed to the table, from the table's properties."""
    return {run for name, runs in table.properties.items() if name.startswith(RUNS) for run in runs.split(",")}


def runs_property(table: "Table", uris: Iterable[str]) -> dict[str, str]:
    """Return the table's properties that list its runs, after adding the runs that wrote the files `uris`.

    There is one property for each month, because some catalogues limit the length of a property. Months without an
    added run are left out.
    """
    months: dict[str, set[str]] = defaultdict(set)
    for run in {_run_of(uri) for uri in uris}:
        months[f"{RUNS}{run[:4]}-{run[4:6]}"].add(run)
    return {
        name: ",".join(sorted(runs.union(filter(None, table.properties.get(name, "").split(",")))))
        for name, runs in months.items()
    }


def _part_files(output: str, storage: Storage) -> list[str]:
    """Return the URIs of the output's prediction files, sorted."""
    return sorted(info.uri for info in parquet_files(join(output, "predictions"), storage))


def _require_types(schema: pa.Schema) -> None:
    """Raise pyiceberg's own error if Iceberg lacks a type of a column in `schema`."""
    with named_if_missing():
        require_iceberg_types(schema)


def _require_columns(table: "Table", schema: pa.Schema) -> None:
    """Raise `UsageError` if the table is partitioned or has other columns than `schema`."""
    from pyiceberg.io.pyarrow import pyarrow_to_schema

    if not table.spec().is_unpartitioned():
        raise UsageError(f"the table {'.'.join(table.name())} is partitioned, and part files are not: name another")
    theirs = {field.name: field for field in table.schema().fields}
    ours = set(schema.names)
    missing = sorted(ours - theirs.keys()) + sorted(n for n, f in theirs.items() if f.required and n not in ours)
    if not missing:
        as_theirs = pyarrow_to_schema(schema, name_mapping=table.schema().name_mapping)
        missing = [f.name for f in as_theirs.fields if f.field_type != theirs[f.name].field_type]
    if missing:
        raise UsageError(
            f"the table {'.'.join(table.name())} has other columns than this night: "
            f"{one_line(', '.join(missing))}; name another table"
        )


def _columns(part: str, storage: Storage) -> pa.Schema:
    """Return the schema of the part file at `part`."""
    filesystem, path = storage.filesystem(part)
    with filesystem.open(path, "rb") as file:
        return pyarrow.parquet.read_schema(file)


def _run_of(part: str) -> str:
    """Return the id of the run that wrote a part file, from the file's name.

    If the file is not named like a part file, return the file's name.
    """
    name = posixpath.basename(part)
    found = PART.fullmatch(name)
    return found[1] if found else name


def files_of_table(settings: TableSettings, output: str, storage: Storage) -> dict[str, int]:
    """Return the URIs of the files that the table reads, each with the sequence number of its commit.

    Return no files if the table does not exist yet. Raises `UsageError` if a merge could do harm: the table has delete
    files, or it has tags or branches. A merge deletes files that tags and branches may need.
    """
    with errors_of_the_catalog(settings, output, retry_helps=False):
        if is_new_database(settings, output):
            return {}
        with open_catalog(settings, output, storage) as catalog:
            table = load_table(catalog, settings)
            if table is None:
                return {}
            _require_replaceable(table)
            return {uri: entry.sequence_number or 0 for uri, entry in entries(table).items()}


def switch_files(
    settings: TableSettings, output: str, old: Sequence[str], new: Sequence[str], storage: Storage
) -> bool:
    """Make the table read the files `new` instead of `old`. Return whether the table reads `new` afterwards.

    `old` and `new` are URIs of files with the same rows. If the table does not read all of `old`, do not change the
    table: the switch is done already, or another program has rewritten files. Raises `UsageError` or `JobError`.
    """

    def switch(table: "Table") -> bool:
        from pyiceberg.io.pyarrow import parquet_file_to_data_file

        held = entries(table)
        if not all(uri in held for uri in old):
            return all(uri in held for uri in new)
        with table.transaction() as transaction:
            transaction.set_properties(runs_property(table, new))
            with transaction.update_snapshot().overwrite() as files:
                for uri in old:
                    files.delete_data_file(held[uri].data_file)
                for uri in new:
                    files.append_data_file(parquet_file_to_data_file(table.io, table.metadata, uri))
        return True

    with errors_of_the_catalog(settings, output, retry_helps=True):
        return bool(change_table(settings, output, storage, switch))


def forget_snapshots(settings: TableSettings, output: str, since: int, storage: Storage) -> None:
    """Expire the table's snapshots whose files a merge deletes: those from the sequence number `since` on.

    The current snapshot stays. Raises `UsageError` or `JobError`.
    """

    def expire(table: "Table") -> None:
        current = table.current_snapshot()
        if current is None:
            return
        number = current.sequence_number or 0
        stale = [s.snapshot_id for s in table.snapshots() if since <= (s.sequence_number or 0) < number]
        if stale:
            table.maintenance.expire_snapshots().by_ids(stale).commit()

    with errors_of_the_catalog(settings, output, retry_helps=True):
        change_table(settings, output, storage, expire)


def _require_replaceable(table: "Table") -> None:
    """Raise `UsageError` if the table has tags, branches or delete files.

    Delete files mark rows as deleted that the data files still hold.
    """
    from pyiceberg.manifest import ManifestContent

    name = ".".join(table.name())
    if others := sorted(ref for ref in table.refs() if ref != "main"):
        raise UsageError(f"a merge would take the files of older snapshots from {name}: drop {', '.join(others)} first")
    snapshot = table.current_snapshot()
    if snapshot and any(m.content == ManifestContent.DELETES for m in snapshot.manifests(table.io)):
        raise UsageError(
            f"rows of {name} were deleted without rewriting its files: rewrite them first, in that program"
        )
