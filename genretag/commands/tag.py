"""`genretag tag`: one run, from the inventory to the published run record."""

import logging
import shlex
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from genretag.errors import JobError, OutputHeldError, UsageError, one_line, unreadable_output
from genretag.images.file_kinds import other_files_in_words
from genretag.model.bundle import DEFAULT_BUNDLE, Bundle, load_bundle
from genretag.model.embeddings import embedding_length, with_embeddings
from genretag.model.engines import require_engine, require_precision
from genretag.model.engines.processors import engines_on
from genretag.model.thresholds import Profile
from genretag.output import OutputFiles, list_output, parquet_files
from genretag.output.compaction_journal import finish_compaction
from genretag.output.label_lists import form_for
from genretag.output.lock import holding_output, require_held
from genretag.output.part_files import PartFiles, remove_late_parts
from genretag.output.run_record import RunFacts, RunRecord, WrittenPart, make_record, publish
from genretag.output.schema import (
    CARRIED,
    PROFILE_KEY,
    Run,
    predictions_schema,
    profile_metadata,
    require_columns_free,
)
from genretag.output.tables import commit_parts, require_table
from genretag.reports.page import draw_if_possible
from genretag.reports.run_report import write_report
from genretag.runtime.cluster import require_room, require_seen
from genretag.runtime.compat import explaining_lost_nodes, why_ray_gave_up
from genretag.runtime.display import Display
from genretag.runtime.progress import PhaseClock, last_words, peak_memory_bytes
from genretag.runtime.ray_session import ray_session
from genretag.runtime.session import Session, new_run_id
from genretag.runtime.telemetry import WORKLIST
from genretag.scoring.actor_plan import WRITE_CPU, ActorPlan, plan_actors
from genretag.scoring.actors import FetchOptions
from genretag.scoring.error_budget import require_not_stopped, require_success, stopped
from genretag.scoring.inventory import Inventory, carried_fields, take_inventory
from genretag.scoring.manifests import is_manifest
from genretag.scoring.pipeline import Scoring, scored_dataset, show_scored
from genretag.scoring.settings import TagSettings
from genretag.scoring.shards import remove_shards, write_shards
from genretag.scoring.step_ledger import running_ledger
from genretag.scoring.worklist import Worklist, held_schema, make_worklist
from genretag.settings import LISTS, NO_TABLE, TableSettings
from genretag.storage import ObjectInfo, Storage, StorageError, join, resolve

logger = logging.getLogger(__name__)

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
LONG_START_S = 30  # for actors to start; after that, the display names `ray status`


def tag(
    images: str,
    output: str,
    settings: TagSettings,
    session: Session,
    model: str | None = None,
    table: TableSettings = NO_TABLE,
) -> RunRecord:
    """Score all posters of `images` that have no row of this model in `output`, and return the published run record.

    `images` is a folder, a prefix of a bucket or a manifest. `model` is the location of a bundle (None: the default
    bundle). If `table` is set, commit the new files to that Iceberg table. If there is nothing to score, Ray does not
    start, and the record is still published.

    Raises `UsageError` if a person must act, `JobError` if a retry may help, and `OutputHeldError` if another run holds
    the output's lock. After an error, finished part files stay, and the next run scores only the other posters.
    """
    images, output, session = resolve(images), resolve(output), session.owning(output, model)
    storage, started, clock = session.storage, datetime.now(UTC), PhaseClock()
    run_id = new_run_id(started)
    bundle = load_bundle(model or str(DEFAULT_BUNDLE), storage)
    if settings.engine:
        require_engine(settings.engine, bundle)
    if settings.precision:
        require_precision(settings.precision, settings.engine, bundle)
    with tempfile.TemporaryDirectory(prefix="genretag-") as folder, Display(session) as display:
        display.phase("listing")
        with clock.phase("inventory"):
            inventory = take_inventory(images, storage, Path(folder), leave_out=output, carry=settings.carry)
        run = _name_the_run(bundle, settings, _carried(inventory, output, settings, storage), started, run_id)
        if table.table and settings.embeddings:
            raise UsageError(
                "no table format has float16, the type of the embeddings: tag without --embeddings or --table"
            )
        require_table(table, output, predictions_schema(run), storage)
        with holding_output(output, run.run_id, storage, break_lock=settings.break_lock):
            finish_compaction(output, storage, table)
            with clock.phase("worklist"):
                held = list_output(output, storage)
                _require_same_columns(output, held, run, storage)
                worklist = _worklist(inventory, output, held, run, settings, storage)
            _tell_of_other_profiles(worklist, run, output)
            parts: list[WrittenPart] = []
            cost: dict[str, Any] = {}
            plan = None
            if worklist.to_score:
                display.phase("starting")
                with clock.phase("ray"), ray_session(session) as cluster:
                    WORKLIST.record(worklist.to_score, run_id=run_id)
                    plan = plan_actors(cluster, settings, bundle)
                    if not cluster.is_local:
                        require_room(plan.asks(), session.wait_for_nodes_s)
                        require_seen([output] if is_manifest(images) else [images, output], "tagging")
                    with clock.phase("score"):
                        network = with_embeddings(bundle, plan.engine) if settings.embeddings else bundle
                        job = _Job(images, output, run, network, settings, session)
                        with running_ledger(settings.allowed_failures(worklist.to_score)) as ledger:
                            parts, cost = _score(job, worklist, plan, ledger, display)
                display.phase("publishing")
                remove_late_parts(output, run.run_id, held.uris, storage)
            actors = asdict(plan) if plan else None
            facts = RunFacts(images, output, asdict(settings), actors, started)
            record = make_record(run, facts, worklist, parts, clock.seconds)
            require_success(record, worklist, settings)
            require_held(output, run.run_id, storage)
            snapshot_id = commit_parts(table, output, run.run_id, run.model_version, storage)
            record = replace(record, table=table.table, snapshot_id=snapshot_id, **cost)
            require_held(output, run.run_id, storage)
            publish(record, storage)
        if settings.report:
            draw_if_possible("the morning report", lambda: write_report(record, storage))
    return record


