"""Estimates of population figures: small cases by hand, and samples of a population with known figures."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from genretag.model.metrics import population_average_precision, without_folding

SAMPLES = 300


def test_the_precision_at_a_positive_leaves_that_positive_out():
    """The posters are true, false, true, best first. A share counts only the *other* posters down to that place.

    The share of true posters is 0 at the first positive (for which the next place counts), and 1/2 at the second. The
    correction for the ratio adds 1/8 * 1/3 / 2.
    """
    estimate = population_average_precision(np.array([1, 0, 1]), np.array([0.9, 0.8, 0.7]))

    assert estimate == pytest.approx((0 + 1 / 2) / 2 + (1 / 4) / 2 * (1 / 3) / 2)


def test_the_order_of_equal_scores_does_not_matter():
    truth, scores = np.array([1, 0, 1, 0, 0]), np.array([0.7, 0.7, 0.7, 0.2, 0.2])

    estimates = [
        population_average_precision(truth[order], scores[order]) for order in ([0, 1, 2, 3, 4], [4, 1, 2, 3, 0])
    ]

    assert estimates[0] == estimates[1] == pytest.approx(1 / 2 + (1 / 4) * (3 / 5) / 2)


def test_no_positives_all_positives_and_one_poster():
    scores = np.array([0.9, 0.5, 0.1])

    assert np.isnan(population_average_precision(np.zeros(3), scores))
    assert population_average_precision(np.ones(3), scores) == 1
    assert population_average_precision(np.ones(1), np.ones(1)) == 1
    assert population_average_precision(np.array([0, 0, 1]), scores) == 0


@pytest.mark.parametrize(("prevalence", "apart"), [(0.03, 1.2), (0.1, 1.0)])
def test_the_mean_estimate_of_many_samples_is_the_population_figure(prevalence, apart):
    """The estimate is unbiased. The measured average precision of samples is too large on average."""
    generator = np.random.default_rng(0)
    truth = generator.random(100_000) < prevalence
    scores = generator.normal(size=truth.size) + apart * truth
    population = average_precision_score(truth, scores)

    samples = [generator.integers(0, truth.size, 500) for _ in range(SAMPLES)]
    measured = np.array([average_precision_score(truth[i], scores[i]) for i in samples])
    estimates = np.array([population_average_precision(truth[i], scores[i]) for i in samples])

    error = estimates.std() / np.sqrt(SAMPLES)
    assert abs(estimates.mean() - population) < 3 * error
    assert measured.mean() - population > max(3 * error, 2 * abs(estimates.mean() - population))


def test_a_model_with_equal_scores_has_the_prevalence_as_average_precision():
    estimate = population_average_precision(np.arange(1000) < 20, np.full(1000, 0.3))

    assert estimate == pytest.approx(0.02, abs=1e-4)


def test_the_bias_of_an_absolute_gap_is_removed_only_near_zero():
    """If the true gap is 0, the absolute value of the noise is sqrt(2 / pi) on average. The estimate subtracts that."""
    assert without_folding(np.array([5.0, -5.0]), np.array([0.1])).tolist() == [5, 5]
    assert without_folding(np.array([0.0]), np.array([1.0])) == pytest.approx(-np.sqrt(2 / np.pi))
    assert without_folding(np.array([0.3]), np.array([0.0])) == pytest.approx(0.3)
