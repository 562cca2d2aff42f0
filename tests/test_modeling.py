"""Network, metrics, calibration and thresholds: small literal cases."""

import numpy as np
import pytest

from genretag.modeling import augmentation, calibration, metrics, network, thresholds

TRUTH = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 0]], dtype=np.uint8)
PROBABILITIES = np.array([[0.9, 0.2, 0.1], [0.8, 0.7, 0.1], [0.3, 0.1, 0.2], [0.85, 0.0, 0.1]])


def test_average_precision_by_hand():
    first, second, third = metrics.average_precisions(TRUTH, PROBABILITIES)

    assert first == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert second == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert np.isnan(third), "a label with no positives has no average precision"
    assert metrics.macro_map(TRUTH, PROBABILITIES) == pytest.approx(5 / 6)


def test_cross_entropy_is_finite_for_probabilities_of_zero_and_one():
    assert metrics.binary_cross_entropy(np.array([[1, 0]]), np.array([[1.0, 0.0]])) == pytest.approx(0, abs=1e-6)
    assert metrics.binary_cross_entropy(np.array([[1]]), np.array([[0.5]])) == pytest.approx(np.log(2))


def test_a_hit_is_a_true_label_among_the_first_k():
    assert metrics.hit_at(1, TRUTH, PROBABILITIES) == 0.5
    assert metrics.hit_at(3, TRUTH, PROBABILITIES) == 0.75, "a poster without labels cannot be hit"


def test_the_null_model_says_the_prevalence_whatever_the_poster():
    assert metrics.null_probabilities(TRUTH, 2).tolist() == [[0.5, 0.5, 0.0]] * 2


def test_a_temperature_above_one_is_found_where_the_network_was_too_sure():
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(4000, 5))
    truth = (generator.random(logits.shape) < 1 / (1 + np.exp(-logits))).astype(np.uint8)

    assert calibration.fit_temperature(truth, logits) == pytest.approx(1.0, abs=0.05)
    assert calibration.fit_temperature(truth, logits * 3) == pytest.approx(3.0, abs=0.15)


def test_the_global_threshold_lies_half_way_between_the_scores_that_it_parts():
    truth = np.array([[1, 1], [0, 0]])

    assert thresholds.global_threshold(truth, np.array([[0.9, 0.6], [0.4, 0.1]])) == pytest.approx(0.5)


def test_equal_scores_are_not_parted():
    truth = np.array([[1], [0], [0], [0]])

    assert thresholds.global_threshold(truth, np.full((4, 1), 0.3)) == pytest.approx(0.15), "all or none"


def test_the_expected_f1_by_hand():
    """Cut after 1, 2, 3, 4 posters, F1 is expected to be .60, .75, .76, .67: three are predicted."""
    assert thresholds.expected_f1_threshold(np.array([0.4, 0.9, 0.1, 0.6])) == pytest.approx(0.25)


def test_balanced_thresholds_are_lower_for_rare_labels_than_one_for_all():
    generator = np.random.default_rng(1)
    chance = np.stack([generator.beta(2, 2, 3000), generator.beta(1, 30, 3000)], axis=1)
    truth = (generator.random(chance.shape) < chance).astype(np.uint8)

    everyone = thresholds.global_threshold(truth, chance)
    _, rare = thresholds.balanced_thresholds(truth, chance)

    assert rare < everyone
    own = thresholds.expected_f1_threshold(chance[:, 1])
    assert rare == pytest.approx((own + everyone) / 2)


def test_calibration_is_folded_into_the_network():
    plain = network.build_network("lite0", 2, 32, 32)
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    slope, offset = np.array([0.5, 2.0]), np.array([0.1, -1.0])
    logits = plain.predict(images, verbose=0)

    probabilities = network.scoring_network(plain, slope, offset).predict(images, verbose=0)

    np.testing.assert_allclose(probabilities, 1 / (1 + np.exp(-(logits * slope + offset))), rtol=1e-5)


def test_a_fresh_head_answers_with_the_prevalence():
    plain = network.build_network("lite0", 2, 32, 32)
    network.set_prior(plain, np.array([0.2, 0.7]))

    logits = plain.predict(np.zeros((1, 32, 32, 3), dtype=np.uint8), verbose=0)

    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), [[0.2, 0.7]], rtol=1e-5)


def test_augmentation_changes_pictures_but_not_what_they_are():
    images = np.full((16, 48, 32, 3), 100, dtype=np.uint8)
    images[:, :, :8] = 200

    changed = augmentation.augment(images, min_crop=0.84, colour=0.1, flip=True).numpy()

    assert (changed.shape, changed.dtype) == (images.shape, np.uint8)
    bright_left = (changed[:, :, :4].mean(axis=(1, 2, 3)) > changed[:, :, -4:].mean(axis=(1, 2, 3))).sum()
    assert 0 < bright_left < 16, "some are mirrored, some are not"
    assert np.abs(changed.mean() - images.mean()) < 20, "colour stays mild"


def test_without_augmentation_the_pixels_stay_as_they_are():
    images = np.random.default_rng(0).integers(0, 256, (2, 9, 6, 3), dtype=np.uint8)

    assert augmentation.augment(images, min_crop=1.0, colour=0.0, flip=False) is images


def test_mirroring_alone_moves_pixels_and_changes_none():
    images = np.random.default_rng(0).integers(0, 256, (32, 9, 6, 3), dtype=np.uint8)

    changed = augmentation.augment(images, min_crop=1.0, colour=0.0, flip=True).numpy()

    mirrored = (changed == images[:, :, ::-1]).all(axis=(1, 2, 3))
    assert 0 < mirrored.sum() < 32
    np.testing.assert_array_equal(changed[~mirrored], images[~mirrored])


def test_colour_alone_moves_no_edge():
    images = np.full((16, 9, 6, 3), 100, dtype=np.uint8)
    images[:, :, 3:] = 140

    changed = augmentation.augment(images, min_crop=1.0, colour=0.1, flip=False).numpy().astype(int)

    assert (changed[:, :, :3] == changed[:, :1, :1]).all()
    assert (changed[:, :, 3:] > changed[:, :, :3]).all()
    assert len(np.unique(changed[:, 0, 0, 0])) > 1, "each poster by itself"
