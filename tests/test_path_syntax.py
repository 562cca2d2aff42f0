"""A path that is written into SQL, a glob or a URI is read back unchanged, whatever its folders are called."""

import glob
import itertools
import sqlite3
import string
from pathlib import Path
from urllib.parse import unquote, urlsplit

import duckdb
import fsspec
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genretag.errors import UsageError
from genretag.output.iceberg_catalog import is_new_database
from genretag.scoring.database import open_database
from genretag.settings import TableSettings
from genretag.storage.paths import glob_pattern, parquet_rows, sql_name, sql_text, sqlite_file, sqlite_uri

WORDS = [
    "dt=2001-01-01",
    "uri=x",
    "%20",
    "%",
    "%25",
    "?",
    "#",
    "*",
    "**",
    "[a]",
    "[!a]",
    "]",
    "'",
    "''",
    '"',
    ";",
    "\\",
]
MORE = ["file:", "s3:", "~", "$HOME", "${x}", "{a,b}", "a:b@c", "&", "+", " ", "\t", "\n", "é", "e\u0301", "映", "😀"]
FOLDERS = st.lists(st.sampled_from([*WORDS, *MORE, *string.ascii_letters[:4]]), min_size=1, max_size=6).map("".join)
NUMBERS = itertools.count()

any_folder = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def in_folder(base, name):
    """Make a folder with this name, and return it.

    Next to it are folders that a wrongly quoted name would match.
    """
    place = base / str(next(NUMBERS))
    for other in {name, "a", "b", "aa", "x", "20", "dt=2001-01-01"}:
        (place / other).mkdir(parents=True)
        (place / other / "x").touch()
        pyarrow.parquet.write_table(pa.table({"uri": [other]}), place / other / "x.parquet")
    return place / name


@any_folder
# DuckDB reads a backslash as a slash, so `open_database` refuses it.
@given(FOLDERS.filter(lambda name: "\\" not in name))
def test_duckdb_reads_the_one_file_and_its_own_columns(tmp_path, name):
    file = in_folder(tmp_path, name) / "x.parquet"

    assert duckdb.sql(f"select * from {parquet_rows(file)}").to_arrow_table().to_pydict() == {"uri": [name]}


@any_folder
@given(FOLDERS)
def test_an_escaped_glob_matches_only_the_one_file(tmp_path, name):
    file = in_folder(tmp_path, name) / "x"

    assert glob.glob(glob_pattern(file), include_hidden=True) == [str(file)]  # noqa: PTH207 - of a pattern
    assert fsspec.filesystem("file").glob(glob_pattern(file)) == [str(file)]


@any_folder
@given(FOLDERS)
def test_sqlite_keeps_the_catalogue_in_the_file(tmp_path, name):
    sqlalchemy = pytest.importorskip("sqlalchemy")
    file = in_folder(tmp_path, name) / "catalogue.db"

    with sqlalchemy.create_engine(sqlite_uri(str(file))).begin() as connection:
        connection.exec_driver_sql("create table t (x)")

    assert sqlite3.connect(file).execute("select name from sqlite_master").fetchall() == [("t",)]
    assert sqlite_file(sqlite_uri(str(file))) == file


@settings(deadline=None)
@given(FOLDERS.filter(str.isprintable))
def test_another_parser_of_uris_reads_the_same_path(name):
    pytest.importorskip("sqlalchemy")

    parts = urlsplit(sqlite_uri(f"/films/{name}/c.db"))

    assert (parts.scheme, unquote(parts.path), parts.query, parts.fragment) == (
        "sqlite",
        f"//films/{name}/c.db",
        "",
        "",
    )


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1))
def test_quoted_texts_and_names_in_sql_are_read_back(text):
    assert duckdb.sql(f"select {sql_text(text)} as {sql_name(text)}").to_arrow_table().to_pydict() == {text: [text]}


@pytest.mark.parametrize(
    ("uri", "file"),
    [
        ("sqlite:////films/c.db", "/films/c.db"),
        ("sqlite:///here.db", "here.db"),
        ("sqlite+pysqlite:////films/a%3Fb%20c.db?timeout=5", "/films/a?b c.db"),
        ("sqlite://", None),
        ("sqlite:///:memory:", None),
        ("postgresql://user@host/db", None),
    ],
)
def test_the_file_of_a_sqlite_uri_is_found(uri, file):
    pytest.importorskip("sqlalchemy")

    assert sqlite_file(uri) == (file and Path(file))


def test_a_catalogue_uri_of_the_user_is_decoded_before_the_file_is_looked_for(tmp_path):
    pytest.importorskip("sqlalchemy")
    (tmp_path / "what?").mkdir()
    named = TableSettings("films.genres", f"sqlite:///{tmp_path}/what%3F/c.db")

    assert is_new_database(named, "s3://films/genres")
    (tmp_path / "what?" / "c.db").touch()
    assert not is_new_database(named, "s3://films/genres")


@pytest.mark.parametrize("name", ["what?", "back\\slash"])
def test_a_temporary_folder_that_duckdb_cannot_use_is_refused(tmp_path, name):
    (tmp_path / name).mkdir()

    with pytest.raises(UsageError, match=r"it has [?\\] in its path; set another TMPDIR"):
        open_database(tmp_path / name)
