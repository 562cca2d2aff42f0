"""Columns with one label each: the values that mean yes and no, as databases and data sets write them."""

import pytest
from label_reading import labels_by_id, read

from genretag.data.labels import LabelError

ATTRIBUTES = "image_id,Young,Bald,Hat\n"


def test_minus_one_is_refused_because_it_means_no_in_one_table_and_unknown_in_the_next():
    text = ATTRIBUTES + "1.jpg,1,-1,-1\n2.jpg,1,1,-1\n3.jpg,-1,-1,1\n4.jpg,1,-1,-1\n"
    with pytest.raises(LabelError) as caught:
        read(text)
    assert str(caught.value) == (
        "posters.csv: columns hold -1, such as 'Young', 'Bald' and 1 more, which may mean no or unknown: "
        "if it means no, pass --false-value -1"
    )
    labelled, report = read(text, false_value=("-1",))
    assert labelled.labels == ("Young", "Bald", "Hat"), "also columns that are mostly -1"
    assert labelled.multi_hot.tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 1], [1, 0, 0]]
    assert "  truth values: yes: '1' 5; no: '-1' 7" in report.lines()


@pytest.mark.parametrize(("other", "name"), [("0.0", "0"), ("", "blank"), ("NULL", "blank"), ("no", "no")])
def test_minus_one_together_with_another_no_is_refused_with_flags_for_both_meanings(other, name):
    text = ATTRIBUTES + f"1,1,-1.0,-1\n2,1,1,{other}\n3,-1,{other},1\n"
    with pytest.raises(LabelError) as caught:
        read(text)
    assert f"if it means no, pass --false-value -1 --false-value {name}; if it means unknown" in str(caught.value)
    assert f"unknown, pass --false-value {name}, and rows with -1 are left out" in str(caught.value)


def test_the_flags_decide_what_minus_one_means():
    text = ATTRIBUTES + "1,1,-1,0\n2,1,1,\n3,0,0,1\n"
    assert labels_by_id(text, false_value=("0", "-1", "blank"))["1"] == ["Young"]
    assert labels_by_id(text, true_value=("1", "-1"))["1"] == ["Young", "Bald"]
    left_out, report = read(text, false_value=("0", "blank"))
    assert (left_out.ids, report.unreadable) == (("2", "3"), {2: "Bald '-1'"}), "neither yes nor no"


def test_a_value_cannot_mean_yes_and_no():
    with pytest.raises(LabelError, match="'1' cannot mean yes and no"):
        read("id,War\na,1\n", true_value=("1",), false_value=("1.0", "0"))


def test_any_two_values_can_be_named():
    text = "id,War,Drama\na,2,1\nb,1,2\nc,2,2\n"
    assert labels_by_id(text, true_value=("2",), false_value=("1",)) == {
        "a": ["War"],
        "b": ["Drama"],
        "c": ["War", "Drama"],
    }


@pytest.mark.parametrize(
    ("yes", "no"),
    [("yes", "No"), ("T", "f"), ("Y", "N"), ("t", ""), ("x", ""), ("1.00", "0.00"), ("1", "\\N"), ("TRUE", "nan")],
)
def test_truth_values_as_databases_and_spreadsheets_write_them(yes, no):
    assert labels_by_id(f"id,War,Drama\na,{yes},{no}\nb,{no},{yes}\nc,{yes},{yes}\n") == {
        "a": ["War"],
        "b": ["Drama"],
        "c": ["War", "Drama"],
    }


def test_letters_are_truth_values_only_if_the_column_has_no_other_values():
    labelled, report = read("id,sex,War\na,F,1\nb,M,1\nc,F,1\n")
    assert labelled.labels == ("War",)
    assert report.ignored_columns == ["sex"]


def test_a_table_with_more_other_columns_than_0_1_columns_is_refused():
    text = "id,title,listed_in,country,adult\na,Heat,Crime|Drama,US,1\nb,Ran,War,JP,0\n"
    with pytest.raises(LabelError, match=r"3 columns \('title', 'listed_in', 'country'\) are no 0/1 columns") as caught:
        read(text)
    assert "('adult'): name the column of labels with --labels-column" in str(caught.value)
    assert labels_by_id(text, labels_column="listed_in") == {"a": ["Crime", "Drama"], "b": ["War"]}
    assert labels_by_id(text, allow_left_out=True) == {"a": ["adult"]}
