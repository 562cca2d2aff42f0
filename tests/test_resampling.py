"""Figures of many bootstrap draws, computed at once, equal scikit-learn's figures of each draw to nine digits."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from genretag.evaluation.measure import ScoredPosters, compare, interval, label_figures, measure, null_profiles
from genretag.model.bootstrap import LABEL_APS, Ranking, Resampler, draws
from genretag.model.metrics import average_precisions, figures
from genretag.model.thresholds import Profile

PROFILES = {"balanced": Profile((0.3, 0.4, 0.5, 0.2)), "top-2": Profile((0.0,) * 4, 2)}


def drawn(seed, posters=120, levels=None):
    """Draw a truth with a rare label, and scores that are a little better than chance.

    If `levels` is given, the scores are rounded to this number of levels, so that many are equal.
    """
    generator = np.random.default_rng(seed)
    truth = (generator.random((posters, 4)) < [0.5, 0.3, 0.1, 0.02]).astype(np.uint8)
    scores = np.clip(generator.random((posters, 4)) * 0.8 + 0.2 * truth, 0, 1)
    return truth, np.round(scores * levels) / levels if levels else scores


def test_average_precision_and_area_by_hand():
    """The posters are true, false, true, best first. The second draw has the first poster twice and not the second."""
    ranking = Ranking(np.array([1, 0, 1]), np.array([0.9, 0.8, 0.7]))

    weights = np.array([[1.0, 1.0, 1.0], [2.0, 0.0, 1.0]]).T

    assert ranking.average_precision(weights) == pytest.approx([(1 + 2 / 3) / 2, 1.0])
    assert ranking.precision_and_area(weights)[1][0] == pytest.approx(0.5)
    assert np.isnan(ranking.precision_and_area(weights)[1][1]), "no false one was drawn"


def test_the_order_of_equal_scores_does_not_matter_in_a_ranking():
    weights = np.ones((2, 1))

    for truth in ([1, 0], [0, 1]):
        ranking = Ranking(np.array(truth), np.array([0.5, 0.5]))
        assert [values.tolist() for values in ranking.precision_and_area(weights)] == [[0.5], [0.5]]


@pytest.mark.parametrize(("seed", "levels"), [(0, None), (1, None), (2, 7), (3, 3), (4, 1)])
def test_the_figures_of_each_draw_equal_those_of_scikit_learn(seed, levels):
    truth, scores = drawn(seed, levels=levels)
    weights = next(draws(len(truth), 5, seed, 5))
    weights[:, 0] = 1  # the first draw has every poster once

    found = Resampler(truth, scores, PROFILES).figures(weights)

    means = {"macro_map", "macro_map_frequent", "macro_roc_auc"}  # checked separately below
    for draw in range(5):
        posters = np.repeat(np.arange(len(truth)), weights[:, draw].astype(int))
        expected = figures(truth[posters], scores[posters], PROFILES)
        for name in expected.keys() - means - {"ece"}:
            assert found[name][draw] == pytest.approx(expected[name], abs=1e-9), name
        of_labels = average_precisions(truth[posters], scores[posters])
        np.testing.assert_allclose(found[LABEL_APS][draw], of_labels, atol=1e-9)
        known = np.where(np.isnan(of_labels), average_precisions(truth, scores), of_labels)
        assert found["macro_map"][draw] == pytest.approx(np.nanmean(known)), "who is not drawn stays as it was"
        assert found["macro_map_frequent"][draw] == pytest.approx(known[truth.sum(axis=0) >= 10].mean())
        areas = [
            roc_auc_score(truth[posters, i], scores[posters, i])
            for i in range(4)
            if 0 < truth[posters, i].sum() < len(posters)
        ]
        if len(areas) == 4:
            assert found["macro_roc_auc"][draw] == pytest.approx(np.mean(areas))


def test_draws_are_the_same_for_the_same_seed_in_chunks_of_any_size():
    whole = next(draws(50, 8, 3, 8))

    assert (whole.sum(axis=0) == 50).all()
    np.testing.assert_array_equal(np.concatenate(list(draws(50, 8, 3, 3)), axis=1), whole)
    assert (next(draws(50, 8, 4, 8)) != whole).any()


def test_the_interval_of_coin_flips_is_two_standard_deviations():
    """hit@1 of a coin in 400 posters has a standard deviation of .025. The interval is two of them to either side."""
    truth = np.zeros((400, 2), dtype=np.uint8)
    truth[:200, 0], truth[200:, 1] = 1, 1
    said = ScoredPosters(truth, np.tile(np.array([0.6, 0.4], dtype=np.float32), (400, 1)), {})

    figure = measure(said, np.array([0.4, 0.6]), 1_000, seed=0).figures["hit_at_1"]

    assert (figure.value, figure.null) == (0.5, 0.5)
    assert (figure.low, figure.high) == (pytest.approx(0.45, abs=0.01), pytest.approx(0.55, abs=0.01))


def test_a_bundle_does_not_differ_from_itself_and_a_better_one_wins_in_all_draws():
    truth, scores = drawn(0)
    better = np.clip(scores + 0.5 * truth, 0, 1)
    one, other = (measure(ScoredPosters(truth, said, PROFILES), truth.mean(axis=0), 50, 0) for said in (better, scores))

    assert all((d.value, d.low, d.high) == (0, 0, 0) for d in compare(other, other).values())
    differences = compare(one, other)
    assert differences["macro_map"].better_in == 1
    assert differences["macro_map"].low > 0
    assert (differences["ranking_loss"].better_in, differences["ranking_loss"].high < 0) == (1, True), "less is better"
    assert differences["labels:balanced"].better_in is None


def test_the_null_model_predicts_the_labels_with_the_best_expected_f1():
    """For prevalences .5, .4, .05, the expected F1 is .51 with one predicted label, .62 with two, .48 with three."""
    null = null_profiles({"balanced": Profile((0.9,) * 3), "top-1": Profile((0.0,) * 3, 1)}, np.array([0.5, 0.4, 0.05]))

    assert null["balanced"].predicted(np.array([[0.5, 0.4, 0.05]])).tolist() == [[True, True, False]]
    assert null["top-1"] == Profile((0.0,) * 3, 1)


def test_an_interval_without_known_values_is_nan():
    assert np.isnan(interval(np.array([np.nan, np.nan]))).all()


def test_estimates_lie_in_their_intervals_and_unbiased_figures_equal_the_measured_ones():
    truth, scores = drawn(0, posters=400)
    measured = measure(ScoredPosters(truth, scores, PROFILES), truth.mean(axis=0), 200, 0)

    for name, figure in measured.figures.items():
        assert figure.low <= figure.estimate <= figure.high, name
        if name.partition(":")[0] not in ("macro_map", "macro_map_frequent", "ece"):
            assert figure.estimate == figure.value, name
    assert measured.figures["macro_map"].estimate < measured.figures["macro_map"].value
    assert measured.figures["ece"].estimate < measured.figures["ece"].value


def test_the_interval_of_macro_f1_allows_for_labels_that_few_posters_have():
    """Two posters have the second label, and neither is predicted. So no draw has a hit, but other posters might."""
    truth = np.zeros((100, 2), dtype=np.uint8)
    truth[:50, 0], truth[:2, 1] = 1, 1
    scores = np.full((100, 2), 0.1)
    scores[:50, 0], scores[50:53, 1] = 0.9, 0.9

    figure = measure(ScoredPosters(truth, scores, {"half": Profile((0.5, 0.5))}), truth.mean(axis=0), 200, 0).figures

    assert figure["macro_f1:half"].value == 0.5
    assert figure["macro_f1:half"].high > 0.55


@pytest.mark.parametrize("posters", [1, 2, 3])
@pytest.mark.parametrize("positives", [0, 1])
def test_few_posters_and_labels_without_positives_give_figures_or_nan(posters, positives):
    """There is no warning and no value out of bounds. A mean over no labels is NaN."""
    truth = np.zeros((posters, 2), dtype=np.uint8)
    truth[:positives, 0] = 1
    said = ScoredPosters(truth, np.linspace(0.9, 0.2, 2 * posters).reshape(posters, 2), {"half": Profile((0.5, 0.5))})

    measured = measure(said, np.array([0.5, 0.1]), 30, 0)

    assert np.isnan(measured.figures["macro_map_frequent"].estimate), "no label has ten posters"
    for name, figure in measured.figures.items():
        known = [end for end in (figure.low, figure.high) if np.isfinite(end)]
        assert all(end >= 0 for end in known), name
    rows = label_figures(["a", "b"], said, said.profiles["half"], measured)
    assert np.isnan(rows[1].estimate) and np.isnan(rows[1].low)
    assert (0 <= rows[0].low <= rows[0].high <= 1) if positives else np.isnan(rows[0].estimate)
