"""Figures of many draws of posters at once are what scikit-learn says of each draw, to nine digits."""

import numpy as np
import pytest

from genretag.evaluation.measuring import Said, compare, interval, measure, null_profiles
from genretag.evaluation.resampling import LABEL_APS, Ranking, Resampler, draws
from genretag.modeling.metrics import average_precisions, figures
from genretag.profiles import Profile

PROFILES = {"balanced": Profile((0.3, 0.4, 0.5, 0.2)), "top-2": Profile((0.0,) * 4, 2)}


def drawn(seed, posters=120, levels=None):
    """A truth, with a label that few have, and scores that know a little of it; with `levels`, many are equal."""
    generator = np.random.default_rng(seed)
    truth = (generator.random((posters, 4)) < [0.5, 0.3, 0.1, 0.02]).astype(np.uint8)
    scores = np.clip(generator.random((posters, 4)) * 0.8 + 0.2 * truth, 0, 1)
    return truth, np.round(scores * levels) / levels if levels else scores


def test_average_precision_and_area_by_hand():
    """True, false, true, best first; then the first one drawn twice and the second never."""
    ranking = Ranking(np.array([1, 0, 1]), np.array([0.9, 0.8, 0.7]))

    weights = np.array([[1.0, 1.0, 1.0], [2.0, 0.0, 1.0]]).T

    assert ranking.average_precision(weights) == pytest.approx([(1 + 2 / 3) / 2, 1.0])
    assert ranking.roc_auc(weights)[0] == pytest.approx(0.5)
    assert np.isnan(ranking.roc_auc(weights)[1]), "no false one was drawn"


def test_equal_scores_share_a_place_whatever_their_order():
    weights = np.ones((2, 1))

    for truth in ([1, 0], [0, 1]):
        ranking = Ranking(np.array(truth), np.array([0.5, 0.5]))
        assert (ranking.average_precision(weights), ranking.roc_auc(weights)) == ([0.5], [0.5])


@pytest.mark.parametrize(("seed", "levels"), [(0, None), (1, None), (2, 7), (3, 3), (4, 1)])
def test_each_draw_has_the_figures_that_scikit_learn_finds_in_it(seed, levels):
    truth, scores = drawn(seed, levels=levels)
    weights = next(draws(len(truth), 5, seed, 5))
    weights[:, 0] = 1  # the posters as they are

    found = Resampler(truth, scores, PROFILES).figures(weights)

    for draw in range(5):
        posters = np.repeat(np.arange(len(truth)), weights[:, draw].astype(int))
        expected = figures(truth[posters], scores[posters], PROFILES)
        assert {name: values[draw] for name, values in found.items() if name != LABEL_APS} == pytest.approx(
            expected, abs=1e-9
        )
        of_labels = average_precisions(truth[posters], scores[posters])
        np.testing.assert_allclose(found[LABEL_APS][draw], of_labels, atol=1e-9)


def test_draws_are_the_same_for_the_same_seed_in_chunks_of_any_size():
    whole = next(draws(50, 8, 3, 8))

    assert (whole.sum(axis=0) == 50).all()
    np.testing.assert_array_equal(np.concatenate(list(draws(50, 8, 3, 3)), axis=1), whole)
    assert (next(draws(50, 8, 4, 8)) != whole).any()


def test_the_interval_is_that_of_the_mean_of_coins():
    """hit@1 of a coin in 400 posters: the interval is two standard deviations, .025 each, to either side."""
    truth = np.zeros((400, 2), dtype=np.uint8)
    truth[:200, 0], truth[200:, 1] = 1, 1
    said = Said(truth, np.tile(np.array([0.6, 0.4], dtype=np.float32), (400, 1)), {})

    figure = measure(said, np.array([0.4, 0.6]), 1_000, seed=0).figures["hit_at_1"]

    assert (figure.value, figure.null) == (0.5, 0.5)
    assert (figure.low, figure.high) == (pytest.approx(0.45, abs=0.01), pytest.approx(0.55, abs=0.01))


def test_a_bundle_beside_itself_differs_in_nothing_and_a_better_one_is_better_in_all_draws():
    truth, scores = drawn(0)
    better = np.clip(scores + 0.5 * truth, 0, 1)
    one, other = (measure(Said(truth, said, PROFILES), truth.mean(axis=0), 50, 0) for said in (better, scores))

    assert all((d.value, d.low, d.high) == (0, 0, 0) for d in compare(other, other).values())
    differences = compare(one, other)
    assert differences["macro_map"].better_in == 1
    assert differences["macro_map"].low > 0
    assert (differences["ranking_loss"].better_in, differences["ranking_loss"].high < 0) == (1, True), "less is better"
    assert differences["labels:balanced"].better_in is None


def test_the_null_model_chooses_its_threshold_by_what_its_prevalence_expects():
    """Saying the first label of .5, .4, .05 to all has F1 .51, the first two .62, all of them .48."""
    null = null_profiles({"balanced": Profile((0.9,) * 3), "top-1": Profile((0.0,) * 3, 1)}, np.array([0.5, 0.4, 0.05]))

    assert null["balanced"].predicted(np.array([[0.5, 0.4, 0.05]])).tolist() == [[True, True, False]]
    assert null["top-1"] == Profile((0.0,) * 3, 1)


def test_an_interval_of_nothing_known_is_not_a_number():
    assert np.isnan(interval(np.array([np.nan, np.nan]))).all()
