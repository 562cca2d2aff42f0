"""Merges the small part files of past nights, one night after the other, while it holds the output."""

import logging
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import partial
from typing import Any

import pyarrow as pa

from genretag.compaction.journal import JOURNAL, Plan, Step, begin, carry_out, finish_compaction, journal_of
from genretag.compaction.merging import PartFile, concatenate, groups_of, read_footer
from genretag.compaction.settings import CompactSettings
from genretag.errors import JobError, UsageError, one_line
from genretag.iceberg.settings import NO_TABLE, TableSettings
from genretag.iceberg.switch import files_of_table
from genretag.run_id import new_run_id
from genretag.session import Session
from genretag.storage import ObjectInfo, Storage, StorageError, join, resolve
from genretag.tagging.lock import require_held
from genretag.tagging.only_writer import only_writer

KINDS = ("predictions", "failures", "versions")
NIGHT = re.compile(r"dt=(\d{4}-\d{2}-\d{2})")
FOOTERS_AT_ONCE = 16
FILES_PER_PLAN = 2_000  # so much work a death may cost, and so many files stand twice for a while

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Merge:
    """The files of one night's folder that go together, each group into one file."""

    folder: str  # below the output
    groups: list[list[PartFile]]
    since: int | None  # the first commit of a table that reads one of them; none where no table does

    @property
    def files(self) -> list[PartFile]:
        """All files that are merged."""
        return [part for group in self.groups for part in group]


@dataclass(frozen=True)
class Compacted:
    """What became of how many files."""

    files: int = 0
    merged: int = 0
    nights: int = 0
    rows: int = 0


def compact(
    output: str,
    settings: CompactSettings,
    session: Session,
    table: TableSettings = NO_TABLE,
) -> Compacted:
    """Merges the files of each night before today, one night after the other, and says what it did.

    An output that feeds an Iceberg table needs its `table`; files that it has not taken yet are left alone. Raises
    `UsageError`, `JobError` and `OutputHeldError`; run again, it finishes what it had begun.
    """
    output, storage, started = resolve(output), session.storage, datetime.now(UTC)
    before = date.fromisoformat(settings.before) if settings.before else started.date()
    run_id = f"{new_run_id(started)}-merged"
    filesystem, _ = storage.filesystem(output)
    try:
        _require_output(output, storage)
        if settings.dry_run:
            return _sum(_merges(output, before, settings.target_bytes, storage, filesystem, table))
        done = []
        with only_writer(output, run_id, storage, break_lock=settings.break_lock):
            finish_compaction(output, storage, table)
            for merges in _in_plans(_merges(output, before, settings.target_bytes, storage, filesystem, table)):
                plan = _write_merged(merges, run_id, output, storage, filesystem, table)
                require_held(output, run_id, storage)  # or a plan would stand whose files another run has removed
                begin(plan, output, storage)
                carry_out(plan, output, storage, filesystem, table)
                logger.info("up to %s: %d files became %d", merges[-1].folder, len(plan.old), len(plan.new))
                done += merges
        return _sum(done)
    except StorageError as error:
        raise UsageError(f"cannot read {output}: {error}") from error
    except (OSError, pa.ArrowException) as error:
        raise JobError(f"cannot merge files of {output}: {one_line(error)}; run the same command again") from error


def _require_output(output: str, storage: Storage) -> None:
    """Raises `UsageError` where no run has written: nothing is to be made there, not even a lock."""
    for name in (*KINDS, JOURNAL, "runs"):
        try:
            if any(storage.list(join(output, name))):
                return
        except StorageError as error:
            if error.reason != "not_found":
                raise
    raise UsageError(f"there are no predictions in {output}: name what `genretag tag` wrote to")


def _merges(
    output: str, before: date, target_bytes: int, storage: Storage, filesystem: Any, table: TableSettings
) -> Iterator[Merge]:
    """What there is to merge, night after night; lists the output once, reads footers as it goes."""
    read_by_table = files_of_table(table, output, storage)
    with ThreadPoolExecutor(FOOTERS_AT_ONCE) as threads:
        for kind in KINDS:
            of_table = read_by_table if kind == "predictions" else None
            for folder, small in _small_files(output, kind, before, target_bytes, storage):
                ours = [info for info in small if of_table is None or info.uri in of_table]
                groups = groups_of(list(threads.map(partial(read_footer, filesystem=filesystem), ours)), target_bytes)
                commits = [of_table[part.uri] for group in groups for part in group] if of_table else []
                if groups:
                    yield Merge(folder, groups, min(commits, default=None))


def _small_files(
    output: str, kind: str, before: date, target_bytes: int, storage: Storage
) -> Iterator[tuple[str, list[ObjectInfo]]]:
    """The folders of nights before a date, with their files of less than half the target."""
    folders: dict[str, list[ObjectInfo]] = defaultdict(list)
    try:
        for page in storage.list(join(output, kind)):
            for info in page:
                if info.uri.endswith(".parquet") and info.size_bytes < target_bytes / 2:
                    folders[info.uri.removeprefix(output + "/").rpartition("/")[0]].append(info)
    except StorageError as error:
        if error.reason != "not_found":
            raise
    for folder, files in sorted(folders.items()):
        night = NIGHT.fullmatch(folder.rpartition("/")[2])
        if night and date.fromisoformat(night[1]) < before and len(files) > 1:
            yield folder, files


def _in_plans(merges: Iterable[Merge]) -> Iterator[list[Merge]]:
    """Merges that are carried out together: all of a table, or none."""
    waiting: list[Merge] = []
    for merge in merges:
        mixed = waiting and (waiting[0].since is None) != (merge.since is None)
        if mixed or sum(len(other.files) for other in waiting) >= FILES_PER_PLAN:
            yield waiting
            waiting = []
        waiting.append(merge)
    if waiting:
        yield waiting


def _write_merged(
    merges: list[Merge], run_id: str, output: str, storage: Storage, filesystem: Any, table: TableSettings
) -> Plan:
    """Writes the merged files to the journal, and returns the plan that puts them in their place."""
    steps = []
    for merge in merges:
        names = tuple(join(merge.folder, f"part-{run_id}-{number:05d}.parquet") for number in range(len(merge.groups)))
        for name, group in zip(names, merge.groups, strict=True):
            concatenate(group, join(journal_of(output, run_id), name), storage, filesystem)
        old = tuple(part.uri.removeprefix(output + "/") for part in merge.files)
        steps.append(Step(old, names, sum(part.rows for part in merge.files)))
    since = min((merge.since for merge in merges if merge.since is not None), default=None)
    return Plan(run_id, tuple(steps), table.table if since is not None else None, since)


def _sum(merges: Iterable[Merge]) -> Compacted:
    done = list(merges)
    return Compacted(
        files=sum(len(merge.files) for merge in done),
        merged=sum(len(merge.groups) for merge in done),
        nights=len({merge.folder.rpartition("/")[2] for merge in done}),
        rows=sum(part.rows for merge in done for part in merge.files),
    )
