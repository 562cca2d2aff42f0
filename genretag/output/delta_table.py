"""Delta table of an output: commits a run's part files in one transaction, and switches a table to merged files.

The table's folder is `OUTPUT/predictions`: its log `_delta_log` lies beside the folders of the days. So the table
refers to the part files where they are, without a copy, and is partitioned by `dt`. delta-rs reads no file outside of
the table's folder, so the table cannot be anywhere else.

A commit names each run whose files it adds, as a transaction of Delta (`txn`). The same commit adds the files and names
the runs. So no run is committed twice, and the next run commits the files of a run that died. If another program
rewrites the table's files or removes rows, later commits do not add the old files again.
"""

import json
import logging
import posixpath
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet

from genretag.errors import JobError, UsageError, one_line
from genretag.output import parquet_files
from genretag.output.table_mark import mark, require_mark
from genretag.settings import TableSettings
from genretag.storage import Storage, in_bucket, join

if TYPE_CHECKING:
    from deltalake import DeltaTable
    from deltalake.transaction import AddAction, CommitProperties

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

PARTITION = "dt"
APP = "genretag/"  # before the id of a run, in the name of a transaction
ATTEMPTS = 5  # to commit, if other writers commit first
WAIT_S = 0.1  # after the first attempt; doubled after each further attempt
PART = re.compile(r"part-(.+)-\d+\.parquet")


def require_table(settings: TableSettings, output: str, schema: pa.Schema, storage: Storage) -> None:
    """Check that the table can take rows of `schema`, before anything is scored or written.

    A table that does not exist yet passes the check. Raises `UsageError` if the table cannot be read or has other
    columns, or if the output feeds another table.
    """
    require_mark(settings, output, storage)
    with _errors(settings, output, retry_helps=False):
        from deltalake import Schema

        table = _load(settings, output, storage)
        if table is None:
            return
        ours, found = _types(Schema.from_arrow(_with_partition(schema))), _types(table.schema())
    different = sorted(name for name in ours.keys() | found if ours.get(name) != found.get(name))
    if different:
        raise UsageError(
            f"the Delta table in {_root(settings, output)} has other columns than this night: "
            f"{one_line(', '.join(different))}; name another output"
        )


def commit_parts(settings: TableSettings, output: str, run_id: str, model_version: str, storage: Storage) -> int | None:
    """Add all prediction files that were never committed to the table, in one transaction.

    Return the table's version with these files, or None if there is nothing to add. The commit names the run and the
    model version. Only the run that holds the output's lock may call this. Raises `UsageError` or `JobError`; the table
    is then unchanged.
    """
    parts = {info.uri: info for info in parquet_files(join(output, "predictions"), storage)}
    runs = {uri: run for uri in sorted(parts) if (run := _run_of(uri))}  # without files that other programs wrote
    if not runs:
        return None
    mark(settings, output, storage)

    def add(table: "DeltaTable | None") -> int | None:
        held = {} if table is None else _files(table, settings, output)
        taken = {} if table is None else {run: table.transaction_version(APP + run) for run in set(runs.values())}
        new = [uri for uri, run in runs.items() if uri not in held and taken.get(run) is None]
        if not new:
            return None
        footers = {uri: _footer(uri, storage) for uri in new}
        actions = [_add(uri, footers[uri].num_rows, parts[uri].size_bytes, settings, output) for uri in new]
        named = {"genretag.run_id": run_id, "genretag.model_version": model_version}
        commit = _commit((runs[uri] for uri in new), named)
        schema = _with_partition(footers[new[0]].schema.to_arrow_schema())
        version = _write(table, settings, output, storage, actions, schema, commit)
        logger.info("%d files committed to the Delta table, version %d", len(new), version)
        return version

    return _change(settings, output, storage, add)


def files_of_table(settings: TableSettings, output: str, storage: Storage) -> dict[str, int]:
    """Return the URIs of the files that the table reads, each with 0. If there is no table yet, return {}.

    Raises `UsageError` if the table marks rows as deleted in files that still hold them (deletion vectors).
    """
    with _errors(settings, output, retry_helps=False):
        table = _load(settings, output, storage)
        if table is None:
            return {}
        if _has_deletion_vectors(table):
            raise UsageError(
                f"rows of the Delta table in {_root(settings, output)} were deleted without rewriting its files: run "
                "REORG TABLE ... APPLY (PURGE) on it first"
            )
        return dict.fromkeys(_files(table, settings, output), 0)