def describe(record: RunRecord) -> str:
    """Return the result of a run for the terminal: a line of counts, and a line for each reason of failure."""
    lines = [
        f"{record.scored} posters scored, {record.failed_posters} failed, {record.already_scored} already scored, "
        f"{record.already_failed} failed before, {record.listed} listed: {record.output}/runs/{record.run_id}/run.json"
    ]
    lines += [f"  {count} x {reason}" for reason, count in record.failures.items()]
    if record.other_files:
        lines.append(f"  {other_files_in_words(record.other_files)} and do not count as failed")
    return "\n".join(lines)


def _carried(inventory: Inventory, output: str, settings: TagSettings, storage: Storage) -> tuple[pa.Field, ...]:
    """Return the columns that `--carry` copies, with their types in the output. There are none without `--carry`."""
    if not settings.carry:
        return ()
    return carried_fields(
        inventory.schema.field(CARRIED).type,
        _held(output, parquet_files(join(output, "predictions"), storage), storage),
    )


def _name_the_run(
    bundle: Bundle, settings: TagSettings, carried: tuple[pa.Field, ...], started: datetime, run_id: str
) -> Run:
    """Return the identity of the run. Raises `UsageError` if `--carry` names a column that the output needs itself."""
    profile = bundle.profile(settings.profile)
    run = Run(
        run_id=run_id,
        dt=date.fromisoformat(settings.date) if settings.date else started.date(),
        model_version=bundle.model_version,
        labels=bundle.labels,
        profile=settings.profile,
        thresholds=profile.thresholds,
        at_most=profile.at_most,
        carried=carried,
        floor=settings.floor if form_for(len(bundle.labels), settings.form) == LISTS else None,
        embedding=embedding_length(bundle) if settings.embeddings else None,
    )
    require_columns_free(settings.carry, run)
    return run


def _require_same_columns(output: str, files: OutputFiles, run: Run, storage: Storage) -> None:
    """Raise `UsageError` if the output holds predictions with other columns than this run writes.

    A warehouse may take the columns of any one part file for all part files.
    """
    held = _held(output, files.by_kind["predictions"], storage)
    if held is None:
        return
    tonight = predictions_schema(run)
    differ = [f.name for f in (*held, *tonight) if f.name not in tonight.names or f.name not in held.names]
    differ += [f.name for f in tonight if f.name in held.names and held.field(f.name).type != f.type]
    if differ:
        raise UsageError(
            f"{output} holds predictions with other columns, of a model with other labels or of another --carry, "
            "--form or --embeddings, and one table cannot hold both: name another output; they differ in "
            f"{one_line(', '.join(differ), 200)}"
        )


def _held(output: str, predictions: Iterable[ObjectInfo], storage: Storage) -> pa.Schema | None:
    """Return the schema of the output's predictions; None if there are none. Raises `UsageError` if reading fails."""
    try:
        return held_schema(predictions, storage)
    except (OSError, pa.ArrowException, StorageError) as error:
        raise unreadable_output(output, error) from error


