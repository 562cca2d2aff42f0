"""The drift figure measures how far the genres of a night differ from earlier nights, and when to warn."""

import pytest

from genretag.reports.run_report import chi_square_95, drift

BEFORE = {"Drama": 5000, "Comedy": 4000, "Western": 1000}


def test_the_same_shares_have_no_drift():
    found = drift({"Drama": 500, "Comedy": 400, "Western": 100}, BEFORE)

    assert found.psi == pytest.approx(0, abs=1e-3)
    assert not found.warns


def test_moved_shares_are_summed_as_the_population_stability_index():
    found = drift({"Drama": 2500, "Comedy": 4000, "Western": 3500}, BEFORE)

    # expected: (.25 - .5) ln(.25 / .5) + 0 + (.35 - .1) ln(.35 / .1)
    assert found.psi == pytest.approx(0.1733 + 0.3132, abs=2e-3)
    assert found.warns


def test_a_few_posters_may_look_different_by_chance():
    found = drift({"Drama": 3, "Comedy": 6, "Western": 3}, BEFORE)

    assert found.psi > found.limit
    assert found.psi < found.by_chance
    assert not found.warns


def test_a_genre_that_was_never_seen_counts_and_has_a_finite_figure():
    assert 1 < drift({"Drama": 100, "Musical": 900}, {"Drama": 1000}).psi < 20


def test_without_earlier_counts_there_is_no_drift_figure():
    assert drift({"Drama": 5}, {}) is None
    assert drift({}, BEFORE) is None


@pytest.mark.parametrize(("freedom", "value"), [(1, 3.841), (3, 7.815), (23, 35.172), (100, 124.342)])
def test_the_bound_of_chance_is_the_95th_percentile_of_chi_square(freedom, value):
    assert chi_square_95(freedom) == pytest.approx(value, rel=0.03)
