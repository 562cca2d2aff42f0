"""The SQL that `genretag warehouse` generates fits the schema and each dialect's parser.

Hostile labels and locations do no harm.
"""

import re
from dataclasses import replace
from datetime import date

import duckdb
import pytest
import sqlglot
import yaml
from conftest import REPOSITORY
from sqlglot import exp
from warehouse_rows import HOSTILE, LABELS, night, opened, query_results, scored, write_some_nights

from genretag.commands.warehouse import generate
from genretag.errors import UsageError
from genretag.model.bundle import DEFAULT_BUNDLE, load_bundle, write_bundle
from genretag.output.schema import failures_schema, predictions_schema
from genretag.output.warehouse import DIALECTS
from genretag.settings import WarehouseSettings
from genretag.storage import Storage

# Beginnings of statements that sqlglot does not parse, by dialect
NOT_PARSED = {
    "trino": {"CALL"},
    "bigquery": {"CREATE EXTERNAL TABLE"},  # sqlglot does not know WITH PARTITION COLUMNS
    "snowflake": {"ALTER EXTERNAL TABLE"},
    "redshift": {"CREATE EXTERNAL SCHEMA"},
    "databricks": {"MSCK REPAIR TABLE"},
}


def place(dialect):
    return "gs://films/genres" if dialect == "bigquery" else "s3://films/genres"


def statements(text, dialect):
    """Return the parsed statements of an SQL file."""
    found = sqlglot.parse(text, dialect=dialect, error_level=sqlglot.ErrorLevel.RAISE)
    return [statement for statement in found if statement and not isinstance(statement, exp.Semicolon)]


def sql_files(dialect, labels=LABELS, **settings):
    files = generate(labels, dialect, place(dialect), WarehouseSettings(**settings))
    return {name: text for name, text in files.items() if name.endswith(".sql")}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_files_in_the_repository_are_what_the_command_generates(dialect):
    labels = load_bundle(str(DEFAULT_BUNDLE), Storage()).labels
    folder = REPOSITORY / "cluster" / "warehouse" / dialect

    there = {file.name: file.read_text() for file in folder.iterdir()}

    again = f"genretag warehouse --dialect {dialect} --location {place(dialect)} --output cluster/warehouse/{dialect}"
    assert there == generate(labels, dialect, place(dialect)), f"run: {again}"


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("labels", [LABELS, HOSTILE], ids=["plain", "hostile"])
def test_every_statement_is_valid_in_the_grammar_of_its_warehouse(dialect, labels):
    not_parsed = set()
    for text in sql_files(dialect, labels).values():
        for statement in statements(text, dialect):
            if isinstance(statement, exp.Command):
                words = re.sub(r"/\*.*?\*/", "", statement.sql()).upper().split()
                not_parsed.add(" ".join(words[: 1 if words[0] == "CALL" else 3]))
    assert not_parsed == NOT_PARSED.get(dialect, set())


@pytest.mark.parametrize("dialect", DIALECTS)
def test_hostile_labels_add_no_statement(dialect):
    plain, hostile = sql_files(dialect, [f"label {n}" for n in range(len(HOSTILE))]), sql_files(dialect, HOSTILE)

    for name in plain:
        kinds = [[type(statement) for statement in statements(files[name], dialect)] for files in (plain, hostile)]
        assert kinds[0] == kinds[1], name


def declared_columns(text):
    """Return the columns of each CREATE TABLE in a file, including partition columns."""
    tables = {}
    for name, body in re.findall(
        r"create (?:external )?table (?:if not exists )?([\w.]+) \(\n(.*?);$", text, re.S | re.M
    ):
        lines = body.splitlines()
        names = [line.split()[0] for line in lines[: lines.index(")")]]
        tables[name.split(".")[-1]] = names + ([] if names[-1] == "dt" else re.findall(r"^.*\((dt) date\)", body, re.M))
    return tables


