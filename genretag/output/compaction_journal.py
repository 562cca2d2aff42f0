"""Replacement of old part files by merged files, in steps that the next run can finish if this run dies.

The merged files are first written completely to a journal, the folder `OUTPUT/_compaction/<id>/`. Then `plan.json`,
the list of old and merged files, is written next to them. After that, the merge is certain: this run carries it out, or
the next run that holds the output's lock does. The run deletes the old files of one `dt` folder and moves the merged
files of that folder into place. It repeats this for each `dt` folder. Then it removes the journal.

Readers of the files never see a row twice. Between the deletion and the move they miss rows of one `dt` folder, and a
reader may find that a file is gone.

If an Iceberg table reads the files, the table switches twice, each time to files that exist. Before the run deletes
anything, the table switches from the old files to the merged files in the journal. Before the run removes the journal,
the table switches to the merged files in their final place.
"""

import json
import logging
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from genretag.errors import UsageError, one_line
from genretag.output.tables import files_of_table, forget_snapshots, switch_files
from genretag.settings import NO_TABLE, TableSettings
from genretag.storage import Storage, StorageError, in_bucket, join
from genretag.storage.local import second_name
from genretag.storage.uris import path_in_files

logger = logging.getLogger(__name__)

JOURNAL = "_compaction"
PLAN = "plan.json"
AT_ONCE = 16


@dataclass(frozen=True)
class Step:
    """Old files of one `dt` folder, and the new files that take their place. Names are relative to the output.

    `rows` is the number of rows in these files, for people who read `plan.json`.
    """

    old: tuple[str, ...]
    new: tuple[str, ...]
    rows: int


@dataclass(frozen=True)
class Plan:
    """Content of `plan.json`: the steps of one merge. Each step replaces files of one `dt` folder.

    `table` is the Iceberg table that reads the old files; None if no table does. The table switches from all old files
    to all new files in one commit. A commit for each step would make the history of the table long.
    """

    id: str
    steps: tuple[Step, ...]
    table: str | None = None
    since: int | None = None  # sequence number of the table's first commit with an old file
    same_rows: bool = True  # False if the new files have other genres, as after `retag`

    @property
    def old(self) -> list[str]:
        """Names of the old part files, which the merge deletes."""
        return [name for step in self.steps for name in step.old]

    @property
    def new(self) -> list[str]:
        """Names of the merged files, which take the place of the old part files."""
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
    """Return the location of a merge's journal, the folder with its `plan.json` and its merged files."""
    return join(output, JOURNAL, plan_id)


def finish_compaction(output: str, storage: Storage, table: TableSettings = NO_TABLE) -> None:
    """Finish each merge whose run died after it wrote `plan.json`. Delete merged files that have no `plan.json`.

    Only the run that holds the output's lock may call this, before it lists the output's files. Raises the errors of
    `carry_out`, and `UsageError` if another Iceberg table than `table` reads the files of a merge.
    """
    journals: dict[str, set[str]] = defaultdict(set)
    for name in _names(join(output, JOURNAL), storage):
        plan_id, _, rest = name.partition("/")
        journals[plan_id].add(rest)
    for plan_id, names in sorted(journals.items()):
        journal = journal_of(output, plan_id)
        if PLAN in names:
            plan = _read(join(journal, PLAN), storage)
            if plan.table not in (None, table.name):
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
    """Write `plan.json` into the merge's journal folder. Once it exists, this run or the next carries out the merge.

    Raises `StorageError`.
    """
    storage.put(join(journal_of(output, plan.id), PLAN), json.dumps(asdict(plan), indent=1).encode())


