"""Commits a finished night to an Iceberg table: all its part files, or none of them, in one snapshot.

The table refers to the part files where they stand. It is not partitioned: they have no column `dt`, and a night may
end on another day than it began, which no transform of `scored_at` survives; its statistics prune files by day anyway.

Which runs a table has taken stands in its properties `genretag.runs.YYYY-MM`, changed in the same commit. So a commit
is never made twice, a dead run's files are committed by the next run, and nothing comes back after other programs have
rewritten the table's files or removed rows.
"""

import json
import logging
import posixpath
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeVar

import pyarrow as pa
import pyarrow.parquet

from genretag.errors import UsageError, one_line, unreadable_output
from genretag.iceberg.catalog import (
    create_table,
    errors_of_the_catalog,
    is_new_database,
    load_table,
    named_if_missing,
    open_catalog,
)
from genretag.iceberg.settings import TableSettings
from genretag.storage import Storage, StorageError, join
from genretag.tagging.held_files import held_files

if TYPE_CHECKING:
    from pyiceberg.manifest import ManifestEntry
    from pyiceberg.table import Table

Result = TypeVar("Result")

MARK = "_table.json"
RUNS = "genretag.runs."
ATTEMPTS = 5  # at a commit that other writers of the table came before
WAIT_S = 0.1  # after the first of them, twice as long after each other
PART = re.compile(r"part-(.+)-\d+\.parquet")

logger = logging.getLogger(__name__)


def require_table(settings: TableSettings, output: str, schema: pa.Schema, storage: Storage) -> None:
    """Checks, before anything is scored or written, that the table can take rows of `schema`.

    Raises `UsageError`. Where no table is set, warns of one that this output feeds.
    """
    if settings.table is None:
        if marked := marked_table(output, storage):
            logger.warning("%s feeds the table %s: this night reaches it only with --table", output, marked)
        return
    with errors_of_the_catalog(settings, output, retry_helps=False):
        new = is_new_database(settings, output)
        try:
            _require_mark(settings, output, storage)
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
    """Adds all prediction files that the table has not taken yet, in one commit, and returns the snapshot's id.

    None where there is nothing to add, or no table is set. Only the run that holds the output may call this.
    Raises `UsageError` or `JobError`; the table is then as it was.
    """
    parts = _part_files(output, storage) if settings.table else []
    if not parts:
        return None
    _mark(settings, output, storage)

    def add(table: "Table") -> int | None:
        held, taken = entries(table), runs_taken(table)
        new = [uri for uri in parts if _run_of(uri) not in taken and uri not in held]
        if not new:
            return None
        with table.transaction() as transaction:
            transaction.set_properties(runs_property(table, new))
            named = {"genretag.run_id": run_id, "genretag.model_version": model_version}
            transaction.add_files(new, snapshot_properties=named, check_duplicate_files=False)  # just done
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
    """Commits a change, and where another writer came first looks at the table again and decides again.

    Where there is no table, it is made with the columns of `schema`; without those nothing is done. pyiceberg's own
    retries are off: they would repeat the change as it was decided, and add the same files twice.
    """
    from pyiceberg.exceptions import CommitFailedException

    with open_catalog(settings, output, storage) as catalog:
        for attempt in range(ATTEMPTS):
            table = load_table(catalog, settings)
            if table is None and schema is not None:
                table = create_table(catalog, settings, output, schema)
            if table is None:
                return None
            table.metadata.properties["commit.retry.num-retries"] = "0"  # of this copy, not of the table
            try:
                return change(table)
            except CommitFailedException as error:
                if attempt == ATTEMPTS - 1:
                    raise
                logger.warning("another writer changed the table %s first: %s", settings.table, one_line(error))
                time.sleep(WAIT_S * 2**attempt)
    raise AssertionError("the last attempt returns or raises")


def entries(table: "Table") -> dict[str, "ManifestEntry"]:
    """The data files of the table's current snapshot, by their locations."""
    from pyiceberg.utils.concurrent import ExecutorFactory

    snapshot = table.current_snapshot()
    if snapshot is None:
        return {}
    read = ExecutorFactory.get_or_create().map(lambda m: m.fetch_manifest_entry(table.io), snapshot.manifests(table.io))
    return {entry.data_file.file_path: entry for found in read for entry in found}


def runs_taken(table: "Table") -> set[str]:
    """The runs whose files were committed to the table at some time."""
    return {run for name, runs in table.properties.items() if name.startswith(RUNS) for run in runs.split(",")}


def runs_property(table: "Table", uris: Iterable[str]) -> dict[str, str]:
    """The properties that also name the runs of these files, one for each month: some catalogues limit the length."""
    months: dict[str, set[str]] = defaultdict(set)
    for run in {_run_of(uri) for uri in uris}:
        months[f"{RUNS}{run[:4]}-{run[4:6]}"].add(run)
    return {
        name: ",".join(sorted(runs.union(filter(None, table.properties.get(name, "").split(",")))))
        for name, runs in months.items()
    }


def marked_table(output: str, storage: Storage) -> str | None:
    """The table that reads this output's files, by `OUTPUT/_table.json`; none where there is none."""
    try:
        return str(json.loads(bytes(storage.get(join(output, MARK)).data))["table"])
    except StorageError as error:
        if error.reason == "not_found":
            return None
        raise unreadable_output(output, error) from error
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{join(output, MARK)} cannot be read: write the table's name into it again") from error


def _part_files(output: str, storage: Storage) -> list[str]:
    return sorted(info.uri for info in held_files(join(output, "predictions"), storage))


def _mark(settings: TableSettings, output: str, storage: Storage) -> None:
    """Leaves the table's name, so that nobody merges files behind its back."""
    _require_mark(settings, output, storage)
    if marked_table(output, storage) is None:
        storage.put(join(output, MARK), json.dumps({"table": settings.table}).encode())


def _require_mark(settings: TableSettings, output: str, storage: Storage) -> None:
    marked = marked_table(output, storage)
    if marked not in (None, settings.table):
        raise UsageError(
            f"{output} feeds the table {one_line(marked)} already: name that one, another output, "
            f"or remove {join(output, MARK)} if that table is gone"
        )


def _require_types(schema: pa.Schema) -> None:
    """Raises pyiceberg's own error for a type that Iceberg has not; its public converter wants field ids."""
    with named_if_missing():
        from pyiceberg.io.pyarrow import _pyarrow_to_schema_without_ids
    _pyarrow_to_schema_without_ids(schema)


def _require_columns(table: "Table", schema: pa.Schema) -> None:
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
    filesystem, path = storage.filesystem(part)
    with filesystem.open(path, "rb") as file:
        return pyarrow.parquet.read_schema(file)


def _run_of(part: str) -> str:
    """The run that wrote a part file, or merged it, by its name."""
    name = posixpath.basename(part)
    found = PART.fullmatch(name)
    return found[1] if found else name
