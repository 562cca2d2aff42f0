"""Ray actors that score posters: one stage fetches and decodes, one predicts; without GPUs, one actor does both.

A poster stays one row, from the worklist (the posters to score) to a Parquet file of the output. The row has
`probabilities` if the poster was scored, and `reason` if it failed. Pixels go from stage to stage in one fixed-size
binary column, without a copy.
"""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from genretag.errors import Failure
from genretag.images import ImageRule
from genretag.model.engines import open_engine
from genretag.model.engines.processors import engine_facts
from genretag.output.run_record import Outcome, outcome_of
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
from genretag.scoring.worklist import posters_of, steps
from genretag.storage import Storage

SPARE_NO_POSTER = frozenset({"credentials_refused", "certificate_refused"})  # reasons that fail all posters
SPARE_NONE_OF_A_BUCKET = frozenset({"bucket_missing", "wrong_region"})  # reasons that fail all posters of a bucket
DECODED_AT = "decoded_at"  # column: when a step was decoded and began to wait for an engine, in seconds since 1970
PREDICT_ATTEMPTS = 5  # for one step; after five crashes over the same posters, lost nodes are hardly the cause


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


class FetchDecode:
    """Ray actor that fetches and decodes posters. A call takes a block of posters, and yields one table per step.

    A step is up to 256 posters. A table has one row per poster. Its column `image` has height * width * 3 bytes, or
    null if the poster failed or needs no decoding. If the decoder hangs, the actor ends its process, and Ray repeats
    the call in a new process. If the ledger (a `Ledger` actor, which counts failures) says that the job must stop, a
    call yields no more tables. The call then raises no exception, so that Ray writes the finished rows and prints no
    traceback.
    """

    def __init__(self, storage: Storage, rule: ImageRule, options: FetchOptions, ledger: Any) -> None:
        self._storage = storage
        self._reader = PosterReader(storage, rule, options.threads)
        self._image_type = pa.binary(rule.height * rule.width * 3)
        self._fatal = SPARE_NO_POSTER | (SPARE_NONE_OF_A_BUCKET if options.one_bucket else frozenset())
        self._ledger = ledger
        self._in_flight = InFlight()
        self._guarded = GuardedReader(self._reader, ledger, options.decode_timeout_s)

    def __call__(self, block: pa.Table) -> Iterator[pa.Table]:
        for posters in self._steps(block):
            with self._in_flight.holding(len(posters)), timed("fetch_decode"):
                results = self._guarded.read(posters["uri"].to_pylist(), held_of(posters))
            FETCHED_BYTES.record(self._reader.take_fetched_bytes())
            if results is None or self._stops_where_nothing_can_work(results):
                return
            self._ledger.peak.remote(fetch_bytes=peak_memory_bytes())
            self._ledger.add.remote(**self._reader.busy.taken())
            yield self._table(posters, results)

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

    def _table(self, posters: pa.Table, results: list[Poster | Failure | Held]) -> pa.Table:
        """Return the rows of a step, one per poster. `results` has one result for each poster of `posters`.

        A decoded poster sets `image`, `width` and `height`. A failure sets `stage`, `reason` and `message`. A
        `Held` result (the output already has a row of the object's present version) sets `already`. All columns that a
        result does not set are null.
        """
        read = [result if isinstance(result, Poster) else None for result in results]
        failures = [result if isinstance(result, Failure) else None for result in results]
        held, uris = held_of(posters), posters["uri"].to_pylist()
        already = [held[u][r.etag] if isinstance(r, Held) else None for u, r in zip(uris, results, strict=True)]
        etags = [r.etag or listed for r, listed in zip(results, posters["etag"].to_pylist(), strict=True)]
        return pa.table(
            {
                **{
                    name: posters[name]
                    for name in ("poster_id", "uri", "size", CARRIED)
                    if name in posters.schema.names
                },
                "etag": etags,
                LISTED: listed_and_not_read(posters, etags),
                ALREADY: pa.array(already, pa.string()),
                "image": _image_column(read, self._image_type),
                "width": pa.array([p and p.image.width for p in read], pa.int32()),
                "height": pa.array([p and p.image.height for p in read], pa.int32()),
                DECODED_AT: pa.repeat(pa.scalar(time.time()), len(posters)),
                **{
                    name: pa.array([f and getattr(f, name) for f in failures], pa.string())
                    for name in ("stage", "reason", "message")
                },
            }
        )


def _image_column(posters: list[Poster | None], image_type: pa.DataType) -> pa.Array:
    """Return the pixels of posters as one binary column. A poster of None has no pixels and becomes null."""
    pixels = np.zeros((len(posters), image_type.byte_width), dtype=np.uint8)
    for row, poster in enumerate(posters):
        if poster is not None:
            pixels[row] = poster.image.pixels.reshape(-1)
    valid = pa.array([poster is not None for poster in posters], pa.bool_())
    return pa.Array.from_buffers(image_type, len(posters), [valid.buffers()[1], pa.py_buffer(pixels)])


