"""The SQL for Databricks gives the rows of DuckDB in Spark, if PySpark and a Java runtime are installed."""

import re
import shutil
from datetime import date

import pytest
from warehouse_rows import HOSTILE, LABELS, failed, night, opened, query_results, scored, write_some_nights

from genretag.commands.warehouse import generate

pyspark_sql = pytest.importorskip("pyspark.sql", reason="PySpark is not installed (extra bench)")
if shutil.which("java") is None:
    pytest.skip("there is no Java runtime for Spark", allow_module_level=True)
pytestmark = pytest.mark.slow
QUIET = {
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.sql.shuffle.partitions": "1",
    "spark.sql.session.timeZone": "UTC",
}


@pytest.fixture(scope="module")
def spark(tmp_path_factory):
    builder = pyspark_sql.SparkSession.builder.master("local[1]")
    for name, value in QUIET.items():
        builder = builder.config(name, value)
    session = builder.config("spark.sql.warehouse.dir", str(tmp_path_factory.mktemp("spark"))).getOrCreate()
    session.sparkContext.setLogLevel("OFF")
    yield session
    session.stop()


@pytest.fixture
def in_spark(spark):
    """Return a function that runs the SQL files of an output in their order.

    The function returns the rows of each select.
    """
    yield lambda output, labels: [
        [tuple(row) for row in spark.sql(statement).collect()]
        for name, text in generate(labels, "databricks", str(output)).items()
        if name.endswith(".sql")
        for statement in text.split(";\n")
        if re.sub(r"--.*", "", statement).strip()
    ]
    spark.sql("drop database genretag cascade")


def rounded(rows):
    return [tuple(round(value, 6) if isinstance(value, float) else value for value in row) for row in rows]


def test_spark_gives_the_rows_that_duckdb_gives(in_spark, spark, tmp_path):
    write_some_nights(tmp_path)
    duckdb = opened(tmp_path)

    *_, found, shares, drift, uncertain, together, of_a_genre, why_failed = in_spark(tmp_path, LABELS)

    findings = "select check_name, dt, found, detail from genretag.data_quality order by dt desc, check_name"
    assert found == duckdb.sql(findings).fetchall()
    queries = [shares, drift, uncertain, together, of_a_genre, why_failed]
    assert [rounded(rows) for rows in queries] == [rounded(rows) for rows in query_results(duckdb)]
    current = "select uri, etag, genres, dt from genretag.current_genres order by uri"
    assert [tuple(row) for row in spark.sql(current).collect()] == duckdb.sql(current).fetchall()


def test_hostile_labels_come_out_word_for_word(in_spark, spark, tmp_path):
    of = night(date(2026, 11, 20), labels=HOSTILE)
    scored(tmp_path, of, [("s3://p/a.jpg", "1", (0.9, 0.8, 0.7, 0.6, 0.55, 0.51))])
    failed(tmp_path, of, [("s3://p/b.jpg", "1", "empty")])

    in_spark(tmp_path, HOSTILE)

    genres = spark.sql("select genre from genretag.genre_scores order by probability desc").collect()
    assert [row.genre for row in genres] == list(HOSTILE)
    assert spark.sql("select * from genretag.data_quality where check_name = 'genres'").collect() == []
