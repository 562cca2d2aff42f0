"""One night, from the inventory to the published run record."""

import logging
import shlex
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from genretag.bundle import DEFAULT_BUNDLE, Bundle, load_bundle
from genretag.cluster_checks import require_room, require_seen
from genretag.compaction.journal import finish_compaction
from genretag.display import Display
from genretag.engines import require_engine, require_precision
from genretag.engines.processors import engines_on
from genretag.errors import JobError, OutputHeldError, UsageError, one_line, unreadable_output
from genretag.iceberg.settings import NO_TABLE, TableSettings
from genretag.iceberg.table import commit_parts, require_table
from genretag.profiles import Profile
from genretag.progress import last_words, peak_memory_bytes
from genretag.ray_session import ray_session
from genretag.reports.morning_report import write_report
from genretag.reports.writing import draw_if_possible
from genretag.run_id import new_run_id
from genretag.session import Session
from genretag.storage import Storage, StorageError, resolve
from genretag.tagging.budget import require_not_stopped, require_success, stopped
from genretag.tagging.carrying import carried_fields
from genretag.tagging.inventory import CARRIED, Inventory, take_inventory
from genretag.tagging.ledger import open_ledger
from genretag.tagging.lock import require_held
from genretag.tagging.lost_room import waiting_explained
from genretag.tagging.manifests import is_manifest
from genretag.tagging.only_writer import only_writer
from genretag.tagging.part_files import Part, PartFiles, list_parts, remove_late_parts
from genretag.tagging.pipeline import scored_dataset, show_scored
from genretag.tagging.resources import WRITE_CPU, ActorPlan, plan_actors
from genretag.tagging.run_record import RunRecord, make_record, publish
from genretag.tagging.schema import PROFILE_KEY, Night, predictions_schema, profile_metadata, require_columns_free
from genretag.tagging.settings import TagSettings
from genretag.tagging.shards import remove_shards, write_shards
from genretag.tagging.worklist import Worklist, held_schema, make_worklist
from genretag.telemetry import WORKLIST

A_PERSON_MUST_ACT = frozenset(
    {
        "disk_full",
        "credentials_refused",
        "certificate_refused",
        "access_denied",
        "bucket_missing",
        "wrong_region",
        "refused",
    }
)
LONG_START_S = 30  # for actors to start: after that the cluster is busy, or the machine is

logger = logging.getLogger(__name__)


def tag(
    images: str,
    output: str,
    settings: TagSettings,
    session: Session,
    model: str | None = None,
    table: TableSettings = NO_TABLE,
) -> RunRecord:
    """Scores all posters of `images` that `output` does not hold yet, and returns the published record.

    `model` is a bundle's location, the default model when not given. Raises `UsageError` where a person must
    act, `JobError` where a run failed that may be tried again; part files that were finished stay, and the
    next run goes on from them.
    """
    images, output = resolve(images), resolve(output)
    storage, started, clock = session.storage, datetime.now(UTC), _Clock()
    run_id = new_run_id(started)
    if settings.engine:
        require_engine(settings.engine)
    bundle = load_bundle(model or str(DEFAULT_BUNDLE), storage)
    if settings.precision:
        require_precision(settings.precision, settings.engine, bundle)
    with tempfile.TemporaryDirectory(prefix="genretag-") as folder, Display(session) as display:
        display.phase("listing")
        with clock.phase("inventory"):
            inventory = take_inventory(images, storage, Path(folder), leave_out=output, carry=settings.carry)
        night = _name_the_night(bundle, settings, _carried(inventory, output, settings, storage), started, run_id)
        require_table(table, output, predictions_schema(night), storage)
        with only_writer(output, night.run_id, storage, break_lock=settings.break_lock):
            finish_compaction(output, storage, table)
            _require_same_columns(output, night, storage)
            with clock.phase("worklist"):
                known = list_parts(output, storage)
                worklist = _worklist(inventory, output, night, settings, storage)
            _tell_of_other_profiles(worklist, night, output)
            parts: list[Part] = []
            cost: dict[str, Any] = {}
            plan = None
            if worklist.to_score:
                display.phase("starting")
                with clock.phase("ray"), ray_session(session) as cluster:
                    WORKLIST.record(worklist.to_score, run_id=run_id)
                    plan = plan_actors(cluster, settings, bundle)
                    require_room(plan.asks(), session.wait_for_nodes_s)
                    require_seen([output] if is_manifest(images) else [images, output], "tagging")
                    with clock.phase("score"):
                        parts, cost = _score(worklist, images, output, night, bundle, plan, settings, session, display)
                display.phase("publishing")
                remove_late_parts(output, night.run_id, known, storage)
            record = make_record(night, (images, output), worklist, parts, settings, plan, started, clock.seconds)
            require_success(record, worklist, settings)
            require_held(output, night.run_id, storage)
            snapshot_id = commit_parts(table, output, night.run_id, night.model_version, storage)
            record = replace(record, table=table.table, snapshot_id=snapshot_id, **cost)
            require_held(output, night.run_id, storage)
            publish(record, storage)
        if settings.report:
            draw_if_possible("the morning report", lambda: write_report(record, storage))
    return record


def _carried(inventory: Inventory, output: str, settings: TagSettings, storage: Storage) -> tuple[pa.Field, ...]:
    if not settings.carry:
        return ()
    return carried_fields(inventory.schema.field(CARRIED).type, _held(output, storage))


