"""Threshold profiles make the same decisions in every part of the program."""

import numpy as np
import pytest

from genretag.errors import UsageError
from genretag.model.bundle import DEFAULT_BUNDLE, load_bundle
from genretag.model.thresholds import Profile, profile_named
from genretag.storage import Storage

PROBABILITIES = np.array([[0.9, 0.2, 0.6, 0.1], [0.3, 0.3, 0.3, 0.3]], dtype=np.float32)


def test_a_label_is_predicted_from_its_threshold_on():
    predicted = Profile((0.9, 0.5, 0.5, 0.05)).predicted(PROBABILITIES)

    assert predicted.tolist() == [[True, False, True, True], [False, False, False, True]]


def test_top_3_predicts_the_three_most_probable_labels_and_the_first_of_equal_ones():
    top = profile_named("top-3", {"balanced": (0.5,) * 4}, labels=4)

    assert top == Profile((0.0,) * 4, at_most=3)
    assert top.predicted(PROBABILITIES).tolist() == [[True, True, True, False], [True, True, True, False]]


def test_top_k_with_k_above_the_number_of_labels_predicts_all_labels():
    assert profile_named("top-9", {}, labels=4).predicted(PROBABILITIES).all()


def test_a_label_must_pass_its_threshold_and_the_limit():
    assert Profile((0.5,) * 4, at_most=1).predicted(PROBABILITIES).tolist() == [
        [True, False, False, False],
        [False] * 4,
    ]


def test_a_profile_can_be_restricted_to_some_labels():
    assert Profile((0.1, 0.2, 0.3), 2).among([2, 0]) == Profile((0.3, 0.1), 2)


@pytest.mark.parametrize("name", ["top-0", "top-", "top-3x", "tops", "precise"])
def test_an_unknown_profile_is_refused_with_the_known_names(name):
    with pytest.raises(UsageError, match=r"it has balanced, top-3"):
        profile_named(name, {"balanced": (0.5,)}, labels=1)


def test_the_default_bundle_has_a_threshold_for_each_label_and_the_profile_top_3():
    bundle = load_bundle(str(DEFAULT_BUNDLE), Storage())

    assert bundle.profile("top-3").predicted(np.random.default_rng(0).random((5, 23))).sum(axis=1).tolist() == [3] * 5
    assert len(bundle.profile().thresholds) == 23
