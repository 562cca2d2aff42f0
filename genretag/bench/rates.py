"""Rates: of a stage alone, with the CPU time that it takes, and of a whole run once it is under way."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

UNDER_WAY, NEARLY_DONE = 0.1, 0.9  # shares of the posters between which a run is in its steady state
LONG_ENOUGH_S = 2.0  # for a stage alone


@dataclass(frozen=True)
class Rate:
    """Posters per second, and CPU milliseconds of this process for each (not those of a store or a GPU)."""

    posters_per_s: float
    cpu_ms: float


def measure(work: Callable[[], int]) -> Rate:
    """Repeats a piece of work, which returns how many posters it did, until that took long enough to be measured."""
    work()  # the first time opens connections and fills caches
    posters, started, cpu = 0, time.perf_counter(), time.process_time()
    while (seconds := time.perf_counter() - started) < LONG_ENOUGH_S:
        posters += work()
    return Rate(posters / seconds, 1000 * (time.process_time() - cpu) / posters)


def steady_rate(finished: Iterable[tuple[float, int]]) -> float:
    """Posters per second between the first and the last tenth of a run.

    `finished` says at which second how many posters were done with; they come in batches, so the rate counts from the
    end of one batch to the end of another. Not a number where there are too few of them.
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
