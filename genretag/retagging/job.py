"""Applies a threshold profile to stored probabilities: new `genres` and `is_*`, no image is read.

Each part file of the model is written again whole and exchanged as `genretag compact` exchanges files, so a command
that dies loses nothing, and run again it goes on with the files that still have the old profile.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from genretag.bundle import DEFAULT_BUNDLE, Bundle, load_bundle
from genretag.compaction.journal import finish_compaction
from genretag.compaction.merging import PartFile, read_footer, write_whole
from genretag.compaction.replacing import Replacement, replace_files
from genretag.cpus import cpus_here
from genretag.errors import JobError, UsageError, one_line
from genretag.iceberg.settings import NO_TABLE, TableSettings
from genretag.iceberg.switch import files_of_table
from genretag.labels import column_names
from genretag.profiles import Profile
from genretag.retagging.settings import RetagSettings
from genretag.run_id import new_run_id
from genretag.session import Session
from genretag.storage import Storage, StorageError, join, resolve
from genretag.tagging.held_files import held_files
from genretag.tagging.only_writer import only_writer
from genretag.tagging.schema import PROFILE_KEYS, is_of_model, profile_held, profile_metadata, tag_columns

FOOTERS_AT_ONCE = 16
WRITERS_AT_MOST = 8  # each holds a part file and a row group of it
FILES_AT_ONCE = 64  # replaced together at most, so that one night of many files is no single piece of work


@dataclass(frozen=True)
class Retagged:
    """How many part files and rows got the profile, had it before, or are not of this model."""

    files: int
    rows: int
    unchanged: int  # rows that had the profile already
    of_other_models: int  # rows
    outside_table: int  # rows that the Iceberg table has not taken yet: the next `tag` commits them as they are


def retag(
    output: str,
    settings: RetagSettings,
    session: Session,
    model: str | None = None,
    table: TableSettings = NO_TABLE,
) -> Retagged:
    """Give all predictions of a model the genres of another threshold profile, and say how many.

    `model` is the bundle that made the predictions, the default model when not given. Rows of other models, and all
    failures, stay as they are. An output that feeds an Iceberg table needs its `table`. Raises `UsageError`, `JobError`
    and `OutputHeldError`; run again, it finishes what it had begun.
    """
    output, storage = resolve(output), session.storage
    bundle = load_bundle(model or str(DEFAULT_BUNDLE), storage)
    profile = bundle.profile(settings.profile)
    metadata = profile_metadata(settings.profile, profile)
    filesystem, _ = storage.filesystem(output)
    run_id = f"{new_run_id(datetime.now(UTC))}-retagged"
    try:
        if settings.dry_run:
            return _sort(output, bundle, metadata, storage, table)[1]
        with only_writer(output, run_id, storage, break_lock=settings.break_lock):
            finish_compaction(output, storage, table)
            replacements, found = _sort(output, bundle, metadata, storage, table)
            write = partial(_write, bundle.labels, profile, metadata, storage=storage, filesystem=filesystem)
            at_once = min(cpus_here(), WRITERS_AT_MOST)
            deque(replace_files(replacements, write, run_id, output, storage, table, at_once), maxlen=0)
            return found
    except StorageError as error:
        raise UsageError(f"cannot read {output}: {error}") from error
    except (OSError, pa.ArrowException) as error:
        raise JobError(f"cannot change files of {output}: {one_line(error)}; run the same command again") from error


def _sort(
    output: str, bundle: Bundle, metadata: dict[bytes, bytes], storage: Storage, table: TableSettings
) -> tuple[list[Replacement], Retagged]:
    """Read the footers of all predictions, and say which files must change."""
    taken = files_of_table(table, output, storage)
    filesystem, _ = storage.filesystem(output)
    with ThreadPoolExecutor(FOOTERS_AT_ONCE) as threads:
        footers = partial(read_footer, filesystem=filesystem)
        parts = list(threads.map(footers, held_files(join(output, "predictions"), storage)))
    ours = [part for part in parts if is_of_model(part.schema, bundle.model_version)]
    if not ours:
        held = f"no predictions of the model {bundle.model_version}" if parts else "no predictions"
        raise UsageError(f"{output} holds {held}: name what `genretag tag` wrote, and with --model the bundle it used")
    reachable = [part for part in ours if taken is None or part.uri in taken]
    change = [part for part in reachable if profile_held(part.schema) != metadata]
    found = Retagged(
        files=len(change),
        rows=_rows(change),
        unchanged=_rows(reachable) - _rows(change),
        of_other_models=_rows(parts) - _rows(ours),
        outside_table=_rows(ours) - _rows(reachable),
    )
    return list(_replacements(change, output, taken)), found


def _replacements(parts: Sequence[PartFile], output: str, taken: dict[str, int] | None) -> Iterator[Replacement]:
    def folder(part: PartFile) -> str:
        return part.uri.removeprefix(output + "/").rpartition("/")[0]

    for name, night in groupby(sorted(parts, key=lambda part: part.uri), folder):
        files = list(night)
        for start in range(0, len(files), FILES_AT_ONCE):
            some = files[start : start + FILES_AT_ONCE]
            since = min(taken[part.uri] for part in some) if taken else None
            yield Replacement(name, [[part] for part in some], since)


def _write(
    labels: Sequence[str],
    profile: Profile,
    metadata: dict[bytes, bytes],
    group: list[PartFile],
    target: str,
    *,
    storage: Storage,
    filesystem: Any,
) -> None:
    """Write one part file again, with the genres that the profile makes of its probabilities."""
    (part,) = group
    kept = {key: value for key, value in (part.schema.metadata or {}).items() if key not in PROFILE_KEYS}
    schema = part.schema.with_metadata(kept | metadata)
    names = column_names(labels)
    rewritten = {"genres", *(f"is_{name}" for name in names)}
    data = pa.py_buffer(storage.get(part.uri).data)

    def tables() -> Iterator[pa.Table]:
        with pyarrow.parquet.ParquetFile(pa.BufferReader(data)) as file:
            for number in range(file.num_row_groups):
                rows = file.read_row_group(number, columns=[n for n in schema.names if n not in rewritten])
                probabilities = np.column_stack([rows[f"p_{name}"].to_numpy() for name in names])
                columns = tag_columns(labels, probabilities, profile)
                columns |= {name: rows[name] for name in rows.column_names}
                yield pa.table([columns[field.name] for field in schema], schema=schema)

    write_whole(tables(), schema, part.rows, target, filesystem)


def _rows(parts: Iterable[PartFile]) -> int:
    return sum(part.rows for part in parts)
