"""Two training workers give the same result as one; fewer workers suffice; workers that die are replaced.

All runs have the same settings, take 20 steps and use no randomness. So their results must be equal.
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
    backbone="tutorial",  # builds fastest, and batch normalisation makes it the hardest to share among workers
    height=80,
    width=80,
    learning_rate=1e-4,  # at higher rates Adam amplifies rounding differences of sums
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
    """Train with one worker, and return the result.

    One or two workers are asked for. Each needs more than half of the CPUs, so only one fits.
    """
    elastic = replace(NOTHING_BY_CHANCE, workers="1..2", cpus_per_worker=int(ray_cluster.cpus) // 2 + 1, cache="none")
    fitted = fit(splits, elastic, QUIET, ray_cluster, str(tmp_path_factory.mktemp("one")))
    assert {epoch["workers"] for epoch in fitted.history} == {1}
    return fitted


def test_two_workers_that_die_and_are_resumed_give_the_result_of_one_undisturbed_worker(
    ray_cluster, one_worker, splits, poster_folder, bucket, tmp_path, monkeypatch
):
    """Each of the two workers gets 16 posters of a batch of 32. The second worker kills itself in the second epoch.

    It is replaced, and kills itself again in the third epoch. That is one death too many, so the run fails and is
    resumed. The result equals that of one undisturbed worker. The checkpoints are in a bucket, as they must be for
    workers on several machines.
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
    """Return loss and macro mAP of all epochs as one list."""
    return [epoch[name] for epoch in history for name in ("loss", "macro_map")]


def far(weights, others):
    """Return the Euclidean distance between the weights of two networks."""
    return np.sqrt(sum(float(((a - b) ** 2).sum()) for a, b in zip(weights, others, strict=True)))


def untrained(splits):
    """Return the weights of the network before training."""
    from genretag.model import networks as network

    labelled, settings = splits.train.labelled, NOTHING_BY_CHANCE
    start = network.build_network(settings.backbone, len(labelled.labels), settings.height, settings.width)
    network.set_starting_weights(start, settings.backbone, labelled.multi_hot.mean(axis=0))
    return start.get_weights()


def _dying_worker(folder, epochs):
    """Return a training function whose second worker kills itself in each of `epochs`.

    It dies in the second step of the epoch, and only once in each epoch.
    """

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