@pytest.mark.parametrize("dialect", [name for name in DIALECTS if name != "duckdb"])
def test_the_tables_have_the_columns_of_the_files_and_the_night(dialect):
    lists = [] if DIALECTS[dialect].has_lists else ["genres"]
    of = night(date(2026, 11, 20))
    schemas = {"predictions": predictions_schema(of).names, "failures": failures_schema(of).names}

    assert declared_columns(sql_files(dialect)["tables.sql"]) == {
        table: [name for name in [*names, "dt"] if name not in lists] for table, names in schemas.items()
    }


@pytest.fixture(scope="module")
def some_nights(tmp_path_factory):
    """Return an output with three nights."""
    output = tmp_path_factory.mktemp("nights")
    write_some_nights(output)
    return output


def translated(dialect, output):
    """Return a DuckDB with the views and checks of another dialect, and the queries of that dialect.

    sqlglot translates them to DuckDB.
    """
    database = opened(output)
    for view in (
        "data_quality",
        "nights",
        "current_failures",
        "current_genre_scores",
        "genre_scores",
        "current_genres",
    ):
        database.execute(f"drop view genretag.{view}")
    suffix = DIALECTS[dialect].tables_suffix
    if suffix:
        database.execute(f"create schema genretag{suffix}")
        for table in ("predictions", "failures"):
            database.execute(f"create view genretag{suffix}.{table} as from genretag.{table}")
    ours = {"schema": "memory.genretag"} if dialect == "trino" else {}
    files = {name: text.replace(" with no schema binding", "") for name, text in sql_files(dialect, **ours).items()}
    for name in ("views.sql", "checks.sql"):
        for statement in statements(files[name], dialect):
            database.execute(statement.sql(dialect="duckdb")).fetchall()
    return database, [statement.sql(dialect="duckdb") for statement in statements(files["queries.sql"], dialect)]


def rows_of(database, view, columns="*"):
    return database.sql(f"select {columns} from genretag.{view} order by all").to_arrow_table().to_pylist()


@pytest.mark.parametrize("dialect", [name for name in DIALECTS if name != "duckdb"])
def test_every_dialect_gives_the_rows_that_duckdb_gives(dialect, some_nights):
    ours = opened(some_nights)
    theirs, queries = translated(dialect, some_nights)

    for view in ("genre_scores", "current_genre_scores", "current_failures", "nights", "data_quality"):
        assert rows_of(theirs, view) == rows_of(ours, view), view
    no_list = "* exclude (genres)"  # without `genres`, which is text in Redshift
    assert rows_of(theirs, "current_genres", no_list) == rows_of(ours, "current_genres", no_list)
    assert [theirs.execute(query).fetchall() for query in queries] == query_results(ours)
    assert all(query_results(ours))


@pytest.mark.parametrize(
    ("dialect", "is_nan"),
    [
        ("athena", "is_nan(p_drama)"),
        ("trino", "is_nan(p_drama)"),
        ("bigquery", "is_nan(p_drama)"),
        ("databricks", "isnan(p_drama)"),
        ("snowflake", "lower(cast(p_drama as varchar)) = 'nan'"),
        ("redshift", "lower(cast(p_drama as varchar)) = 'nan'"),
    ],
)
def test_every_dialect_checks_for_nan_explicitly_because_file_statistics_omit_it(dialect, is_nan, tmp_path):
    for day in (20, 21):  # two files, because DuckDB answers from the statistics if there is only one file
        posters = [("a", (0.9, 0.2, 0.1)), ("b", (float("nan"), 0.3, 0.1))]
        scored(tmp_path, night(date(2026, 11, day)), [(f"s3://p/{day}{name}.jpg", "1", row) for name, row in posters])

    database, _ = translated(dialect, tmp_path)

    assert is_nan in sql_files(dialect)["checks.sql"]
    found = "select found, detail from genretag.data_quality where check_name = 'probabilities' order by dt"
    assert database.sql(found).fetchall() == [(1, "s3://p/20b.jpg"), (1, "s3://p/21b.jpg")]


