"""The record of a night: `runs/<run_id>/run.json`. It is written last, so where it stands, the night is complete."""

import json
import platform
from collections import Counter
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from genretag.errors import JobError
from genretag.storage import Storage, join
from genretag.tagging.counting import sum_counts
from genretag.tagging.outcomes import Outcome, sum_outcomes
from genretag.tagging.resources import ActorPlan
from genretag.tagging.schema import Night
from genretag.tagging.settings import TagSettings
from genretag.tagging.worklist import Worklist

if TYPE_CHECKING:
    from genretag.tagging.part_files import Part  # which needs Ray, and a record is also read where no Ray is

VERSIONS_OF = ("genretag", "ray", "pyarrow", "pillow", "obstore", "openvino")


@dataclass(frozen=True)
class RunRecord:
    """What happened in one night. Counts are of distinct objects."""

    run_id: str
    dt: str
    images: str
    output: str
    model_version: str
    profile: str
    actors: dict[str, Any] | None  # the plan; none when there was nothing to score
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
    table: str | None = None  # the Iceberg table, and the snapshot that holds this night; none where nothing was new
    snapshot_id: int | None = None
    peak_memory_bytes: dict[str, int] = field(default_factory=dict)  # of the driver, and of the largest actor by stage
    genres: dict[str, int] = field(default_factory=dict)  # how many scored posters got each label, and how many none
    without_genre: int = 0
    histograms: dict[str, list[int]] = field(default_factory=dict)  # each label's probabilities in bins of equal width
    thresholds: dict[str, float] = field(default_factory=dict)
    busy_s: dict[str, float] = field(default_factory=dict)  # by stage, all threads of all actors together
    processors: list[dict[str, Any]] = field(default_factory=list)  # what predicted, in what; by kind, with its engines
    other_files: dict[str, int] = field(default_factory=dict)  # of the failed: those that are no posters, by kind

    @property
    def failed_posters(self) -> int:
        """How many of the failed are posters."""
        return Outcome(self.scored, self.failures).against_budget


def make_record(
    night: Night,
    places: tuple[str, str],
    worklist: Worklist,
    parts: list["Part"],
    settings: TagSettings,
    plan: ActorPlan | None,
    started: datetime,
    seconds: dict[str, float],
) -> RunRecord:
    """Adds up what the write tasks counted, and checks that every listed object is accounted for.

    `places` are the images and the output. Raises `JobError` where the count does not come out.
    """
    finished = datetime.now(UTC)
    total_s = (finished - started).total_seconds()
    outcome = sum_outcomes(part.outcome for part in parts)
    counts = sum_counts([part.counts for part in parts if part.counts], len(night.labels))
    record = RunRecord(
        run_id=night.run_id,
        dt=night.dt.isoformat(),
        images=places[0],
        output=places[1],
        model_version=night.model_version,
        profile=night.profile,
        actors=asdict(plan) if plan else None,
        started_at=started.isoformat(),
        finished_at=finished.isoformat(),
        seconds={name: round(value, 3) for name, value in seconds.items()} | {"total": round(total_s, 3)},
        listed=worklist.listed,
        duplicates=worklist.duplicates,
        already_scored=worklist.already_scored + outcome.already_scored,
        already_failed=worklist.already_failed + outcome.already_failed,
        scored=outcome.scored,
        failed=outcome.failed,
        failures=dict(outcome.failures),
        files=sorted(file for part in parts for file in part.files),
        settings=asdict(settings),
        versions={"python": platform.python_version(), **{name: version(name) for name in VERSIONS_OF}},
        genres=dict(zip(night.labels, counts.posters, strict=True)),
        without_genre=counts.without_label,
        histograms={label: list(bins) for label, bins in zip(night.labels, counts.histograms, strict=True)},
        other_files=dict(sum((Counter(part.other_files) for part in parts), Counter()).most_common()),
        thresholds=dict(zip(night.labels, night.thresholds, strict=True)),
    )
    accounted = record.already_scored + record.already_failed + record.scored + record.failed
    if accounted != record.listed:
        raise JobError(
            f"{record.listed} objects were listed but {accounted} accounted for: the night is not published; "
            "run the same command again"
        )
    return record


def publish(record: RunRecord, storage: Storage) -> None:
    """Writes the record: from now on the night counts as complete."""
    text = json.dumps(asdict(record), indent=1, ensure_ascii=False)
    storage.put(join(record.output, "runs", record.run_id, "run.json"), text.encode())