def _worklist(
    inventory: Inventory, output: str, held: OutputFiles, run: Run, settings: TagSettings, storage: Storage
) -> Worklist:
    """Choose the posters to score, and log the counts. Raises `UsageError` if the part files `held` cannot be read."""
    try:
        worklist = make_worklist(
            inventory,
            held,
            run.model_version,
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


def _tell_of_other_profiles(worklist: Worklist, run: Run, output: str) -> None:
    """Log a warning if the output has rows of this model whose genres another threshold profile decided.

    `tag` leaves those rows unchanged.
    """
    tonight = profile_metadata(run.profile, Profile(run.thresholds, run.at_most))
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
            run.profile,
        )


@dataclass(frozen=True)
class _Job:
    """Inputs of `_score` about a run, besides the posters. `session` has the options for Ray and the store.

    The network of `bundle` also gives embeddings if the run writes them.
    """

    images: str
    output: str
    run: Run
    bundle: Bundle
    settings: TagSettings
    session: Session


def _score(
    job: _Job, worklist: Worklist, plan: ActorPlan, ledger: Any, display: Display
) -> tuple[list[WrittenPart], dict[str, Any]]:
    """Score the posters of the worklist with the Ray actors of `plan`, and write the part files.

    Return the result of each write task, and the cost of the run: peak memory, busy seconds and processors. Raises
    `UsageError`, `JobError` or `OutputHeldError` if the job ends early. `ledger` is the actor that counts crashes.
    """
    from genretag.output.part_sink import PartSink  # imported when Ray runs

    posters, storage, settings = worklist.to_score, job.session.storage, job.settings
    output, run = job.output, job.run
    require_held(output, run.run_id, storage)  # without the lock, `write_shards` would remove another run's shards
    shards = write_shards(worklist, output, run.run_id, storage)
    fetch = FetchOptions.of(settings, one_bucket=not is_manifest(job.images))
    scoring = Scoring(job.bundle, plan, fetch, storage, ledger, job.session.wait_for_nodes_s)
    sink = PartSink(PartFiles(output, storage, run), settings.rows_per_file_for(posters, len(job.bundle.labels)))
    with scored_dataset(shards, scoring) as dataset, display.following(ledger, _showing(display, posters)):
        try:
            with explaining_lost_nodes():
                sink.write_all(dataset, posters, plan.write_tasks, WRITE_CPU)
        except Exception as error:
            raise _explained(error, ledger, output) from error
    words = last_words(ledger)
    require_not_stopped(words, ledger, settings, posters, output)
    require_held(output, run.run_id, storage)
    remove_shards(output, storage)
    memory = {name: words.get(f"{name}_bytes", 0) for name in ("fetch", "predict")} | {"driver": peak_memory_bytes()}
    busy_s = {stage: words.get(f"{stage}_ms", 0) / 1000 for stage in ("fetch", "decode", "predict")}
    return sink.parts, {"peak_memory_bytes": memory, "busy_s": busy_s, "processors": engines_on(words)}


def _explained(error: Exception, ledger: Any, output: str) -> Exception:
    """Return the exception to raise for a failed job. `ledger` is the actor that counts crashes.

    If the cause is known, the exception is one of genretag's and says what to do. Otherwise it is `error` itself.
    """
    import ray

    counts = last_words(ledger)
    if "fatal" in counts:
        return stopped(counts["fatal"], output)
    cause = getattr(error, "cause", error)  # the error in a task, or in this process
    if isinstance(cause, OutputHeldError):
        return cause
    if isinstance(cause, StorageError):
        kind = UsageError if cause.reason in A_PERSON_MUST_ACT else JobError
        return kind(f"cannot write to {output}: {cause}; finished files stay, run the same command again")
    if isinstance(error, ray.exceptions.RayError) and not isinstance(error, ray.exceptions.RayTaskError):
        return JobError(
            f"Ray gave up ({one_line(why_ray_gave_up(error), 200)}): what was finished is in {output}, "
            "run the same command again, with -v for Ray's own messages"
        )
    return error


def _showing(display: Display, posters: int) -> Callable[[dict[str, Any]], None]:
    """Return a function that shows counts of finished posters on the display. `posters` is the number to score.

    The display changes to the scoring phase when the first posters are finished.
    """
    began = time.monotonic()

    def show(values: dict[str, Any]) -> None:
        if "scored" in values:
            display.phase("scoring", posters)
            show_scored(values, display)
        elif time.monotonic() - began > LONG_START_S:
            display.count(0, "`ray status` says what actors wait for")

    return show
