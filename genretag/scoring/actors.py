"""Actors of a run: `Score` fetches and decodes posters, and `Predict` runs the network on them.

On CPUs, each `Score` actor has a `Predict` object in its own process. With GPUs, the `Predict` objects are actors that
own the GPUs, and each `Score` actor sends them the pixels of one step (up to 256 posters) at a time.

Every poster stays one row from worklist to part file, whatever happens to it. `probabilities` is set if the poster was
scored, and `reason` if it failed.
"""

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from genretag.errors import Failure, one_line
from genretag.images import ImageRule
from genretag.model.bundle import Bundle
from genretag.model.engines import open_engine
from genretag.model.engines.processors import engine_facts
from genretag.output.run_record import outcome_of
from genretag.output.schema import ALREADY, CARRIED, LISTED, held_of, listed_and_not_read
from genretag.runtime.progress import peak_memory_bytes
from genretag.runtime.telemetry import (
    ENGINE_INFO,
    FETCHED_BYTES,
    QUEUE_WAIT_SECONDS,
    InFlight,
    record_fill,
    record_posters,
    timed,
)
from genretag.scoring.actor_plan import ActorPlan
from genretag.scoring.guarded_reader import GuardedReader
from genretag.scoring.reader import Busy, Held, Poster, PosterReader
from genretag.scoring.settings import TagSettings
from genretag.scoring.shards import posters_of, steps
from genretag.storage import Storage

SPARE_NO_POSTER = frozenset({"credentials_refused", "certificate_refused"})  # reasons that fail all posters
SPARE_NONE_OF_A_BUCKET = frozenset({"bucket_missing", "wrong_region"})  # reasons that fail all posters of a bucket
PREDICT_ATTEMPTS = 5  # for one step; after five crashes over the same posters, lost nodes are hardly the cause
ENGINE_BACK_S = 0.5  # pause before a step goes to another engine, because its engine has died


@dataclass(frozen=True)
class FetchOptions:
    """Options of an actor that fetches and decodes. `threads` is the number of posters that it reads at a time."""

    threads: int
    decode_timeout_s: float
    one_bucket: bool  # True if all posters are in one bucket; then a missing bucket stops the job

    @staticmethod
    def of(settings: TagSettings, *, one_bucket: bool) -> "FetchOptions":
        """Return the options from the settings of `tag`. `one_bucket` is True if all posters are in one bucket."""
        return FetchOptions(settings.fetch_threads, settings.decode_timeout_s, one_bucket)


@dataclass(frozen=True, eq=False)
class DecodedStep:
    """Up to 256 posters after decoding. `rows` has one row per poster, without pixels.

    `decoded`, bool (rows,), is False for posters that failed or needed no decoding. `pixels`, uint8 (N, height, width,
    3), has the pixels of the other posters. `at` is the time when the decoding ended, in seconds since 1970.
    """

    rows: pa.Table
    pixels: np.ndarray
    decoded: np.ndarray
    at: float

    @property
    def name(self) -> str:
        """Name of the step's prediction in the ledger."""
        return f"predict {self.rows['uri'][0]}"


class FetchDecode:
    """The first half of `Score`: blocks of posters -> decoded steps.

    If the decoder hangs, the process ends itself, and Ray repeats the block in a new process. If the ledger (a `Ledger`
    actor, which counts failures) says that the job must stop, no more steps come. No exception is raised, so that Ray
    writes the finished rows and prints no traceback.
    """

    def __init__(self, storage: Storage, rule: ImageRule, options: FetchOptions, ledger: Any) -> None:
        self._storage = storage
        self._reader = PosterReader(storage, rule, options.threads)
        self._shape = (rule.height, rule.width, 3)
        self._fatal = SPARE_NO_POSTER | (SPARE_NONE_OF_A_BUCKET if options.one_bucket else frozenset())
        self._ledger = ledger
        self._in_flight = InFlight()
        self._guarded = GuardedReader(self._reader, ledger, options.decode_timeout_s)

    def steps(self, block: pa.Table) -> Iterator[DecodedStep]:
        """Yield the posters of a block, step by step. If the job must stop, read nothing more."""
        for posters in self._steps(block):
            with self._in_flight.holding(len(posters)), timed("fetch_decode"):
                results = self._guarded.read(posters["uri"].to_pylist(), held_of(posters))
            FETCHED_BYTES.record(self._reader.take_fetched_bytes())
            if results is None or self._stops_where_nothing_can_work(results):
                return
            self._ledger.peak.remote(fetch_bytes=peak_memory_bytes())
            self._ledger.add.remote(**self._reader.busy.taken())
            images = [result.image.pixels for result in results if isinstance(result, Poster)]
            pixels = np.stack(images) if images else np.empty((0, *self._shape), dtype=np.uint8)
            decoded = np.array([isinstance(result, Poster) for result in results])
            yield DecodedStep(_rows(posters, results), pixels, decoded, time.time())

    def _steps(self, block: pa.Table) -> Iterator[pa.Table]:
        """Yield the posters of a block, up to 256 per table. If the job must stop, read and yield nothing."""
        import ray

        if not ray.get(self._ledger.stopped.remote()):
            yield from steps(posters_of(block, self._storage))

    def _stops_where_nothing_can_work(self, results: list[Poster | Failure | Held]) -> bool:
        """If a poster failed for a reason that fails all posters (`self._fatal`), stop the job and return True.

        Otherwise return False.
        """
        import ray

        for result in results:
            if isinstance(result, Failure) and result.reason in self._fatal:
                ray.get(self._ledger.stop.remote(result.message))
                return True
        return False


