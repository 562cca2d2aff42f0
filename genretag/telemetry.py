"""What Prometheus sees of a run: all metrics, each recorded once for a step of work, never for one poster.

Ray serves them on the metrics port of every node, under `exposed_name`; `cluster/monitoring/` has a dashboard and
alerts that use just these. A Ray that genretag starts for itself serves none (`ray_session.QUIET_RAY`).
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
    """A metric by its name, and how to record it from any process of a Ray cluster."""

    kind: Literal["counter", "gauge", "histogram"]
    name: str
    description: str
    tags: tuple[str, ...] = ()
    boundaries: tuple[float, ...] = ()  # of a histogram

    @property
    def exposed_name(self) -> str:
        """What Ray calls it for Prometheus; a histogram has `_bucket`, `_sum` and `_count` of it."""
        return f"ray_{self.name}_total" if self.kind == "counter" else f"ray_{self.name}"

    def record(self, value: float, **tags: str) -> None:
        """Adds to a counter, sets a gauge, or enters a value into a histogram."""
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
    """Counts posters that are done; `failures` by `stage: reason`."""
    POSTERS.record(scored, result="scored", stage="", reason="")
    for name, count in failures.items():
        stage, _, reason = name.partition(": ")
        POSTERS.record(count, result="failed", stage=stage, reason=reason)


def record_fill(posters: int, batch_size: int) -> None:
    """Enters how full the batches were that these posters were predicted in."""
    if posters:
        BATCH_FILL.record(posters / (-(-posters // batch_size) * batch_size))


@contextmanager
def timed(stage: str) -> Iterator[None]:
    """Enters the seconds of the block, where it ends well."""
    started = time.monotonic()
    yield
    STAGE_SECONDS.record(time.monotonic() - started, stage=stage)


class InFlight:
    """Keeps count of the posters that the threads of one actor have in hand."""

    def __init__(self) -> None:
        self._posters = 0
        self._lock = threading.Lock()

    @contextmanager
    def holding(self, posters: int) -> Iterator[None]:
        """Counts these posters during the block."""
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
    from ray.util import metrics

    if metric.kind == "histogram":
        return metrics.Histogram(metric.name, metric.description, list(metric.boundaries), metric.tags)
    kind = metrics.Counter if metric.kind == "counter" else metrics.Gauge
    return kind(metric.name, metric.description, metric.tags)