def switch_files(
    settings: TableSettings,
    output: str,
    old: Sequence[str],
    new: Sequence[str],
    storage: Storage,
    *,
    same_rows: bool = True,
) -> bool:
    """Make the table read the files `new` instead of `old`, in one transaction. Return whether it reads `new` then.

    With `same_rows`, the commit says that it changes no data, so readers of changes skip it. If the table does not read
    all of `old`, or marks rows of it as deleted, do not change the table: the switch is done already, or another
    program has rewritten files. Raises `UsageError` or `JobError`.
    """
    from deltalake.transaction import RemoveAction

    def switch(table: "DeltaTable | None") -> bool:
        held = {} if table is None else _files(table, settings, output)
        if table is None or not all(uri in held for uri in old) or _has_deletion_vectors(table):
            return all(uri in held for uri in new)
        sizes = {info.uri: info.size_bytes for info in parquet_files(join(output, "predictions"), storage)}
        footers = {uri: _footer(uri, storage) for uri in new}
        added = [_add(uri, footers[uri].num_rows, sizes[uri], settings, output, same_rows=same_rows) for uri in new]
        now_ms = int(time.time() * 1000)
        removed = [RemoveAction(**held[uri], deletion_timestamp=now_ms, data_change=not same_rows) for uri in old]
        schema = _with_partition(footers[new[0]].schema.to_arrow_schema())
        commit = _commit(filter(None, map(_run_of, new)), {})
        _write(table, settings, output, storage, [*added, *removed], schema, commit)
        return True

    return _change(settings, output, storage, switch)


def _change(
    settings: TableSettings, output: str, storage: Storage, change: Callable[["DeltaTable | None"], Result]
) -> Result:
    """Load the table, call `change` on it, which commits a change, and return the result of `change`.

    If another writer committed first, load the table again and call `change` again, up to `ATTEMPTS` times in all.
    """
    with _errors(settings, output, retry_helps=True):
        from deltalake.exceptions import CommitFailedError

        for attempt in range(ATTEMPTS):
            try:
                return change(_load(settings, output, storage))
            except CommitFailedError as error:
                if attempt == ATTEMPTS - 1:
                    raise
                logger.warning("another writer changed the Delta table first: %s", one_line(error, 200))
                time.sleep(WAIT_S * 2**attempt)
    raise AssertionError("the last attempt returns or raises")


def _root(settings: TableSettings, output: str) -> str:
    """Return the table's folder. Raises `UsageError` if the settings name another folder than `OUTPUT/predictions`."""
    from genretag.storage import resolve

    root = join(output, "predictions")
    _, _, named = str(settings.table).partition(":")
    if named and resolve(named) != root:
        raise UsageError(
            f"a Delta table reads only files in its own folder, so its place is {root}: write --table delta"
        )
    if "%" in root:  # delta-rs decodes the path twice
        raise UsageError(f"a Delta table cannot be in {root}, because of the %: name another output")
    return root


def _load(settings: TableSettings, output: str, storage: Storage) -> "DeltaTable | None":
    """Load the newest version of the table. Return None if there is no table yet."""
    from deltalake import DeltaTable
    from deltalake.exceptions import TableNotFoundError

    try:
        return DeltaTable(_uri(settings, output), storage_options=storage.delta_options(output))
    except TableNotFoundError:
        return None


def _uri(settings: TableSettings, output: str) -> str:
    """Return the table's folder as delta-rs needs it: a URL in which special characters are encoded."""
    from urllib.parse import quote

    root = _root(settings, output)
    scheme, _, rest = root.partition("://") if in_bucket(root) else ("file", "", root)
    return f"{scheme}://{quote(rest, safe='/@')}"


def _files(table: "DeltaTable", settings: TableSettings, output: str) -> dict[str, dict[str, Any]]:
    """Return the table's files by URI, each with the arguments of the action that removes it."""
    root = _root(settings, output)
    actions = pa.table(table.get_add_actions(flatten=False)).to_pylist()
    return {
        join(root, unquote(action["path"])): {
            "path": action["path"],
            "partition_values": {name: _text(value) for name, value in action["partition"].items()},
            "size": action["size_bytes"],
        }
        for action in actions
    }


