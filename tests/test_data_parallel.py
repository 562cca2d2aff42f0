"""Data-parallel training: two workers do what one does, fewer than wished for will do, and those that die are replaced.

All runs here have the same settings, for 20 steps, and change nothing by chance: so they must come out alike.
"""

import os
import signal
from dataclasses import replace

import numpy as np
import pytest
from conftest import SMALL_MODEL

from genretag.commands import train as job
from genretag.errors import JobError
from genretag.runtime.session import Session
from genretag.storage import Storage, join
from genretag.training import fit as fitting
from genretag.training import worker
from genretag.training.fit import fit
from genretag.training.settings import TrainRunSettings
from genretag.training.splits import read_labelled_posters

STEPS, EPOCHS, BATCH = 20, 5, 32
NOTHING_BY_CHANCE = replace(
    SMALL_MODEL,
    backbone="tutorial",  # the quickest to build, and with batch normalisation the hardest to share
    height=80,
    width=80,
    learning_rate=1e-4,  # Adam at higher rates makes of the last bit of a sum another network
    workers=2,
    epochs=EPOCHS - 1,
    batch_size=BATCH,
    min_crop=1.0,
    colour=0.0,
    flip=False,
    dropout=0.0,
    drop_connect=0.0,
    validation_share=0.08,
    test_share=0.08,
    max_failures=1,
)
QUIET = Session(quiet=True)


@pytest.fixture(scope="module")
def splits(poster_folder):
    splits = read_labelled_posters(
        str(poster_folder.parent / "labels.csv"), str(poster_folder), NOTHING_BY_CHANCE, Storage()
    )
    assert len(splits.train) // BATCH * EPOCHS == STEPS
    return splits


@pytest.fixture(scope="module")
def one_worker(ray_cluster, splits, tmp_path_factory):
    """What one worker came to: up to two are asked for, each with more than half of the CPUs, so there is one."""
    elastic = replace(NOTHING_BY_CHANCE, workers="1..2", cpus_per_worker=int(ray_cluster.cpus) // 2 + 1, cache="none")
    fitted = fit(splits, elastic, QUIET, ray_cluster, str(tmp_path_factory.mktemp("one")))
    assert {epoch["workers"] for epoch in fitted.history} == {1}
    return fitted


def test_two_workers_that_die_and_are_replaced_and_resumed_do_what_one_does(
    ray_cluster, one_worker, splits, poster_folder, bucket, tmp_path, monkeypatch
):
    """Each of the two has 16 posters of a batch of 32, and the second kills itself in the second epoch.

    It is replaced; it dies again in the third, which is once too often, and the run is resumed. It costs the two epochs
    in which workers died, and ends as one worker does to whom nothing happens. The checkpoints are in a bucket, as they
    are where the workers are on several machines.
    """
    monkeypatch.setattr(fitting, "train_worker", _dying_worker(tmp_path, epochs=(1, 2)))
    ended = []
    monkeypatch.setattr(job, "fit", lambda *arguments: ended.append(fit(*arguments)) or ended[-1])
    labels, checkpoints = str(poster_folder.parent / "labels.csv"), join(bucket, "checkpoints")

    def run(**options):
        where = labels, str(poster_folder), str(tmp_path / "bundle")
        return job.train(*where, NOTHING_BY_CHANCE, QUIET, TrainRunSettings(checkpoints=checkpoints, **options))

    with pytest.raises(JobError, match="training failed"):
        run()
    bundle = run(resume=True)

    [two_workers] = ended
    assert sorted(file.read_text() for file in tmp_path.glob("died-in-*")) == ["1 of 2", "1 of 2"]
    assert [epoch["epoch"] for epoch in two_workers.history] == [1, 2, 3, 4, 5]
    assert {epoch["workers"] for epoch in two_workers.history} == {2}
    assert figures(two_workers.history) == pytest.approx(figures(one_worker.history), abs=1e-3)
    distance = far(two_workers.weights, one_worker.weights)
    assert distance < 0.01 * far(one_worker.weights, untrained(splits)), "of the way that the weights have come"
    assert bundle.facts["training"]["workers"] == 2
    assert bundle.facts["metrics"]["validation"]["model"]["posters"] > 0
    assert not any(Storage().list(checkpoints)), "what ended well leaves no checkpoints"


def figures(history):
    return [epoch[name] for epoch in history for name in ("loss", "macro_map")]


def far(weights, others):
    """The distance between two networks' weights."""
    return np.sqrt(sum(float(((a - b) ** 2).sum()) for a, b in zip(weights, others, strict=True)))


def untrained(splits):
    from genretag.model import networks as network

    labelled, settings = splits.train.labelled, NOTHING_BY_CHANCE
    start = network.build_network(settings.backbone, len(labelled.labels), settings.height, settings.width)
    network.set_starting_weights(start, settings.backbone, labelled.multi_hot.mean(axis=0))
    return start.get_weights()


def _dying_worker(folder, epochs):
    """A worker that kills itself, where it is the second, in the second step of each of the epochs; once in each."""

    def train(config):
        from genretag.training import worker as module

        batches = module.training_batches

        def batches_until_death(posters, batch_size, seed, epoch, rank, workers):
            death = folder / f"died-in-{epoch}"
            for number, batch in enumerate(batches(posters, batch_size, seed, epoch, rank, workers)):
                if epoch in epochs and number == 1 and rank == 1 and not death.exists():
                    death.write_text(f"{rank} of {workers}")
                    os.kill(os.getpid(), signal.SIGKILL)
                yield batch

        module.training_batches = batches_until_death
        worker.train_worker(config)

    return train
