"""Measure the cost of Ray Train: a worker of `genretag train` compared with a plain Keras loop.

    python tests/benchmarks/training.py [--posters 640] [--rounds 3] [--epochs 4] [--cache memory]

Draws posters and decodes them once. Then trains in turn: `model.fit` over a `tf.data` pipeline in its own process, and
one Ray Train worker. Both have the same network, batch size, augmentation, optimiser and moving average, and use all
CPUs. Prints posters/s: the median over rounds of each round's median epoch. First epochs do not count, because
TensorFlow traces the graph in them. Also prints the worker's peak memory. With more posters than `WINDOW_POSTERS` this
does not grow with their number.
"""

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
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
from genretag.training.settings import TrainSettings
from genretag.training.splits import read_labelled_posters

CPUS = len(os.sched_getaffinity(0))


def main() -> None:
    """Draw posters, train in turn, and print rates."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--posters", type=int, default=640)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=4, help="of each round, the first of which does not count")
    parser.add_argument("--height", type=int, default=288)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--cache", default="memory", help="as of genretag train")
    parser.add_argument("--ray-only", action="store_true", help="leave the plain loop out, to look at memory")
    options = parser.parse_args()
    settings = TrainSettings(
        height=options.height, width=options.width, workers=1, cpus_per_worker=CPUS, head_epochs=0,
        epochs=options.epochs, cache=options.cache, min_positives=5, validation_share=0.05, test_share=0.02,
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="genretag-training-") as folder:
        splits = _draw(Path(folder), options.posters, settings)
        rates: dict[str, list[float]] = {"plain": [], "ray": []}
        for number in range(options.rounds):
            if not options.ray_only:
                rates["plain"].append(_plain(splits.train, settings))
            rate, worker_bytes = _ray(splits, settings, folder, number)
            rates["ray"].append(rate)
            print(f"round {number + 1}: " + ", ".join(f"{name} {all_[-1]:.1f}" for name, all_ in rates.items() if all_))
    _print(rates, len(splits.train), worker_bytes)


def _print(rates: dict[str, list[float]], posters: int, worker_bytes: int) -> None:
    middle = {name: statistics.median(found) for name, found in rates.items() if found}
    for name, rate in middle.items():
        print(f"{name}: {rate:.1f} posters/s ({min(rates[name]):.1f} to {max(rates[name]):.1f})")
    if "plain" in middle:
        print(f"Ray Train with one worker reaches {middle['ray'] / middle['plain']:.3f} of the plain loop")
    print(f"{posters:,} training posters; the worker took at most {worker_bytes / 2**30:.2f} GiB")


def _draw(folder: Path, count: int, settings: TrainSettings) -> Splits[LabelledPosters]:
    posters = []
    for poster in draw_posters(count, seed=1):
        file = folder / poster.key
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(poster.data)
        posters.append(replace(poster, data=b""))
    (folder / "labels.csv").write_text(labels_csv(posters))
    return read_labelled_posters(str(folder / "labels.csv"), str(folder / "posters"), settings, Storage())


def _ray(splits: Splits[LabelledPosters], settings: TrainSettings, folder: str, number: int) -> tuple[float, int]:
    from genretag.training.fit import fit

    session = Session(quiet=True)
    with ray_session(session) as cluster:
        fitted = fit(splits, settings, session, cluster, f"{folder}/checkpoints-{number}")
    return statistics.median(epoch["posters_per_s"] for epoch in fitted.history[1:]), fitted.worker_bytes


def _plain(posters: LabelledPosters, settings: TrainSettings) -> float:
    """Return the rate of the plain loop in a new process, so that its TensorFlow has its own threads."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_train_plainly, (posters, settings))


def _train_plainly(posters: LabelledPosters, settings: TrainSettings) -> float:
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import keras
    import tensorflow as tf

    from genretag.model import networks as network
    from genretag.training.batches import augment

    keras.utils.set_random_seed(settings.seed)
    labels = posters.labelled.multi_hot.astype(np.float32)

    def change(x):
        return augment(x, min_crop=settings.min_crop, colour=settings.colour, flip=settings.flip)

    shape = (settings.backbone, labels.shape[1], settings.height, settings.width)
    model = network.build_network(*shape, dropout=settings.dropout, drop_connect=settings.drop_connect)
    network.set_starting_weights(model, settings.backbone, labels.mean(axis=0))
    network.train_all_but_depthwise(model)
    with ThreadPoolExecutor(4) as threads:
        images = np.stack(
            list(threads.map(lambda uri: decode(Path(uri).read_bytes(), settings.rule).pixels, posters.uris))
        )
    dataset = tf.data.Dataset.from_tensor_slices((images, labels)).shuffle(len(images), seed=settings.seed)
    dataset = dataset.batch(settings.batch_size, drop_remainder=True).map(lambda x, y: (change(x), y)).prefetch(2)
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
    return statistics.median(rates[1:])


if __name__ == "__main__":
    main()