class Predict:
    """Ray actor that predicts. A call takes rows that `FetchDecode` made, and adds `probabilities`.

    `probabilities` has one float32 per label, or null if the row has no pixels. The new column `at` is the time of the
    prediction, in UTC. The column `image` is dropped. If the job must stop, a call returns no rows. The constructor
    takes `bundle`, a Ray object reference to a `Bundle`, and `ledger`, the handle that `open_ledger` returned.
    """

    def __init__(self, plan: ActorPlan, bundle: Any, ledger: Any) -> None:
        import ray

        loaded = ray.get(bundle)  # one copy in the object store of each node, instead of one copy for each task
        self._engine = open_engine(plan.engine, loaded, plan.batch_size, plan.engine_threads, plan.precision)
        if plan.predict_gpus and not self._engine.on_gpu:
            ledger.say.remote(f"the {plan.engine} engine sees no GPU, so CPUs predict: install its package for GPUs")
        if self._engine.caution:
            ledger.say.remote(self._engine.caution)
        ledger.set.remote(**engine_facts(precision=self._engine.precision, on_gpu=self._engine.on_gpu))
        self._shape = (loaded.rule.height, loaded.rule.width, 3)
        self._labels = len(loaded.labels)
        self._ledger = ledger
        self._busy = Busy()
        self._batch_size = plan.batch_size
        ENGINE_INFO.record(
            1,
            engine=plan.engine,
            precision=plan.precision,
            batch_size=str(plan.batch_size),
            model_version=loaded.model_version,
        )

    def __call__(self, rows: pa.Table) -> pa.Table:
        if not len(rows):  # the job is stopping
            return rows
        QUEUE_WAIT_SECONDS.record(max(0.0, time.time() - rows[DECODED_AT][0].as_py()))
        step = f"predict {rows['uri'][0]}"
        if self._stops_where_the_engine_dies(step):
            return rows.slice(0, 0)
        column = rows["image"].combine_chunks()
        decoded = column.is_valid().to_numpy(zero_copy_only=False)
        probabilities = np.zeros((len(rows), self._labels), dtype=np.float32)
        with self._busy.counted("predict"), timed("predict"):
            probabilities[decoded] = self._engine.predict(self._images(column, decoded))
        self._report(step, outcome_of(rows))
        lists = pa.FixedSizeListArray.from_arrays(probabilities.ravel(), self._labels, mask=pa.array(~decoded))
        self._ledger.end.remote(step)
        at = pa.repeat(pa.scalar(datetime.now(UTC), pa.timestamp("us", "UTC")), len(rows))
        return rows.drop_columns(["image", DECODED_AT]).append_column("probabilities", lists).append_column("at", at)

    def _images(self, column: pa.Array, decoded: np.ndarray) -> np.ndarray:
        """Return the pixels of the decoded rows: uint8 (N, height, width, 3). If all rows were decoded, do not copy.

        `column` has the pixels of all rows. `decoded`, bool (rows,), is False for rows without pixels.
        """
        pixels = np.frombuffer(column.buffers()[1], dtype=np.uint8)
        start = column.offset * column.type.byte_width
        stop = start + len(column) * column.type.byte_width
        images = pixels[start:stop].reshape(len(column), *self._shape)
        return images if decoded.all() else images[decoded]

    def _stops_where_the_engine_dies(self, step: str) -> bool:
        """Stop the job and return True if the step began more than `PREDICT_ATTEMPTS` times; else return False.

        Without this limit, Ray would for ever repeat a step that crashes its process.
        """
        import ray

        attempt = ray.get(self._ledger.begin.remote(step)).attempt
        if attempt > PREDICT_ATTEMPTS:
            fatal = f"the engine's process ended {PREDICT_ATTEMPTS} times over the same posters: try another --engine"
            ray.get(self._ledger.stop.remote(fatal))
        return bool(attempt > PREDICT_ATTEMPTS)

    def _report(self, step: str, outcome: Outcome) -> None:
        """Report the outcome of a step to the telemetry and to the ledger (the actor that counts outcomes).

        The ledger also gets the actor's working times and peak memory. Return only after the ledger has counted the
        step's rows, so that no row is written before it is counted.
        """
        import ray

        record_posters(outcome.scored, dict(outcome.failures))
        record_fill(outcome.scored, self._batch_size)
        self._ledger.add.remote(**self._busy.taken())
        self._ledger.peak.remote(predict_bytes=peak_memory_bytes())
        ray.get(self._ledger.report.remote(step, outcome))


class FetchDecodePredict:
    """Ray actor that fetches, decodes and predicts. A call takes a block of posters, and yields scored rows.

    The rows are those that `Predict` returns. `fetch` and `predict` are the constructor arguments of `FetchDecode` and
    `Predict`. Pixels stay in the process. Ray makes several calls at once: while one call predicts, the other calls
    fetch and decode.
    """

    def __init__(self, fetch: tuple[Any, ...], predict: tuple[Any, ...]) -> None:
        self._fetch_decode = FetchDecode(*fetch)
        self._predict = Predict(*predict)
        self._predicting = threading.Lock()

    def __call__(self, block: pa.Table) -> Iterator[pa.Table]:
        for rows in self._fetch_decode(block):
            with self._predicting:
                scored = self._predict(rows)
            yield scored
