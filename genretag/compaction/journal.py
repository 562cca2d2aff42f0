"""Puts merged files in the place of those that they were made of, so that whoever comes next can finish it.

Merged files are first written whole to `OUTPUT/_compaction/<id>/`, then `plan.json` beside them. From then on the
merge will be carried out, by this run or by the next that holds the output: delete the old files, put the merged ones
in their place, night after night, remove the journal. Readers of the files never see a row twice; between deleting and
putting in place they miss rows of one night, and one that reads just then may find a file gone.

An Iceberg table that reads the files changes over twice, each time to files that stand: from the old ones to those in
the journal before anything is deleted, from there to those in their place before the journal goes.
"""

import json
import logging
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from genretag.errors import UsageError, one_line
from genretag.iceberg.settings import NO_TABLE, TableSettings
from genretag.iceberg.switch import forget_snapshots, switch_files
from genretag.storage import S3, Storage, StorageError, join
from genretag.storage.local import second_name

JOURNAL = "_compaction"
PLAN = "plan.json"
AT_ONCE = 16

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Step:
    """What takes the place of what in one night's folder: names below the output. `rows` is for people who read it."""

    old: tuple[str, ...]
    new: tuple[str, ...]
    rows: int


@dataclass(frozen=True)
class Plan:
    """The steps that go together: a table changes over for all of them at once, or its history would grow long."""

    id: str
    steps: tuple[Step, ...]
    table: str | None = None
    since: int | None = None  # the table's first commit that reads an old file

    @property
    def old(self) -> list[str]:
        """The files that will go."""
        return [name for step in self.steps for name in step.old]

    @property
    def new(self) -> list[str]:
        """The files that will take their place."""
        return [name for step in self.steps for name in step.new]

    @staticmethod
    def decode(data: bytes) -> "Plan":
        """Reads a plan. Raises `ValueError`, `KeyError` or `TypeError` where it is none."""
        values: dict[str, Any] = json.loads(data)
        steps = tuple(Step(tuple(step["old"]), tuple(step["new"]), step["rows"]) for step in values["steps"])
        return Plan(**values | {"steps": steps})


def journal_of(output: str, plan_id: str) -> str:
    """The folder of a merge."""
    return join(output, JOURNAL, plan_id)


def finish_compaction(output: str, storage: Storage, table: TableSettings = NO_TABLE) -> None:
    """Finishes a merge that was planned when its run died, and removes what was written before a plan.

    Only the run that holds the output may call this, before it looks at the files. Raises `StorageError`, `JobError`,
    and `UsageError` where the merge concerns a table that is not the one of `table`.
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
    """Writes the plan: from now on it will be carried out."""
    storage.put(join(journal_of(output, plan.id), PLAN), json.dumps(asdict(plan), indent=1).encode())


def carry_out(plan: Plan, output: str, storage: Storage, filesystem: Any, table: TableSettings) -> None:
    """Does what the plan says and is not done yet, and removes the journal; `filesystem` is that of the output.

    Raises `StorageError`, and `JobError` where the table cannot be reached.
    """
    journal = journal_of(output, plan.id)
    old = [join(output, name) for name in plan.old]
    merged = [join(journal, name) for name in plan.new]
    new = [join(output, name) for name in plan.new]
    present = set(_names(output, storage, below=sorted({name.rpartition("/")[0] for name in plan.new})))
    _require_whole(plan, present, set(_names(journal, storage)), journal)
    untouched = present.issuperset(plan.old)  # else an earlier attempt came further than here
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
    missing = [name for name in plan.new if name not in present and name not in journalled]
    if missing:
        raise UsageError(
            f"{journal} lacks {one_line(missing[0])}, which its plan names: nothing was deleted now; restore it, "
            f"or remove {journal} if all of the old files still stand"
        )


def _delete(uri: str, storage: Storage) -> None:
    storage.delete(uri)


def _place(source: str, target: str, filesystem: Any) -> None:
    """Gives a whole file a second name at once: as `second_name` does in a folder, by the store's copy in a bucket."""
    try:
        if target.startswith(S3):
            filesystem.cp_file(source.removeprefix(S3), target.removeprefix(S3))
        else:
            second_name(source, target)
    except FileExistsError:
        pass  # put there a moment before its run died
    except OSError as error:
        raise StorageError("unavailable", f"{source} cannot be copied to {target}: {one_line(error)}") from error


def _remove(journal: str, storage: Storage) -> None:
    storage.delete(join(journal, PLAN))  # first: what is left without a plan is nobody's
    storage.delete_below(journal)


def _read(uri: str, storage: Storage) -> Plan:
    try:
        return Plan.decode(bytes(storage.get(uri).data))
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{uri} cannot be read ({one_line(error)}): which version of genretag wrote it?") from error


def _names(folder: str, storage: Storage, below: Iterable[str] = ("",)) -> list[str]:
    """The names of all files in a folder, or in some of its subfolders; none where it is not there."""
    found = []
    for part in below:
        try:
            for page in storage.list(join(folder, part) if part else folder):
                found += [info.uri.removeprefix(folder + "/") for info in page]
        except StorageError as error:
            if error.reason != "not_found":
                raise
    return found
