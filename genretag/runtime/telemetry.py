"""Metrics of a run for Prometheus. Each metric is recorded once per step (up to 256 posters), never once per poster.

Ray serves the metrics on the metrics port of every node, under `exposed_name`. `cluster/monitoring/` has a dashboard
and alerts that use exactly these metrics. A local Ray serves no metrics, because `ray_session.QUIET_RAY` turns them
off.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal


@dataclass(frozen=True)
class Metric:
    """A metric that any process of a Ray cluster can record. `tags` are the names of its labels in Prometheus."""

    kind: Literal["counter", "gauge", "histogram"]
    name: str
    description: str
    tags: tuple[str, ...] = ()
    boundaries: tuple[float, ...] = ()  # upper bounds of the buckets of a histogram

    @property
    def exposed_name(self) -> str:
        """The metric's name in Prometheus. A histogram's series add `_bucket`, `_sum` and `_count` to this name."""
        return f"ray_{self.name}_total" if self.kind == "counter" else f"ray_{self.name}"

    def record(self, value: float, **tags: str) -> None:
        """Add `value` to a counter, set a gauge to `value`, or record `value` in a histogram.

        A counter ignores values of 0 and below. `tags` has a value for each name in `self.tags`.
        """
        instrument = _instrument(self)
        if self.kind == "gauge":
            instrument.set(value, tags)
        elif self.kind == "histogram":
            instrument.observe(value, tags)
        elif value > 0:
            instrument.inc(value, tags)


SECONDS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)

POSTERS = Metric(
    "counter",
    "genretag_posters",
    "Posters that are done, by result (scored, failed) and by the stage and the reason of a failure.",
    ("result", "stage", "reason"),
)
WORKLIST = Metric("gauge", "genretag_worklist_posters", "Posters that a run is to score.", ("run_id",))
STAGE_SECONDS = Metric(
    "histogram",
    "genretag_stage_seconds",
    "Seconds of one step of work (up to 256 posters, or one part file) by stage: fetch_decode, predict, write.",
    ("stage",),
    SECONDS,
)
IN_FLIGHT = Metric("gauge", "genretag_in_flight_posters", "Posters that an actor is fetching and decoding now.")
FETCHED_BYTES = Metric("counter", "genretag_fetched_bytes", "Bytes of posters read from the store.")
QUEUE_WAIT_SECONDS = Metric(
    "histogram",
    "genretag_queue_wait_seconds",
    "Seconds that decoded posters waited for an engine.",
    (),
    SECONDS,
)
BATCH_FILL = Metric(
    "histogram",
    "genretag_batch_fill",
    "Share of the engine's batches that was posters and not padding.",
    (),
    (0.25, 0.5, 0.75, 0.9, 1.0),
)
ENGINE_INFO = Metric(
    "gauge",
    "genretag_engine_info",
    "1 for each engine that is loaded.",
    ("engine", "precision", "batch_size", "model_version"),
)
METRICS = (
    POSTERS,
    WORKLIST,
    STAGE_SECONDS,
    IN_FLIGHT,
    FETCHED_BYTES,
    QUEUE_WAIT_SECONDS,
    BATCH_FILL,
    ENGINE_INFO,
)


def record_posters(scored: int, failures: dict[str, int]) -> None:
    """Add the posters of one step to the metric `POSTERS`.

    `scored` is the number of scored posters. `failures` maps `stage: reason`, such as `fetch: timeout`, to the number
    of failed posters.
    """
    POSTERS.record(scored, result="scored", stage="", reason="")
    for name, count in failures.items():
        stage, _, reason = name.partition(": ")
        POSTERS.record(count, result="failed", stage=stage, reason=reason)


def record_fill(posters: int, batch_size: int) -> None:
    """Record how full the batches of one predict call are, from 0 to 1. With 0 posters, record nothing.

    The call predicts `posters` posters in batches of `batch_size`. The last batch is padded to `batch_size`.
    """
    if posters:
        BATCH_FILL.record(posters / (-(-posters // batch_size) * batch_size))


@contextmanager
def timed(stage: str) -> Iterator[None]:
    """Record the seconds of the block in the metric `STAGE_SECONDS`, with the label `stage`.

    If the block raises, record nothing.
    """
    started = time.monotonic()
    yield
    STAGE_SECONDS.record(time.monotonic() - started, stage=stage)


class InFlight:
    """A counter of the posters that the threads of one actor are working on, for the metric `IN_FLIGHT`."""

    def __init__(self) -> None:
        self._posters = 0
        self._lock = threading.Lock()

    @contextmanager
    def holding(self, posters: int) -> Iterator[None]:
        """Count `posters` posters as in flight (being fetched or decoded) during the block."""
        self._change(posters)
        try:
            yield
        finally:
            self._change(-posters)

    def _change(self, posters: int) -> None:
        with self._lock:
            self._posters += posters
            IN_FLIGHT.record(self._posters)


@cache
def _instrument(metric: Metric) -> Any:
    """Return Ray's metric object for `metric`. A process makes only one object for each metric."""
    from ray.util import metrics

    if metric.kind == "histogram":
        return metrics.Histogram(metric.name, metric.description, list(metric.boundaries), metric.tags)
    kind = metrics.Counter if metric.kind == "counter" else metrics.Gauge
    return kind(metric.name, metric.description, metric.tags)