def _text(value: object) -> str | None:
    """Return the value of a partition as Delta's log has it."""
    return None if value is None else value.isoformat() if isinstance(value, date) else str(value)


def _has_deletion_vectors(table: "DeltaTable") -> bool:
    """Return whether the table marks rows as deleted in files that still hold them."""
    if "deletionVectors" not in (table.protocol().reader_features or []):
        return False
    return pa.table(table.deletion_vectors()).num_rows > 0


def _add(
    uri: str, rows: int, size: int, settings: TableSettings, output: str, *, same_rows: bool = False
) -> "AddAction":
    """Return the action that adds a part file. With `same_rows`, the commit changes no rows, as a merge does."""
    from deltalake.transaction import AddAction

    path = uri.removeprefix(f"{_root(settings, output)}/")
    day = path.partition("/")[0].removeprefix(f"{PARTITION}=")
    return AddAction(path, size, {PARTITION: day}, 0, not same_rows, json.dumps({"numRecords": rows}))


def _commit(runs: Iterable[str], named: Mapping[str, str]) -> "CommitProperties":
    """Return the properties of a commit: the runs whose files it adds, and further facts for the table's history."""
    from deltalake.transaction import CommitProperties, Transaction

    taken = [Transaction(APP + run, 1) for run in sorted(set(runs))]
    return CommitProperties(custom_metadata=dict(named), max_commit_retries=0, app_transactions=taken)


def _write(
    table: "DeltaTable | None",
    settings: TableSettings,
    output: str,
    storage: Storage,
    actions: list[Any],
    schema: pa.Schema,
    commit: "CommitProperties",
) -> int:
    """Commit the actions, and return the table's new version. Without a table, create it in the same commit."""
    from deltalake import Schema
    from deltalake.transaction import create_table_with_add_actions

    if table is not None:
        table.create_write_transaction(
            actions, mode="append", schema=table.schema(), partition_by=[PARTITION], commit_properties=commit
        )
    else:
        create_table_with_add_actions(
            _uri(settings, output),
            Schema.from_arrow(schema),
            actions,
            partition_by=[PARTITION],
            storage_options=storage.delta_options(output),
            commit_properties=commit,
        )
    written = _load(settings, output, storage)
    return 0 if written is None else written.version()


def _with_partition(schema: pa.Schema) -> pa.Schema:
    """Return the schema of the part files with the partition column `dt`, as Delta's types."""
    return schema.remove_metadata().append(pa.field(PARTITION, pa.date32()))


def _types(schema: Any) -> dict[str, str]:
    """Return the types of a Delta schema's columns by name."""
    return {field.name: str(field.type) for field in schema.fields}


def _footer(uri: str, storage: Storage) -> Any:
    """Return the footer of a part file."""
    filesystem, path = storage.filesystem(uri)
    with filesystem.open(path, "rb") as file:
        return pyarrow.parquet.read_metadata(file)


def _run_of(part: str) -> str | None:
    """Return the id of the run that wrote a part file, from its name, or None if another program wrote the file."""
    found = PART.fullmatch(posixpath.basename(part))
    return found[1] if found else None


@contextmanager
def _errors(settings: TableSettings, output: str, *, retry_helps: bool) -> Iterator[None]:
    """Turn errors of deltalake in the block into a `UsageError` or a `JobError` with a message of one line.

    An error that a retry may fix becomes a `JobError` if `retry_helps` is true, and a `UsageError` otherwise.
    """
    try:
        from deltalake.exceptions import DeltaError
    except ImportError as error:
        raise UsageError("a Delta table needs deltalake: pip install 'genretag[delta]'") from error
    place = _root(settings, output)
    try:
        yield
    except (DeltaError, OSError, ValueError, pa.ArrowException) as error:
        said = f"the Delta table in {place}: {one_line(error, 300) or type(error).__name__}"
        if not retry_helps:
            raise UsageError(f"cannot read {said}") from error
        raise JobError(f"cannot commit to {said}; the files are whole and stay, run the same command again") from error
