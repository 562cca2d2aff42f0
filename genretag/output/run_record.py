"""Record of a run: how many posters were listed, scored, skipped and failed, in counts that add up.

Each write task counts its own rows, and the record holds the sums: the scored posters, the failed posters by reason,
and the predictions by label. So the run's HTML page can show how the genres changed since earlier runs, without reading
the rows again.

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
import pyarrow.compute as pc
import pyarrow.parquet

from genretag.data.labels import column_names
from genretag.errors import JobError
from genretag.images.file_kinds import OTHER_FILE
from genretag.output.label_lists import LABELS
from genretag.output.schema import ALREADY, FAILED, SCORED, Run
from genretag.storage import Storage, join

COUNTS = ("scored", "already_scored", "already_failed")


@dataclass(frozen=True)
class Outcome:
    """Counts of posters by outcome, for a step (up to 256 posters), a part file or a run.

    `failures` maps `stage: reason`, such as `fetch: timeout`, to a number of posters. The store may return another
    version of an object than was listed. If the output already has a row of the returned version, the poster counts
    as already scored or already failed.
    """

    scored: int = 0
    failures: Mapping[str, int] = field(default_factory=dict)
    already_scored: int = 0  # the output has a prediction of the version that was read; another version was listed
    already_failed: int = 0

    @property
    def failed(self) -> int:
        """Number of failed objects, including files that are not posters, such as videos."""
        return sum(self.failures.values())

    @property
    def other_files(self) -> int:
        """Number of failed objects that are not posters, such as videos and text files."""
        return sum(count for name, count in self.failures.items() if name.endswith(f": {OTHER_FILE}"))

    @property
    def against_budget(self) -> int:
        """Number of failures that count towards the error budget. Other files than posters do not count."""
        return self.failed - self.other_files


def outcome_of(rows: pa.Table) -> Outcome:
    """Count the outcomes of rows with the columns `stage`, `reason` and, optionally, `already`.

    `already` is set if this run did not score the poster, because the output has a row of the version that was read.
    A row with null in `reason` and `already` counts as scored.
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
    """Counts of scored posters: with each label, without any label, and a histogram of each label's probability.

    Rows of the list form give no histograms, because they lack most probabilities.
    """

    posters: tuple[int, ...]  # in the order of the labels
    without_label: int
    histograms: tuple[tuple[int, ...], ...]  # (labels, BINS); empty if there are none


def count_predictions(table: pa.Table, labels: Sequence[str]) -> PredictionCounts:
    """Count the rows of a table of predictions.

    The columns `is_*` give the number of posters with each label. The columns `p_*` (probabilities) give histograms
    with `BINS` bins from 0 to 1. In the list form, the column `genres` gives the number of posters with each label.
    """
    if LABELS in table.column_names:
        genres = table["genres"].combine_chunks()
        numbers = pc.index_in(genres.flatten(), value_set=pa.array(list(labels))).to_numpy()
        without = pc.sum(pc.equal(pc.list_value_length(genres), 0)).as_py() or 0
        return PredictionCounts(tuple(np.bincount(numbers, minlength=len(labels)).tolist()), without, ())
    names = column_names(labels)
    predicted = [table[f"is_{name}"].to_numpy() for name in names]
    probabilities = [table[f"p_{name}"].to_numpy() for name in names]
    return PredictionCounts(
        tuple(int(column.sum()) for column in predicted),
        int(len(table) - np.logical_or.reduce(predicted).sum()),
        tuple(tuple(np.histogram(column, BINS, (0.0, 1.0))[0].tolist()) for column in probabilities),
    )


def sum_counts(counts: Sequence[PredictionCounts], labels: int) -> PredictionCounts:
    """Return the sum of several counts. If `counts` is empty, every number is 0. `labels` is the number of labels."""
    posters, histograms = np.zeros(labels, np.int64), np.zeros((labels, BINS), np.int64)
    for one in counts:
        posters += np.array(one.posters)
        if one.histograms:
            histograms += np.array(one.histograms)
    return PredictionCounts(
        tuple(posters.tolist()), sum(c.without_label for c in counts), tuple(tuple(row) for row in histograms.tolist())
    )


