"""Record of a run: what became of its posters, in counts that add up.

Each write task counts its own rows, and the record holds the sums. The counts are the scored posters, the failed
posters by reason, and the predictions by label. So the record shows drift, and the report draws it, without reading the
rows again.

The record is `runs/<run_id>/run.json`. It is written last, so if it exists, the run is complete.
"""

import json
import platform
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from genretag.data.labels import column_names
from genretag.errors import JobError
from genretag.images.file_kinds import OTHER_FILE
from genretag.output.schema import ALREADY, FAILED, SCORED, Run
from genretag.storage import Storage, join

COUNTS = ("scored", "already_scored", "already_failed")


@dataclass(frozen=True)
class Outcome:
    """Numbers of posters of a step, a part file or a run: scored, and failed by `stage: reason`.

    The store may give another version than was listed. If the output already holds a row of that version, the poster
    counts as already scored or already failed.
    """

    scored: int = 0
    failures: Mapping[str, int] = field(default_factory=dict)
    already_scored: int = 0  # posters whose version in the store the output holds, though another was listed
    already_failed: int = 0

    @property
    def failed(self) -> int:
        """Number of failures, those of files that are no posters included."""
        return sum(self.failures.values())

    @property
    def other_files(self) -> int:
        """Number of failures that are no posters: videos, notes and the like."""
        return sum(count for name, count in self.failures.items() if name.endswith(f": {OTHER_FILE}"))

    @property
    def against_budget(self) -> int:
        """Number of failures that count towards the error budget: all but files that are no posters."""
        return self.failed - self.other_files


def outcome_of(rows: pa.Table) -> Outcome:
    """Return the outcome of rows that have `stage`, `reason` and, if any poster was not decoded, `already`.

    If `reason` and `already` are null, the poster was scored.
    """
    pairs = zip(rows["stage"].to_pylist(), rows["reason"].to_pylist(), strict=True)
    failures = Counter(f"{stage}: {reason}" for stage, reason in pairs if reason is not None)
    already = Counter(rows[ALREADY].drop_null().to_pylist() if ALREADY in rows.column_names else ())
    scored = len(rows) - failures.total() - already.total()
    return Outcome(scored, dict(failures.most_common()), already[SCORED], already[FAILED])


def sum_outcomes(outcomes: Iterable[Outcome]) -> Outcome:
    """Return the sum of several outcomes, with the most frequent failure first."""
    counts, failures = Counter[str](), Counter[str]()
    for outcome in outcomes:
        counts.update({name: getattr(outcome, name) for name in COUNTS})
        failures.update(outcome.failures)
    return Outcome(failures=dict(failures.most_common()), **{name: counts[name] for name in COUNTS})


BINS = 20  # of equal width, for the probabilities of one label


@dataclass(frozen=True)
class PredictionCounts:
    """Counts of scored posters: by label, without any label, and by bins of each label's probability."""

    posters: tuple[int, ...]  # in the order of the labels
    without_label: int
    histograms: tuple[tuple[int, ...], ...]  # (labels, BINS)


def count_predictions(table: pa.Table, labels: Sequence[str]) -> PredictionCounts:
    """Return the counts of a predictions table: columns `is_*` by label, and `p_*` in `BINS` bins from 0 to 1."""
    names = column_names(labels)
    predicted = [table[f"is_{name}"].to_numpy() for name in names]
    probabilities = [table[f"p_{name}"].to_numpy() for name in names]
    return PredictionCounts(
        tuple(int(column.sum()) for column in predicted),
        int(len(table) - np.logical_or.reduce(predicted).sum()),
        tuple(tuple(np.histogram(column, BINS, (0.0, 1.0))[0].tolist()) for column in probabilities),
    )


def sum_counts(counts: Sequence[PredictionCounts], labels: int) -> PredictionCounts:
    """Return the sum of several counts; all 0 for no counts. `labels` is the number of labels."""
    posters, histograms = np.zeros(labels, np.int64), np.zeros((labels, BINS), np.int64)
    for one in counts:
        posters += np.array(one.posters)
        histograms += np.array(one.histograms)
    return PredictionCounts(
        tuple(posters.tolist()), sum(c.without_label for c in counts), tuple(tuple(row) for row in histograms.tolist())
    )


@dataclass(frozen=True)
class WrittenPart:
    """Result of one write task: the outcome of its posters, the names of its files below the output, and its counts."""

    outcome: Outcome
    files: tuple[str, ...]
    counts: PredictionCounts | None = None  # of the scored posters; None if no poster was scored
    other_files: dict[str, int] = field(default_factory=dict)  # failures that are no posters, by kind


VERSIONS_OF = ("genretag", "ray", "pyarrow", "pillow", "obstore", "openvino")


