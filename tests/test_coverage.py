"""About 95 % of the 95 % intervals contain the figure of the population, on simulated posters with known figures.

`tests/benchmarks/coverage.py` measures the same with more test sets. This test uses only 60 test sets, so chance moves
the measured share of a correct interval between 88 and 100 %. The 120 bootstrap draws make intervals a little narrow.
"""

from collections import defaultdict

import numpy as np
import pytest
from simulated_posters import LABELS, population, test_sets, truths

from genretag.evaluation.measure import interval
from genretag.model.metrics import FREQUENT

pytestmark = pytest.mark.slow  # these tests make thousands of bootstrap draws

PEOPLE = 30_000
SETS = 60
DRAWS = 120
LEAST = 0.85


@pytest.fixture(scope="module")
def held():
    """Return the share of test sets whose interval contains the population's figure.

    Keys are pairs of kind and name. Kinds are figures, differences of two models, labels, and plain percentiles.
    """
    everybody = population(PEOPLE)
    one, other = everybody.said(np.arange(PEOPLE))
    of = truths(one), truths(other)
    held = defaultdict(list)
    for found in test_sets(everybody, of, SETS, DRAWS):
        for name, figure in found.figures.items():
            held["figures", name].append(figure.low <= found.true[name] <= figure.high)
            apart = found.differences[name]
            held["differences", name].append(apart.low <= found.true_differences[name] <= apart.high)
        for row, true in zip(found.labels, of[0].precisions, strict=True):
            if row.support >= FREQUENT:
                held["labels", "together"].append(row.low <= true <= row.high)
        low, high = interval(found.draws["macro_map"])
        held["percentile", "macro_map"].append(low <= found.true["macro_map"] <= high)
    return {key: float(np.mean(values)) for key, values in held.items()}


@pytest.mark.parametrize("what", ["figures", "differences"])
def test_intervals_contain_the_population_figure_in_about_95_percent(held, what):
    shares = {name: share for (kind, name), share in held.items() if kind == what}

    assert {name: share for name, share in shares.items() if share < LEAST} == {}
    assert 0.92 <= np.mean(list(shares.values())) <= 0.98


def test_intervals_of_labels_with_ten_positives_contain_it_in_90_percent(held):
    assert held["labels", "together"] >= 0.90


def test_the_simulation_detects_intervals_that_are_wrong(held):
    """The percentile interval of a plain bootstrap is known to fail: it contains the small-sample bias twice."""
    assert held["percentile", "macro_map"] < 0.6


def test_the_simulated_posters_are_like_the_real_ones():
    """On real test posters the default model has micro AP .55, ROC AUC .78, hit@3 .90 and ECE .006.

    A real test poster has 2.3 labels on average.
    """
    everybody = population(PEOPLE)
    found = truths(everybody.said(np.arange(PEOPLE))[0]).figures

    assert everybody.truth.sum(axis=1).mean() == pytest.approx(2.3, abs=0.1)
    assert found["micro_ap"] == pytest.approx(0.55, abs=0.02)
    assert found["macro_roc_auc"] == pytest.approx(0.78, abs=0.02)
    assert found["hit_at_3"] == pytest.approx(0.90, abs=0.02)
    assert 0.002 < found["ece"] < 0.006
    assert everybody.truth.shape == (PEOPLE, LABELS)
