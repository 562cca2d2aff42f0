"""Ceiling: the rate of plain loops that fetch, decode and predict on this machine without Ray.

There are two kinds of loops: threads of one process, and one process for each CPU. `bench` compares a job with the
faster kind. It also measures the rate and the CPU time of each stage alone. The first and the last tenth of a run's
posters do not count for the run's rate.
"""

import multiprocessing
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from multiprocessing import connection
from typing import Any

import numpy as np

from genretag.images.decoding import decode
from genretag.model.bundle import Bundle
from genretag.model.engines import Engine, open_engine
from genretag.runtime.cpus import cpus_here
from genretag.scoring.shards import POSTERS_PER_STEP
from genretag.storage import Storage, StorageError

UNDER_WAY, NEARLY_DONE = 0.1, 0.9  # a run is in its steady state while its share of finished posters is between these
LONG_ENOUGH_S = 2.0  # time to measure one stage alone


@dataclass(frozen=True)
class Rate:
    """Speed and CPU cost of one stage, such as decoding.

    `cpu_ms` is the CPU time of this process per poster, in milliseconds. The time of the store or a GPU does not count.
    """

    posters_per_s: float
    cpu_ms: float


def measure(work: Callable[[], int]) -> Rate:
    """Call `work` again and again for `LONG_ENOUGH_S` seconds, and return its rate. The first call is not measured.

    Each call of `work` processes some posters, and returns the number of posters, which must not be 0.
    """
    work()  # the first time opens connections and fills caches
    posters, started, cpu = 0, time.perf_counter(), time.process_time()
    while (seconds := time.perf_counter() - started) < LONG_ENOUGH_S:
        posters += work()
    return Rate(posters / seconds, 1000 * (time.process_time() - cpu) / posters)


def steady_rate(finished: Iterable[tuple[float, int]]) -> float:
    """Return the posters per second of a run, without the first and the last tenth of its posters.

    `finished` has one pair for each batch: the time in seconds when the batch ended, and its number of posters. The
    rate counts only batches that end between these two tenths, from the end of the first to the end of the last. Return
    NaN if there are fewer than two such batches.
    """
    steps = sorted(finished)
    total, done = sum(count for _, count in steps), 0
    marks: list[tuple[float, int]] = []  # (time, posters finished so far) at the end of batches
    for at, count in steps:
        done += count
        if UNDER_WAY * total <= done <= NEARLY_DONE * total:
            marks.append((at, done))
    if len(marks) < 2 or marks[-1][0] <= marks[0][0]:
        return float("nan")
    (begin, before), (end, after) = marks[0], marks[-1]
    return (after - before) / (end - begin)


SAMPLE = 512  # posters on which each stage is measured alone
POSTERS_PER_CPU_CALL = 32  # posters that a loop decodes before it calls an engine on CPUs
BATCHES_AHEAD = 2  # batches that a loop fetches while it decodes and predicts one

Finished = tuple[float, int]  # a batch: the time of its end, in seconds since 1970, and its number of posters
Turn = AbstractContextManager[Any]  # a lock, or nothing


class Deal:
    """Posters that are dealt out in batches to all loops that iterate over it, in threads or in processes."""

    def __init__(self, uris: Sequence[str], posters_per_batch: int) -> None:
        self._uris = uris
        self._posters_per_batch = posters_per_batch
        self._next: Any = multiprocessing.get_context("spawn").Value("q", 0)

    def __iter__(self) -> Iterator[Sequence[str]]:
        while True:
            with self._next.get_lock():
                start = self._next.value
                self._next.value += self._posters_per_batch
            if start >= len(self._uris):
                return
            yield self._uris[start : start + self._posters_per_batch]

    def stop(self) -> None:
        """Deal out no more batches."""
        self._next.value = len(self._uris)


