"""Measure the CPU cost of metrics: of recording those of a step of 256 posters, and of a Ray that serves them.

    python tests/benchmarks/metrics.py --rounds 3

Each round starts a Ray without metrics, and then one with metrics. A worker records the metrics of many steps, and the
CPU time of its process is measured, with all threads. Then all processes of that Ray are measured while they are idle.
All figures are CPU seconds, so other work on the machine hardly matters.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from typing import Any

STEPS, POSTERS_PER_STEP = 5_000, 256
WATCHED_S = 30.0
ON_AND_OFF = ("false", "true")


def record_a_step(in_flight: Any) -> None:
    """Record the metrics of one step: those of both stages, and its share of those of a part file."""
    from genretag.runtime import telemetry

    with in_flight.holding(POSTERS_PER_STEP), telemetry.timed("fetch_decode"):
        pass
    telemetry.FETCHED_BYTES.record(8_000_000)
    telemetry.QUEUE_WAIT_SECONDS.record(0.01)
    with telemetry.timed("predict"):
        pass
    telemetry.record_posters(POSTERS_PER_STEP - 1, {"decode: truncated": 1})
    telemetry.record_fill(POSTERS_PER_STEP - 1, 8)
    with telemetry.timed("write"):
        pass


def recording_us() -> float:
    """Return the CPU microseconds that one step costs this process, including its other threads."""
    from genretag.runtime.telemetry import InFlight

    in_flight = InFlight()
    record_a_step(in_flight)  # the first call creates the instruments
    before = time.process_time()
    for _ in range(STEPS):
        record_a_step(in_flight)
    return (time.process_time() - before) / STEPS * 1e6


def one_round() -> None:
    """Print the CPU microseconds of a step, and the CPU milliseconds per second of an idle Ray."""
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100 << 20)
    step_us = ray.get(ray.remote(num_cpus=1)(recording_us).remote())
    time.sleep(5)  # until the new Ray is idle
    before = _cpu_s()
    time.sleep(WATCHED_S)
    print(step_us, (_cpu_s() - before) / WATCHED_S * 1000)
    ray.shutdown()


def _cpu_s() -> float:
    """Return the CPU seconds of all child processes of this process, which are those of Ray."""
    import psutil

    seconds = 0.0
    for process in psutil.Process().children(recursive=True):
        try:
            times: Any = process.cpu_times()
        except psutil.Error:
            continue
        seconds += times.user + times.system
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        one_round()
        return
    figures: dict[str, list[tuple[float, float]]] = {which: [] for which in ON_AND_OFF}
    for _ in range(arguments.rounds):
        for which in ON_AND_OFF:
            environment = {**os.environ, "RAY_enable_metrics_collection": which, "RAY_USAGE_STATS_ENABLED": "0"}
            one = subprocess.run(
                [sys.executable, __file__, "--one"], env=environment, check=True, capture_output=True, text=True
            )
            step_us, idle_ms = map(float, one.stdout.split()[-2:])
            figures[which].append((step_us, idle_ms))
            print(f"metrics {which:5}: {step_us:.0f} us per step, idle Ray {idle_ms:.0f} ms/s", flush=True)
    for which, found in figures.items():
        steps, idle = ([round(value, 1) for value in column] for column in zip(*found, strict=True))
        print(
            f"metrics {which}: a step of {POSTERS_PER_STEP} posters {statistics.median(steps)} us "
            f"({min(steps)} to {max(steps)}), an idle node {statistics.median(idle)} ms of CPU per second "
            f"({min(idle)} to {max(idle)})"
        )


if __name__ == "__main__":
    main()
