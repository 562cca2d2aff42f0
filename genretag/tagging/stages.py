"""The actor stages of a night: fetch and decode on CPUs, predict on an engine; on CPUs alone, all in one actor.

Every poster stays one row from worklist to part file, whatever happens to it: `probabilities` is set when it
was scored, `reason` when it failed. Pixels travel as one fixed-size binary column, without a copy.
"""

import os
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from genretag.engines import open_engine
from genretag.engines.processors import engine_facts
from genretag.errors import Failure
from genretag.fetching import Busy, Held, Poster, PosterReader
from genretag.images import ImageRule
from genretag.progress import peak_memory_bytes
from genretag.storage import Storage
from genretag.tagging.inventory import CARRIED
from genretag.tagging.outcomes import Outcome, outcome_of
from genretag.tagging.resources import ActorPlan
from genretag.tagging.shards import posters_of, steps
from genretag.tagging.versions import ALREADY, LISTED, held_of, listed_and_not_read
from genretag.telemetry import (
    ENGINE_INFO,
    FETCHED_BYTES,
    QUEUE_WAIT_SECONDS,
    InFlight,
    record_fill,
    record_posters,
    timed,
)

SPARE_NO_POSTER = frozenset({"credentials_refused", "certificate_refused"})  # what all others will meet too
SPARE_NONE_OF_A_BUCKET = frozenset({"bucket_missing", "wrong_region"})
LOOK_EVERY_S = 0.5
DECODED_AT = "decoded_at"  # when rows began to wait for an engine, in seconds since 1970
PREDICT_ATTEMPTS = 5  # nodes are taken away, but not five times from the same posters


@dataclass(frozen=True)
class FetchOptions:
    """What bounds the fetching and decoding of one actor."""

    threads: int
    decode_timeout_s: float
    one_bucket: bool  # whether all posters are of one bucket: it missing then means that nothing can work


