"""Rows and labels that are left out of a CSV of labels are counted and reported with their line numbers."""

import pytest
from label_reading import read

from genretag.data.labels import LabelError


def test_a_duplicate_id_is_kept_once_and_reported_with_its_line():
    labelled, report = read("id,War\na,1\nb,1\na,1\na.jpg,1\n")
    assert labelled.ids == ("a", "b")
    assert report.duplicates == [4, 5]
    assert report.distinct == 2
    assert report.findings() == ["rows left out, same poster and labels as an earlier row: 2 (lines 4, 5)"]


def test_of_conflicting_duplicates_the_first_counts():
    labelled, report = read("id,War,Drama\na,1,0\na,0,1\nb,0,1\n")
    assert labelled.multi_hot.tolist() == [[1, 0], [0, 1]]
    assert report.conflicting == [3]
    assert report.duplicates == []


def test_line_numbers_are_right_after_a_quoted_line_break():
    _, report = read('id,labels\n"a\nb",War\n\nc,War\nc,War\n')
    assert report.duplicates == [6]


def test_a_row_with_no_label_counts_as_unlabelled_and_is_left_out():
    labelled, report = read("id,War,Drama\na,1,0\nb,0,0\nc,0,1\n")
    assert labelled.ids == ("a", "c")
    assert report.unlabelled == [3]


def test_a_row_with_no_id_is_left_out():
    labelled, report = read("id,War\n ,1\nb,1\n")
    assert labelled.ids == ("b",)
    assert report.without_id == [2]


def test_an_unknown_value_is_reported_with_its_line_and_the_row_left_out():
    labelled, report = read("id,War,Drama\na,1,0\nb,1,maybe\nc,0,1\n")
    assert labelled.ids == ("a", "c")
    assert report.unreadable == {3: "Drama 'maybe'"}
    assert report.findings() == ["rows left out, value cannot be read: 1 (lines 3: Drama 'maybe')"]


@pytest.mark.parametrize("cell", ["['War'", "[1]", "[__import__('os')]", "[[[['War']]]]", "[" + "-" * 3_000 + "1]"])
def test_a_list_that_does_not_parse_is_reported_and_never_evaluated(cell):
    labelled, report = read(f"id,labels\na,War\nb,{cell}\n")
    assert labelled.ids == ("a",)
    assert list(report.unreadable) == [3]


def test_a_rare_label_is_left_out_and_so_are_posters_with_no_other():
    labelled, report = read("id,labels\na,War\nb,War|News\nc,News\nd,Short\n", min_positives=2)
    assert (labelled.ids, labelled.labels) == (("a", "b", "c"), ("News", "War"))
    assert report.rare_labels == {"Short": 1}
    assert report.only_rare_labels == [5]
    assert (report.rows, report.distinct, report.posters, report.labels) == (4, 4, 3, {"News": 2, "War": 2})


def test_rare_labels_are_counted_over_distinct_posters():
    _, report = read("id,labels\na,War\nb,War\nc,News\nc,News\n", min_positives=2)
    assert report.rare_labels == {"News": 1}


def test_a_long_list_of_lines_is_cut():
    _, report = read("id,War\n" + "a,1\n" * 18)
    assert report.findings()[0].endswith("17 (lines 3, 4, 5, 6, 7 and 12 more)")


def test_a_report_has_no_control_characters():
    _, report = read("id,War\x1b[31m\na,1\nb,1\nc,\x1b]0;x\x07\n")
    assert all(line.isprintable() for line in report.lines())


# Files of which too much would be left out


def lines_of(*rows):
    return "id,War,Drama\n" + "".join(f"{number},{row}\n" for number, row in enumerate(rows))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (lines_of(*["1,0"] * 20, *["maybe,0"] * 3), "3 of 23 rows cannot be used, more than 10%"),
        (lines_of(*["1,0"] * 2, *["0,0"] * 3), "3 of 5 rows have no label, more than 50%"),
        ("id,labels\n" + "a,War|Drama\n" * 2 + "".join(f"{n},nan\n" for n in range(4)), "4 of 6 rows have no label"),
        ("id,labels\n" + "".join(f"{n % 5},{'War|' * (n // 5)}Drama\n" for n in range(10)), "5 of 10 rows cannot be"),
        ("id,War\na,1\nb,1\n" + " ,1\n" * 3, "3 of 5 rows cannot be used"),
    ],
    ids=["unreadable", "all no", "word for no label", "contradictions", "no id"],
)
def test_a_file_of_which_too_much_would_be_left_out_is_refused_unless_allowed(text, says):
    with pytest.raises(LabelError) as caught:
        read(text)
    assert says in str(caught.value)
    assert "--allow-left-out" in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(read(text, allow_left_out=True)[0]) > 0


def test_a_file_whose_labels_are_mostly_rare_is_refused_because_the_separator_may_be_another():
    text = "id,labels\n" + "a,War\nb,War\n" + "".join(f"{n},War-{n}\n" for n in range(5))
    with pytest.raises(LabelError, match=r"5 of 7 posters have rare labels only.*--label-separator"):
        read(text, min_positives=2)
    assert read(text, min_positives=2, allow_left_out=True)[0].ids == ("a", "b")


@pytest.mark.parametrize(
    "text",
    [
        lines_of(*["1,0"] * 20, *["maybe,0"] * 2),
        lines_of(*["1,0"] * 40, *["maybe,0"] * 4),
        lines_of(*["1,0"] * 5, *["0,0"] * 5),
        "id,labels\n" + "a,War|Drama\n" * 30,
    ],
    ids=["fewer than three", "a tenth", "half without labels", "repeated rows"],
)
def test_a_file_of_which_little_is_left_out_is_read(text):
    assert len(read(text)[0]) > 0