@dataclass(frozen=True)
class RunRecord:
    """Facts of one run, as `run.json` has them. All counts but `duplicates` are of distinct objects."""

    run_id: str
    dt: str
    images: str
    output: str
    model_version: str
    profile: str
    actors: dict[str, Any] | None  # the plan; None if there was nothing to score
    started_at: str
    finished_at: str
    seconds: dict[str, float]
    listed: int
    duplicates: int
    already_scored: int
    already_failed: int
    scored: int
    failed: int
    failures: dict[str, int]  # by "stage: reason"
    files: list[str]
    settings: dict[str, Any]
    versions: dict[str, str]
    table: str | None = None  # the Iceberg table, and the snapshot that holds this run; None if nothing was new
    snapshot_id: int | None = None
    peak_memory_bytes: dict[str, int] = field(default_factory=dict)  # of the driver, and of the largest actor by stage
    genres: dict[str, int] = field(default_factory=dict)  # scored posters by label; `without_genre`: with no label
    without_genre: int = 0
    histograms: dict[str, list[int]] = field(default_factory=dict)  # each label's probabilities in bins of equal width
    thresholds: dict[str, float] = field(default_factory=dict)
    busy_s: dict[str, float] = field(default_factory=dict)  # by stage, all threads of all actors together
    processors: list[dict[str, Any]] = field(default_factory=list)  # engines by kind: CPU, precision, how many
    other_files: dict[str, int] = field(default_factory=dict)  # failures that are no posters, by kind

    @property
    def failed_posters(self) -> int:
        """Number of failures, without those of files that are no posters."""
        return Outcome(self.scored, self.failures).against_budget


@dataclass(frozen=True)
class ListedCounts:
    """Numbers of objects that the inventory lists, and of those among them that the output already holds."""

    listed: int  # distinct objects
    duplicates: int  # inventory rows that named an object again
    already_scored: int
    already_failed: int
    already_other: int  # those of `already_failed` that are no posters


@dataclass(frozen=True)
class RunFacts:
    """Facts of a run for its record: the places that it reads and writes, its settings, its actors and its start.

    `actors` is None if there was nothing to score.
    """

    images: str
    output: str
    settings: Mapping[str, Any]
    actors: Mapping[str, Any] | None
    started: datetime


def make_record(
    run: Run, facts: RunFacts, listed: ListedCounts, parts: Sequence[WrittenPart], seconds: Mapping[str, float]
) -> RunRecord:
    """Return the record of a run: the sums of the write tasks' counts, checked to account for every listed object.

    `seconds` are the durations of the phases, by name. Raises `JobError` if the counts do not add up.
    """
    finished = datetime.now(UTC)
    total_s = (finished - facts.started).total_seconds()
    outcome = sum_outcomes(part.outcome for part in parts)
    counts = sum_counts([part.counts for part in parts if part.counts], len(run.labels))
    record = RunRecord(
        run_id=run.run_id,
        dt=run.dt.isoformat(),
        images=facts.images,
        output=facts.output,
        model_version=run.model_version,
        profile=run.profile,
        actors=None if facts.actors is None else dict(facts.actors),
        started_at=facts.started.isoformat(),
        finished_at=finished.isoformat(),
        seconds={name: round(value, 3) for name, value in seconds.items()} | {"total": round(total_s, 3)},
        listed=listed.listed,
        duplicates=listed.duplicates,
        already_scored=listed.already_scored + outcome.already_scored,
        already_failed=listed.already_failed + outcome.already_failed,
        scored=outcome.scored,
        failed=outcome.failed,
        failures=dict(outcome.failures),
        files=sorted(file for part in parts for file in part.files),
        settings=dict(facts.settings),
        versions={"python": platform.python_version(), **{name: version(name) for name in VERSIONS_OF}},
        genres=dict(zip(run.labels, counts.posters, strict=True)),
        without_genre=counts.without_label,
        histograms={label: list(bins) for label, bins in zip(run.labels, counts.histograms, strict=True)},
        other_files=dict(sum((Counter(part.other_files) for part in parts), Counter()).most_common()),
        thresholds=dict(zip(run.labels, run.thresholds, strict=True)),
    )
    accounted = record.already_scored + record.already_failed + record.scored + record.failed
    if accounted != record.listed:
        raise JobError(
            f"{record.listed} objects were listed but {accounted} accounted for: the night is not published; "
            "run the same command again"
        )
    return record


def publish(record: RunRecord, storage: Storage) -> None:
    """Write the record to `runs/<run_id>/run.json`. From now on the run counts as complete. Raises `StorageError`."""
    text = json.dumps(asdict(record), indent=1, ensure_ascii=False)
    storage.put(join(record.output, "runs", record.run_id, "run.json"), text.encode())
