"""A column of the CSV divides posters into slices."""

import pytest

from genretag.data.label_csv import read_column
from genretag.errors import UsageError
from genretag.evaluation.results import slices


def counts(values):
    return {name: int(mask.sum()) for name, mask in slices(values).items()}


def test_each_value_is_a_slice_in_order_and_blank_ones_come_last():
    assert counts(["fr", "", "de", "fr", " "]) == {"de": 1, "fr": 2, "(blank)": 2}


def test_many_numbers_are_cut_into_quartiles():
    years = [str(year) for year in range(1980, 2020)]

    assert counts([*years, ""]) == {
        "1980 to 1989": 10, "1990 to 1999": 10, "2000 to 2009": 10, "2010 to 2019": 10, "(blank)": 1
    }  # fmt: skip


def test_few_distinct_numbers_are_slices_of_their_own():
    assert counts(["1", "0", "1"]) == {"0": 1, "1": 2}


def test_numbers_that_are_mostly_equal_have_fewer_quartiles_and_lose_no_poster():
    values = ["7"] * 90 + [str(number) for number in range(20)]

    assert sum(counts(values).values()) == len(values)


def test_the_rarest_of_many_values_share_one_slice():
    found = counts([*"abcdefghijklmnopqrs", *"abcdefghijklmnopqrs", "x", "y", "z"])

    assert (len(found), found["(others)"], list(found)[-1]) == (20, 3, "(others)")


def test_a_column_is_read_by_poster():
    table = "id,labels,year\n007.jpg,Action,1962\n007,Drama,1964\n"

    assert read_column(table, "films.csv", "year") == {"007": "1962"}
    with pytest.raises(UsageError, match=r"films.csv: no column is called 'decade': there are 'id', 'labels', 'year'"):
        read_column(table, "films.csv", "decade")
    with pytest.raises(UsageError, match=r"no column of ids"):
        read_column("labels,year\nAction,1962\n", "films.csv", "year")
