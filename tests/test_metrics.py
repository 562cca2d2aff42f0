"""Figures of multi-label predictions equal small cases by hand, and scikit-learn if it has the same figure."""

import numpy as np
import pytest
from sklearn.metrics import coverage_error, label_ranking_loss

from genretag.model import metrics
from genretag.model.thresholds import Profile

TRUTH = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 0]], dtype=np.uint8)
PROBABILITIES = np.array([[0.9, 0.2, 0.1], [0.8, 0.7, 0.1], [0.3, 0.1, 0.2], [0.85, 0.0, 0.1]])


def test_average_precision_by_hand():
    first, second, third = metrics.average_precisions(TRUTH, PROBABILITIES)

    assert first == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert second == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert np.isnan(third), "a label with no positives has no average precision"
    assert metrics.macro_map(TRUTH, PROBABILITIES) == pytest.approx(5 / 6)


def test_the_area_under_the_curve_is_the_share_of_pairs_in_order():
    """Three of the first label's four pairs are in order, and three of the second's. The third label has no pairs."""
    assert metrics.macro_roc_auc(TRUTH, PROBABILITIES) == pytest.approx(3 / 4)
    assert np.isnan(metrics.macro_roc_auc(np.zeros((2, 1)), np.zeros((2, 1))))


def test_cross_entropy_is_finite_for_probabilities_of_zero_and_one():
    assert metrics.binary_cross_entropy(np.array([[1, 0]]), np.array([[1.0, 0.0]])) == pytest.approx(0, abs=1e-6)
    assert metrics.binary_cross_entropy(np.array([[1]]), np.array([[0.5]])) == pytest.approx(np.log(2))


def test_a_hit_is_a_true_label_among_the_first_k():
    assert metrics.hit_at(1, TRUTH, PROBABILITIES) == 0.5
    assert metrics.hit_at(3, TRUTH, PROBABILITIES) == 0.75, "a poster without labels cannot be hit"


def test_ranking_loss_and_coverage_poster_by_poster():
    """The third poster's only label is the least probable of three, so both false labels rank above it."""
    assert metrics.ranking_losses(TRUTH, PROBABILITIES).tolist() == [0, 0, 1, 0]
    assert metrics.coverages(TRUTH, PROBABILITIES).tolist() == [1, 2, 3, 0]


@pytest.mark.parametrize("seed", range(3))
def test_ranking_loss_and_coverage_equal_scikit_learn_with_ties_too(seed):
    generator = np.random.default_rng(seed)
    truth = (generator.random((200, 6)) < 0.3).astype(np.uint8)
    scores = generator.integers(0, 5, (200, 6)) / 5

    assert metrics.ranking_losses(truth, scores).mean() == pytest.approx(label_ranking_loss(truth, scores), abs=1e-12)
    assert metrics.coverages(truth, scores).mean() == pytest.approx(coverage_error(truth, scores), abs=1e-12)


def test_the_calibration_error_by_hand():
    """Two bins: .9 is predicted twice and true once, .1 is predicted twice and never true."""
    truth, said = np.array([[1, 0], [0, 0]]), np.array([[0.9, 0.1], [0.9, 0.1]])

    assert metrics.expected_calibration_error(truth, said) == pytest.approx((0.8 + 0.2) / 4)
    assert metrics.expected_calibration_error(np.array([[1, 0]]), np.array([[1.0, 0.0]])) == 0


def test_the_null_model_gives_every_poster_the_prevalence():
    assert metrics.null_probabilities(TRUTH.mean(axis=0), 2).tolist() == [[0.5, 0.5, 0.0]] * 2


def test_names_of_figures_have_the_profile_and_the_summary_uses_the_default_profile():
    profile = Profile((0.5, 0.5, 0.5))

    found = metrics.figures(TRUTH, PROBABILITIES, {"sure": profile})

    assert (found["micro_f1:sure"], found["labels:sure"]) == (pytest.approx(6 / 8), 1.0)
    assert found["macro_f1:sure"] == pytest.approx((4 / 5 + 2 / 3 + 0) / 3), "a label that nobody has counts as 0"
    summary = metrics.summary(TRUTH, PROBABILITIES, profile)
    assert (summary["posters"], summary["micro_f1"], summary["macro_map"]) == (4, 0.75, 0.8333)
