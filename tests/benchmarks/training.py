"""Measure training: its speed, its memory, and the time until its first step.

    python tests/benchmarks/training.py [--steps 150] [--rounds 5] [--parts speed memory start]

Draws posters, and trains the default recipe without head epochs. Contestants take turns, and each starts new processes:

    stock    `model.fit` on a network of stock Keras layers, with TensorFlow's own settings
    plain    `model.fit` on the network and with the settings of a worker, so the difference to Ray is Ray's cost
    1 worker, 2 workers    Ray Train; the workers share the CPUs

All have the same posters, batch size, augmentation, optimiser and moving average, and use all CPUs.

- speed: posters/s of epochs of `--steps` steps, without the first epoch, in which TensorFlow traces the graph.
- memory: peak memory of one worker, for a training set of one window (`WINDOW_POSTERS`) and of five windows. With the
  cache `memory`, the peak includes the decoded posters in shared memory that the worker has read.
- start: seconds from the start of `genretag train` on 256 posters until the first training step has ended.
"""

import argparse
import multiprocessing
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from genretag.data.splits import Splits
from genretag.demo.posters import draw_posters, labels_csv
from genretag.images.decoding import decode
from genretag.runtime.ray_session import ray_session
from genretag.runtime.session import Session
from genretag.scoring.labelled_posters import LabelledPosters
from genretag.storage import Storage
from genretag.training.epoch_order import WINDOW_POSTERS
from genretag.training.fit import TrainedWeights
from genretag.training.settings import TrainSettings
from genretag.training.splits import read_labelled_posters

CPUS = len(os.sched_getaffinity(0))
TRAINING_SHARE = 0.93
START_POSTERS = 256
PARTS = ("speed", "memory", "start")
COMMAND = "from genretag.runtime import display; display.LOG_EVERY_S = 0.2; from genretag.cli import main; main()"
FIRST_STEP = re.compile(r"epoch 1/\d+: [1-9]")


def main() -> None:
    """Measure the chosen parts, and print them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=150, help="of an epoch, in the part speed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=2, help="of each round, the first of which does not count")
    parser.add_argument("--height", type=int, default=288)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    options = parser.parse_args()
    settings = TrainSettings(
        height=options.height, width=options.width, workers=1, cpus_per_worker=CPUS, head_epochs=0,
        epochs=options.epochs, min_positives=5, validation_share=0.05, test_share=0.02,
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="genretag-training-") as folder:
        if "speed" in options.parts:
            _speed(Path(folder), options.steps, options.rounds, settings)
        if "memory" in options.parts:
            _memory(Path(folder), settings)
        if "start" in options.parts:
            _start(Path(folder), options.rounds, settings)


def _draw(folder: Path, training_posters: int, settings: TrainSettings) -> Splits[LabelledPosters]:
    """Draw about `training_posters` posters for training and some more for the other splits."""
    posters = []
    for poster in draw_posters(round(training_posters / TRAINING_SHARE), seed=1):
        file = folder / poster.key
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(poster.data)
        posters.append(replace(poster, data=b""))
    (folder / "labels.csv").write_text(labels_csv(posters))
    return read_labelled_posters(str(folder / "labels.csv"), str(folder / "posters"), settings, Storage())


def _in_turn(what: str, rounds: int, contestants: dict[str, Callable[[], float]]) -> dict[str, float]:
    """Run all contestants once in each round. Print and return the median of each."""
    found: dict[str, list[float]] = defaultdict(list)
    for number in range(rounds):
        for name, run in contestants.items():
            found[name].append(run())
        print(f"round {number + 1}: " + ", ".join(f"{name} {all_[-1]:.1f}" for name, all_ in found.items()), flush=True)
    middle = {name: statistics.median(all_) for name, all_ in found.items()}
    for name, all_ in found.items():
        print(f"{name}: {middle[name]:.1f} {what} ({min(all_):.1f} to {max(all_):.1f})")
    return middle


def _speed(folder: Path, steps: int, rounds: int, settings: TrainSettings) -> None:
    """Print the speed of all contestants, and the ratios that count."""
    splits = _draw(folder / "speed", steps * settings.batch_size, settings)
    two = replace(settings, workers=2, cpus_per_worker=max(1, CPUS // 2))

    def ray(chosen: TrainSettings) -> float:
        return _rate(epoch["posters_per_s"] for epoch in _fit(splits, chosen).history)

    print(f"{len(splits.train):,} training posters, {len(splits.train) // settings.batch_size} steps per epoch")
    middle = _in_turn(
        "posters/s",
        rounds,
        {
            "stock": lambda: _plain(splits.train, settings, stock=True),
            "plain": lambda: _plain(splits.train, settings, stock=False),
            "1 worker": lambda: ray(settings),
            "2 workers": lambda: ray(two),
        },
    )
    for name, other in (("plain", "stock"), ("1 worker", "plain"), ("2 workers", "1 worker")):
        print(f"{name} reaches {middle[name] / middle[other]:.3f} of {other}")


def _memory(folder: Path, settings: TrainSettings) -> None:
    """Print the peak memory of a worker in an epoch over one window and over five windows, with each kind of cache."""
    for windows in (1, 5):
        splits = _draw(folder / f"memory-{windows}", windows * WINDOW_POSTERS, settings)
        for cache, place in (("memory", "memory"), ("files", str(folder / f"cache-{windows}"))):
            fitted = _fit(splits, replace(settings, epochs=1, cache=place))
            print(
                f"{len(splits.train):,} training posters, cache {cache}: "
                f"the worker took at most {fitted.worker_bytes / 2**30:.2f} GiB",
                flush=True,
            )


def _start(folder: Path, rounds: int, settings: TrainSettings) -> None:
    """Print how long `genretag train` takes until its first step has ended."""
    _draw(folder / "start", START_POSTERS * TRAINING_SHARE, settings)

    def run(workers: int) -> float:
        return _seconds_to_first_step(folder / "start", workers, settings)

    _in_turn("s until the first step", rounds, {"1 worker": lambda: run(1), "2 workers": lambda: run(2)})


def _seconds_to_first_step(folder: Path, workers: int, settings: TrainSettings) -> float:
    """Start `genretag train`, wait for its first step, and end it."""
    options = {
        "labels": folder / "labels.csv", "images": folder / "posters", "output": folder / "bundle",
        "height": settings.height, "width": settings.width, "workers": workers,
        "cpus-per-worker": max(1, CPUS // workers), "min-positives": 5,
    }  # fmt: skip
    arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    started = time.monotonic()
    command = [sys.executable, "-c", COMMAND, "train", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        lines = []
        for line in process.stderr:
            lines.append(line)
            if FIRST_STEP.search(line):
                seconds = time.monotonic() - started
                process.send_signal(signal.SIGINT)
                process.stderr.read()
                return seconds
    raise RuntimeError("the command ended before its first step:\n" + "".join(lines))


def _fit(splits: Splits[LabelledPosters], settings: TrainSettings) -> TrainedWeights:
    """Train in a new local Ray."""
    from genretag.training.fit import fit

    session = Session(quiet=True)
    with tempfile.TemporaryDirectory() as checkpoints, ray_session(session) as cluster:
        return fit(splits, settings, session, cluster, checkpoints)


def _rate(of_epochs) -> float:
    """Return the median of all epochs but the first."""
    return statistics.median(list(of_epochs)[1:])


def _plain(posters: LabelledPosters, settings: TrainSettings, *, stock: bool) -> float:
    """Return the rate of the plain loop in a new process, so that its TensorFlow has its own threads."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_train_plainly, (posters, settings, stock))


