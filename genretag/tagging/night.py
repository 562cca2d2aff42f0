"""One night, from the inventory to the published run record."""

import _thread
import logging
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa

from genretag.bundle import DEFAULT_BUNDLE, Bundle, load_bundle
from genretag.engines import require_engine
from genretag.errors import JobError, OutputHeldError, UsageError, one_line
from genretag.progress import open_board, watch
from genretag.ray_session import ray_session
from genretag.session import Session
from genretag.storage import Storage, StorageError, resolve
from genretag.tagging.inventory import read_inventory
from genretag.tagging.lock import output_lock
from genretag.tagging.part_files import Part, PartFiles
from genretag.tagging.pipeline import scored_dataset
from genretag.tagging.resources import WRITE_CPU, ActorPlan, plan_actors
from genretag.tagging.run_record import RunRecord, make_record, publish
from genretag.tagging.schema import Night
from genretag.tagging.settings import TagSettings
from genretag.tagging.worklist import Worklist, held_labels, make_worklist

logger = logging.getLogger(__name__)


def tag(images: str, output: str, settings: TagSettings, session: Session, model: str | None = None) -> RunRecord:
    """Scores all posters of `images` that `output` does not hold yet, and returns the published record.

    `model` is a bundle's location, the default model when not given. Raises `UsageError` where a person must
    act, `JobError` where a run failed that may be tried again; part files that were finished stay, and the
    next run goes on from them.
    """
    images, output = resolve(images), resolve(output)
    storage, started, clock = session.storage, datetime.now(UTC), _Clock()
    if settings.engine:
        require_engine(settings.engine)
    bundle = load_bundle(model or str(DEFAULT_BUNDLE), storage)
    night = _name_the_night(bundle, settings, started)
    with clock.phase("inventory"):
        inventory = read_inventory(images, storage, leave_out=output)
    _require_same_labels(output, night, storage)
    with _only_writer(output, night, settings, storage):
        with clock.phase("worklist"):
            worklist = _worklist(inventory, output, night, settings, storage)
        parts: list[Part] = []
        plan = None
        if len(worklist.posters):
            with clock.phase("ray"), ray_session(session) as cluster:
                plan = plan_actors(cluster, settings)
                with clock.phase("score"):
                    parts = _score(worklist, output, night, bundle, plan, settings, session)
        record = make_record(night, (images, output), worklist, parts, settings, plan, started, clock.seconds)
        if record.failed > settings.allowed_failures(len(worklist.posters)):
            raise _too_many_failures(record.failed, record.failures, len(worklist.posters), output)
        publish(record, storage)
    return record


def _name_the_night(bundle: Bundle, settings: TagSettings, started: datetime) -> Night:
    return Night(
        run_id=f"{started:%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}",
        dt=date.fromisoformat(settings.date) if settings.date else started.date(),
        model_version=bundle.model_version,
        labels=bundle.labels,
        profile=settings.profile,
        thresholds=tuple(bundle.profile(settings.profile).tolist()),
    )


def _require_same_labels(output: str, night: Night, storage: Storage) -> None:
    try:
        labels = held_labels(output, storage)
    except (OSError, pa.ArrowException, StorageError) as error:
        raise _unreadable(output, error) from error
    if labels is not None and set(labels) != set(night.labels):
        raise UsageError(
            f"{output} holds predictions of a model with other labels, and one table cannot hold both: "
            "name another output"
        )


@contextmanager
def _only_writer(output: str, night: Night, settings: TagSettings, storage: Storage) -> Iterator[None]:
    """Holds the output's lock; a run that loses it stops writing at once."""
    lost: list[str] = []
    held = False

    def stop(reason: str) -> None:
        lost.append(reason)
        _thread.interrupt_main()

    try:
        with output_lock(output, night.run_id, storage, stop, break_lock=settings.break_lock):
            held = True
            yield
    except StorageError as error:
        if held:  # it could be written a while ago
            raise JobError(f"cannot write to {output} any more: {error}; run the same command again") from error
        raise UsageError(f"cannot write to the output {output}: {error}") from error
    except KeyboardInterrupt:
        if lost:
            raise OutputHeldError(f"{output} was taken over, this run stops: {lost[0]}") from None
        raise


def _worklist(inventory: Any, output: str, night: Night, settings: TagSettings, storage: Storage) -> Worklist:
    try:
        worklist = make_worklist(inventory, output, night.model_version, storage, retry_failed=settings.retry_failed)
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(output, error) from error
    logger.info(
        "%d objects listed, %d already scored, %d failed before, %d to score",
        worklist.listed,
        worklist.already_scored,
        worklist.already_failed,
        len(worklist.posters),
    )
    return worklist


def _unreadable(output: str, error: Exception) -> UsageError:
    return UsageError(
        f"cannot read what {output} holds already ({one_line(error)}): check its name and the credentials"
    )


def _score(
    worklist: Worklist,
    output: str,
    night: Night,
    bundle: Bundle,
    plan: ActorPlan,
    settings: TagSettings,
    session: Session,
) -> list[Part]:
    """Runs the worklist through the two actor stages into part files."""
    posters = worklist.posters
    board = open_board()
    dataset = scored_dataset(posters, bundle, plan, settings, session.storage, board)
    sink = PartFiles(output, session.storage, night, settings.rows_per_file_for(len(posters)))
    with watch(board, _describer(len(posters)), quiet=session.quiet):
        try:
            dataset.write_datasink(sink, ray_remote_args={"num_cpus": WRITE_CPU})
        except Exception as error:
            raise _explained(error, board, settings.allowed_failures(len(posters)), len(posters), output) from error
    return sink.parts


def _explained(error: Exception, board: Any, allowed: int, posters: int, output: str) -> Exception:
    """What to tell of a failed job: the error budget, the cause where we know it, else Ray's error as it is."""
    import ray

    counts, _ = ray.get(board.read.remote(0))
    if counts.get("failed", 0) > allowed:
        reasons = {name: count for name, count in counts.items() if ": " in name}
        return _too_many_failures(counts["failed"], reasons, posters, output)
    cause = getattr(error, "cause", None)
    if isinstance(cause, StorageError):
        return JobError(f"cannot write to {output}: {cause}; finished files stay, run the same command again")
    return error


def _too_many_failures(failed: int, reasons: dict[str, int], posters: int, output: str) -> JobError:
    most = max(reasons, key=lambda reason: reasons[reason])
    return JobError(
        f"{failed} of {posters} posters failed, more than the error budget allows, {reasons[most]} of them "
        f"by {most}: mend the cause or raise --error-budget, and run the same command again; "
        f"what was finished is in {output}"
    )


def _describer(posters: int) -> Callable[[dict[str, Any]], str]:
    first: list[tuple[float, int]] = []  # when posters were first done, and how many: start-up is not part of the rate

    def describe(counts: dict[str, Any]) -> str:
        failed = counts.get("failed", 0)
        done, now = counts.get("scored", 0) + failed, time.monotonic()
        if not done:
            return f"tagging {posters:,} posters: starting the actors"
        first[:] = first or [(now, done)]
        progress = f"tagging: {done:,} of {posters:,} posters, {failed:,} failed"
        if done >= posters:
            return f"{progress}, writing"
        rate = (done - first[0][1]) / (now - first[0][0]) if now > first[0][0] else 0.0
        return f"{progress}, {rate:.0f}/s, {(posters - done) / rate:.0f} s left" if rate else progress

    return describe


class _Clock:
    """Seconds by phase, for the run record."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - started
