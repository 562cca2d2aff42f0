"""Thresholds of each profile are chosen on validation posters, in small cases with known results."""

import numpy as np
import pytest

from genretag.model import thresholds


def drawn(labels=3, posters=3000, seed=1):
    """Draw calibrated probabilities of a common label and of rare labels, and a truth that follows them."""
    generator = np.random.default_rng(seed)
    chance = np.stack([generator.beta(2, 2 + 14 * label, posters) for label in range(labels)], axis=1)
    return (generator.random(chance.shape) < chance).astype(np.uint8), chance


def test_the_global_threshold_is_midway_between_the_scores_around_the_cut():
    truth = np.array([[1, 1], [0, 0]])

    assert thresholds.global_threshold(truth, np.array([[0.9, 0.6], [0.4, 0.1]])) == pytest.approx(0.5)


def test_the_global_threshold_does_not_separate_equal_scores():
    truth = np.array([[1], [0], [0], [0]])

    assert thresholds.global_threshold(truth, np.full((4, 1), 0.3)) == pytest.approx(0.15), "all or none"


def test_the_expected_f1_by_hand():
    """The expected F1 of predicting the first 1, 2, 3, 4 posters is .60, .75, .76, .67. So three are predicted."""
    assert thresholds.expected_threshold(np.array([0.4, 0.9, 0.1, 0.6])) == pytest.approx(0.25)


def test_precision_counts_more_in_f_of_one_half_and_recall_in_f_of_two():
    """For scores .9, .7, .4, .1 the expected F0.5 after each is .74, .79, .71, .58, and F2 is .48, .77, .88, .85."""
    scores = np.array([0.4, 0.9, 0.1, 0.7])

    assert thresholds.expected_threshold(scores, beta=0.5) == pytest.approx(0.55)
    assert thresholds.expected_threshold(scores, beta=2) == pytest.approx(0.25)


def test_shrunk_thresholds_of_rare_labels_are_below_the_global_threshold():
    truth, chance = drawn(labels=2)

    everyone = thresholds.global_threshold(truth, chance)
    _, rare = thresholds.shrunk_thresholds(truth, chance)

    assert rare < everyone
    assert rare == pytest.approx((thresholds.expected_threshold(chance[:, 1]) + everyone) / 2)


@pytest.mark.parametrize("seed", range(3))
def test_precise_predicts_fewer_labels_than_balanced_and_balanced_fewer_than_generous(seed):
    profiles = thresholds.threshold_profiles(*drawn(seed=seed))

    assert list(profiles) == ["balanced", "precise", "generous"], "the default comes first"
    for precise, balanced, generous in zip(*(profiles[n] for n in ("precise", "balanced", "generous")), strict=True):
        assert precise > balanced > generous > 0


def test_balanced_is_the_rule_that_cross_validation_chose():
    truth, chance = drawn()

    balanced = thresholds.threshold_profiles(truth, chance)["balanced"]

    assert balanced == pytest.approx(thresholds.shrunk_thresholds(truth, chance, beta=1), abs=5e-5)