def _train_plainly(posters: LabelledPosters, settings: TrainSettings, stock: bool) -> float:
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    if not stock:
        os.environ["TF_ENABLE_ONEDNN_OPTS"] = "1"
    import keras
    import tensorflow as tf

    from genretag.model import networks as network
    from genretag.model.backbones import Learning
    from genretag.training.batches import augment

    keras.utils.set_random_seed(settings.seed)
    labels = posters.labelled.multi_hot.astype(np.float32)

    def change(number, x):
        seed = tf.stack([number, tf.cast(settings.seed, tf.int64)])
        return augment(x, seed, min_crop=settings.min_crop, colour=settings.colour, flip=settings.flip)

    learning = Learning(settings.dropout, settings.drop_connect, on_cpu=not stock)
    model = network.build_network(settings.backbone, labels.shape[1], settings.height, settings.width, learning)
    network.set_starting_weights(model, settings.backbone, labels.mean(axis=0))
    network.unfreeze(model, settings.backbone)
    with ThreadPoolExecutor(4) as threads:
        images = np.stack(
            list(threads.map(lambda uri: decode(Path(uri).read_bytes(), settings.rule).pixels, posters.uris))
        )
    dataset = tf.data.Dataset.from_tensor_slices((images, labels)).shuffle(len(images), seed=settings.seed)
    dataset = dataset.batch(settings.batch_size, drop_remainder=True).enumerate()
    dataset = dataset.map(lambda number, batch: (change(number, batch[0]), batch[1])).prefetch(2)
    optimizer = keras.optimizers.AdamW(
        settings.learning_rate, weight_decay=settings.weight_decay, global_clipnorm=settings.clip_norm,
        use_ema=True, ema_momentum=settings.average_momentum,
    )  # fmt: skip
    # Keras uses XLA by default, which is several times slower on a CPU. So XLA is off for the plain loop.
    model.compile(optimizer, keras.losses.BinaryCrossentropy(from_logits=True), jit_compile=False)
    rates: list[float] = []

    class Clock(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.started = time.monotonic()

        def on_epoch_end(self, epoch, logs=None):
            seen = len(images) // settings.batch_size * settings.batch_size
            rates.append(seen / (time.monotonic() - self.started))

    model.fit(dataset, epochs=settings.epochs, verbose=0, callbacks=[Clock()])
    return _rate(rates)


if __name__ == "__main__":
    main()
