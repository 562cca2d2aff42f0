"""Replaces part files by others with the same rows: written whole first, then exchanged as the journal says."""

import logging
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count

from genretag.compaction.journal import Plan, Step, begin, carry_out, journal_of
from genretag.compaction.merging import PartFile
from genretag.iceberg.settings import TableSettings
from genretag.storage import Storage, join
from genretag.tagging.lock import require_held

FILES_PER_PLAN = 2_000  # a death costs at most the writing of so many files
BYTES_PER_PLAN = 8 << 30  # or of so many bytes, which stand twice for a while

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Replacement:
    """The files of one night's folder that are replaced together, each group by one file."""

    folder: str  # below the output
    groups: list[list[PartFile]]
    since: int | None  # the first commit of a table that reads one of them; none where no table does

    @property
    def files(self) -> list[PartFile]:
        """All files that are replaced."""
        return [part for group in self.groups for part in group]

    @property
    def size_bytes(self) -> int:
        """The size of all of them together."""
        return sum(part.size_bytes for part in self.files)


def replace_files(
    replacements: Iterable[Replacement],
    write: Callable[[list[PartFile], str], None],
    run_id: str,
    output: str,
    storage: Storage,
    table: TableSettings,
    at_once: int = 1,
) -> Iterator[Replacement]:
    """Carry out replacements, some thousand files at a time, and yield each one that is done.

    `write` puts the rows of a group into one new file; it runs in `at_once` threads. Only the run that holds the output
    may call this. Raises what `write` raises, `StorageError`, `UsageError` and `JobError`.
    """
    filesystem, _ = storage.filesystem(output)
    journal = journal_of(output, run_id)
    names = (f"part-{run_id}-{number:05d}.parquet" for number in count())
    with ThreadPoolExecutor(at_once) as threads:
        for together in _in_plans(replacements):
            steps = []
            for one in together:
                new = tuple(join(one.folder, next(names)) for _ in one.groups)
                list(threads.map(write, one.groups, [join(journal, name) for name in new]))
                old = tuple(part.uri.removeprefix(output + "/") for part in one.files)
                steps.append(Step(old, new, sum(part.rows for part in one.files)))
            since = min((one.since for one in together if one.since is not None), default=None)
            plan = Plan(run_id, tuple(steps), None if since is None else table.table, since)
            require_held(output, run_id, storage)  # or a plan would stand whose files another run has removed
            begin(plan, output, storage)
            carry_out(plan, output, storage, filesystem, table)
            logger.info("up to %s: %d files became %d", together[-1].folder, len(plan.old), len(plan.new))
            yield from together


def _in_plans(replacements: Iterable[Replacement]) -> Iterator[list[Replacement]]:
    """Replacements that are carried out together: all of a table, or none."""
    waiting: list[Replacement] = []
    for one in replacements:
        mixed = waiting and (waiting[0].since is None) != (one.since is None)
        full = sum(len(other.files) for other in waiting) >= FILES_PER_PLAN
        if mixed or full or sum(other.size_bytes for other in waiting) >= BYTES_PER_PLAN:
            yield waiting
            waiting = []
        waiting.append(one)
    if waiting:
        yield waiting
