"""Ids of posters, names of columns, and selections from a labelled set of posters."""

import pytest
from label_reading import read

from genretag.data.labels import LabelError, column_name, column_names, keep_existing, poster_id

# Ids


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("007", "007"),
        ("1e5", "1e5"),
        (" tt1 ", "tt1"),
        ("tt0086425.jpg", "tt0086425"),
        ("posters/1994/tt1.v2.JPEG", "tt1.v2"),
        ("posters\\tt1.png", "tt1"),
        ("Dr. Strangelove", "Dr. Strangelove"),
        ("a/b", "a/b"),
        (".jpg", ".jpg"),
    ],
)
def test_an_id_keeps_its_text_and_an_image_file_is_its_stem(name, expected):
    assert poster_id(name) == expected


# Names of columns


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("Sci-Fi", "sci_fi"),
        ("N/A", "n_a"),
        ("Comédie", "comedie"),
        ("Straße", "strasse"),
        ("R&B 2", "r_b_2"),
        ("Ｆｕｌｌ", "full"),
    ],
)
def test_a_label_becomes_a_column_that_every_warehouse_takes(label, expected):
    assert column_name(label) == expected


def test_columns_are_in_the_order_of_the_labels():
    assert column_names(["War", "Sci-Fi"]) == ("war", "sci_fi")


@pytest.mark.parametrize("label", ["", " ", "???", "喜剧"])
def test_a_label_without_a_name_for_its_column_is_refused(label):
    with pytest.raises(LabelError, match="rename it"):
        column_name(label)


# Selections


def test_a_mask_selects_posters_and_keeps_the_labels():
    labelled, _ = read("id,War,Drama\na,1,0\nb,0,1\nc,1,1\n")
    chosen = labelled.where([True, False, True])
    assert (len(chosen), chosen.ids, chosen.labels) == (2, ("a", "c"), ("War", "Drama"))
    assert chosen.multi_hot.tolist() == [[1, 0], [1, 1]]
    assert chosen.positives().tolist() == [2, 1]


def test_posters_without_an_image_are_named():
    labelled, _ = read("id,War\na,1\nb,1\nc,1\n")
    existing, missing = keep_existing(labelled, {"c", "a", "z"})
    assert existing.ids == ("a", "c")
    assert missing == ["b"]
