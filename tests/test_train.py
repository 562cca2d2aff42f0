"""Training: two data-parallel workers, the bundle that comes of it, the worker that dies on the way."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import SMALL_MODEL

from genretag.bundle import KERAS_FILE, load_bundle
from genretag.demo.posters import LOOKS
from genretag.errors import UsageError
from genretag.fetching import PosterReader
from genretag.images import ImageRule
from genretag.session import Session
from genretag.storage import Storage, join
from genretag.training import job, worker
from genretag.training.labelled_posters import read_labelled_posters
from genretag.training.posters import labelled_dataset, training_batches
from genretag.training.settings import TrainSettings
from genretag.training.training_ids import TRAINING_IDS, among, read_training_ids


def test_a_bundle_says_how_good_it_is(small_bundle):
    bundle = load_bundle(small_bundle, Storage())

    assert set(bundle.labels) <= set(LOOKS)
    assert bundle.rule == ImageRule(96, 64)
    metrics = bundle.facts["metrics"]
    assert metrics["validation"]["model"]["macro_map"] > metrics["validation"]["null"]["macro_map"]
    assert sum(split["posters"] for split in bundle.facts["data"].values()) == 160


def test_a_bundle_has_profiles_from_few_labels_to_many_and_says_how_it_was_calibrated(small_bundle):
    bundle = load_bundle(small_bundle, Storage())

    assert list(bundle.thresholds) == ["balanced", "precise", "generous"]
    for balanced, precise, generous in zip(*bundle.thresholds.values(), strict=True):
        assert precise >= balanced >= generous
    calibration = bundle.facts["calibration"]
    losses = calibration["cross_validated_cross_entropy"]
    assert calibration["method"] == ("platt" if losses["platt"] < losses["temperature"] else "temperature")
    assert {name: list(errors) for name, errors in calibration["ece"].items()} == {
        "validation": ["before", "after"], "test": ["before", "after"]
    }  # fmt: skip


def test_beside_a_bundle_stands_what_it_was_trained_on_and_scoring_reads_it_not(small_bundle, poster_folder):
    bundle = load_bundle(small_bundle, Storage())
    splits = read_labelled_posters(str(poster_folder.parent / "labels.csv"), str(poster_folder), SMALL_MODEL, Storage())

    hashes = read_training_ids(small_bundle, bundle.facts["training_ids"], Storage())

    assert TRAINING_IDS not in bundle.files
    assert {name: int(among(part.labelled.ids, hashes).sum()) for name, part in splits.items()} == {
        "train": len(splits["train"]), "validation": 0, "test": 0
    }  # fmt: skip
    prevalence = splits["train"].labelled.multi_hot.mean(axis=0)
    assert bundle.facts["null"]["prevalence"] == pytest.approx(prevalence.tolist(), abs=1e-6)


def test_every_epoch_stands_in_the_note_beside_the_bundle(small_bundle):
    epochs = json.loads((Path(small_bundle) / "training.json").read_text())["epochs"]

    assert [epoch["epoch"] for epoch in epochs] == [1, 2]
    assert all(0 < epoch["loss"] < 1 and 0 < epoch["macro_map"] <= 1 for epoch in epochs)


def test_the_saved_model_loads_in_keras_without_custom_objects(small_bundle):
    import keras

    model = keras.saving.load_model(Path(small_bundle) / KERAS_FILE, compile=False, safe_mode=True)

    assert model.input_shape == (None, 96, 64, 3)


def test_of_two_workers_one_dies_and_is_replaced_and_both_go_on_from_the_last_checkpoint(
    ray_cluster, poster_folder, tmp_path, bucket, monkeypatch
):
    """The second worker kills itself in the second epoch; the run still ends with both epochs.

    The checkpoints are in a bucket, as they are where the workers are on several machines.
    """
    labels = str(poster_folder.parent / "labels.csv")
    deaths = tmp_path / "deaths"
    monkeypatch.setattr(job, "train_worker", _dying_worker(deaths))

    bundle = job.train(
        labels,
        str(poster_folder),
        str(tmp_path / "bundle"),
        replace(SMALL_MODEL, workers=2),
        Session(quiet=True),
        checkpoints=join(bucket, "checkpoints"),
    )

    assert deaths.read_text() == "killed"
    assert bundle.facts["training"]["workers"] == 2
    assert bundle.facts["metrics"]["validation"]["model"]["posters"] > 0
    epochs = json.loads((tmp_path / "bundle" / "training.json").read_text())["epochs"]
    assert [epoch["epoch"] for epoch in epochs] == [1, 2], "the first epoch was not trained again"


def _dying_worker(deaths):
    def train(config):
        import ray.train

        steps = worker.training_batches

        def batches_until_death(shard, batch_size, seed):
            for number, batch in enumerate(steps(shard, batch_size, seed)):
                doomed = seed == SMALL_MODEL.seed + 1 and number == 1  # the second epoch's second step
                if doomed and ray.train.get_context().get_world_rank() == 1 and not deaths.exists():
                    deaths.write_text("killed")
                    os.kill(os.getpid(), signal.SIGKILL)
                yield batch

        worker.training_batches = batches_until_death
        worker.train_worker(config)

    return train


def test_the_split_goes_by_the_id_and_nothing_is_in_two(poster_folder):
    splits = read_labelled_posters(str(poster_folder.parent / "labels.csv"), str(poster_folder), SMALL_MODEL, Storage())

    ids = [poster for split in splits.values() for poster in split.labelled.ids]
    assert len(ids) == len(set(ids)) == 160
    assert all(
        Path(uri).stem == poster
        for split in splits.values()
        for poster, uri in zip(split.labelled.ids, split.uris, strict=True)
    )
    assert splits["train"].fingerprint != splits["test"].fingerprint


def test_labels_and_posters_may_be_in_a_bucket(bucket, storage, drawn_posters, poster_folder):
    for poster in drawn_posters[:60]:
        storage.put(join(bucket, poster.key), poster.data)
    storage.put(join(bucket, "labels.csv"), (poster_folder.parent / "labels.csv").read_bytes())

    splits = read_labelled_posters(join(bucket, "labels.csv"), join(bucket, "posters"), SMALL_MODEL, storage)

    assert sum(map(len, splits.values())) == 60, "labels without an image are left out"


def test_training_sees_the_pixels_that_scoring_sees(ray_cluster, poster_folder):
    rule = ImageRule(96, 64)
    uris = [str(file) for file in sorted(poster_folder.rglob("*.*"))[:8]]
    multi_hot = np.eye(8, dtype=np.uint8)
    dataset = labelled_dataset(uris, multi_hot, rule, Storage(), seed=0)

    batches = list(training_batches(dataset.iterator(), 4, seed=1))

    assert [images.shape for images, _ in batches] == [(4, 96, 64, 3)] * 2
    scored = PosterReader(Storage(), rule, 2).read_many(uris)
    for images, labels in batches:
        for image, label in zip(images, labels, strict=True):
            np.testing.assert_array_equal(image, scored[int(label.argmax())].image.pixels)


def test_too_few_posters_are_refused_in_words(poster_folder):
    with pytest.raises(UsageError, match="less than one batch of 512"):
        read_labelled_posters(
            str(poster_folder.parent / "labels.csv"),
            str(poster_folder),
            TrainSettings(batch_size=512, min_positives=5),
            Storage(),
        )
