"""The table that reads an output's files, Iceberg or Delta: one interface for `tag`, `compact` and `retag`."""

import logging
from collections.abc import Sequence

import pyarrow as pa

from genretag.output import delta_table, iceberg_table
from genretag.output.table_mark import marked_table, require_marked
from genretag.settings import TableSettings
from genretag.storage import Storage

logger = logging.getLogger(__name__)


def require_table(settings: TableSettings, output: str, schema: pa.Schema, storage: Storage) -> None:
    """Check that the table can take rows of `schema`, before anything is scored or written.

    A table that does not exist yet passes the check. If `settings` name no table, but a table has files of this output,
    log a warning. Raises `UsageError` if the table cannot be reached, has other columns, or is not the table that
    `OUTPUT/_table.json` names.
    """
    if settings.table is None:
        if marked := marked_table(output, storage):
            logger.warning("%s feeds the table %s: this night reaches it only with --table", output, marked)
    elif settings.is_delta:
        delta_table.require_table(settings, output, schema, storage)
    else:
        iceberg_table.require_table(settings, output, schema, storage)


def commit_parts(settings: TableSettings, output: str, run_id: str, model_version: str, storage: Storage) -> int | None:
    """Add all prediction files that were never committed to the table, in one commit.

    Return the id of the Iceberg snapshot, or the version of the Delta table. Return None if there is nothing to add, or
    no table is set. The commit names the run and the model version. Only the run that holds the output's lock may call
    this. Raises `UsageError` or `JobError`; the table is then unchanged.
    """
    if settings.table is None:
        return None
    kind = delta_table if settings.is_delta else iceberg_table
    return kind.commit_parts(settings, output, run_id, model_version, storage)


def files_of_table(settings: TableSettings, output: str, storage: Storage) -> dict[str, int] | None:
    """Return the URIs of the files that the table reads, each with the number of its commit (0 for Delta).

    Return None if no table is set, and no files if the table does not exist yet. Raises `UsageError` if
    `OUTPUT/_table.json` names another table than `settings`, or if a merge could do harm.
    """
    require_marked(settings, output, storage)
    if settings.table is None:
        return None
    kind = delta_table if settings.is_delta else iceberg_table
    return kind.files_of_table(settings, output, storage)


def switch_files(
    settings: TableSettings,
    output: str,
    old: Sequence[str],
    new: Sequence[str],
    storage: Storage,
    *,
    same_rows: bool = True,
) -> bool:
    """Make the table read the files `new` instead of `old`, in one commit. Return whether it reads `new` afterwards.

    `old` and `new` are URIs of files about the same posters. If `same_rows` is false, their rows differ, as after
    `retag`; readers of a Delta table's changes then see them. If the table does not read all of `old`, do not change
    the table: the switch is done already, or another program has rewritten files. Raises `UsageError` or `JobError`.
    """
    if settings.is_delta:
        return delta_table.switch_files(settings, output, old, new, storage, same_rows=same_rows)
    return iceberg_table.switch_files(settings, output, old, new, storage)


def forget_snapshots(settings: TableSettings, output: str, since: int, storage: Storage) -> None:
    """Expire an Iceberg table's snapshots whose files a merge deletes: those from the commit `since` on.

    A Delta table keeps its history. As after Delta's own VACUUM, versions before the merge cannot be read any more.
    Raises `UsageError` or `JobError`.
    """
    if not settings.is_delta:
        iceberg_table.forget_snapshots(settings, output, since, storage)
