"""Measure a night on a GPU: decoding and inference alone, and the job compared with the job on CPUs.

    python tests/benchmarks/gpu.py [--posters 80000] [--rounds 2] [--engines jax torch] [--json FILE]

Draws posters of 300 x 450 pixels and links them under many names in a local folder. Infers random uint8 pixels from
memory, by engine, precision and batch size, in steps as in the job, and also from the GPU's own memory. Prints medians
of five repeats. Then tags the folder on the GPU and on all CPUs in turn. Finally tags a few posters in each precision,
and compares the rows with those of OpenVINO in float32.
"""

import argparse
import json
import multiprocessing
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow.parquet

from genretag.commands.bench import run_job
from genretag.demo.posters import draw_poster
from genretag.images.decoding import decode
from genretag.model.bundle import DEFAULT_BUNDLE, load_bundle
from genretag.model.engines import open_engine
from genretag.runtime.session import Session
from genretag.scoring.settings import TagSettings
from genretag.scoring.shards import POSTERS_PER_STEP
from genretag.storage import Storage

DRAWN = 2_000  # number of different posters; these are also compared
PIXELS = 4_096  # number of random pictures to infer
REPEATS = 5
PARTS = ("decode", "infer", "jobs", "agreement")
CPUS = len(os.sched_getaffinity(0))


def main() -> None:
    """Draw posters, measure, and print tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--posters", type=int, default=80_000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--engines", nargs="+", default=["jax"], help="to infer with; the first one does the job")
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found: dict[str, list[Any]] = {part: [] for part in options.parts}
    with tempfile.TemporaryDirectory(prefix="gpu-") as name:
        folder = Path(name)
        few, many = draw(folder, options.posters)
        if "decode" in found:
            found["decode"] = [decode_rate([file.read_bytes() for file in sorted(few.iterdir())])]
            print(f"decode alone, {CPUS} processes: {found['decode'][0]:,.0f} posters/s", flush=True)
        if "infer" in found:
            head("engine", "precision", "batch", "first batch, s", "posters/s", "on the GPU alone")
            for engine, precision in product(options.engines, ("bfloat16", "float32")):
                found["infer"] += apart(infer, engine, precision, options.batches)
        if "jobs" in found:
            head("job", "posters/s under way", "with start-up", "first poster, s", "GPU busy", "GPU, MiB", "actor, MB")
            for number, engine in product(range(options.rounds), (options.engines[0], "openvino")):
                found["jobs"].append(job(engine, many, folder / f"out-{number}-{engine}"))
        if "agreement" in found:
            head("rows of", "most that a probability differs", "on average", "same first label")
            reference = rows(few, folder / "reference", "openvino", "float32")
            for engine, precision in [*product(options.engines, ("float32", "bfloat16")), ("openvino", "int8")]:
                scored = rows(few, folder / f"{engine}-{precision}", engine, precision)
                found["agreement"].append(compare(engine, precision, scored, reference))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


def head(*columns: str) -> None:
    """Print the first two lines of a Markdown table."""
    print("\n| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|", flush=True)


def apart(work: Callable[..., Any], *arguments: Any) -> Any:
    """Call `work` in a new process and return its result. Keras can have only one backend per process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(work, *arguments).result()


def draw(folder: Path, posters: int) -> tuple[Path, Path]:
    """Return a folder of different posters, and a folder with many links to them."""
    few, many = folder / "few", folder / "many"
    few.mkdir()
    many.mkdir()
    with ProcessPoolExecutor(CPUS, mp_context=multiprocessing.get_context("spawn")) as processes:
        for number, data in enumerate(processes.map(draw_poster, range(DRAWN), chunksize=20)):
            (few / f"{number:06d}.jpg").write_bytes(data)
    for number in range(posters):
        (many / f"{number:06d}.jpg").hardlink_to(few / f"{number % DRAWN:06d}.jpg")
    return few, many


def decode_rate(encoded: list[bytes]) -> float:
    """Return the decoding rate of all CPUs, in posters/s.

    Each CPU has its own process, because threads of one process would wait for Python's lock.
    """
    with ProcessPoolExecutor(CPUS, mp_context=multiprocessing.get_context("spawn")) as processes:
        shares = [encoded[number::CPUS] for number in range(CPUS)]
        return median(sum(processes.map(decode_share, shares)) for _ in range(REPEATS))