@dataclass(frozen=True)
class WrittenPart:
    """Result of one write task: outcomes of posters, names of the written files below the output, and label counts."""

    outcome: Outcome
    files: tuple[str, ...]
    counts: PredictionCounts | None = None  # of the scored posters; None if no poster was scored
    other_files: dict[str, int] = field(default_factory=dict)  # files that are not posters, by kind of file


RECORD_FORMAT = 1
VERSIONS_OF = ("genretag", "ray", "pyarrow", "pillow", "obstore", "openvino")


@dataclass(frozen=True)
class RunRecord:
    """Content of a run's `run.json`. All counts except `duplicates` are of distinct objects."""

    run_id: str
    dt: str
    images: str
    output: str
    model_version: str
    profile: str
    actors: dict[str, Any] | None  # the actor plan; None if there was nothing to score
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
    table: str | None = None  # the Iceberg table; None if none is set
    snapshot_id: int | None = None  # the table's snapshot with this run's files; None if nothing was committed
    peak_memory_bytes: dict[str, int] = field(default_factory=dict)  # of the driver, and of each stage's largest actor
    genres: dict[str, int] = field(default_factory=dict)  # number of scored posters, by label
    without_genre: int = 0  # scored posters without any label
    histograms: dict[str, list[int]] = field(default_factory=dict)  # each label's probabilities in bins of equal width
    thresholds: dict[str, float] = field(default_factory=dict)
    busy_s: dict[str, float] = field(default_factory=dict)  # by stage, summed over all threads of all actors
    processors: list[dict[str, Any]] = field(default_factory=list)  # kinds of engines, each with a count
    other_files: dict[str, int] = field(default_factory=dict)  # files that are not posters, by kind of file
    format_version: int = RECORD_FORMAT  # of this file; records without it are of format 1

    @property
    def failed_posters(self) -> int:
        """Number of failed posters. Files that are not posters, such as videos, do not count."""
        return Outcome(self.scored, self.failures).against_budget


@dataclass(frozen=True)
class ListedCounts:
    """Counts of the objects in the inventory, in total and of those that already have rows in the output."""

    listed: int  # distinct objects
    duplicates: int  # further rows of the inventory for the same objects
    already_scored: int
    already_failed: int
    already_other: int  # the part of `already_failed` that are not posters


@dataclass(frozen=True)
class RunFacts:
    """Inputs of a run for its record: the locations that it reads and writes, its settings, actors and start time.

    `actors` has the numbers of actors and their resources. It is None if there was nothing to score.
    """

    images: str
    output: str
    settings: Mapping[str, Any]
    actors: Mapping[str, Any] | None
    started: datetime


def make_record(
    run: Run, facts: RunFacts, listed: ListedCounts, parts: Sequence[WrittenPart], seconds: Mapping[str, float]
) -> RunRecord:
    """Return the record of a run, with the sums of the counts of its write tasks (`parts`).

    `seconds` are the durations of the phases, by name. Raises `JobError` unless listed = already scored + already
    failed + scored + failed.
    """
    finished = datetime.now(UTC)
    total_s = (finished - facts.started).total_seconds()
    outcome = sum_outcomes(part.outcome for part in parts)
    counts = sum_counts([part.counts for part in parts if part.counts], len(run.labels))
    seen = {label for label, count in zip(run.labels, counts.posters, strict=True) if count}
    told = set(run.labels) if run.floor is None else seen  # of very many labels, the record has those that were given
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
        genres={label: count for label, count in zip(run.labels, counts.posters, strict=True) if label in told},
        without_genre=counts.without_label,
        histograms={}
        if run.floor is not None
        else {label: list(bins) for label, bins in zip(run.labels, counts.histograms, strict=True)},
        other_files=dict(sum((Counter(part.other_files) for part in parts), Counter()).most_common()),
        thresholds={label: value for label, value in zip(run.labels, run.thresholds, strict=True) if label in told},
    )
    accounted = record.already_scored + record.already_failed + record.scored + record.failed
    if accounted != record.listed:
        raise JobError(
            f"{record.listed} objects were listed but {accounted} accounted for: the night is not published; "
            "run the same command again"
        )
    return record


def publish(record: RunRecord, storage: Storage) -> None:
    """Write the record to `runs/<run_id>/run.json`. After this, the run counts as complete. Raises `StorageError`."""
    text = json.dumps(asdict(record), indent=1, ensure_ascii=False)
    storage.put(join(record.output, "runs", record.run_id, "run.json"), text.encode())
