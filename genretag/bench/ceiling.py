"""What the machine could do at most: GET, decode and predict in plain threads of one process, without Ray."""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from genretag.bench.rates import Rate, measure
from genretag.bundle import Bundle
from genretag.cpus import cpus_here
from genretag.engines import Engine, open_engine
from genretag.errors import Failure
from genretag.fetching import Poster, PosterReader
from genretag.images import decode
from genretag.storage import Storage, StorageError
from genretag.tagging.settings import TagSettings
from genretag.tagging.shards import POSTERS_PER_STEP

SAMPLE = 512  # posters that the stages alone work on
STEPS_AHEAD = 3  # steps that are fetched and decoded while one is predicted


class BareMetal:
    """The stages of a night in this process, alone and together; the same decoder, engine and store as the job's."""

    def __init__(self, bundle: Bundle, storage: Storage, plan: Mapping[str, Any], settings: TagSettings) -> None:
        """`plan` is the job's: an `ActorPlan` as a run record has it."""
        self._bundle, self._storage, self._settings = bundle, storage, settings
        self._threads = cpus_here()
        self._nothing = np.empty((0, bundle.rule.height, bundle.rule.width, 3), dtype=np.uint8)
        self._engine: Engine = open_engine(plan["engine"], bundle, plan["batch_size"], self._threads, plan["precision"])

    def stages(self, uris: Sequence[str], begin: Callable[[str], None]) -> dict[str, Rate]:
        """Each stage alone, on a sample of the posters; says of each when it begins."""

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
        """All three stages at once, as fast as one process can; returns when how many posters were done with."""
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
                batch = np.stack(images) if images else self._nothing  # while the one before is predicted
                predicting.result()
                predicting = predictor.submit(self._predict, batch, len(step), finished)
                progress(len(step))

    def _predict(self, images: np.ndarray, posters: int, finished: list[tuple[float, int]]) -> None:
        self._engine.predict(images)
        finished.append((time.time(), posters))

    def _get(self, uri: str) -> Any:
        try:
            return self._storage.get(uri).data
        except StorageError:
            return None

    def _decode(self, data: Any) -> np.ndarray | None:
        try:
            return decode(data, self._bundle.rule).pixels
        except ValueError:  # BadImage among them: a poster that the job makes a failure row of
            return None