def _rows(posters: pa.Table, results: list[Poster | Failure | Held]) -> pa.Table:
    """Return the rows of a step, one per poster. `results` has one result for each poster of `posters`.

    A decoded poster sets `width` and `height`. A failure sets `stage`, `reason` and `message`. A `Held` result (the
    output already has a row of the object's present version) sets `already`. All columns that a result does not set are
    null.
    """
    read = [result if isinstance(result, Poster) else None for result in results]
    failures = [result if isinstance(result, Failure) else None for result in results]
    held, uris = held_of(posters), posters["uri"].to_pylist()
    already = [held[u][r.etag] if isinstance(r, Held) else None for u, r in zip(uris, results, strict=True)]
    etags = [r.etag or listed for r, listed in zip(results, posters["etag"].to_pylist(), strict=True)]
    return pa.table(
        {
            **{name: posters[name] for name in ("poster_id", "uri", "size", CARRIED) if name in posters.schema.names},
            "etag": etags,
            LISTED: listed_and_not_read(posters, etags),
            ALREADY: pa.array(already, pa.string()),
            "width": pa.array([p and p.image.width for p in read], pa.int32()),
            "height": pa.array([p and p.image.height for p in read], pa.int32()),
            **{
                name: pa.array([f and getattr(f, name) for f in failures], pa.string())
                for name in ("stage", "reason", "message")
            },
        }
    )


class Predictor(Protocol):
    """The engine side of a `Score` actor: a `Predict` in the same process, or the `Engines` of the job."""

    def predict(self, step: str, pixels: np.ndarray, decoded_at: float) -> np.ndarray | None:
        """Return the probabilities of a step's pixels, float32 (N, labels), or None if the job must stop."""
        ...


class Predict:
    """A loaded network: pixels -> probabilities. With GPUs it is a Ray actor, else an object in a `Score` actor.

    The constructor takes `ledger`, the handle that `open_ledger` returned.
    """

    def __init__(self, plan: ActorPlan, bundle: Bundle, ledger: Any) -> None:
        self._engine = open_engine(plan.engine, bundle, plan.batch_size, plan.engine_threads, plan.precision)
        if plan.predict_gpus and not self._engine.on_gpu:
            ledger.say.remote(f"the {plan.engine} engine sees no GPU, so CPUs predict: install its package for GPUs")
        if self._engine.caution:
            ledger.say.remote(self._engine.caution)
        ledger.set.remote(**engine_facts(precision=self._engine.precision, on_gpu=self._engine.on_gpu))
        self._ledger = ledger
        self._busy = Busy()
        self._batch_size = plan.batch_size
        self._one_at_a_time = threading.Lock()
        ENGINE_INFO.record(
            1,
            engine=plan.engine,
            precision=plan.precision,
            batch_size=str(plan.batch_size),
            model_version=bundle.model_version,
        )

    def predict(self, step: str, pixels: np.ndarray, decoded_at: float) -> np.ndarray | None:
        """Return calibrated probabilities: uint8 (N, height, width, 3) -> float32 (N, labels).

        `step` names the step in the ledger, and `decoded_at` is the time when it began to wait for this engine, in
        seconds since 1970. If the engine's process has died `PREDICT_ATTEMPTS` times over this step, stop the job and
        return None.
        """
        with self._one_at_a_time:
            QUEUE_WAIT_SECONDS.record(max(0.0, time.time() - decoded_at))
            if self._stops_where_the_engine_dies(step):
                return None
            with self._busy.counted("predict"), timed("predict"):
                probabilities = self._engine.predict(pixels)
        record_fill(len(pixels), self._batch_size)
        self._ledger.add.remote(**self._busy.taken())
        self._ledger.peak.remote(predict_bytes=peak_memory_bytes())
        self._ledger.end.remote(step)
        return probabilities

    def _stops_where_the_engine_dies(self, step: str) -> bool:
        """Stop the job and return True if the step began more than `PREDICT_ATTEMPTS` times; else return False.

        Without this limit, a step that crashes its process would be repeated for ever.
        """
        import ray

        attempt = ray.get(self._ledger.begin.remote(step)).attempt
        if attempt > PREDICT_ATTEMPTS:
            fatal = f"the engine's process ended {PREDICT_ATTEMPTS} times over the same posters: try another --engine"
            ray.get(self._ledger.stop.remote(fatal))
        return bool(attempt > PREDICT_ATTEMPTS)


