"""Ceiling: the highest rate of this machine, with GET, decode and predict in threads of one process, without Ray.

`bench` compares a job with the ceiling. It also measures the rate and the CPU time of each stage alone. The first and
the last tenth of a run's posters do not count for the run's rate.
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
STEPS_AHEAD = 3  # steps that are fetched and decoded while one step is predicted


class BareMetal:
    """Fetch, decode and predict in threads of this process, one stage at a time (`stages`) or all at once (`together`).

    Decoder, engine and store are those of a job.
    """

    def __init__(self, bundle: Bundle, storage: Storage, plan: Mapping[str, Any], settings: TagSettings) -> None:
        """Load the engine. `plan` has the fields of the job's `ActorPlan`, which `run.json` has as `actors`."""
        self._bundle, self._storage, self._settings = bundle, storage, settings
        self._threads = cpus_here()
        self._nothing = np.empty((0, bundle.rule.height, bundle.rule.width, 3), dtype=np.uint8)
        self._engine: Engine = open_engine(plan["engine"], bundle, plan["batch_size"], self._threads, plan["precision"])

    def stages(self, uris: Sequence[str], begin: Callable[[str], None]) -> dict[str, Rate]:
        """Measure each stage alone on up to `SAMPLE` posters. Return the rates by stage: `fetch`, `decode`, `infer`.

        Before each stage, `begin` is called with the stage's name. Posters that cannot be read or decoded do not count.
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
        """Fetch, decode and predict all posters, with the three stages at the same time.

        A step is up to 256 posters. Return one pair for each step: the time when the step ended, in seconds since 1970,
        and its number of posters. When a step is fetched and decoded, `progress` is called with its number of posters.
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
                batch = np.stack(images) if images else self._nothing  # copied while the previous batch is predicted
                predicting.result()
                predicting = predictor.submit(self._predict, batch, len(step), finished)
                progress(len(step))

    def _predict(self, images: np.ndarray, posters: int, finished: list[tuple[float, int]]) -> None:
        """Predict the batch of one step. Append the time and `posters`, the step's number of posters, to `finished`."""
        self._engine.predict(images)
        finished.append((time.time(), posters))

    def _get(self, uri: str) -> Any:
        """Return the bytes of an object, or None if the object cannot be read."""
        try:
            return self._storage.get(uri).data
        except StorageError:
            return None

    def _decode(self, data: Any) -> np.ndarray | None:
        """Return the pixels of an encoded poster, or None if the poster cannot be decoded."""
        try:
            return decode(data, self._bundle.rule).pixels
        except ValueError:  # such as BadImage; a job turns such a poster into a failure row
            return None