class FetchDecode:
    """Blocks of the worklist -> rows with `image`, step by step.

    `image` has height * width * 3 bytes; it is null where a poster failed. An actor whose decoder hangs ends itself.
    If the ledger says that the job is to stop, the steps that are left give no rows: no exception, so that Ray writes
    what is finished and prints no traceback.
    """

    def __init__(self, storage: Storage, rule: ImageRule, options: FetchOptions, ledger: Any) -> None:
        self._storage = storage
        self._reader = PosterReader(storage, rule, options.threads)
        self._image_type = pa.binary(rule.height * rule.width * 3)
        self._fatal = SPARE_NO_POSTER | (SPARE_NONE_OF_A_BUCKET if options.one_bucket else frozenset())
        self._ledger = ledger
        self._in_flight = InFlight()
        watchdog = threading.Thread(target=self._end_when_hung, args=(options.decode_timeout_s,), daemon=True)
        watchdog.start()

    def __call__(self, block: pa.Table) -> Iterator[pa.Table]:
        for posters in self._steps(block):
            with self._in_flight.holding(len(posters)), timed("fetch_decode"):
                results = self._read(posters["uri"].to_pylist(), held_of(posters))
            FETCHED_BYTES.record(self._reader.take_fetched_bytes())
            if results is None or self._stops_where_nothing_can_work(results):
                return
            self._ledger.peak.remote(fetch_bytes=peak_memory_bytes())
            self._ledger.add.remote(**self._reader.busy.taken())
            yield self._table(posters, results)

    def _steps(self, block: pa.Table) -> Iterator[pa.Table]:
        """The block's posters, step by step; none, and no look into its shard, if the job is to stop."""
        import ray

        if not ray.get(self._ledger.stopped.remote()):
            yield from steps(posters_of(block, self._storage))

    def _read(self, uris: list[str], held: Mapping[str, Mapping[str, str]]) -> list[Poster | Failure | Held] | None:
        """Reads the posters of one step, none if the job is to stop; what hung or crashed a decoder is a failure."""
        import ray

        step_name = uris[0]
        step = ray.get(self._ledger.begin.remote(step_name))
        if step.stopped:
            return None
        given_up = step.given_up
        if step.careful:
            results = {}
            for uri in uris:
                if uri not in given_up:
                    ray.get(self._ledger.hold.remote(step_name, uri))
                    results[uri] = self._reader.read_new(uri, held.get(uri, {}))
        else:
            wanted = [uri for uri in uris if uri not in given_up]
            read = self._reader.read_many_new(wanted, [held.get(uri, {}) for uri in wanted])
            results = dict(zip(wanted, read, strict=True))
        self._ledger.end.remote(step_name)
        return [given_up.get(uri) or results[uri] for uri in uris]

    def _end_when_hung(self, limit_s: float) -> None:
        """Ends the process when a decoder hangs, since nothing else ends it; the ledger remembers over which poster."""
        import ray

        while True:
            time.sleep(LOOK_EVERY_S)
            if uri := self._reader.overdue(limit_s):
                ray.get(self._ledger.give_up.remote(uri, "timeout", f"not decoded within {limit_s:g} s"))
                os._exit(1)

    def _stops_where_nothing_can_work(self, results: list[Poster | Failure | Held]) -> bool:
        """Stops the job, and returns true, if a poster failed for a reason that all others will meet too."""
        import ray

        for result in results:
            if isinstance(result, Failure) and result.reason in self._fatal:
                ray.get(self._ledger.stop.remote(result.message))
                return True
        return False

    def _table(self, posters: pa.Table, results: list[Poster | Failure | Held]) -> pa.Table:
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
    pixels = np.zeros((len(posters), image_type.byte_width), dtype=np.uint8)
    for row, poster in enumerate(posters):
        if poster is not None:
            pixels[row] = poster.image.pixels.reshape(-1)
    valid = pa.array([poster is not None for poster in posters], pa.bool_())
    return pa.Array.from_buffers(image_type, len(posters), [valid.buffers()[1], pa.py_buffer(pixels)])


class Predict:
    """Rows with `image` -> rows with `probabilities` (float32 list, null where it failed) and `at`."""

    def __init__(self, plan: ActorPlan, bundle: Any, ledger: Any) -> None:
        import ray

        loaded = ray.get(bundle)  # one copy in the object store of each node, not one in each task
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
        if not len(rows):  # of a job that is to stop
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
        pixels = np.frombuffer(column.buffers()[1], dtype=np.uint8)
        start = column.offset * column.type.byte_width
        stop = start + len(column) * column.type.byte_width
        images = pixels[start:stop].reshape(len(column), *self._shape)
        return images if decoded.all() else images[decoded]

    def _stops_where_the_engine_dies(self, step: str) -> bool:
        """Stops the job, and returns true, if these posters have come many times: Ray would go on for ever."""
        import ray

        attempt = ray.get(self._ledger.begin.remote(step)).attempt
        if attempt > PREDICT_ATTEMPTS:
            fatal = f"the engine's process ended {PREDICT_ATTEMPTS} times over the same posters: try another --engine"
            ray.get(self._ledger.stop.remote(fatal))
        return bool(attempt > PREDICT_ATTEMPTS)

    def _report(self, step: str, outcome: Outcome) -> None:
        """Tells the ledger before the rows go on, so that it has counted all that is written."""
        import ray

        record_posters(outcome.scored, dict(outcome.failures))
        record_fill(outcome.scored, self._batch_size)
        self._ledger.add.remote(**self._busy.taken())
        self._ledger.peak.remote(predict_bytes=peak_memory_bytes())
        ray.get(self._ledger.report.remote(step, outcome))


class FetchDecodePredict:
    """Blocks of the worklist -> rows with `probabilities`: both stages in one process, so that no pixels travel.

    Several calls at once keep it busy: while one predicts, the others fetch and decode.
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