def _name_the_night(
    bundle: Bundle, settings: TagSettings, carried: tuple[pa.Field, ...], started: datetime, run_id: str
) -> Night:
    profile = bundle.profile(settings.profile)
    night = Night(
        run_id=run_id,
        dt=date.fromisoformat(settings.date) if settings.date else started.date(),
        model_version=bundle.model_version,
        labels=bundle.labels,
        profile=settings.profile,
        thresholds=profile.thresholds,
        at_most=profile.at_most,
        carried=carried,
    )
    require_columns_free(settings.carry, night)
    return night


def _require_same_columns(output: str, night: Night, storage: Storage) -> None:
    """One table has one set of columns: warehouses read all part files by the schema of any of them."""
    held = _held(output, storage)
    if held is None:
        return
    tonight = predictions_schema(night)
    differ = [f.name for f in (*held, *tonight) if f.name not in tonight.names or f.name not in held.names]
    differ += [f.name for f in tonight if f.name in held.names and held.field(f.name).type != f.type]
    if differ:
        raise UsageError(
            f"{output} holds predictions with other columns, of a model with other labels or of other --carry, and one "
            f"table cannot hold both: name another output; they differ in {one_line(', '.join(differ), 200)}"
        )


def _held(output: str, storage: Storage) -> pa.Schema | None:
    try:
        return held_schema(output, storage)
    except (OSError, pa.ArrowException, StorageError) as error:
        raise unreadable_output(output, error) from error


def _worklist(inventory: Inventory, output: str, night: Night, settings: TagSettings, storage: Storage) -> Worklist:
    try:
        worklist = make_worklist(
            inventory,
            output,
            night.model_version,
            storage,
            retry_failed=settings.retry_failed,
            retries=settings.retries,
        )
    except (OSError, pa.ArrowException, duckdb.Error) as error:
        raise unreadable_output(output, error) from error
    logger.info(
        "%d objects listed, %d already scored, %d failed before, %d to score",
        worklist.listed,
        worklist.already_scored,
        worklist.already_failed,
        worklist.to_score,
    )
    return worklist


def _tell_of_other_profiles(worklist: Worklist, night: Night, output: str) -> None:
    """Log a warning if rows that the output holds have genres by other thresholds: `tag` leaves those as they are."""
    tonight = profile_metadata(night.profile, Profile(night.thresholds, night.at_most))
    others = {
        dict(held)[PROFILE_KEY].decode(): rows for held, rows in worklist.profiles.items() if dict(held) != tonight
    }
    if others:
        logger.warning(
            "%d rows in %s keep the genres of the profile %s: genretag retag %s --profile %s changes them",
            sum(others.values()),
            output,
            one_line(", ".join(sorted(others)), 60),
            shlex.quote(output),
            night.profile,
        )


def _score(
    worklist: Worklist,
    images: str,
    output: str,
    night: Night,
    bundle: Bundle,
    plan: ActorPlan,
    settings: TagSettings,
    session: Session,
    display: Display,
) -> tuple[list[Part], dict[str, Any]]:
    """Runs the worklist through the two actor stages into part files; returns those, and what it cost."""
    posters, storage = worklist.to_score, session.storage
    ledger = open_ledger(settings.allowed_failures(posters))
    require_held(output, night.run_id, storage)  # or those of another run would be removed
    shards = write_shards(worklist, output, night.run_id, storage)
    one_bucket = not is_manifest(images)
    dataset = scored_dataset(
        shards,
        bundle,
        plan,
        settings,
        storage,
        ledger,
        one_bucket=one_bucket,
        wait_for_nodes_s=session.wait_for_nodes_s,
    )
    sink = PartFiles(output, storage, night, settings.rows_per_file_for(posters))
    with display.following(ledger, _showing(display, posters)):
        try:
            with waiting_explained():
                dataset.write_datasink(sink, ray_remote_args={"num_cpus": WRITE_CPU})
        except Exception as error:
            raise _explained(error, ledger, output) from error
    words = last_words(ledger)
    require_not_stopped(words, ledger, settings, posters, output)
    require_held(output, night.run_id, storage)
    remove_shards(output, storage)
    memory = {stage: words.get(f"{stage}_bytes", 0) for stage in ("fetch", "predict")}
    busy_s = {stage: words.get(f"{stage}_ms", 0) / 1000 for stage in ("fetch", "decode", "predict")}
    memory["driver"] = peak_memory_bytes()
    return sink.parts, {"peak_memory_bytes": memory, "busy_s": busy_s, "processors": engines_on(words)}


def _explained(error: Exception, ledger: Any, output: str) -> Exception:
    """What to tell of a failed job: who must act where we know it, else Ray's error as it is."""
    import ray

    counts = last_words(ledger)
    if "fatal" in counts:
        return stopped(counts["fatal"], output)
    cause = getattr(error, "cause", None)
    if isinstance(cause, OutputHeldError):
        return cause
    if isinstance(cause, StorageError):
        kind = UsageError if cause.reason in A_PERSON_MUST_ACT else JobError
        return kind(f"cannot write to {output}: {cause}; finished files stay, run the same command again")
    if isinstance(error, ray.exceptions.RayError) and not isinstance(error, ray.exceptions.RayTaskError):
        return JobError(
            f"Ray gave up ({one_line(str(error).strip().splitlines()[0], 200)}): what was finished is in {output}, "
            "run the same command again, with -v for Ray's own messages"
        )
    return error


def _showing(display: Display, posters: int) -> Callable[[dict[str, Any]], None]:
    """Shows what the ledger says; scoring begins with the first poster that is done."""
    began = time.monotonic()

    def show(values: dict[str, Any]) -> None:
        if "scored" in values:
            display.phase("scoring", posters)
            show_scored(values, display)
        elif time.monotonic() - began > LONG_START_S:
            display.count(0, "`ray status` says what actors wait for")

    return show


class _Clock:
    """Seconds by phase, for the run record."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - started
