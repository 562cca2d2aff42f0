"""Lets an Iceberg table read other files with the same rows, in one commit: at any time each row is there once."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from genretag.errors import UsageError
from genretag.iceberg.catalog import errors_of_the_catalog, is_new_database, load_table, open_catalog
from genretag.iceberg.settings import TableSettings
from genretag.iceberg.table import change_table, entries, marked_table, runs_property
from genretag.storage import Storage

if TYPE_CHECKING:
    from pyiceberg.table import Table


def files_of_table(settings: TableSettings, output: str, storage: Storage) -> dict[str, int] | None:
    """The files that the table reads, each with the sequence number of its commit; none where there is no table.

    Raises `UsageError` where they cannot be replaced: the output feeds a table that is not named, or rows were
    deleted, or tags and branches hold older snapshots in ways that a merge would not keep.
    """
    marked = marked_table(output, storage)
    if marked != settings.table and marked is not None:
        raise UsageError(f"the table {marked} reads the files of {output}: add --table {marked}, and its --catalog")
    if settings.table is None:
        return None
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
    """Makes the table read `new` instead of `old`; whether it reads `new` afterwards.

    It does not where it reads `old` only in part or not at all, because another program has rewritten or dropped it:
    then it is left as it is. Raises `UsageError` or `JobError`.
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
    """Expires the snapshots from the commit `since` up to the current one: files that they read are gone."""

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
    from pyiceberg.manifest import ManifestContent

    name = ".".join(table.name())
    if others := sorted(ref for ref in table.refs() if ref != "main"):
        raise UsageError(f"a merge would take the files of older snapshots from {name}: drop {', '.join(others)} first")
    snapshot = table.current_snapshot()
    if snapshot and any(m.content == ManifestContent.DELETES for m in snapshot.manifests(table.io)):
        raise UsageError(
            f"rows of {name} were deleted without rewriting its files: rewrite them first, in that program"
        )