def carry_out(plan: Plan, output: str, storage: Storage, filesystem: Any, table: TableSettings) -> None:
    """Do the steps of a merge's plan that are not done yet, and remove the merge's journal folder.

    `filesystem` is the fsspec filesystem of the output. If another program has rewritten files of the Iceberg table
    before the merge, replace nothing and only remove the journal. Raises `StorageError`, `UsageError` if the journal
    lacks a file of the plan, and `JobError` if the table cannot be reached.
    """
    journal = journal_of(output, plan.id)
    old = [join(output, name) for name in plan.old]
    merged = [join(journal, name) for name in plan.new]
    new = [join(output, name) for name in plan.new]
    present = set(_names(output, storage, below=sorted({name.rpartition("/")[0] for name in plan.new})))
    _require_whole(plan, present, set(_names(journal, storage)), journal)
    untouched = present.issuperset(plan.old)  # otherwise an earlier attempt has switched the table and deleted files
    if plan.table and table.is_delta:
        if not _switched_in_place(plan, output, present, storage, filesystem, table):
            logger.warning("another program has rewritten files of the Delta table: they are not merged")
            _remove(journal, storage)
            return
        present.update(plan.new)
    elif plan.table and untouched and not switch_files(table, output, old, merged, storage):
        logger.warning("another program has rewritten files of the table %s: they are not merged", plan.table)
        _remove(journal, storage)
        return
    with ThreadPoolExecutor(AT_ONCE) as threads:
        for step in plan.steps:
            waiting = [name for name in step.new if name not in present]
            list(threads.map(lambda name: _delete(join(output, name), storage), step.old))
            list(threads.map(lambda name: _place(join(journal, name), join(output, name), filesystem), waiting))
    if plan.table and not table.is_delta:
        switch_files(table, output, merged, new, storage)
        forget_snapshots(table, output, plan.since or 0, storage)
    _remove(journal, storage)


def _switched_in_place(
    plan: Plan, output: str, present: set[str], storage: Storage, filesystem: Any, table: TableSettings
) -> bool:
    """Put a merge's new files in their final place, and switch the Delta table to them, in one commit.

    A Delta table cannot read the files in the journal, which is outside of its folder. The table alone says whether an
    earlier attempt has switched it. Return False if another program has rewritten files, and then remove those new
    files that the table does not read.
    """
    journal = journal_of(output, plan.id)
    new = [join(output, name) for name in plan.new]
    for name in plan.new:
        if name not in present:
            _place(join(journal, name), join(output, name), filesystem)
    old = [join(output, name) for name in plan.old]
    if switch_files(table, output, old, new, storage, same_rows=plan.same_rows):
        return True
    held = files_of_table(table, output, storage) or {}
    for uri in new:
        if uri not in held:
            _delete(uri, storage)
    return False


def _require_whole(plan: Plan, present: set[str], journalled: set[str], journal: str) -> None:
    """Raise `UsageError` if a new file of the plan is neither in its final place nor in the folder `journal`.

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
    """Make the complete file `source` appear at `target` in one step. An existing target is no error.

    On a local file system, make a hard link, or a copy if links are not supported. In a bucket, let the store copy the
    object. The source stays. Raises `StorageError` if the target cannot be made.
    """
    try:
        if in_bucket(target):
            filesystem.cp_file(path_in_files(source), path_in_files(target))
        else:
            second_name(source, target)
    except FileExistsError:
        pass  # an earlier attempt copied the file just before its run died
    except OSError as error:
        raise StorageError("unavailable", f"{source} cannot be copied to {target}: {one_line(error)}") from error


def _remove(journal: str, storage: Storage) -> None:
    """Remove the journal folder of a merge: first `plan.json`, then the other files."""
    storage.delete(join(journal, PLAN))  # first: without a plan, any run may remove the files that are left
    storage.delete_below(journal)


def _read(uri: str, storage: Storage) -> Plan:
    """Read the `plan.json` of a merge at `uri`. Raises `UsageError` if its content is not a plan."""
    try:
        return Plan.decode(bytes(storage.get(uri).data))
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{uri} cannot be read ({one_line(error)}): which version of genretag wrote it?") from error


def _names(folder: str, storage: Storage, below: Iterable[str] = ("",)) -> list[str]:
    """Return the names of all files below `folder`, or only of those in its subfolders `below`.

    Names are relative to `folder`. A missing folder counts as empty. Raises `StorageError` if the listing fails.
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