def test_redshift_has_the_genres_as_text(some_nights):
    theirs, _ = translated("redshift", some_nights)

    genres = theirs.sql("select uri, genres from genretag.current_genres order by uri").fetchall()

    assert genres == [("s3://p/a.jpg", "Drama, Comedy"), ("s3://p/b.jpg", ""), ("s3://p/c.jpg", "Sci-Fi")]


def test_hostile_labels_come_out_word_for_word(tmp_path):
    of = night(date(2026, 11, 20), labels=HOSTILE)
    scored(tmp_path, of, [("s3://p/a.jpg", "1", (0.9, 0.8, 0.7, 0.6, 0.55, 0.51))])

    database = opened(tmp_path, HOSTILE)

    genres = database.sql("select genre from genretag.genre_scores order by probability desc").fetchall()
    assert genres == [(label,) for label in HOSTILE]
    assert database.sql("select count(*) from genretag.data_quality where check_name = 'genres'").fetchall() == [(0,)]
    assert query_results(database, HOSTILE)[4][0][0] == "a.jpg"


@pytest.mark.parametrize("dialect", ["bigquery", "redshift", "snowflake", "trino", "athena"])
def test_each_dialect_reads_back_the_label_that_it_was_given(dialect):
    views = statements(sql_files(dialect, HOSTILE)["views.sql"], dialect)
    literals = {literal.this for view in views for literal in view.find_all(exp.Literal)}

    assert set(HOSTILE) <= literals


def test_hostile_labels_contain_no_variable_that_spark_would_substitute():
    text = "".join(sql_files("databricks", HOSTILE).values())

    assert "${" not in text
    assert "{{" not in text


@pytest.mark.parametrize(
    ("labels", "dialect", "says"),
    [
        (("a\nb",), "duckdb", "label 'a b' has a control character: rename it and train again"),
        (("a\x00b",), "trino", "has a control character"),
        (("x" * 126,), "redshift", "would be a column of 129 characters, and redshift takes 127: shorten it"),
        (("Sci-Fi", "Sci Fi"), "athena", "would both be the column sci_fi"),
    ],
)
def test_labels_that_a_warehouse_cannot_store_are_refused(labels, dialect, says):
    with pytest.raises(UsageError, match=says):
        generate(labels, dialect, "s3://films/genres")


@pytest.fixture
def refused(command):
    """Return a function that runs `genretag warehouse`, requires exit code 2 and one line, and returns the line."""

    def run(*arguments):
        code, out, err = command("warehouse", *arguments)
        assert (code, out) == (2, "")
        assert "\n" not in err.rstrip("\n")
        return err.strip().removeprefix("genretag: ")

    return run


@pytest.mark.parametrize(
    ("dialect", "says"),
    [
        ("atena", "there is no dialect 'atena': did you mean athena?"),
        ("Snowflake", "there is no dialect 'Snowflake': did you mean snowflake?"),
        ("spark", "there is no dialect 'spark': did you mean databricks?"),
        (
            "db2",
            "there is no dialect 'db2': known are athena, bigquery, databricks, duckdb, redshift, snowflake, trino",
        ),
    ],
)
def test_an_unknown_dialect_is_refused(refused, dialect, says):
    assert refused("--dialect", dialect, "--location", "s3://films/genres") == says


@pytest.mark.parametrize(
    ("dialect", "location", "says"),
    [
        ("athena", "genres", "athena cannot read 'genres': write s3://BUCKET/PREFIX"),
        ("athena", "gs://films/genres", "athena cannot read 'gs://films/genres': write s3://BUCKET/PREFIX"),
        ("snowflake", "s3://", "snowflake cannot read 's3://': write s3://BUCKET/PREFIX"),
        ("bigquery", "s3://films/genres", "reads s3:// through a connection only: add --access aws-us-east-1.NAME"),
        ("athena", "s3://films/x'); drop table y; --", 'has "\'" in it, which warehouses take for something else'),
        ("duckdb", "s3://films/*", "has '*' in it"),
        ("duckdb", "/films/a\\b", r"has '\\' in it"),
        ("duckdb", "/films/a\nb", r"has '\n' in it"),
        ("databricks", "/films/it's", 'has "\'" in it'),
        ("trino", "s3://films/a\nb", r"has '\n' in it"),
        ("databricks", "s3://films/${env:HOME}", "has '$' in it"),
    ],
)
def test_an_unusable_location_is_refused(refused, dialect, location, says):
    assert says in refused("--dialect", dialect, "--location", location)


