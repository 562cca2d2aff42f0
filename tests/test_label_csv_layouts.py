"""Label tables in the layouts of public data sets and databases are read as their makers meant them, or refused.

The rows are made up. Each test names the source of its layout.
"""

import pytest
from label_reading import labels_by_id, read

from genretag.data.labels import LabelError


def test_a_cell_may_be_of_any_length():
    text = f'id,labels,plot\na,War|Drama,"{"very good, " * 20_000}"\nb,War,short\n'
    assert labels_by_id(text) == {"a": ["Drama", "War"], "b": ["War"]}


def test_in_imdbs_table_with_tabs_a_quote_is_an_ordinary_character():
    """In title.basics.tsv a title may begin with a quote (C2FO/fast-csv issue 337), and \\N means no value."""
    rows = [
        ["tconst", "titleType", "primaryTitle", "isAdult", "startYear", "genres"],
        ["tt01", "movie", '"Take it" easy', "0", "1940", "Comedy,Music"],
        ["tt02", "movie", 'The "Red" Room', "0", "\\N", "\\N"],
        ["tt03", "short", '"Dusk"', "0", "1951", "Music"],
        ["tt04", "movie", '"Dawn', "1", "1951", "Comedy"],
    ]
    labelled, report = read("".join("\t".join(row) + "\n" for row in rows))
    assert labelled.ids == ("tt01", "tt03", "tt04")
    assert labelled.multi_hot.tolist() == [[1, 1], [0, 1], [1, 0]]
    assert report.unlabelled == [3]


def test_tabs_and_line_breaks_inside_quotes_are_read_as_csv():
    assert labels_by_id('id\tlabels\n"a\tb"\t"War|""Drama"""\n"c"\t"War"\n') == {
        "a\tb": ['"Drama"', "War"],
        "c": ["War"],
    }


@pytest.mark.parametrize(
    "cell",
    [
        "[{'id': 10752, 'name': 'War'}, {'id': 18, 'name': 'Drama'}]",
        '[{"id": 18, "name": "Drama"}, {"id": 10752, "name": "War"}]',
        "{'War', 'Drama'}",
        "('War', 'Drama')",
        '{War,"Drama"}',
    ],
    ids=["TMDB in Python", "TMDB in JSON", "a set", "a tuple", "PostgreSQL"],
)
def test_lists_are_read_as_programs_and_databases_print_them(cell):
    quoted = cell.replace('"', '""')
    assert labels_by_id(f'id,title,genres\na,Heat,"{quoted}"\nb,Ran,[]\nc,Up,{{}}\n') == {"a": ["Drama", "War"]}


@pytest.mark.parametrize("cell", ["{War", "[{'id': 18}]", "{'War': True}", '{"a": {"b": 1}}', "{War,{Drama}}"])
def test_text_in_brackets_that_is_no_list_of_names_is_unreadable(cell):
    quoted = cell.replace('"', '""')
    _, report = read(f'id,labels\na,War\nb,"{quoted}"\n')
    assert list(report.unreadable) == [3]


def test_brackets_may_be_part_of_a_label():
    assert labels_by_id("id,labels\na,(500) Days|War (1939)\n") == {"a": ["(500) Days", "War (1939)"]}


def test_open_images_rows_with_confidence_0_mean_that_the_label_is_absent():
    """Labels that people verified are present (1) or absent (0).

    See EscVM/OIDv4_ToolKit issue 87 and datumaro pull request 291.
    """
    text = (
        "ImageID,Source,LabelName,Confidence\na,verification,/m/01,1\na,verification,/m/02,0\n"
        "b,verification,/m/02,1\nb,verification,/m/01,1\nc,verification,/m/01,0\n"
    )
    labelled, report = read(text)
    assert labelled.ids == ("a", "b")
    assert labelled.multi_hot.tolist() == [[1, 0], [1, 1]]
    assert (report.absent, report.joined) == ([3, 6], 1)


def test_confidences_between_0_and_1_are_refused():
    text = "ImageID,LabelName,Confidence\n" + "".join(f"{n},/m/01,0.{n % 10}\n" for n in range(20))
    with pytest.raises(
        LabelError, match=r"18 of 20 rows cannot be used.*value cannot be read: 18 \(lines 3: Confidence '0.1'"
    ):
        read(text)


