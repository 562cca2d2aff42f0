"""`genretag compact`: merge the small part files of past days, one `dt` folder after the other."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import partial
from typing import Any

import pyarrow as pa

from genretag.errors import JobError, UsageError, one_line
from genretag.output import KINDS, parquet_files
from genretag.output.compaction import Replacement, concatenate, groups_of, read_footer, replace_files
from genretag.output.compaction_journal import JOURNAL, finish_compaction
from genretag.output.lock import holding_output
from genretag.output.tables import files_of_table
from genretag.runtime.session import Session, new_run_id
from genretag.settings import NO_TABLE, CompactSettings, TableSettings
from genretag.storage import ObjectInfo, Storage, StorageError, join, resolve

NIGHT = re.compile(r"dt=(\d{4}-\d{2}-\d{2})")
FOOTERS_AT_ONCE = 16


@dataclass(frozen=True)
class Compacted:
    """Counts of a compaction: old part files, the merged files that replace them, days (`dt` folders), and rows."""

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
    """Merge the small part files of each day before `settings.before` (None: today in UTC). Return the counts.

    `compact` holds the output's lock while it works. A dry run takes no lock, changes nothing, and returns the counts
    of what would be merged. If an Iceberg table reads the output's files, `table` must name that table. Predictions
    that were not committed to the table yet stay as they are.

    Raises `UsageError` if a person must act, `JobError` if a retry may help, and `OutputHeldError` if another run holds
    the lock. If `compact` fails, the next call finishes the merge.
    """
    output, storage, started = resolve(output), session.storage, datetime.now(UTC)
    before = date.fromisoformat(settings.before) if settings.before else started.date()
    run_id = f"{new_run_id(started)}-merged"
    filesystem, _ = storage.filesystem(output)
    try:
        _require_output(output, storage)
        if settings.dry_run:
            return _sum(_merges(output, before, settings.target_bytes, storage, filesystem, table))
        with holding_output(output, run_id, storage, break_lock=settings.break_lock):
            finish_compaction(output, storage, table)
            merges = _merges(output, before, settings.target_bytes, storage, filesystem, table)
            write = partial(concatenate, storage=storage, filesystem=filesystem)
            return _sum(replace_files(merges, write, run_id, output, storage, table))
    except StorageError as error:
        raise UsageError(f"cannot read {output}: {error}") from error
    except (OSError, pa.ArrowException) as error:
        raise JobError(f"cannot merge files of {output}: {one_line(error)}; run the same command again") from error


def describe(done: Compacted, *, dry_run: bool) -> str:
    """Return a line for the terminal that says how many files were merged, or would be merged in a dry run."""
    if not done.files:
        return "nothing to merge"
    verb = "would become" if dry_run else "became"
    nights = "1 night" if done.nights == 1 else f"{done.nights:,} nights"
    return f"{done.files:,} files {verb} {done.merged:,} in {nights} ({done.rows:,} rows)"


def _require_output(output: str, storage: Storage) -> None:
    """Raise `UsageError` if no run has written to `output`. Raises `StorageError` if `output` cannot be read.

    This check comes before the lock, so that `compact` creates nothing at a location that is not an output.
    """
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
    """Yield the merges of part files of each kind (such as `predictions`), one `dt` folder after the other.

    If `table` names an Iceberg table, leave out prediction files that the table does not read. The footers of a `dt`
    folder are read only when the caller asks for the merge of that folder.
    """
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
    """Yield each `dt` folder of a day before `before` that has at least two small files, with these files.

    `kind` is the folder in the output: `predictions`, `failures` or `versions`. A file is small if it has less than
    half of `target_bytes`.
    """
    folders: dict[str, list[ObjectInfo]] = defaultdict(list)
    for info in parquet_files(join(output, kind), storage):
        if info.size_bytes < target_bytes / 2:
            folders[info.uri.removeprefix(output + "/").rpartition("/")[0]].append(info)
    for folder, files in sorted(folders.items()):
        night = NIGHT.fullmatch(folder.rpartition("/")[2])
        if night and date.fromisoformat(night[1]) < before and len(files) > 1:
            yield folder, files


def _sum(merges: Iterable[Replacement]) -> Compacted:
    """Carry out the merges by iterating over them, and return their counts."""
    done = list(merges)
    return Compacted(
        files=sum(len(merge.files) for merge in done),
        merged=sum(len(merge.groups) for merge in done),
        nights=len({merge.folder.rpartition("/")[2] for merge in done}),
        rows=sum(part.rows for merge in done for part in merge.files),
    )
