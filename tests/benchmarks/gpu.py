"""Measure a machine with an NVIDIA GPU in at most eight minutes, next to its CPUs, and print tables.

    python tests/benchmarks/gpu.py [--engines tensorflow jax] [--json FILE]
    python tests/benchmarks/gpu.py --parts infer jobs --engines torch --minutes 20
    python tests/benchmarks/gpu.py --dry-run

Each part runs in its own process, which is killed when its share of the minutes is over. Its rows up to then count. A
part that fails does not stop the others. `--dry-run` runs all parts on CPUs with few posters, to test this script.

- `decode`: decode in all CPUs, nothing else.
- `infer`: predict random pixels in each engine and precision, from the memory of the host and from that of the GPU.
- `feeding`: tag with two actors that fetch and decode and one that predicts. The network costs nothing, or runs in the
  first engine on the GPU, or in OpenVINO on CPUs.
- `jobs`: tag a folder as usual, in the first engine and in OpenVINO.
- `train`: train three epochs with TensorFlow in one worker, on the GPU in mixed precision, and on CPUs. In a second run
  on the GPU, the worker is killed once. Afterwards, the GPU's memory must be free.
- `agreement`: compare probabilities with those of OpenVINO in float32.
"""

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import numpy as np
import psutil
from feeding import free_bundle
from gpu_parts import SPAWN, Row, card, gpu_use, run_part, table

from genretag.commands.bench import run_job
from genretag.commands.train import RUN_NOTE, train
from genretag.demo.posters import LOOKS, draw_poster
from genretag.images.decoding import decode
from genretag.model.bundle import DEFAULT_BUNDLE, load_bundle, write_bundle
from genretag.model.engines import open_engine
from genretag.runtime.session import Session
from genretag.runtime.stopping import end_on_sigterm
from genretag.scoring.settings import TagSettings
from genretag.scoring.shards import POSTERS_PER_STEP
from genretag.storage import Storage
from genretag.training.settings import TrainRunSettings, TrainSettings

CPUS = len(os.sched_getaffinity(0))
QUIET = Session(quiet=True)


@dataclass(frozen=True)
class Plan:
    """Input of all parts: the folder with the posters, the engines, and the amount of work."""

    folder: Path
    engines: list[str]
    batches: list[int]
    posters: int
    gpu: bool = True
    drawn: int = 2_000  # different posters, in the folder `few`; `many` has links to them
    pixels: int = 4_096  # random pictures to infer
    repeats: int = 5

    @property
    def few(self) -> Path:
        return self.folder / "few"

    @property
    def many(self) -> Path:
        return self.folder / "many"


def main() -> int:
    """Run the parts, print their tables, and return 1 if one of them failed, else 0."""
    options = _options()
    end_on_sigterm()  # so that a part does not outlive this script
    facts: Row = {"card": card(), "cpus": CPUS, "command": sys.argv[1:]}
    print(f"{facts['card']}; {CPUS} CPUs", flush=True)
    if not (facts["card"] or options.dry_run):
        print("nvidia-smi finds no GPU: use --dry-run to test this script", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="gpu-") as name:
        plan = Plan(Path(name), options.engines, options.batches, options.posters)
        if options.dry_run:
            plan = Plan(Path(name), ["tensorflow"], [8], 300, gpu=False, drawn=120, pixels=16, repeats=1)
        found = {}
        for part in ("draw", *options.parts):
            found[part] = run_part(PARTS[part], plan, Path(name) / f"{part}.jsonl", SECONDS[part] * options.minutes / 8)
            print(f"\n## {part}, {found[part]['seconds']:.0f} s {found[part]['error']}\n", flush=True)
            print("\n".join(table(found[part]["rows"])), flush=True)
            if options.json:
                options.json.write_text(json.dumps({**facts, "plan": asdict(plan), "parts": found}, default=str))
    return 1 if any(part["error"] for part in found.values()) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", default=list(PARTS)[1:], choices=list(PARTS)[1:])
    parser.add_argument("--engines", nargs="+", default=["tensorflow", "jax"], help="the first one does the jobs")
    parser.add_argument("--batches", type=int, nargs="+", default=[64], help="batch sizes of the part infer")
    parser.add_argument("--posters", type=int, default=20_000, help="of a job; the part feeding takes half of them")
    parser.add_argument("--minutes", type=float, default=8, help="of all parts; each part has its share")
    parser.add_argument("--dry-run", action="store_true", help="on CPUs, with few posters")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def draw(plan: Plan) -> Iterator[Row]:
    """Draw posters of 300 x 450 pixels with their labels, and link them under many names."""
    looks = [Random(number).sample(LOOKS, 2) for number in range(plan.drawn)]
    plan.few.mkdir()
    plan.many.mkdir()
    with ProcessPoolExecutor(CPUS, mp_context=SPAWN) as processes:
        for number, data in enumerate(processes.map(draw_poster, range(plan.drawn), looks, chunksize=20)):
            (plan.few / f"{number:06d}.jpg").write_bytes(data)
    rows = [f"{number:06d},{'|'.join(labels)}\n" for number, labels in enumerate(looks)]
    (plan.folder / "labels.csv").write_text("id,labels\n" + "".join(rows))
    for number in range(plan.posters):
        (plan.many / f"{number:06d}.jpg").hardlink_to(plan.few / f"{number % plan.drawn:06d}.jpg")
    yield {"drawn": plan.drawn, "links": plan.posters}