@pytest.mark.parametrize(
    ("dialect", "settings", "says"),
    [
        ("trino", ("--schema", "genretag"), "the schema for trino must be CATALOG.SCHEMA, not 'genretag'"),
        ("redshift", ("--schema", "a.b"), "the schema for redshift must be SCHEMA, not 'a.b'"),
        ("athena", ("--schema", "my-films"), "the schema for athena must be of a-z, 0-9 and _, not 'my-films'"),
        ("duckdb", ("--schema", "x; drop"), "schema must be a name such as genretag or films.genretag"),
        ("snowflake", ("--access", "x'y"), "access must be the name of an integration, a connection or a role"),
        ("athena", ("--access", "x"), "athena reaches the bucket by its own configuration: leave out --access"),
    ],
)
def test_settings_that_do_not_fit_the_warehouse_are_refused(refused, dialect, settings, says):
    assert says in refused("--dialect", dialect, "--location", place(dialect), *settings)


def test_names_and_access_are_quoted_as_the_dialect_has_it():
    bigquery = generate(
        LABELS, "bigquery", "s3://films/genres", WarehouseSettings("my-project.films", "aws-us-east-1.reader")
    )
    redshift = sql_files("redshift", access="arn:aws:iam::123456789012:role/reader")
    snowflake = sql_files("snowflake", schema="LAKE.films", access="lake_reader")

    assert "create external table if not exists `my-project`.films.predictions (" in bigquery["tables.sql"]
    assert "with connection `aws-us-east-1`.reader" in bigquery["tables.sql"]
    assert "iam_role 'arn:aws:iam::123456789012:role/reader'" in redshift["tables.sql"]
    assert 'create external table if not exists "LAKE".films.predictions (' in snowflake["tables.sql"]
    assert "storage_integration = lake_reader;" in snowflake["tables.sql"]


def test_the_sql_is_printed_or_written_to_a_folder(command, tmp_path):
    duckdb_of = ("warehouse", "--dialect", "duckdb", "--location", tmp_path / "out")

    code, printed, _ = command(*duckdb_of)
    assert code == 0
    assert printed.startswith("-- tables.sql\n-- Generated by: genretag warehouse --dialect duckdb --location /")
    code, says, _ = command(*duckdb_of, "--output", tmp_path / "a" / "b")
    assert (code, says) == (0, f"tables.sql, views.sql, checks.sql, queries.sql, sources.yml: {tmp_path}/a/b\n")
    assert (tmp_path / "a" / "b" / "views.sql").read_text() in printed


def test_an_unwritable_output_folder_is_refused(refused, tmp_path):
    (tmp_path / "file").write_text("in the way")

    line = refused("--dialect", "athena", "--location", "s3://a/b", "--output", tmp_path / "file")

    assert line.startswith(f"cannot write to {tmp_path}/file")


def test_the_columns_follow_the_labels_of_the_model(command, tmp_path):
    bundle = load_bundle(str(DEFAULT_BUNDLE), Storage())
    write_bundle(replace(bundle, labels=(*bundle.labels[:-1], "Opéra")), str(tmp_path / "other"), Storage())

    code, out, _ = command("warehouse", "--dialect", "trino", "--location", "s3://a/b", "--model", tmp_path / "other")

    assert code == 0
    assert "p_opera real" in out
    assert "when 'Opéra' then p.p_opera" in out
    assert "western" not in out


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_dbt_source_has_columns_tests_and_freshness(dialect):
    source = yaml.safe_load(generate(HOSTILE, dialect, place(dialect))["sources.yml"])["sources"][0]

    predictions, failures = source["tables"]
    lists = [] if DIALECTS[dialect].has_lists else ["genres"]
    of = night(date(2026, 11, 20), labels=HOSTILE)
    for table, schema in ((predictions, predictions_schema(of)), (failures, failures_schema(of))):
        names = [column["name"] for column in table["columns"]]
        assert names == [name for name in [*schema.names, "dt"] if name not in lists]
        nullable = {column["name"] for column in table["columns"] if "data_tests" not in column}
        assert nullable == {field.name for field in schema if field.nullable}
    assert predictions["config"]["loaded_at_field"] in predictions_schema(of).names
    assert predictions["config"]["freshness"]["warn_after"] == {"count": 26, "period": "hour"}
    assert "{" not in str([column["description"] for column in predictions["columns"]])


