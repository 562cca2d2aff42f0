"""A CSV of labels becomes a multi-hot matrix, in each of its three layouts and common variants of CSV."""

import numpy as np
import pytest
from label_reading import labels_by_id, read

from genretag.data.label_csv import read_labels

# The three layouts


def test_one_hot_columns_are_the_labels_in_their_order():
    labelled, report = read("id,War,Drama\n007,1,0\ntt2,1,1\n")
    assert labelled.ids == ("007", "tt2")
    assert labelled.labels == ("War", "Drama")
    assert labelled.multi_hot.dtype == np.uint8
    assert labelled.multi_hot.tolist() == [[1, 0], [1, 1]]
    assert report.lines() == [
        "posters.csv: 2 rows (0/1 columns) of 2 posters with labels; kept 2 posters with 2 labels",
        "  ids: column id",
        "  labels: columns 'War', 'Drama'",
        "  truth values: yes: '1' 3; no: '0' 1",
        "  posters by label: War 2, Drama 1",
    ]


def test_one_hot_values_may_be_words_floats_or_blank():
    assert labels_by_id("id,War,Drama,Short\na,TRUE,0.0,\nb,false,1.0, 1 \n") == {
        "a": ["War"],
        "b": ["Drama", "Short"],
    }


def test_the_tutorials_layout_reads_the_one_hot_columns_and_n_a_is_a_label():
    text = "Id,Genre,Comedy,Drama,N/A\ntt1,\"['Comedy', 'Drama']\",1,1,0\ntt2,['N/A'],0,0,1\n"
    labelled, report = read(text)
    assert labelled.labels == ("Comedy", "Drama", "N/A")
    assert labelled.multi_hot.tolist() == [[1, 1, 0], [0, 0, 1]]
    assert report.disagreements == []
    assert report.ignored_columns == []


def test_if_text_and_one_hot_columns_disagree_the_columns_win_and_the_line_is_reported():
    text = "Id,Genre,Comedy,Drama\ntt1,['Comedy'],1,0\ntt2,['Comedy'],0,1\n"
    labelled, report = read(text)
    assert labelled.multi_hot.tolist() == [[1, 0], [0, 1]]
    assert report.disagreements == [3]
    assert report.findings()[0] == "rows whose text and 0/1 columns differ, the columns count: 1 (lines 3)"


def test_a_labels_column_that_is_asked_for_wins_over_one_hot_columns():
    text = "Id,Genre,Comedy,Drama\ntt1,['Comedy'],1,0\ntt2,['Comedy'],0,1\n"
    assert labels_by_id(text, labels_column="Genre") == {"tt1": ["Comedy"], "tt2": ["Comedy"]}


def test_a_flag_that_is_no_label_does_not_hide_the_text_column():
    labelled, report = read("id,genres,adult\na,War|Drama,0\nb,War,1\n")
    assert labelled.labels == ("Drama", "War")
    assert report.ignored_columns == ["adult"]


def test_columns_that_hold_something_else_are_ignored_and_reported():
    labelled, report = read(",id,year,War\n0,a,1994,1\n1,b,1995,1\n")
    assert labelled.labels == ("War",)
    assert report.findings()[0] == "columns ignored: 1 ('year')"


@pytest.mark.parametrize("cell", ["Drama|War", "Drama;War", '"Drama,War"', '" War , Drama,,War "', "Drama| War|"])
def test_labels_in_one_cell_are_split_at_the_separator_found(cell):
    assert labels_by_id(f"id,labels\na,{cell}\n") == {"a": ["Drama", "War"]}


def test_the_separator_is_the_one_that_most_cells_hold():
    assert labels_by_id('id,labels\na,Drama|War\nb,"Rock, Pop|War"\n') == {
        "a": ["Drama", "War"],
        "b": ["Rock, Pop", "War"],
    }


def test_if_two_separators_are_equally_frequent_the_bar_wins_before_the_semicolon():
    assert labels_by_id('id,labels\na,"Rock, Pop; War"\n') == {"a": ["Rock, Pop", "War"]}


def test_an_explicit_separator_is_the_only_one_that_splits():
    assert labels_by_id("id,labels\na,A|B/War\n", label_separator="/") == {"a": ["A|B", "War"]}


@pytest.mark.parametrize(
    "cell",
    ["['Film Noir', \"Don't\"]", '["Film Noir", "Don\'t"]', "['Film Noir' \"Don't\"]", '["Film Noir","Don\\u0027t"]'],
    ids=["python", "json", "numpy", "json-escape"],
)
def test_a_list_literal_is_read_as_a_list(cell):
    quoted = cell.replace('"', '""')
    assert labels_by_id(f'id,labels\na,"{quoted}"\n') == {"a": ["Don't", "Film Noir"]}


def test_a_label_column_has_one_label_a_row():
    labelled, report = read('id,label\na,War\nb,"Rock, Pop"\na,Drama\na,War\n')
    assert labelled.ids == ("a", "b")
    assert labelled.labels == ("Drama", "Rock, Pop", "War")
    assert labelled.multi_hot.tolist() == [[1, 0, 1], [0, 1, 0]]
    assert report.duplicates == report.conflicting == []


# Columns and the file itself


@pytest.mark.parametrize("name", ["Id", "POSTER_ID", "imdbId", "image id", "Filename"])
def test_the_id_column_is_known_by_several_names(name):
    assert labels_by_id(f"War,{name}\n1,a\n") == {"a": ["War"]}


def test_a_column_that_is_asked_for_is_used():
    assert labels_by_id("id,key,topic\n1,a,War\n", id_column="key", labels_column="topic") == {"a": ["War"]}


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffid,War\na,1\n",
        "id,War\r\na,1\r\n\r\n\r\n",
        "id,War\ra,1",
        "\n\nid,War\n\na,1\n,\n",
        "id, War \n a , 1 \n",
        '"id","War"\n"a","1"\n',
        "id;War\na;1\n",
        "id\tWar\na\t1\n",
        "id,War\na,1,,\n",
        b"\xef\xbb\xbfid,War\na,1\n",
    ],
    ids=["bom", "crlf", "cr", "blank-lines", "spaces", "quotes", "semicolons", "tabs", "trailing-cells", "bytes"],
)
def test_the_usual_variants_of_csv_read_alike(text):
    assert labels_by_id(text) == {"a": ["War"]}


def test_composed_and_decomposed_accents_are_one_label():
    assert labels_by_id("id,labels\na,Com\u00e9die\nb,Come\u0301die\n") == {"a": ["Comédie"], "b": ["Comédie"]}


def test_control_characters_do_not_reach_labels():
    assert labels_by_id('id,labels\na,"War\x1b[31m\nFilm"\n') == {"a": ["War [31m Film"]}


# A real file


def test_the_real_csv_of_the_tutorial_is_read(real_posters):
    labelled, report = read_labels((real_posters / "train.csv").read_bytes(), "train.csv")
    assert (report.rows, report.distinct, len(report.duplicates)) == (7_254, 7_242, 12)
    assert (report.conflicting, report.disagreements, report.unlabelled, report.unreadable) == ([], [], [], {})
    assert report.rare_labels == {"N/A": 9, "Reality-TV": 2}
    assert len(report.only_rare_labels) == 10
    assert labelled.multi_hot.shape == (7_232, 23)
    assert labelled.ids[0] == "tt0086425"
    positives = dict(zip(labelled.labels, labelled.positives().tolist(), strict=True))
    assert (positives["Drama"], positives["Comedy"], positives["News"]) == (3_617, 2_895, 21)
