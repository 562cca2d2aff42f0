"""Measure how the input size changes the speed of the default model's engine.

    python tests/benchmarks/input_sizes.py [--sizes 224x224 288x192 384x256] [--rounds 5] [--precision int8]

Runs the same network at each size in turn, on noise, on all CPUs. Prints posters/s of prediction alone: the median over
rounds with the slowest and the fastest round, and the ratio to the first size.
"""

import argparse
import os
import statistics
import time
from dataclasses import replace

import numpy as np

from genretag.images import ImageRule
from genretag.model.bundle import DEFAULT_BUNDLE, load_bundle
from genretag.model.engines import Engine, open_engine
from genretag.storage import Storage

BATCH, POSTERS = 32, 512


def main() -> None:
    """Measure each size in each round, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=["224x224", "288x192", "384x256"], help="height x width")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", default="int8")
    options = parser.parse_args()
    bundle, cpus = load_bundle(str(DEFAULT_BUNDLE), Storage()), len(os.sched_getaffinity(0))
    engines = {}
    for size in options.sizes:
        height, width = map(int, size.split("x"))
        sized = replace(bundle, rule=ImageRule(height, width))
        engine = open_engine("openvino", sized, BATCH, cpus, options.precision)
        engines[size] = engine, np.random.default_rng(0).integers(0, 256, (POSTERS, height, width, 3), dtype=np.uint8)
        _rate(*engines[size])  # to warm up
    rates = {size: [] for size in engines}
    for _ in range(options.rounds):
        for size, engine in engines.items():
            rates[size].append(_rate(*engine))
    first = statistics.median(rates[options.sizes[0]])
    print(f"OpenVINO, {options.precision}, {cpus} CPUs, posters/s")
    for size, found in rates.items():
        median = statistics.median(found)
        print(f"{size}: {median:.0f} ({min(found):.0f} to {max(found):.0f}), {median / first:.2f} of the first")


def _rate(engine: Engine, images: np.ndarray) -> float:
    started = time.perf_counter()
    engine.predict(images)
    return len(images) / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
