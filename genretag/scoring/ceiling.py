"""Ceiling: the most this machine could do, with GET, decode and predict in plain threads of one process, without Ray.

Rates are measured for a stage alone, with the CPU time that it takes, and for a whole run once it is under way.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from genretag.errors import Failure
from genretag.images.decoding import decode
from genretag.model.bundle import Bundle
from genretag.model.engines import Engine, open_engine
from genretag.runtime.cpus import cpus_here
from genretag.scoring.reader import Poster, PosterReader
from genretag.scoring.settings import TagSettings
from genretag.scoring.worklist import POSTERS_PER_STEP
from genretag.storage import Storage, StorageError

UNDER_WAY, NEARLY_DONE = 0.1, 0.9  # between these shares of its posters, a run is in its steady state
LONG_ENOUGH_S = 2.0  # time to measure one stage alone


@dataclass(frozen=True)
class Rate:
    """Speed of a piece of work.

    `cpu_ms` is the CPU time of this process per poster, in milliseconds, without that of a store or a GPU.
    """

    posters_per_s: float
    cpu_ms: float


def measure(work: Callable[[], int]) -> Rate:
    """Return the rate of `work`, which does a piece of work and returns its number of posters.

    `work` is repeated for `LONG_ENOUGH_S` seconds, after a first call that is not measured.
    """
    work()  # the first time opens connections and fills caches
    posters, started, cpu = 0, time.perf_counter(), time.process_time()
    while (seconds := time.perf_counter() - started) < LONG_ENOUGH_S:
        posters += work()
    return Rate(posters / seconds, 1000 * (time.process_time() - cpu) / posters)


def steady_rate(finished: Iterable[tuple[float, int]]) -> float:
    """Return the posters per second between the first and the last tenth of a run.

    `finished` has pairs of a time in seconds and the number of posters that were finished then. Posters finish in
    batches, so the rate counts from the end of one batch to the end of another. Returns NaN if there are too few
    batches.
    """
    steps = sorted(finished)
    total, done = sum(count for _, count in steps), 0
    marks: list[tuple[float, int]] = []  # the ends of batches between the first tenth and the last
    for at, count in steps:
        done += count
        if UNDER_WAY * total <= done <= NEARLY_DONE * total:
            marks.append((at, done))
    if len(marks) < 2 or marks[-1][0] <= marks[0][0]:
        return float("nan")
    (begin, before), (end, after) = marks[0], marks[-1]
    return (after - before) / (end - begin)


SAMPLE = 512  # posters to measure each stage alone
STEPS_AHEAD = 3  # steps that are fetched and decoded while one step is predicted


class BareMetal:
    """Stages of a run in this process, alone and together, with the job's decoder, engine and store."""

    def __init__(self, bundle: Bundle, storage: Storage, plan: Mapping[str, Any], settings: TagSettings) -> None:
        """Load the engine. `plan` is the job's `ActorPlan`, as a run record has it."""
        self._bundle, self._storage, self._settings = bundle, storage, settings
        self._threads = cpus_here()
        self._nothing = np.empty((0, bundle.rule.height, bundle.rule.width, 3), dtype=np.uint8)
        self._engine: Engine = open_engine(plan["engine"], bundle, plan["batch_size"], self._threads, plan["precision"])

    def stages(self, uris: Sequence[str], begin: Callable[[str], None]) -> dict[str, Rate]:
        """Measure each stage alone on a sample of the posters; return the rates of `fetch`, `decode` and `infer`.

        `begin` is called with the name of each stage before it starts. Posters that cannot be read or decoded do not
        count.
        """

        def alone(stage: str, work: Callable[[], int]) -> Rate:
            begin(stage)
            return measure(work)

        sample = uris[:: max(1, len(uris) // SAMPLE)][:SAMPLE]
        with ThreadPoolExecutor(self._settings.fetch_threads) as getters, ThreadPoolExecutor(self._threads) as decoders:

            def fetch() -> list[Any]:
                return [data for data in getters.map(self._get, sample) if data is not None]

            def decode_all() -> list[np.ndarray]:
                return [pixels for pixels in decoders.map(self._decode, encoded) if pixels is not None]

            encoded = fetch()
            images = np.stack(decode_all())
            return {
                "fetch": alone("fetch", lambda: len(fetch())),
                "decode": alone("decode", lambda: len(decode_all())),
                "infer": alone("infer", lambda: len(self._engine.predict(images))),
            }

    def together(self, uris: Sequence[str], progress: Callable[[int], None]) -> list[tuple[float, int]]:
        """Run all three stages at once, as fast as one process can.

        Return pairs of a time, in seconds since 1970, and the number of posters finished then. `progress` is called
        with the number of posters of each step.
        """
        reader = PosterReader(self._storage, self._bundle.rule, self._settings.fetch_threads)
        finished: list[tuple[float, int]] = []
        with ThreadPoolExecutor(self._settings.fetch_threads) as threads, ThreadPoolExecutor(1) as predictor:
            predicting = predictor.submit(lambda: None)
            ahead: deque[Future[Poster | Failure]] = deque()
            waiting = iter(uris)
            while True:
                while len(ahead) < STEPS_AHEAD * POSTERS_PER_STEP and (uri := next(waiting, None)) is not None:
                    ahead.append(threads.submit(reader.read, uri))
                if not ahead:
                    predicting.result()
                    return finished
                step = [ahead.popleft().result() for _ in range(min(POSTERS_PER_STEP, len(ahead)))]
                images = [poster.image.pixels for poster in step if isinstance(poster, Poster)]
                batch = np.stack(images) if images else self._nothing  # while the batch before is predicted
                predicting.result()
                predicting = predictor.submit(self._predict, batch, len(step), finished)
                progress(len(step))

    def _predict(self, images: np.ndarray, posters: int, finished: list[tuple[float, int]]) -> None:
        """Predict a batch, and append the time and the number of its posters to `finished`."""
        self._engine.predict(images)
        finished.append((time.time(), posters))

    def _get(self, uri: str) -> Any:
        """Return the bytes of an object, None if it cannot be read."""
        try:
            return self._storage.get(uri).data
        except StorageError:
            return None

    def _decode(self, data: Any) -> np.ndarray | None:
        """Return the pixels of an encoded poster, None if it cannot be decoded."""
        try:
            return decode(data, self._bundle.rule).pixels
        except ValueError:  # BadImage is one: the job turns this poster into a failure row
            return None
