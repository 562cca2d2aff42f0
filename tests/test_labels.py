"""A CSV of labels becomes a multi-hot matrix; what it cannot use is counted, with lines, or refused in one line."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genretag.errors import UsageError
from genretag.label_csv import read_labels
from genretag.labels import LabelError, column_name, column_names, keep_existing, poster_id

REAL_CSV = Path(__file__).parents[1].parent / "shared" / "posters" / "train.csv"


def read(text, **options):
    """Reads with every label kept, so that a test needs no twenty posters."""
    return read_labels(text, "posters.csv", **{"min_positives": 1, **options})


def labels_by_id(text, **options):
    labelled, _ = read(text, **options)
    return {
        poster: [label for label, is_set in zip(labelled.labels, row, strict=True) if is_set]
        for poster, row in zip(labelled.ids, labelled.multi_hot, strict=True)
    }


def refusal(text, **options):
    with pytest.raises(LabelError) as caught:
        read(text, **options)
    return str(caught.value)


# The three layouts


def test_one_hot_columns_are_the_labels_in_their_order():
    labelled, report = read("id,War,Drama\n007,1,0\ntt2,1,1\n")
    assert labelled.ids == ("007", "tt2")
    assert labelled.labels == ("War", "Drama")
    assert labelled.multi_hot.dtype == np.uint8
    assert labelled.multi_hot.tolist() == [[1, 0], [1, 1]]
    assert report.lines() == [
        "posters.csv: 2 rows (0/1 columns) of 2 posters with labels; kept 2 posters with 2 labels"
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


def test_where_text_and_one_hot_columns_disagree_the_columns_count_and_the_line_is_reported():
    text = "Id,Genre,Comedy,Drama\ntt1,['Comedy'],1,0\ntt2,['Comedy'],0,1\n"
    labelled, report = read(text)
    assert labelled.multi_hot.tolist() == [[1, 0], [0, 1]]
    assert report.disagreements == [3]
    assert report.lines()[1] == "rows whose text and 0/1 columns differ, the columns count: 1 (lines 3)"


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
    assert report.lines()[1] == "columns ignored: 1 ('year')"


@pytest.mark.parametrize("cell", ["Drama|War", "Drama;War", '"Drama,War"', '" War , Drama,,War "', "Drama| War|"])
def test_labels_in_one_cell_are_split_at_the_separator_found(cell):
    assert labels_by_id(f"id,labels\na,{cell}\n") == {"a": ["Drama", "War"]}


def test_the_separator_is_the_one_that_most_cells_hold():
    assert labels_by_id('id,labels\na,Drama|War\nb,"Rock, Pop|War"\n') == {
        "a": ["Drama", "War"],
        "b": ["Rock, Pop", "War"],
    }


def test_a_draw_between_separators_goes_to_the_bar_then_the_semicolon():
    assert labels_by_id('id,labels\na,"Rock, Pop; War"\n') == {"a": ["Rock, Pop", "War"]}


def test_a_separator_that_is_given_is_the_only_one():
    assert labels_by_id("id,labels\na,A|B/War\n", separator="/") == {"a": ["A|B", "War"]}


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


# Columns, ids and the file itself


@pytest.mark.parametrize("name", ["Id", "POSTER_ID", "imdbId", "image id", "Filename"])
def test_the_id_column_is_known_by_several_names(name):
    assert labels_by_id(f"War,{name}\n1,a\n") == {"a": ["War"]}


def test_a_column_that_is_asked_for_is_used():
    assert labels_by_id("id,key,topic\n1,a,War\n", id_column="key", labels_column="topic") == {"a": ["War"]}


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


# What is left out, and where it stood


def test_a_duplicate_id_is_kept_once_and_reported_with_its_line():
    labelled, report = read("id,War\na,1\nb,1\na,1\na.jpg,1\n")
    assert labelled.ids == ("a", "b")
    assert report.duplicates == [4, 5]
    assert report.distinct == 2
    assert report.lines()[1:] == ["rows left out, same poster and labels as an earlier row: 2 (lines 4, 5)"]


def test_of_conflicting_duplicates_the_first_counts():
    labelled, report = read("id,War,Drama\na,1,0\na,0,1\nb,0,1\n")
    assert labelled.multi_hot.tolist() == [[1, 0], [0, 1]]
    assert report.conflicting == [3]
    assert report.duplicates == []


def test_lines_are_those_of_the_file_also_after_a_quoted_line_break():
    _, report = read('id,labels\n"a\nb",War\n\nc,War\nc,War\n')
    assert report.duplicates == [6]


def test_a_row_with_no_label_is_left_out_because_nobody_labelled_it():
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
    assert report.lines()[1:] == ["rows left out, value cannot be read: 1 (lines 3: Drama 'maybe')"]


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
    assert (report.rows, report.distinct, report.posters, report.labels) == (4, 4, 3, 2)


def test_rare_is_counted_over_distinct_posters():
    _, report = read("id,labels\na,War\nb,War\nc,News\nc,News\n", min_positives=2)
    assert report.rare_labels == {"News": 1}


def test_a_long_list_of_lines_is_cut():
    _, report = read("id,War\n" + "a,1\n" * 18)
    assert report.lines()[1].endswith("17 (lines 3, 4, 5, 6, 7 and 12 more)")


def test_a_report_has_no_control_characters():
    _, report = read("id,War\x1b[31m\na,1\nb,1\nc,\x1b]0;x\x07\n")
    assert all(line.isprintable() for line in report.lines())


# What cannot be used


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        (" \r\n\n", "is empty"),
        ("id,War\n", "a header and no rows"),
        ("PNG\0\x1a,id\n1,2", "NUL"),
        (b"\x89PNG\r\n", "byte 0 is not UTF-8"),
        ("title,War\na,1\n", "no column of ids among 'title', 'War'"),
        ("id,title\na,Heat\n", "no labels among 'id', 'title'"),
        ("id,War,War\na,1,1\n", "several columns called 'War'"),
        ("id,labels\na,War\nb,War,Drama\nc\n", "2 (lines 3, 4)"),
        ('id,labels\na,"War\nb,War\n', "line 2 is not CSV"),
        ("id,labels\na," + "x" * 200_000, "line 2 is not CSV (field larger"),
        ("id,labels\na,[\nb,[\n", "no row can be used: rows left out, value cannot be read: 2"),
        ("id,labels\na,Sci-Fi\nb,Sci Fi\n", "'Sci Fi' and 'Sci-Fi' would both be the column sci_fi"),
        ("id,labels\na,???\n", "'???' has no letter"),
        ("id,labels\na," + "x" * 300, "over 200 characters"),
        ("id,labels\na," + "|".join(map(str, range(10_001))), "has 10,001 labels"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_one_line_that_names_it(text, message):
    refused = refusal(text)
    assert refused.startswith("posters.csv: ")
    assert message in refused
    assert refused.isprintable()


def test_too_few_posters_for_any_label_says_what_to_lower():
    assert refusal("id,War\na,1\nb,1\n", min_positives=3) == (
        "posters.csv: no label has 3 posters, the most is 2: lower min_positives"
    )


def test_a_column_that_is_asked_for_and_missing_is_refused_with_those_there_are():
    assert refusal("id,War\na,1\n", id_column="key") == "posters.csv: no column is called 'key': there are 'id', 'War'"


def test_a_refusal_is_a_usage_error_so_that_the_command_shows_no_traceback():
    assert issubclass(LabelError, UsageError)


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


# Any file at all

cells = st.text(max_size=8) | st.sampled_from(["id", "label", "labels", "War", "0", "1", "", "a|b", "['a']", "x.jpg"])
tables = st.lists(st.lists(cells, min_size=2, max_size=4), max_size=6)


def written(rows):
    file = io.StringIO()
    csv.writer(file).writerows(rows)
    return file.getvalue()


@settings(deadline=None)
@given(
    st.binary(max_size=200)
    | st.text(max_size=200)
    | st.sampled_from([["id", "label"], ["id", "A"]]).flatmap(
        lambda header: tables.map(lambda rows: written([header, *rows]))
    )
    | tables.map(written)
)
def test_any_content_is_read_or_refused(content):
    try:
        labelled, report = read(content)
    except LabelError as error:
        assert str(error).isprintable()
        return
    assert labelled.multi_hot.shape == (len(labelled.ids), len(labelled.labels))
    assert len(set(labelled.ids)) == len(labelled) == report.posters
    assert labelled.multi_hot.any(axis=1).all()
    assert (labelled.positives() >= 1).all()
    assert all(line.isprintable() for line in report.lines())


labels = st.lists(
    st.sampled_from(["Drama", "Sci-Fi", "N/A", "Rock, Pop", "Don't", 'Say "no"']), min_size=1, unique=True
)
ids = st.text("abc019 .,;|\"'\n", min_size=1).filter(lambda text: text == text.strip())


@settings(deadline=None)
@given(st.dictionaries(ids, labels, min_size=1), st.sampled_from(["list", "one-hot", "long"]))
def test_what_is_written_is_read_again_in_every_layout(posters, layout):
    vocabulary = sorted({label for chosen in posters.values() for label in chosen})
    rows = {
        "list": [["id", "labels"], *([poster, repr(chosen)] for poster, chosen in posters.items())],
        "one-hot": [["id", *vocabulary]]
        + [[poster, *(int(label in chosen) for label in vocabulary)] for poster, chosen in posters.items()],
        "long": [["id", "label"], *([poster, label] for poster, chosen in posters.items() for label in chosen)],
    }[layout]
    labelled, report = read(written(rows))
    assert labelled.ids == tuple(posters)
    assert labelled.labels == tuple(vocabulary)
    assert labelled.multi_hot.tolist() == [
        [int(label in chosen) for label in vocabulary] for chosen in posters.values()
    ]
    assert report.findings() == []


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abcd "), st.sampled_from(["War", "Short", "", "[", "War|Drama"])), min_size=1)
)
def test_every_row_is_kept_or_accounted_for(rows):
    try:
        labelled, report = read(written([["id", "labels"], *rows]), min_positives=2)
    except LabelError:
        return
    left_out = (report.duplicates, report.conflicting, report.without_id, report.unlabelled, report.unreadable)
    assert report.rows == sum(row != (" ", "") for row in rows)  # a row of nothing is no row
    assert report.rows == report.distinct + sum(map(len, left_out))
    assert report.distinct == len(labelled) + len(report.only_rare_labels)


@pytest.mark.skipif(
    not REAL_CSV.exists(), reason="the labelled posters (shared/posters beside the repository) are absent"
)
def test_the_labelled_posters_of_the_tutorial():
    labelled, report = read_labels(REAL_CSV.read_bytes(), REAL_CSV.name)
    assert (report.rows, report.distinct, len(report.duplicates)) == (7_254, 7_242, 12)
    assert (report.conflicting, report.disagreements, report.unlabelled, report.unreadable) == ([], [], [], {})
    assert report.rare_labels == {"N/A": 9, "Reality-TV": 2}
    assert len(report.only_rare_labels) == 10
    assert labelled.multi_hot.shape == (7_232, 23)
    assert labelled.ids[0] == "tt0086425"
    positives = dict(zip(labelled.labels, labelled.positives().tolist(), strict=True))
    assert (positives["Drama"], positives["Comedy"], positives["News"]) == (3_617, 2_895, 21)