def decode_alone(plan: Plan) -> Iterator[Row]:
    """Measure decoding in a process for each CPU, because threads of one process would wait for Python's lock."""
    encoded = [file.read_bytes() for file in sorted(plan.few.iterdir())]
    shares = [encoded[number::CPUS] for number in range(CPUS)]
    with ProcessPoolExecutor(CPUS, mp_context=SPAWN) as processes:
        rates = [sum(processes.map(_decode_share, shares)) for _ in range(plan.repeats)]
    yield {"processes": CPUS, "posters/s": median(rates)}


def _decode_share(encoded: list[bytes]) -> float:
    """Return the decoding rate of one process, in posters/s, while the others do the same."""
    rule, started = load_bundle(str(DEFAULT_BUNDLE), Storage()).rule, time.perf_counter()
    for data in encoded:
        decode(data, rule)
    return len(encoded) / (time.perf_counter() - started)


def infer(plan: Plan) -> Iterator[Row]:
    """Measure engines, each precision in a new process, because Keras has one backend for a process."""
    for engine, precision, batch in product(plan.engines, ("bfloat16", "float32"), plan.batches):
        yield _apart(_infer, plan, engine, precision, batch)
    yield _apart(_infer, plan, "openvino", "int8", 8)


def _infer(plan: Plan, engine: str, precision: str, batch: int) -> Row:
    bundle = load_bundle(str(DEFAULT_BUNDLE), Storage())
    shape = (plan.pixels, bundle.rule.height, bundle.rule.width, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    loaded = open_engine(engine, bundle, batch, CPUS, precision)
    started = time.perf_counter()
    loaded.predict(pixels[:batch])
    row = {"engine": engine, "precision": precision, "batch": batch, "first batch, s": time.perf_counter() - started}
    steps = np.split(pixels, max(1, plan.pixels // POSTERS_PER_STEP))
    row["posters/s"] = _rate(plan, lambda: [loaded.predict(step) for step in steps])
    if engine != "openvino":
        row["posters/s, pixels already there"] = _rate(plan, _on_device(loaded, pixels[:batch], plan.pixels))
    return row


def _on_device(loaded: Any, batch: np.ndarray, pixels: int) -> Callable[[], Any]:
    """Return a function that infers a batch in GPU memory again and again, `pixels` pictures in total."""
    from keras import ops

    there, repeats = ops.convert_to_tensor(batch), pixels // len(batch)
    return lambda: ops.convert_to_numpy([loaded._call(there) for _ in range(repeats)][-1])


def _rate(plan: Plan, work: Callable[[], Any]) -> float:
    """Return the median rate in posters/s of some repeats, after one call that does not count."""
    work()
    times = []
    for _ in range(plan.repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return plan.pixels / median(times)


def _apart(work: Callable[..., Any], *arguments: Any) -> Any:
    """Call `work` in a new process and return its result."""
    with ProcessPoolExecutor(1, mp_context=SPAWN) as process:
        return process.submit(work, *arguments).result()


def feeding(plan: Plan) -> Iterator[Row]:
    """Tag half of the posters with two actors that fetch and decode, and one that predicts."""
    free, half = plan.folder / "free", plan.folder / "half"
    write_bundle(free_bundle(), str(free), Storage())
    half.mkdir()
    for file in sorted(plan.many.iterdir())[::2]:
        (half / file.name).hardlink_to(file)
    for engine, model in (("openvino", str(free)), (plan.engines[0], None), ("openvino", None)):
        settings = TagSettings(engine=engine, fetch_actors=2, predict_actors=1, report=False)
        yield _tag(half, plan.folder / f"fed-{engine}-{bool(model)}", settings, model)


def jobs(plan: Plan) -> Iterator[Row]:
    """Tag all posters with the default plan of actors, on the GPU and on CPUs."""
    for engine in (plan.engines[0], "openvino"):
        yield _tag(plan.many, plan.folder / f"job-{engine}", TagSettings(engine=engine, report=False))


def _tag(images: Path, output: Path, settings: TagSettings, model: str | None = None) -> Row:
    """Tag once. Return the rates of the job, and the use of the GPU that nvidia-smi reports meanwhile."""
    with gpu_use() as seen:
        run = run_job(str(images), str(output), settings, QUIET, model)
    actors, engine, memory = run.record.actors, run.record.processors[0], run.record.peak_memory_bytes
    return {
        "network": "free" if model else f"{settings.engine}, {engine['precision']}",
        "actors that fetch + predict": f"{actors['fetch_actors']} + {actors['predict_actors']}",
        "predicts on": "GPU" if engine["on_gpu"] else "CPU",
        "posters": run.record.listed,
        "posters/s after start-up": run.steady_per_s,
        "posters/s with start-up": run.whole_per_s,
        "first poster, s": run.first_poster_s,
        "GPU busy, %": median([busy for busy, _ in seen if busy] or [0.0]),
        "GPU, MiB": max((used for _, used in seen), default=0.0),
        "actor, MB": memory["predict"] / 1e6,
    }


def training(plan: Plan) -> Iterator[Row]:
    """Train three epochs with `genretag train` in one worker, on the GPU in mixed precision, then on CPUs.

    A worker on the GPU is killed once: it must go on from its last checkpoint, and no memory of the GPU may stay taken.
    """
    for gpu, killed in [(True, False), (True, True), (False, False)] if plan.gpu else [(False, True)]:
        settings = TrainSettings(
            workers=1, cpus_per_worker=CPUS, gpu=gpu, mixed_precision="on" if gpu else "off", head_epochs=1, epochs=2,
            min_positives=5,
        )  # fmt: skip
        output, started = plan.folder / f"bundle-{gpu}-{killed}", time.monotonic()
        ended, victims = threading.Event(), list[int]()
        killer = threading.Thread(target=_kill_a_worker, args=(ended, victims), daemon=True)
        with gpu_use() as seen:
            time.sleep(1)  # a second of an idle GPU
            if killed:
                killer.start()
            run = TrainRunSettings(checkpoints=str(plan.folder / f"checkpoints-{gpu}-{killed}"))
            try:
                _apart(train, str(plan.folder / "labels.csv"), str(plan.few), str(output), settings, QUIET, run)
            finally:
                ended.set()
            seconds = time.monotonic() - started
            time.sleep(2)
        epochs = json.loads((output / RUN_NOTE).read_text())["epochs"]
        yield {
            "on": "GPU, mixed precision" if gpu else f"{CPUS} CPUs, float32",
            "workers killed": len(victims),
            **{f"epoch {epoch['epoch']}, loss": epoch["loss"] for epoch in epochs},
            **{f"epoch {epoch['epoch']}, posters/s": epoch["posters_per_s"] for epoch in epochs},
            "whole command, s": seconds,
            "GPU busy, %": median([busy for busy, _ in seen if busy] or [0.0]),
            "GPU, MiB": max((used for _, used in seen), default=0.0),
            "GPU before, MiB": seen[0][1] if seen else 0.0,
            "GPU afterwards, MiB": seen[-1][1] if seen else 0.0,
        }


def _kill_a_worker(ended: threading.Event, victims: list[int]) -> None:
    """Kill a training worker of this process by SIGKILL, 20 s after it has started, and add its process id."""
    while not ended.wait(0.5):
        mine = psutil.Process().children(recursive=True)
        workers = [one for one in mine if "TrainWorker" in "".join(_words(one)[:1])]
        if workers and not ended.wait(20):
            workers[0].kill()
            victims.append(workers[0].pid)
            return


def _words(process: psutil.Process) -> list[str]:
    with suppress(psutil.Error):
        return process.cmdline()
    return []


def agreement(plan: Plan) -> Iterator[Row]:
    """Compare the probabilities of the drawn posters with those of OpenVINO in float32."""
    rule = load_bundle(str(DEFAULT_BUNDLE), Storage()).rule
    pixels = np.stack([decode(file.read_bytes(), rule).pixels for file in sorted(plan.few.iterdir())])
    np.save(plan.folder / "pixels.npy", pixels)
    reference = _apart(_probabilities, plan, "openvino", "float32")
    for engine, precision in [("openvino", "int8"), *product(plan.engines, ("float32", "bfloat16"))]:
        differ = np.abs((found := _apart(_probabilities, plan, engine, precision)) - reference)
        yield {
            "engine": engine,
            "precision": precision,
            "largest difference": float(differ.max()),
            "mean difference": float(differ.mean()),
            "same first label": float(np.mean(found.argmax(axis=1) == reference.argmax(axis=1))),
        }


def _probabilities(plan: Plan, engine: str, precision: str) -> np.ndarray:
    bundle = load_bundle(str(DEFAULT_BUNDLE), Storage())
    return open_engine(engine, bundle, plan.batches[0], CPUS, precision).predict(np.load(plan.folder / "pixels.npy"))


PARTS: dict[str, Callable[[Plan], Iterator[Row]]] = {
    "draw": draw, "decode": decode_alone, "infer": infer, "feeding": feeding, "jobs": jobs, "train": training,
    "agreement": agreement,
}  # fmt: skip
SECONDS = {
    "draw": 30,
    "decode": 15,
    "infer": 85,
    "feeding": 85,
    "jobs": 75,
    "train": 150,
    "agreement": 40,
}  # 8 minutes

if __name__ == "__main__":
    sys.exit(main())
