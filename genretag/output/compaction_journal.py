"""Exchange of merged files for the files that they were made from, in a way that the next run can finish.

Merged files are first written whole to `OUTPUT/_compaction/<id>/`, then `plan.json` next to them. From then on the
merge is certain: this run carries it out, or the next run that holds the output does. For one `dt` folder after the
other, the run deletes the old files and moves the merged files into place. Then it removes the journal.

Readers of the files never see a row twice. Between deleting and moving they miss rows of one `dt` folder, and a reader
may find that a file is gone.

If an Iceberg table reads the files, the table switches twice, each time to files that exist. Before anything is
deleted, it switches from the old files to those in the journal. Before the journal is removed, it switches to the files
in their final place.
"""

import json
import logging
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from genretag.errors import UsageError, one_line
from genretag.output.iceberg_table import forget_snapshots, switch_files
from genretag.settings import NO_TABLE, TableSettings
from genretag.storage import S3, Storage, StorageError, join
from genretag.storage.local import second_name

logger = logging.getLogger(__name__)

JOURNAL = "_compaction"
PLAN = "plan.json"
AT_ONCE = 16


@dataclass(frozen=True)
class Step:
    """Old and new files of one `dt` folder, as names below the output. `rows` is for people who read the plan."""

    old: tuple[str, ...]
    new: tuple[str, ...]
    rows: int


@dataclass(frozen=True)
class Plan:
    """Steps that one merge carries out together.

    An Iceberg table that reads the files switches from all old files to all new files in one commit. A commit for each
    step would make the history of the table long.

    `table` is the Iceberg table that reads the old files; None if no table does.
    """

    id: str
    steps: tuple[Step, ...]
    table: str | None = None
    since: int | None = None  # the table's first commit that reads an old file

    @property
    def old(self) -> list[str]:
        """Names of the files to delete."""
        return [name for step in self.steps for name in step.old]

    @property
    def new(self) -> list[str]:
        """Names of the files that take the place of the old files."""
        return [name for step in self.steps for name in step.new]

    @staticmethod
    def decode(data: bytes) -> "Plan":
        """Return the plan in the JSON text of a `plan.json`.

        Raises `ValueError`, `KeyError` or `TypeError` if the text is no plan.
        """
        values: dict[str, Any] = json.loads(data)
        steps = tuple(Step(tuple(step["old"]), tuple(step["new"]), step["rows"]) for step in values["steps"])
        return Plan(**values | {"steps": steps})


def journal_of(output: str, plan_id: str) -> str:
    """Return the folder that holds the plan and the merged files of one merge."""
    return join(output, JOURNAL, plan_id)


def finish_compaction(output: str, storage: Storage, table: TableSettings = NO_TABLE) -> None:
    """Finish each merge whose run died after it wrote a plan, and remove files that were written before a plan.

    Only the run that holds the output may call this, before that run looks at the files. Raises the errors of
    `carry_out`, and `UsageError` if the merge concerns another table than `table`.
    """
    journals: dict[str, set[str]] = defaultdict(set)
    for name in _names(join(output, JOURNAL), storage):
        plan_id, _, rest = name.partition("/")
        journals[plan_id].add(rest)
    for plan_id, names in sorted(journals.items()):
        journal = journal_of(output, plan_id)
        if PLAN in names:
            plan = _read(join(journal, PLAN), storage)
            if plan.table not in (None, table.table):
                raise UsageError(
                    f"a merge of files that the table {plan.table} reads was interrupted: add --table {plan.table}, "
                    "and its --catalog, to finish it"
                )
            logger.info("finishing the merge %s of %d files", plan.id, len(plan.old))
            filesystem, _ = storage.filesystem(output)
            carry_out(plan, output, storage, filesystem, table)
        else:
            storage.delete_below(journal)


