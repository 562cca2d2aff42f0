"""`genretag retag`: apply a threshold profile to stored probabilities. `genres` and `is_*` change; no image is read.

A profile is a named set of thresholds, one per label. `retag` writes new part files with the new genres, and then
replaces the old files as `genretag compact` does. So if the command dies, no row is lost. The next call continues with
the files that still have the old profile.
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

from genretag.data.labels import column_names
from genretag.errors import JobError, UsageError, one_line
from genretag.model.bundle import DEFAULT_BUNDLE, Bundle, load_bundle
from genretag.model.thresholds import Profile
from genretag.output import parquet_files
from genretag.output.compaction import PartFile, Replacement, read_footer, replace_files, write_whole
from genretag.output.compaction_journal import finish_compaction
from genretag.output.label_lists import ALWAYS, LABELS, genres_of_lists
from genretag.output.lock import holding_output
from genretag.output.schema import FLOOR_KEY, PROFILE_KEYS, is_of_model, profile_held, profile_metadata, tag_columns
from genretag.output.tables import files_of_table
from genretag.runtime.cpus import cpus_here
from genretag.runtime.session import Session, new_run_id
from genretag.settings import NO_TABLE, RetagSettings, TableSettings
from genretag.storage import Storage, StorageError, join, resolve

FOOTERS_AT_ONCE = 16
WRITERS_AT_MOST = 8  # each writer holds a part file and one row group of that file
FILES_AT_ONCE = 64  # most files in one replacement; a larger `dt` folder is divided


@dataclass(frozen=True)
class Retagged:
    """Counts of a `retag`: part files and rows that change, and the rows that stay as they are, by reason."""

    files: int  # part files that get the profile
    rows: int  # rows in these files
    unchanged: int  # rows that had the profile already
    of_other_models: int  # rows of other models
    outside_table: int  # rows not committed to the Iceberg table yet; the next `tag` commits them as they are


def retag(
    output: str,
    settings: RetagSettings,
    session: Session,
    model: str | None = None,
    table: TableSettings = NO_TABLE,
) -> Retagged:
    """Decide the genres of all predictions of one model again, by another threshold profile. Return the counts.

    `model` is the bundle that made the predictions (None: the default bundle), and `settings.profile` names one of its
    profiles. Rows of other models and all failures stay as they are. If an Iceberg table reads the output's files,
    `table` must name that table. Predictions that were not committed to the table yet stay as they are. A dry run takes
    no lock, changes nothing, and returns the counts of what would change.

    Raises `UsageError` if a person must act, `JobError` if a retry may help, and `OutputHeldError` if another run holds
    the output's lock. If `retag` fails, the next call finishes the work.
    """
    output, storage = resolve(output), session.storage
    bundle = load_bundle(model or str(DEFAULT_BUNDLE), storage)
    profile = bundle.profile(settings.profile)
    metadata = profile_metadata(settings.profile, profile)
    filesystem, _ = storage.filesystem(output)
    run_id = f"{new_run_id(datetime.now(UTC))}-retagged"
    try:
        if settings.dry_run:
            return _files_to_change(output, bundle, profile, metadata, storage, table)[1]
        with holding_output(output, run_id, storage, break_lock=settings.break_lock):
            finish_compaction(output, storage, table)
            replacements, found = _files_to_change(output, bundle, profile, metadata, storage, table)
            write = partial(_write, bundle.labels, profile, metadata, storage=storage, filesystem=filesystem)
            at_once = min(cpus_here(), WRITERS_AT_MOST)
            deque(
                replace_files(replacements, write, run_id, output, storage, table, at_once, same_rows=False), maxlen=0
            )
            return found
    except StorageError as error:
        raise UsageError(f"cannot read {output}: {error}") from error
    except (OSError, pa.ArrowException) as error:
        raise JobError(f"cannot change files of {output}: {one_line(error)}; run the same command again") from error


def describe(done: Retagged, settings: RetagSettings) -> str:
    """Return lines for the terminal: how many rows have new thresholds now, or would have them after a dry run."""
    verb = "would get" if settings.dry_run else "got"
    files = f"{done.rows:,} rows in {done.files:,} files"
    lines = [f"{files} {verb} the profile {settings.profile}, {done.unchanged:,} rows had it already"]
    if done.of_other_models:
        lines.append(f"{done.of_other_models:,} rows of other models stay as they are")
    if done.outside_table:
        lines.append(f"{done.outside_table:,} rows that the table has not taken yet stay as they are")
    return "\n".join(lines)


def _files_to_change(
    output: str,
    bundle: Bundle,
    profile: Profile,
    metadata: dict[bytes, bytes],
    storage: Storage,
    table: TableSettings,
) -> tuple[list[Replacement], Retagged]:
    """Read the footers of all predictions. Return the replacements for the files that must change, and the counts.

    `metadata` has the name and the thresholds of the new `profile`, in the form that part files store. A file must
    change if its metadata differs. Raises `UsageError` if there are no predictions of the model, or if their lists lack
    labels that the profile may predict.
    """
    taken = files_of_table(table, output, storage)
    filesystem, _ = storage.filesystem(output)
    with ThreadPoolExecutor(FOOTERS_AT_ONCE) as threads:
        footers = partial(read_footer, filesystem=filesystem)
        parts = list(threads.map(footers, parquet_files(join(output, "predictions"), storage)))
    ours = [part for part in parts if is_of_model(part.schema, bundle.model_version)]
    if not ours:
        held = f"no predictions of the model {bundle.model_version}" if parts else "no predictions"
        raise UsageError(f"{output} holds {held}: name what `genretag tag` wrote, and with --model the bundle it used")
    for part in ours:
        _require_listed(part, profile)
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


def _require_listed(part: PartFile, profile: Profile) -> None:
    """Raise `UsageError` if the lists of a part file may lack labels that the profile predicts."""
    floor = (part.schema.metadata or {}).get(FLOOR_KEY)
    if floor is None:
        return
    if profile.at_most is not None and profile.at_most > ALWAYS:
        raise UsageError(f"the rows list {ALWAYS} labels or more, so top-{profile.at_most} cannot be told: tag again")
    if profile.at_most is None and min(profile.thresholds) < float(floor):
        raise UsageError(
            f"the profile has thresholds below {float(floor):g}, and {part.uri} lists no labels below that: tag again "
            "with a lower --floor"
        )


def _replacements(parts: Sequence[PartFile], output: str, taken: dict[str, int] | None) -> Iterator[Replacement]:
    """Yield replacements in which one new file replaces each file of `parts`.

    A replacement has at most `FILES_AT_ONCE` files of one `dt` folder. `taken` has the URIs of the files that the
    Iceberg table reads, each with the sequence number of its commit. None means that no table is set.
    """

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
    """Write the single part file of `group` again to `target`, with the genres that `profile` gives.

    `metadata` replaces the old profile in the file's metadata.
    """
    (part,) = group
    kept = {key: value for key, value in (part.schema.metadata or {}).items() if key not in PROFILE_KEYS}
    schema = part.schema.with_metadata(kept | metadata)
    lists = LABELS in schema.names
    names = () if lists else column_names(labels)
    rewritten = {"genres", *(f"is_{name}" for name in names)}
    data = pa.py_buffer(storage.get(part.uri).data)

    def tables() -> Iterator[pa.Table]:
        with pyarrow.parquet.ParquetFile(pa.BufferReader(data)) as file:
            for number in range(file.num_row_groups):
                rows = file.read_row_group(number, columns=[n for n in schema.names if n not in rewritten])
                columns: dict[str, Any] = {}
                if lists:
                    columns["genres"] = genres_of_lists(rows, labels, profile)
                else:
                    probabilities = np.column_stack([rows[f"p_{name}"].to_numpy() for name in names])
                    columns |= tag_columns(labels, probabilities, profile)
                columns |= {name: rows[name] for name in rows.column_names}
                yield pa.table([columns[field.name] for field in schema], schema=schema)

    write_whole(tables(), schema, part.rows, target, filesystem)


def _rows(parts: Iterable[PartFile]) -> int:
    """Return the number of rows in the files."""
    return sum(part.rows for part in parts)