def test_several_boxes_of_a_class_give_the_poster_the_class_once():
    """Data sets for object detection have one row for each box: filename,width,height,class,xmin,..."""
    text = "filename,width,height,class,xmin\na.jpg,9,9,dog,1\na.jpg,9,9,dog,5\na.jpg,9,9,cat,3\nb.jpg,9,9,cat,1\n"
    assert labels_by_id(text) == {"a": ["cat", "dog"], "b": ["cat"]}


def test_repeated_ids_with_single_labels_are_read_as_one_label_a_row():
    text = "movieId,genre\n" + "".join(f"{n},{genre}\n" for n in range(5) for genre in ("War", "Drama"))
    labelled, report = read(text)
    assert labelled.multi_hot.tolist() == [[1, 1]] * 5
    assert report.layout == "one label a row in genre"
    assert report.conflicting == []


@pytest.mark.parametrize("count", ["", "3\n"], ids=["names on top", "a count on top"])
def test_celebas_list_with_spaces_and_without_a_name_for_the_id_column_is_read(count):
    """list_attr_celeba.txt has the number of rows, then the names, then an id and 1 or -1 for each name."""
    text = count + "Young No_Beard  Bald \n1.jpg  1 -1 -1\n2.jpg -1  1  1\n3.jpg  1  1 -1\n"
    assert labels_by_id(text, false_value=("-1",)) == {
        "1": ["Young"],
        "2": ["No_Beard", "Bald"],
        "3": ["Young", "No_Beard"],
    }


def test_the_value_minus_1_of_chexpert_is_refused_until_the_user_says_what_it_means():
    text = "Path,Age,Edema,Fracture\np1.jpg,50,1.0,\np2.jpg,61,-1.0,1.0\np3.jpg,70,0.0,1.0\n"
    with pytest.raises(LabelError, match=r"columns hold -1.* may mean no or unknown"):
        read(text)
    zeros = labels_by_id(text, false_value=("0", "-1", "blank"))
    assert zeros == {"p1": ["Edema"], "p2": ["Fracture"], "p3": ["Fracture"]}


def test_rows_with_stray_commas_are_refused_or_left_out_with_their_lines_if_the_user_allows_it():
    """In styles.csv of a public fashion data set, some product names have a comma but no quotes."""
    text = "id,articleType,label,name\n1,Shirt,Red,Plain\n2,Shirt,Blue,Plain, striped\n3,Cap,Red,Wool\n"
    with pytest.raises(LabelError, match=r"1 \(lines 3\); put quotes .* or pass --allow-left-out"):
        read(text)
    labelled, report = read(text, allow_left_out=True)
    assert (labelled.ids, report.ragged) == (("1", "3"), [3])
    assert "  rows left out, more or fewer cells than the header: 1 (lines 3)" in report.lines()


@pytest.mark.parametrize(
    "text",
    [
        "sep=;\nid;labels\na;War\na;War\n",
        '"sep=,"\r\nid,labels\r\na,War\r\na,War\r\n',
        "id|War\na|1\n",
        "sep=|\nid|War\na|1\n",
    ],
    ids=["Excel's own line", "quoted", "bars", "bars with a line"],
)
def test_the_delimiter_may_be_named_in_the_first_line_or_be_a_bar(text):
    assert labels_by_id(text) == {"a": ["War"]}
    _, report = read(text)
    assert report.duplicates == ([4] if "a;War" in text or "a,War" in text else [])


@pytest.mark.parametrize("name", ["Image Index", "Path", "image_path", "tconst"])
def test_ids_have_these_names_too(name):
    assert labels_by_id(f"{name},labels\nsome/a.jpg,War\n") == {"a": ["War"]}


@pytest.mark.parametrize("name", ["Finding Labels", "tag_string", "attribute_ids", "class_name", "Category"])
def test_labels_have_these_names_too_where_no_other_columns_look_like_labels(name):
    assert labels_by_id(f"id,{name}\na,War\n") == {"a": ["War"]}
    assert labels_by_id(f"id,{name},Drama,War\na,big,1,0\nb,big,0,1\n") == {"a": ["Drama"], "b": ["War"]}
