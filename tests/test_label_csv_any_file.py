"""Any file is read or refused, written tables are read back, and every row is kept or reported."""

import csv
import io

from hypothesis import given, settings
from hypothesis import strategies as st
from label_reading import read

from genretag.data.labels import LabelError

cells = st.text(max_size=8) | st.sampled_from(["id", "label", "labels", "War", "0", "1", "", "a|b", "['a']", "x.jpg"])
tables = st.lists(st.lists(cells, min_size=2, max_size=4), max_size=6)


def written(rows):
    """Return the rows as CSV text."""
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
def test_labels_that_are_written_in_any_layout_are_read_back(posters, layout):
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
    assert report.rows == sum(row != (" ", "") for row in rows)  # a row of blanks only does not count as a row
    assert report.rows == report.distinct + report.joined + sum(map(len, left_out))
    assert report.distinct == len(labelled) + len(report.only_rare_labels)
