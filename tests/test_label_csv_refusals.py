"""A CSV of labels that cannot be used is refused in one line that names it and says why."""

import pytest
from label_reading import read

from genretag.data.labels import LabelError
from genretag.errors import UsageError


def refusal(text, **options):
    with pytest.raises(LabelError) as caught:
        read(text, **options)
    return str(caught.value)


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
        "posters.csv: no label has 3 posters, the most is 2: lower --min-positives, "
        "or name the --label-separator if these are several labels: 'War'"
    )


def test_a_column_that_is_asked_for_and_missing_is_refused_with_those_there_are():
    assert refusal("id,War\na,1\n", id_column="key") == "posters.csv: no column is called 'key': there are 'id', 'War'"


def test_a_refusal_is_a_usage_error_so_that_the_command_shows_no_traceback():
    assert issubclass(LabelError, UsageError)
