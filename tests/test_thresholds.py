"""Thresholds by profile, chosen on validation posters: small literal cases."""

import numpy as np
import pytest

from genretag.model import thresholds


def drawn(labels=3, posters=3000, seed=1):
    """Calibrated probabilities of a common label and of rare ones, and a truth that follows them."""
    generator = np.random.default_rng(seed)
    chance = np.stack([generator.beta(2, 2 + 14 * label, posters) for label in range(labels)], axis=1)
    return (generator.random(chance.shape) < chance).astype(np.uint8), chance


def test_the_global_threshold_lies_half_way_between_the_scores_that_it_parts():
    truth = np.array([[1, 1], [0, 0]])

    assert thresholds.global_threshold(truth, np.array([[0.9, 0.6], [0.4, 0.1]])) == pytest.approx(0.5)


def test_equal_scores_are_not_parted():
    truth = np.array([[1], [0], [0], [0]])

    assert thresholds.global_threshold(truth, np.full((4, 1), 0.3)) == pytest.approx(0.15), "all or none"


def test_the_expected_f1_by_hand():
    """Cut after 1, 2, 3, 4 posters, F1 is expected to be .60, .75, .76, .67: three are predicted."""
    assert thresholds.expected_threshold(np.array([0.4, 0.9, 0.1, 0.6])) == pytest.approx(0.25)


def test_precision_counts_more_in_f_of_one_half_and_recall_in_f_of_two():
    """Of .9, .7, .4, .1: F0.5 is .74, .79, .71 and .58 after each, F2 .48, .77, .88 and .85."""
    scores = np.array([0.4, 0.9, 0.1, 0.7])

    assert thresholds.expected_threshold(scores, beta=0.5) == pytest.approx(0.55)
    assert thresholds.expected_threshold(scores, beta=2) == pytest.approx(0.25)


def test_shrunk_thresholds_are_lower_for_rare_labels_than_one_for_all():
    truth, chance = drawn(labels=2)

    everyone = thresholds.global_threshold(truth, chance)
    _, rare = thresholds.shrunk_thresholds(truth, chance)

    assert rare < everyone
    assert rare == pytest.approx((thresholds.expected_threshold(chance[:, 1]) + everyone) / 2)


@pytest.mark.parametrize("seed", range(3))
def test_precise_says_no_more_than_balanced_and_that_no_more_than_generous(seed):
    profiles = thresholds.threshold_profiles(*drawn(seed=seed))

    assert list(profiles) == ["balanced", "precise", "generous"], "the default comes first"
    for precise, balanced, generous in zip(*(profiles[n] for n in ("precise", "balanced", "generous")), strict=True):
        assert precise > balanced > generous > 0


def test_balanced_is_the_rule_that_cross_validation_chose():
    truth, chance = drawn()

    balanced = thresholds.threshold_profiles(truth, chance)["balanced"]

    assert balanced == pytest.approx(thresholds.shrunk_thresholds(truth, chance, beta=1), abs=5e-5)