@dataclass(frozen=True)
class PlainLoops:
    """Loops that fetch, decode and predict without Ray, with the decoder, the engine and the store of a job.

    `plan` has the fields of the job's `ActorPlan`, which `run.json` has as `actors`. Each process keeps `fetch_threads`
    GETs in flight.
    """

    bundle: Bundle
    storage: Storage
    plan: Mapping[str, Any]
    fetch_threads: int

    def in_threads(self, uris: Sequence[str], progress: Callable[[int], None]) -> list[Finished]:
        """Process all posters in threads of this process, one for each CPU. Return the batches.

        With OpenVINO, each thread has an engine with one CPU thread. With other engines, the threads share one. After
        each batch, `progress` is called with its number of posters.
        """
        count, deal = cpus_here(), self._deal(uris)
        own = self.plan["engine"] == "openvino"
        engines = [self.open_engine(threads=1) for _ in range(count)] if own else [self.open_engine(count)] * count
        predicting: Turn = nullcontext() if own else threading.Lock()

        def work(engine: Engine) -> list[Finished]:
            finished = []
            for batch in self._loop(deal, engine, predicting, -(-self.fetch_threads // count)):
                finished.append(batch)
                progress(batch[1])
            return finished

        with ThreadPoolExecutor(count) as threads:
            try:
                return [batch for found in threads.map(work, engines) for batch in found]
            finally:
                deal.stop()  # after Ctrl-C, the threads end soon

    def in_processes(self, uris: Sequence[str], progress: Callable[[int], None]) -> list[Finished]:
        """Process all posters in processes, one for each CPU, whose engines have one CPU thread. Return the batches.

        After each batch, `progress` is called with its number of posters. Raises `RuntimeError` if a process fails.
        """
        deal = self._deal(uris)
        finished: list[Finished] = []
        running: dict[Any, Any] = {}  # process of each pipe's reading end
        try:
            for _ in range(cpus_here()):
                reader, process = self._start(deal)
                running[reader] = process
            while running:
                ready: list[Any] = connection.wait(list(running))
                for reader in ready:
                    try:
                        finished.append(reader.recv())
                        progress(finished[-1][1])
                    except EOFError:
                        process = running.pop(reader)
                        process.join()
                        if process.exitcode:
                            raise RuntimeError(f"a measuring process ended with status {process.exitcode}") from None
            return finished
        finally:
            for process in running.values():
                process.terminate()
            for process in running.values():
                process.join()

    def stages(self, uris: Sequence[str], begin: Callable[[str], None]) -> dict[str, Rate]:
        """Measure each stage alone on up to `SAMPLE` posters. Return the rates by stage: `fetch`, `decode`, `infer`.

        Before each stage, `begin` is called with the stage's name. Posters that cannot be read or decoded do not count.
        """
        engine = self.open_engine(cpus_here())

        def alone(stage: str, work: Callable[[], int]) -> Rate:
            begin(stage)
            return measure(work)

        sample = uris[:: max(1, len(uris) // SAMPLE)][:SAMPLE]
        with ThreadPoolExecutor(self.fetch_threads) as getters, ThreadPoolExecutor(cpus_here()) as decoders:

            def fetch() -> list[Any]:
                return [data for data in getters.map(self._get, sample) if data is not None]

            def decode_all() -> list[np.ndarray]:
                return [pixels for pixels in decoders.map(self._decode, encoded) if pixels is not None]

            encoded = fetch()
            images = np.stack(decode_all())
            return {
                "fetch": alone("fetch", lambda: len(fetch())),
                "decode": alone("decode", lambda: len(decode_all())),
                "infer": alone("infer", lambda: len(engine.predict(images))),
            }

    def open_engine(self, threads: int) -> Engine:
        """Load the engine of the job with `threads` CPU threads, and predict one batch.

        Without this batch, threads could make the first calls of a process at the same time. OpenVINO's Python binding
        can then deadlock (seen with OpenVINO 2026.4).
        """
        plan, rule = self.plan, self.bundle.rule
        engine = open_engine(plan["engine"], self.bundle, plan["batch_size"], threads, plan["precision"])
        engine.predict(np.zeros((1, rule.height, rule.width, 3), dtype=np.uint8))
        return engine

    def _deal(self, uris: Sequence[str]) -> Deal:
        return Deal(uris, POSTERS_PER_STEP if self.plan["predict_gpus"] else POSTERS_PER_CPU_CALL)

    def _start(self, deal: Deal) -> tuple[Any, Any]:
        """Start a process that runs the loop. Return the reading end of the pipe that it writes to, and the process."""
        context = multiprocessing.get_context("spawn")
        reader, writer = context.Pipe(duplex=False)
        process = context.Process(target=self._send, args=(deal, writer), daemon=True)
        process.start()
        writer.close()  # so that the pipe ends with the process
        return reader, process

    def _send(self, deal: Deal, writer: Any) -> None:
        """Loop in this process, and send each batch through a pipe. If the process that reads has died, end."""
        with suppress(BrokenPipeError):
            for batch in self._loop(deal, self.open_engine(threads=1), nullcontext(), self.fetch_threads):
                writer.send(batch)

    def _loop(self, deal: Deal, engine: Engine, predicting: Turn, fetch_threads: int) -> Iterator[Finished]:
        """Decode and predict batches, one after the other, and yield each one. Meanwhile, fetch the next batches.

        The engine predicts within the context `predicting`: a lock if other threads share the engine.
        """
        with ThreadPoolExecutor(fetch_threads) as threads:
            ahead: deque[list[Future[Any]]] = deque()
            for uris in deal:
                ahead.append([threads.submit(self._get, uri) for uri in uris])
                if len(ahead) > BATCHES_AHEAD:
                    yield self._score(ahead.popleft(), engine, predicting)
            while ahead:
                yield self._score(ahead.popleft(), engine, predicting)

    def _score(self, batch: list[Future[Any]], engine: Engine, predicting: Turn) -> Finished:
        images = [pixels for data in batch if (pixels := self._decode(data.result())) is not None]
        if images:
            with predicting:
                engine.predict(np.stack(images))
        return time.time(), len(batch)

    def _get(self, uri: str) -> Any:
        """Return the bytes of an object, or None if the object cannot be read."""
        try:
            return self.storage.get(uri).data
        except StorageError:
            return None

    def _decode(self, data: Any) -> np.ndarray | None:
        """Return the pixels of an encoded poster, or None if there are no bytes or the poster cannot be decoded."""
        try:
            return None if data is None else decode(data, self.bundle.rule).pixels
        except ValueError:  # such as BadImage; a job turns such a poster into a failure row
            return None
