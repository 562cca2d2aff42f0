"""Measure how fast the pipeline feeds an engine that costs nothing, next to decoding alone.

    python tests/benchmarks/feeding.py --images FOLDER [--posters 10000] [--rounds 3] [--json FILE]

The bundle is the default one with another network: it looks at one pixel of each poster and answers with the same
probabilities. So the engine is real, but takes almost no time, and the rate is that of everything before it. On a GPU
node the network is that fast compared with the decoders.

Posters are read from a folder, again under other names if there are too few. Each round runs `tag` with decoder and
engine in one actor, with separate actors (one and two fetch actors), and decoding alone in as many threads as CPUs. To
compare two builds, run the script with PYTHONPATH set to each checkout in turn.
"""

import argparse
import json
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import openvino
from openvino import opset13 as ops

from genretag.commands.bench import run_job
from genretag.images import decode
from genretag.model.bundle import DEFAULT_BUNDLE, INT8_FILES, OPENVINO_FILES, Bundle, load_bundle, write_bundle
from genretag.runtime.cpus import cpus_here
from genretag.runtime.session import Session
from genretag.scoring.ceiling import measure
from genretag.scoring.settings import TagSettings
from genretag.storage import Storage

SAMPLE = 512
LAYOUTS = {
    "together": TagSettings(engine="openvino", report=False),
    "apart, 1 fetch actor": TagSettings(engine="openvino", fetch_actors=1, predict_actors=1, report=False),
    "apart, 2 fetch actors": TagSettings(engine="openvino", fetch_actors=2, predict_actors=1, report=False),
}


def free_bundle() -> Bundle:
    """Return the default bundle with a network that answers at once."""
    bundle = load_bundle(str(DEFAULT_BUNDLE), Storage())
    height, width, labels = bundle.rule.height, bundle.rule.width, len(bundle.labels)
    images = ops.parameter([-1, height, width, 3], np.uint8, name="images")
    ends = [np.array(values, dtype=np.int64) for values in ([0, 0, 0], [1, 1, 1], [1, 1, 1], [1, 2, 3])]
    pixel = ops.convert(ops.reshape(ops.slice(images, *ends), [-1, 1], special_zero=False), "f32")
    answer = ops.add(ops.multiply(pixel, np.zeros((1, labels), np.float32)), np.full((1, labels), 0.3, np.float32))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "free.xml"
        openvino.save_model(openvino.Model([answer], [images], "free"), file, compress_to_fp16=False)
        files = file.read_bytes(), file.with_suffix(".bin").read_bytes()
    networks = dict(zip(OPENVINO_FILES, files, strict=True)) | dict(zip(INT8_FILES, files, strict=True))
    return replace(bundle, files={**bundle.files, **networks})


def decode_alone(files: list[Path], bundle: Bundle) -> float:
    """Return the posters per second that threads decode, one thread for each CPU."""
    encoded = [file.read_bytes() for file in files[:SAMPLE]]
    with ThreadPoolExecutor(cpus_here()) as threads:
        rate = measure(lambda: len(list(threads.map(lambda data: decode(data, bundle.rule), encoded))))
    return rate.posters_per_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--posters", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    sources = sorted(options.images.rglob("*.jpg"))
    found = []
    print("| round | what | posters/s, steady | with start-up | first poster, s |\n|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory(prefix="feeding-") as name:
        folder = Path(name)
        bundle = free_bundle()
        write_bundle(bundle, str(folder / "bundle"), Storage())
        images = folder / "posters"
        images.mkdir()
        for number, source in enumerate(islice(cycle(sources), options.posters)):
            (images / f"{number:06d}.jpg").symlink_to(source.resolve())
        for number in range(options.rounds):
            alone = decode_alone(sources, bundle)
            found.append({"round": number, "what": "decode alone", "steady_per_s": alone})
            print(f"| {number} | decode alone, {cpus_here()} threads | {alone:.0f} | | |", flush=True)
            for what, settings in LAYOUTS.items():
                output = str(folder / f"{number} {what}")
                run = run_job(str(images), output, settings, Session(quiet=True), str(folder / "bundle"))
                rates = {"steady_per_s": run.steady_per_s, "whole_per_s": run.whole_per_s}
                found.append({"round": number, "what": what, **rates, "first_poster_s": run.first_poster_s})
                cells = f"{run.steady_per_s:.0f} | {run.whole_per_s:.0f} | {run.first_poster_s:.1f}"
                print(f"| {number} | {what} | {cells} |", flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
