"""The separator between labels is detected, given by the user, or the file is refused. No cell is split wrongly."""

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from label_reading import labels_by_id, read

from genretag.data.labels import LabelError

WEATHER = ["clear", "haze", "road", "water"]


def table(cells, column="labels"):
    """Return a CSV with these cells in one column of labels."""
    quoted = ('"' + cell.replace('"', '""') + '"' for cell in cells)
    return f"id,{column}\n" + "".join(f"{number},{cell}\n" for number, cell in enumerate(quoted))


def lists(mark, words):
    """Return all combinations of one to three of the words, joined by `mark`."""
    return [mark.join(chosen) for size in (1, 2, 3) for chosen in combinations(words, size)]


@pytest.mark.parametrize(
    ("mark", "name"), [(" ", "space"), ("/", "'/'"), ("\n", "newline"), ("|", "'|'"), ("; ", "';'"), (", ", "','")]
)
def test_the_separator_is_detected_if_the_parts_also_occur_alone(mark, name):
    labelled, report = read(table(lists(mark, WEATHER)))
    assert labelled.labels == tuple(WEATHER)
    assert labelled.positives().tolist() == [7, 7, 7, 7]
    assert report.lines()[2].startswith(f"  labels: column labels, separator {name} (")


def test_labels_of_several_words_stay_whole():
    assert read(table(["Film Noir", "Science Fiction", "Dark Comedy", "Comedy"]))[0].labels == (
        "Comedy",
        "Dark Comedy",
        "Film Noir",
        "Science Fiction",
    )
    assert read(table(["International Movies, TV Dramas", "TV Comedies", "TV Dramas"]))[0].labels == (
        "International Movies",
        "TV Comedies",
        "TV Dramas",
    )


@pytest.mark.parametrize(
    ("cells", "why"),
    [
        (["Action Movie", "Action Game", "Comedy Movie", "Comedy Game"], "may be one label or several"),
        (["Drama|War", "Drama,War", "Drama", "War"], "both '|' and ',' stand between labels"),
        ([*(f"{word} ;d" for word in lists(" ", WEATHER)), *lists(" ", WEATHER)], "';' or space may stand between"),
    ],
    ids=["two words", "two marks", "a mark inside"],
)
def test_cells_that_can_be_read_in_two_ways_are_refused_with_the_flag_that_decides(cells, why):
    with pytest.raises(LabelError) as caught:
        read(table(cells))
    assert str(caught.value).startswith("posters.csv: column 'labels': ")
    assert why in str(caught.value)
    assert "--label-separator" in str(caught.value)


def test_a_column_of_one_label_a_row_whose_cells_are_lists_is_refused():
    with pytest.raises(LabelError, match=r"look like lists with '\|', its name says one label.* --label-separator"):
        read(table(lists("|", WEATHER), "label"))
    assert len(read(table(lists("|", WEATHER), "label"), label_separator="|")[0].labels) == 4


@pytest.mark.parametrize(
    ("given", "cell", "labels"),
    [
        ("space", "War  Drama\tNews", ["Drama", "News", "War"]),
        (" ", "War Drama", ["Drama", "War"]),
        ("none", "War|Drama, News", ["War|Drama, News"]),
        ("newline", "Sci Fi\nWar", ["Sci Fi", "War"]),
        ("::", "Sci Fi::War", ["Sci Fi", "War"]),
        (",", "War, Drama;News", ["Drama;News", "War"]),
    ],
)
def test_a_separator_is_named_by_a_word_or_is_the_text_itself(given, cell, labels):
    assert labels_by_id(table([cell]), label_separator=given) == {"0": labels}


@pytest.mark.parametrize("word", ["nan", "NaN", "NULL", "None", "\\N", "NA", "<NA>", "#N/A", "-", "(no genres listed)"])
@pytest.mark.parametrize("cell", ["{}", "['{}']"])
def test_words_such_as_nan_mean_no_label(word, cell):
    listed = word.replace("\\", "\\\\") if cell != "{}" else word
    labelled, report = read(table(["War|Drama", "Drama", cell.format(listed), f"War|{word}"]))
    assert labelled.labels == ("Drama", "War")
    assert report.unlabelled == [4]
    if cell == "{}":
        assert f"  cells without a label: '{word}': 1" in report.lines()


def test_words_that_may_be_a_genre_are_labels():
    assert read(table(["N/A", "No Finding", "Unknown", "War|N/A"]))[0].labels == ("N/A", "No Finding", "Unknown", "War")


def test_the_users_words_for_no_label_replace_the_default_ones():
    found = labels_by_id(table(["Unknown", "None", "War|unknown"]), unlabelled_word=("unknown",))
    assert found == {"1": ["None"], "2": ["War"]}


words = st.sampled_from(["War", "Drama", "Film Noir", "Sci-Fi", "Rock & Roll", "N/A", "(500) Days", "Don't", "No 1"])
cells_of_lists = st.lists(st.lists(words, min_size=1, max_size=3, unique=True), min_size=1, max_size=30)


@settings(deadline=None)
@given(cells_of_lists, st.sampled_from(["|", ";", ",", " | ", ", "]))
def test_lists_with_a_common_separator_are_read_back_or_refused(chosen, mark):
    text = table([mark.join(labels) for labels in chosen])
    expected = {str(number): sorted(labels) for number, labels in enumerate(chosen)}
    assert labels_by_id(text, label_separator=mark.strip()) == expected
    try:
        found = labels_by_id(text)
    except LabelError as error:
        assert "--label-separator" in str(error)
        return
    assert found == expected


@settings(deadline=None)
@given(st.lists(st.lists(st.sampled_from(WEATHER), min_size=1, unique=True), min_size=8, max_size=60))
def test_cells_of_several_words_are_split_at_spaces_or_refused(chosen):
    """Ten different cells of four words are enough to see that the words are the labels."""
    if len({tuple(labels) for labels in chosen}) < 10 or len({len(labels) for labels in chosen}) < 2:
        return
    try:
        found = labels_by_id(table([" ".join(labels) for labels in chosen]))
    except LabelError as error:
        assert "--label-separator" in str(error)
        return
    assert found == {str(number): sorted(labels) for number, labels in enumerate(chosen)}
