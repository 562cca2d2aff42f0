"""The network, its head, and augmentation, in small cases with known results."""

import re
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import tensorflow as tf

from genretag.model import networks as network
from genretag.reports.evaluation_table import print_metrics
from genretag.training import batches as augmentation
from genretag.training import worker
from genretag.training.settings import TrainSettings


def test_calibration_is_folded_into_the_network():
    plain = network.build_network("lite0", 2, 32, 32)
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    slope, offset = np.array([0.5, 2.0]), np.array([0.1, -1.0])
    logits = plain.predict(images, verbose=0)

    probabilities = network.scoring_network(plain, slope, offset).predict(images, verbose=0)

    np.testing.assert_allclose(probabilities, 1 / (1 + np.exp(-(logits * slope + offset))), rtol=1e-5)


SEED = np.array([3, 7])


def test_an_untrained_head_predicts_the_prevalence():
    plain = network.build_network("lite0", 2, 32, 32)
    network.set_prior(plain, np.array([0.2, 0.7]))

    logits = plain.predict(np.zeros((1, 32, 32, 3), dtype=np.uint8), verbose=0)

    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), [[0.2, 0.7]], rtol=1e-5)


def test_augmentation_changes_pictures_but_not_shape_type_or_brightness():
    images = np.full((16, 48, 32, 3), 100, dtype=np.uint8)
    images[:, :, :8] = 200

    changed = augmentation.augment(images, SEED, min_crop=0.84, colour=0.1, flip=True).numpy()

    assert (changed.shape, changed.dtype) == (images.shape, np.uint8)
    bright_left = (changed[:, :, :4].mean(axis=(1, 2, 3)) > changed[:, :, -4:].mean(axis=(1, 2, 3))).sum()
    assert 0 < bright_left < 16, "some are mirrored, some are not"
    assert np.abs(changed.mean() - images.mean()) < 20, "colour stays mild"


def test_the_seed_decides_how_a_batch_is_augmented():
    images = np.random.default_rng(0).integers(0, 256, (4, 48, 32, 3), dtype=np.uint8)
    augment = tf.function(lambda seed: augmentation.augment(images, seed, min_crop=0.84, colour=0.1, flip=True))

    first, other, again = (augment(tf.constant(seed)).numpy() for seed in ([3, 7], [3, 8], [3, 7]))

    np.testing.assert_array_equal(first, again)
    assert (first != other).any(axis=(1, 2, 3)).all()


def test_no_two_batches_of_a_training_are_augmented_alike(monkeypatch):
    """Before, step i of every epoch made the same crops: TensorFlow's global seed began again in each epoch."""
    seeds = []
    batch = augmentation.Batch(np.zeros((1, 8, 8, 3), np.uint8), np.zeros((1, 2), np.float32), 0)
    monkeypatch.setattr(worker, "training_batches", lambda *_: [batch] * 5)
    learner = SimpleNamespace(reset_metrics=lambda: None, get_metrics_result=lambda: {"loss": 0.0})
    replica = SimpleNamespace(settings=TrainSettings(), learner=learner)
    config = {"train": None, "board": MagicMock()}

    def take_step(_images, _labels, seed):
        seeds.append(tuple(seed))

    for epoch in range(3):
        for rank in range(2):
            worker._train(replica, take_step, epoch, config, rank, workers=2)
    assert len(seeds) == len(set(seeds)) == 30

    worker._train(replica, take_step, 0, config, 0, workers=2)
    assert seeds[30:] == seeds[:5], "the same after --resume"


def test_without_augmentation_the_pixels_stay_as_they_are():
    images = np.random.default_rng(0).integers(0, 256, (2, 9, 6, 3), dtype=np.uint8)

    assert augmentation.augment(images, SEED, min_crop=1.0, colour=0.0, flip=False) is images


def test_mirroring_alone_moves_pixels_and_changes_none():
    images = np.random.default_rng(0).integers(0, 256, (32, 9, 6, 3), dtype=np.uint8)

    changed = augmentation.augment(images, SEED, min_crop=1.0, colour=0.0, flip=True).numpy()

    mirrored = (changed == images[:, :, ::-1]).all(axis=(1, 2, 3))
    assert 0 < mirrored.sum() < 32
    np.testing.assert_array_equal(changed[~mirrored], images[~mirrored])


def test_colour_alone_moves_no_edge():
    images = np.full((16, 9, 6, 3), 100, dtype=np.uint8)
    images[:, :, 3:] = 140

    changed = augmentation.augment(images, SEED, min_crop=1.0, colour=0.1, flip=False).numpy().astype(int)

    assert (changed[:, :, :3] == changed[:, :1, :1]).all()
    assert (changed[:, :, 3:] > changed[:, :, :3]).all()
    assert len(np.unique(changed[:, 0, 0, 0])) > 1, "each poster by itself"


def test_figures_that_a_small_split_lacks_are_printed_as_missing(capsys, monkeypatch):
    """Without a label of ten posters, a split has no `macro_map_frequent`."""
    monkeypatch.setenv("COLUMNS", "200")
    full, small = {"macro_map": 0.3, "macro_map_frequent": 0.4}, {"macro_map": 0.5}

    print_metrics({name: {"null": split, "model": split} for name, split in (("validation", small), ("test", full))})

    (line,) = (line for line in capsys.readouterr().out.splitlines() if "macro_map_frequent" in line)
    assert re.findall(r"0\.4|-", line) == ["-", "-", "0.4", "0.4"]