def decode_share(encoded: list[bytes]) -> float:
    """Return the decoding rate of one process, in posters/s, while the others do the same."""
    rule, started = load_bundle(str(DEFAULT_BUNDLE), Storage()).rule, time.perf_counter()
    for data in encoded * 5:
        decode(data, rule)
    return 5 * len(encoded) / (time.perf_counter() - started)


def infer(engine: str, precision: str, batches: list[int]) -> list[dict[str, Any]]:
    """Return rates of an engine, in posters/s by batch size: from the host's memory in steps, and from GPU memory."""
    bundle, found = load_bundle(str(DEFAULT_BUNDLE), Storage()), []
    shape = (PIXELS, bundle.rule.height, bundle.rule.width, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    for batch in batches:
        loaded = open_engine(engine, bundle, batch, CPUS, precision)
        started = time.perf_counter()
        loaded.predict(pixels[:batch])
        first_s = time.perf_counter() - started
        host = rate(lambda: [loaded.predict(step) for step in np.split(pixels, PIXELS // POSTERS_PER_STEP)])  # noqa: B023
        device = rate(on_device(engine, loaded, pixels[:batch]))
        print(f"| {engine} | {precision} | {batch} | {first_s:.1f} | {host:,.0f} | {device:,.0f} |", flush=True)
        found.append({"engine": engine, "precision": precision, "batch": batch, "first_s": first_s})
        found[-1] |= {"posters_per_s": host, "on_device_per_s": device}
    return found


def on_device(engine: str, loaded: Any, batch: np.ndarray) -> Callable[[], Any]:
    """Return a function that infers a batch in GPU memory again and again, `PIXELS` pictures in total."""
    from keras import ops

    there, repeats = ops.convert_to_tensor(batch), PIXELS // len(batch)
    return lambda: ops.convert_to_numpy([loaded._call(there) for _ in range(repeats)][-1])


def rate(work: Callable[[], Any]) -> float:
    """Return the median rate in posters/s of some repeats, after one call that does not count."""
    work()
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return PIXELS / median(times)


def job(engine: str, images: Path, output: Path) -> dict[str, Any]:
    """Tag once. Return the rates of the job, and the use of the GPU that nvidia-smi reports meanwhile."""
    query = ["nvidia-smi", "--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits", "-lms", "200"]
    with subprocess.Popen(query, stdout=subprocess.PIPE, text=True) as smi:
        run = run_job(str(images), str(output), TagSettings(engine=engine, report=False), Session(quiet=True))
        smi.terminate()
        seen = [tuple(map(float, line.split(","))) for line in smi.stdout if line.count(",") == 1]
    busy = [share for share, _ in seen if share]
    memory = run.record.peak_memory_bytes["predict"] / 1e6
    cells = [f"{engine}, {run.record.actors['precision']}", f"{run.steady_per_s:,.0f}", f"{run.whole_per_s:,.0f}"]
    cells += [f"{run.first_poster_s:.1f}", f"{median(busy or [0]):.0f} %", f"{max(used for _, used in seen):,.0f}"]
    print("| " + " | ".join([*cells, f"{memory:,.0f}"]) + " |", flush=True)
    return {"engine": engine, "steady_per_s": run.steady_per_s, "whole_per_s": run.whole_per_s, "cells": cells} | {
        "first_poster_s": run.first_poster_s, "actors": run.record.actors, "busy_s": run.record.busy_s,
        "seconds": run.record.seconds, "gpu": seen,
    }  # fmt: skip


def rows(images: Path, output: Path, engine: str, precision: str) -> np.ndarray:
    """Tag a folder, and return the probabilities in the Parquet files, in the order of the posters."""
    settings = TagSettings(engine=engine, precision=precision, report=False)
    run_job(str(images), str(output), settings, Session(quiet=True))
    table = pyarrow.parquet.read_table(output / "predictions", partitioning=None).sort_by("poster_id")
    names = [name for name in table.column_names if name.startswith("p_")]
    return np.stack([table[name].to_numpy() for name in names], axis=1)


def compare(engine: str, precision: str, found: np.ndarray, reference: np.ndarray) -> dict[str, Any]:
    """Return the differences between the probabilities of two nights."""
    differ = np.abs(found - reference)
    same = float(np.mean(found.argmax(axis=1) == reference.argmax(axis=1)))
    print(f"| {engine}, {precision} | {differ.max():.5f} | {differ.mean():.6f} | {same:.2%} |", flush=True)
    return {"engine": engine, "precision": precision, "max": float(differ.max()), "same_first": same}


if __name__ == "__main__":
    main()
