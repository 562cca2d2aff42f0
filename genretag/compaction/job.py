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

from genretag.compaction.journal import JOURNAL, finish_compaction
from genretag.compaction.merging import concatenate, groups_of, read_footer
from genretag.compaction.replacing import Replacement, replace_files
from genretag.compaction.settings import CompactSettings
from genretag.errors import JobError, UsageError, one_line
from genretag.iceberg.settings import NO_TABLE, TableSettings
from genretag.iceberg.switch import files_of_table
from genretag.run_id import new_run_id
from genretag.session import Session
from genretag.storage import ObjectInfo, Storage, StorageError, join, resolve
from genretag.tagging.only_writer import only_writer

KINDS = ("predictions", "failures", "versions")
NIGHT = re.compile(r"dt=(\d{4}-\d{2}-\d{2})")
FOOTERS_AT_ONCE = 16

logger = logging.getLogger(__name__)


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
        with only_writer(output, run_id, storage, break_lock=settings.break_lock):
            finish_compaction(output, storage, table)
            merges = _merges(output, before, settings.target_bytes, storage, filesystem, table)
            write = partial(concatenate, storage=storage, filesystem=filesystem)
            return _sum(replace_files(merges, write, run_id, output, storage, table))
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
) -> Iterator[Replacement]:
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
                    yield Replacement(folder, groups, min(commits, default=None))


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


def _sum(merges: Iterable[Replacement]) -> Compacted:
    done = list(merges)
    return Compacted(
        files=sum(len(merge.files) for merge in done),
        merged=sum(len(merge.groups) for merge in done),
        nights=len({merge.folder.rpartition("/")[2] for merge in done}),
        rows=sum(part.rows for merge in done for part in merge.files),
    )