class Engines:
    """The `Predict` actors of a job, as a `Score` actor uses them. Many threads may predict at the same time.

    A step goes to the actor that has the fewest steps of this process. If that actor dies, its step goes to another
    one, or to the same one once Ray has restarted it.
    """

    def __init__(self, actors: Sequence[Any], ledger: Any) -> None:
        self._actors = random.sample(actors, len(actors))  # so that not all processes begin with the same one
        self._ledger = ledger
        self._waiting: Counter[Any] = Counter()
        self._lock = threading.Lock()

    def predict(self, step: str, pixels: np.ndarray, decoded_at: float) -> np.ndarray | None:
        """Return the probabilities of a step's pixels, float32 (N, labels), or None if the job must stop."""
        import ray

        while True:
            try:
                with self._least_busy() as actor:
                    probabilities: np.ndarray | None = ray.get(actor.predict.remote(step, pixels, decoded_at))
                return probabilities
            except ray.exceptions.ActorUnavailableError:  # its process or node died, and Ray restarts the actor
                if ray.get(self._ledger.stopped.remote()):
                    return None
                time.sleep(ENGINE_BACK_S)
            except ray.exceptions.ActorDiedError as error:  # its engine cannot be loaded, so no restart helps
                ray.get(self._ledger.stop.remote(f"an engine did not start: {one_line(error, 200)}"))
                return None

    @contextmanager
    def _least_busy(self) -> Iterator[Any]:
        """Yield the actor with the fewest steps of this process, and count one more step for it during the block."""
        with self._lock:
            actor = min(self._actors, key=lambda actor: self._waiting[actor])
            self._waiting[actor] += 1
        try:
            yield actor
        finally:
            with self._lock:
                self._waiting[actor] -= 1


class Score:
    """Ray Data actor that scores posters. A call takes a block of posters, and yields the scored rows of each step.

    The new column `probabilities` has one float32 per label, or null if the poster was not decoded. The new column `at`
    is the time of the prediction, in UTC. If the job must stop, a call yields nothing more. Ray makes several calls at
    once: while one call waits for the store or the engine, the other calls fetch and decode.

    `fetch` has the constructor arguments of `FetchDecode`. `engines` are the `Predict` actors of the job. If there are
    none, this actor predicts in its own process. `bundle` is then a Ray object reference to a `Bundle`, so that there
    is one copy in the object store of each node, and not one copy for each task.
    """

    def __init__(self, fetch: tuple[Any, ...], plan: ActorPlan, bundle: Any, engines: Sequence[Any]) -> None:
        import ray

        self._ledger = fetch[-1]
        self._fetch_decode = FetchDecode(*fetch)
        self._predictor: Predictor = (
            Engines(engines, self._ledger) if engines else Predict(plan, ray.get(bundle), self._ledger)
        )

    def __call__(self, block: pa.Table) -> Iterator[pa.Table]:
        for step in self._fetch_decode.steps(block):
            predicted = self._predictor.predict(step.name, step.pixels, step.at)
            if predicted is None:
                return
            yield self._scored(step, predicted)

    def _scored(self, step: DecodedStep, predicted: np.ndarray) -> pa.Table:
        """Return the rows of a step with `probabilities` and `at`. `predicted` is float32 (decoded posters, labels).

        Return only after the ledger has counted the step's rows, so that no row is written before it is counted.
        """
        import ray

        outcome = outcome_of(step.rows)
        record_posters(outcome.scored, dict(outcome.failures))
        ray.get(self._ledger.report.remote(step.name, outcome))
        probabilities = np.zeros((len(step.decoded), predicted.shape[1]), dtype=np.float32)
        probabilities[step.decoded] = predicted
        lists = pa.FixedSizeListArray.from_arrays(
            probabilities.ravel(), predicted.shape[1], mask=pa.array(~step.decoded)
        )
        at = pa.repeat(pa.scalar(datetime.now(UTC), pa.timestamp("us", "UTC")), len(step.rows))
        return step.rows.append_column("probabilities", lists).append_column("at", at)
