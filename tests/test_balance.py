"""Rare labels weigh more in the loss, their posters are drawn more often, and training stops early."""

import numpy as np
import pytest

from genretag.data.labels import LabelledSet
from genretag.model.losses import balanced_rows, label_weights
from genretag.scoring.labelled_posters import LabelledPosters
from genretag.training.epoch_order import shown_posters
from genretag.training.settings import TrainSettings
from genretag.training.worker import stops_early

# 96 posters: label 0 on 81 of them, label 1 on 16 (one of those has both)
MULTI_HOT = np.zeros((96, 2), dtype=np.uint8)
MULTI_HOT[:81, 0] = 1
MULTI_HOT[80:, 1] = 1


def test_weights_are_the_root_of_inverse_frequency_with_mean_one():
    weights = label_weights(np.array([0.64, 0.16, 0.04]), posters=100)

    np.testing.assert_allclose(weights, np.array([1.25, 2.5, 5.0]) * 3 / 8.75)
    assert weights.mean() == pytest.approx(1)


def test_a_label_without_training_posters_weighs_as_if_it_had_one():
    np.testing.assert_allclose(label_weights(np.array([0.25, 0.0]), 100), label_weights(np.array([0.25, 0.01]), 100))


def test_a_poster_is_drawn_in_proportion_to_the_root_of_its_rarest_labels_rarity():
    shown = np.concatenate([balanced_rows(MULTI_HOT, seed) for seed in range(200)])

    times = np.bincount(shown, minlength=96)
    assert times[80:].mean() / times[:80].mean() == pytest.approx(np.sqrt(81 / 16), rel=0.05)
    assert times[80] == pytest.approx(times[81:].mean(), rel=0.2), "with both labels, the rarer one decides"


def test_an_epoch_draws_the_number_of_posters_and_depends_only_on_the_seed():
    rows = balanced_rows(MULTI_HOT, seed=3)

    assert len(rows) == 96
    np.testing.assert_array_equal(rows, balanced_rows(MULTI_HOT, seed=3))
    assert not np.array_equal(rows, balanced_rows(MULTI_HOT, seed=4))


def test_balanced_sampling_repeats_training_posters_with_their_labels():
    labelled = LabelledSet(tuple(f"p{n}" for n in range(96)), ("common", "rare"), MULTI_HOT)
    uris, etags = [f"posters/p{n}.jpg" for n in range(96)], [f"etag {n}" for n in range(96)]
    training = LabelledPosters(labelled, uris, etags, targets=MULTI_HOT * np.float32(0.5))

    shown = shown_posters(training, TrainSettings(balanced_sampling=True))

    assert shown_posters(training, TrainSettings()) is training
    assert len(shown) == 96 > len(set(shown.uris))
    for uri, poster, row in zip(shown.uris, shown.labelled.ids, shown.labelled.multi_hot, strict=True):
        number = int(poster.removeprefix("p"))
        assert uri == f"posters/p{number}.jpg"
        assert row.tolist() == MULTI_HOT[number].tolist()
    np.testing.assert_array_equal(shown.targets, shown.labelled.multi_hot * 0.5)


@pytest.mark.parametrize(
    ("scores", "patience", "stops"),
    [
        ([], 1, False),
        ([0.3], 1, False),
        ([0.3, 0.2], 1, True),
        ([0.3, 0.3], 1, True),  # an equal score does not count as better
        ([0.3, 0.2, 0.4], 1, False),
        ([0.3, 0.2, 0.1], 3, False),
        ([0.3, 0.2, 0.1, 0.2], 3, True),
        ([0.3, 0.2, 0.1, 0.2], 0, False),
    ],
)
def test_training_stops_when_the_best_epoch_is_patience_epochs_old(scores, patience, stops):
    assert stops_early([{"macro_map": score} for score in scores], patience) is stops