def begin(plan: Plan, output: str, storage: Storage) -> None:
    """Write the plan into its journal. From now on the merge will be carried out, by this run or the next."""
    storage.put(join(journal_of(output, plan.id), PLAN), json.dumps(asdict(plan), indent=1).encode())


def carry_out(plan: Plan, output: str, storage: Storage, filesystem: Any, table: TableSettings) -> None:
    """Do the steps of the plan that are not done yet, and remove the journal; `filesystem` is that of the output.

    If the table no longer reads all of the old files, only the journal is removed. Raises `StorageError`, `UsageError`
    if the journal lacks a file of the plan, and `JobError` if the table cannot be reached.
    """
    journal = journal_of(output, plan.id)
    old = [join(output, name) for name in plan.old]
    merged = [join(journal, name) for name in plan.new]
    new = [join(output, name) for name in plan.new]
    present = set(_names(output, storage, below=sorted({name.rpartition("/")[0] for name in plan.new})))
    _require_whole(plan, present, set(_names(journal, storage)), journal)
    untouched = present.issuperset(plan.old)  # if not, an earlier attempt came further than this line
    if plan.table and untouched and not switch_files(table, output, old, merged, storage):
        logger.warning("another program has rewritten files of the table %s: they are not merged", plan.table)
        _remove(journal, storage)
        return
    with ThreadPoolExecutor(AT_ONCE) as threads:
        for step in plan.steps:
            waiting = [name for name in step.new if name not in present]
            list(threads.map(lambda name: _delete(join(output, name), storage), step.old))
            list(threads.map(lambda name: _place(join(journal, name), join(output, name), filesystem), waiting))
    if plan.table:
        switch_files(table, output, merged, new, storage)
        forget_snapshots(table, output, plan.since or 0, storage)
    _remove(journal, storage)


def _require_whole(plan: Plan, present: set[str], journalled: set[str], journal: str) -> None:
    """Raise `UsageError` if a new file of the plan is neither in its place nor in the journal.

    `present` are names of files below the output, and `journalled` are names below the journal.
    """
    missing = [name for name in plan.new if name not in present and name not in journalled]
    if missing:
        raise UsageError(
            f"{journal} lacks {one_line(missing[0])}, which its plan names: nothing was deleted now; restore it, "
            f"or remove {journal} if all of the old files still stand"
        )


def _delete(uri: str, storage: Storage) -> None:
    storage.delete(uri)


def _place(source: str, target: str, filesystem: Any) -> None:
    """Give the whole file `source` a second name `target` in one step; a target that exists is no error.

    In a folder, `second_name` does this, and in a bucket, the store's copy. Raises `StorageError` if that fails.
    """
    try:
        if target.startswith(S3):
            filesystem.cp_file(source.removeprefix(S3), target.removeprefix(S3))
        else:
            second_name(source, target)
    except FileExistsError:
        pass  # an earlier attempt copied the file just before its run died
    except OSError as error:
        raise StorageError("unavailable", f"{source} cannot be copied to {target}: {one_line(error)}") from error


def _remove(journal: str, storage: Storage) -> None:
    """Remove a journal, the plan first."""
    storage.delete(join(journal, PLAN))  # first: without a plan, any run may remove the files that are left
    storage.delete_below(journal)


def _read(uri: str, storage: Storage) -> Plan:
    """Return the plan at `uri`. Raises `UsageError` if it cannot be read as a plan."""
    try:
        return Plan.decode(bytes(storage.get(uri).data))
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{uri} cannot be read ({one_line(error)}): which version of genretag wrote it?") from error


def _names(folder: str, storage: Storage, below: Iterable[str] = ("",)) -> list[str]:
    """Return the names of all files below `folder`, or only below its subfolders `below`.

    A missing folder has no files. Raises `StorageError`.
    """
    found = []
    for part in below:
        try:
            for page in storage.list(join(folder, part) if part else folder):
                found += [info.uri.removeprefix(folder + "/") for info in page]
        except StorageError as error:
            if error.reason != "not_found":
                raise
    return found