def test_every_type_of_the_duckdb_dialect_exists_in_duckdb():
    for type_name in DIALECTS["duckdb"].types.values():
        duckdb.sql(f"select null::{type_name}")


FORMATS = [(dialect, kind) for dialect in DIALECTS for kind in ("iceberg", "delta")]


def table_settings(kind):
    return {"format": kind, **({"table": "films.genres"} if kind == "iceberg" else {})}


@pytest.mark.parametrize(("dialect", "kind"), FORMATS)
def test_statements_for_a_table_are_valid_and_read_it_instead_of_the_files(dialect, kind):
    if (dialect, kind) == ("redshift", "delta"):
        with pytest.raises(UsageError, match="redshift reads no Delta table"):
            sql_files(dialect, **table_settings(kind))
        return
    files = sql_files(dialect, **table_settings(kind))

    for text in files.values():
        assert statements(text, dialect)
    assert list(files) == list(sql_files(dialect)), "the same files, in the same order"
    made = files["tables.sql"]
    if kind == "iceberg":
        assert "films.genres" in made
        assert "predictions/dt=*" not in made
    else:
        assert "delta" in made.lower()
        assert "/predictions" in made
    assert "failures/" in made


@pytest.mark.parametrize("dialect", DIALECTS)
def test_hostile_labels_add_no_statement_for_an_iceberg_table(dialect):
    plain, hostile = (
        sql_files(dialect, labels, **table_settings("iceberg"))
        for labels in ([f"label {n}" for n in range(len(HOSTILE))], HOSTILE)
    )

    for name in plain:
        kinds = [[type(statement) for statement in statements(files[name], dialect)] for files in (plain, hostile)]
        assert kinds[0] == kinds[1], name


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"format": "orc"}, "parquet, iceberg or delta"),
        ({"format": "iceberg"}, "go together"),
        ({"table": "films.genres"}, "go together"),
        ({"format": "iceberg", "table": "films; drop table x"}, "a name such as films.genres"),
    ],
)
def test_a_wrong_format_or_table_is_refused(settings, says):
    with pytest.raises(UsageError, match=says):
        WarehouseSettings(**settings)


def test_duckdb_reads_an_iceberg_table_through_the_views(tmp_path):
    """The views are over any relation of that name: here the part files stand in for DuckDB's Iceberg extension."""
    write_some_nights(tmp_path)
    database = duckdb.connect()
    database.sql("create schema films")
    files = f"read_parquet('{tmp_path}/predictions/dt=*/*.parquet', hive_partitioning = false)"
    database.sql(f"create view films.genres as select * from {files}")
    for name, text in generate(LABELS, "duckdb", str(tmp_path), WarehouseSettings(**table_settings("iceberg"))).items():
        if name.endswith(".sql"):
            database.execute(text).fetchall()

    rows = "select uri, model_version from genretag.current_genres order by uri"
    assert database.sql(rows).fetchall() == opened(tmp_path).sql(rows).fetchall()


@pytest.mark.parametrize(
    ("location", "url"),
    [
        ("s3://films/genres", "s3://films/genres/"),
        ("gs://films/genres", "gcs://films/genres/"),
        ("abfss://films@studio.dfs.core.windows.net/genres", "azure://studio.blob.core.windows.net/films/genres/"),
    ],
)
def test_snowflake_gets_a_location_as_it_writes_it(location, url):
    assert f"url = '{url}'" in generate(LABELS, "snowflake", location)["tables.sql"]
