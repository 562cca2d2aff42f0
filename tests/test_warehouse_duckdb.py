"""The generated SQL for DuckDB runs on chosen rows, and on the files that the job writes to a folder and to S3."""

from datetime import UTC, date, datetime

import pyarrow as pa
import pytest
from outputs import ODD, rows
from warehouse_rows import LABELS, failed, findings, night, opened, put, query_results, scored

from genretag.model.bundle import load_bundle
from genretag.output.schema import predictions_schema
from genretag.storage import Storage, join

FIRST, SECOND, THIRD = (date(2026, 11, day) for day in (20, 21, 22))
DRAMA, COMEDY, BOTH = (0.9, 0.2, 0.1), (0.3, 0.8, 0.1), (0.6, 0.7, 0.4)


def current(database):
    return dict(database.sql("select uri, genres from genretag.current_genres").fetchall())


def test_the_newest_row_of_each_poster_is_current(tmp_path):
    scored(tmp_path, night(FIRST), [("s3://p/a.jpg", "1", DRAMA), ("s3://p/b.jpg", "1", DRAMA)])
    scored(tmp_path, night(SECOND), [("s3://p/a.jpg", "2", COMEDY)])  # the poster has changed
    scored(tmp_path, night(THIRD, "model2"), [("s3://p/b.jpg", "1", BOTH)])  # a new model gives other genres

    database = opened(tmp_path)

    assert current(database) == {"s3://p/a.jpg": ["Comedy"], "s3://p/b.jpg": ["Comedy", "Drama"]}
    assert database.sql("select uri, etag, model_version, dt from genretag.current_genres order by uri").fetchall() == [
        ("s3://p/a.jpg", "2", "model1", SECOND),
        ("s3://p/b.jpg", "1", "model2", THIRD),
    ]


def test_a_row_that_is_there_twice_is_current_once(tmp_path):
    for hour in (1, 1, 2):
        scored(tmp_path, night(FIRST), [("s3://p/a.jpg", "1", DRAMA)], hour)

    assert current(opened(tmp_path)) == {"s3://p/a.jpg": ["Drama"]}


def test_a_failure_is_current_until_the_poster_is_scored(tmp_path):
    failed(tmp_path, night(FIRST), [("s3://p/a.jpg", "1", "truncated"), ("s3://p/b.jpg", "1", "empty")])
    failed(tmp_path, night(SECOND), [("s3://p/b.jpg", "1", "empty")])  # as with --retry-failed, which fails again
    scored(tmp_path, night(SECOND), [("s3://p/a.jpg", "1", DRAMA)])  # as with --retry-failed

    database = opened(tmp_path)

    assert database.sql("select uri, dt from genretag.current_failures").fetchall() == [("s3://p/b.jpg", SECOND)]
    assert current(database) == {"s3://p/a.jpg": ["Drama"]}
    assert findings(database) == []


def test_a_poster_whose_newest_version_failed_is_found(tmp_path):
    scored(tmp_path, night(FIRST), [("s3://p/a.jpg", "1", DRAMA)])
    failed(tmp_path, night(SECOND), [("s3://p/a.jpg", "2", "truncated")])

    assert findings(opened(tmp_path)) == [("outdated", "2026-11-21", 1, "s3://p/a.jpg")]


def test_an_output_in_order_has_no_findings(tmp_path):
    for dt in (FIRST, SECOND, THIRD):
        scored(tmp_path, night(dt), [(f"s3://p/{dt}/{number}.jpg", "1", BOTH) for number in range(4)])
        failed(tmp_path, night(dt), [(f"s3://p/{dt}/broken.jpg", "1", "empty")])

    assert findings(opened(tmp_path)) == []


def test_rows_that_are_there_twice_are_found(tmp_path):
    for dt in (FIRST, SECOND):
        scored(tmp_path, night(dt), [("s3://p/a.jpg", "1", DRAMA), (f"s3://p/{dt}.jpg", "1", DRAMA)])
    scored(tmp_path, night(SECOND, "model2"), [("s3://p/a.jpg", "1", DRAMA)])  # a row of another model is no duplicate

    assert findings(opened(tmp_path)) == [("duplicates", "2026-11-21", 1, "s3://p/a.jpg")]


def altered(of, column, value):
    """Return the table of a part file with one row, in which `column` has the given value."""
    row = dict.fromkeys(predictions_schema(of).names)
    row |= {"poster_id": "a", "uri": "s3://p/a.jpg", "etag": "1", "genres": ["Drama"], "model_version": "model1"}
    row |= {"is_drama": True, "is_comedy": False, "is_sci_fi": False, "p_drama": 0.9, "p_comedy": 0.1, "p_sci_fi": 0.0}
    row |= {"width": 1, "height": 1, "run_id": of.run_id, column: value}
    nullable = pa.schema([field.with_nullable(True) for field in predictions_schema(of)])
    return pa.Table.from_pylist([row | {"scored_at": datetime(2026, 11, 20, tzinfo=UTC)}], nullable)


@pytest.mark.parametrize("value", [None, -0.1, 1.01, float("nan"), float("inf")])
def test_an_invalid_probability_is_found(tmp_path, value):
    put(tmp_path, "predictions", night(FIRST), 0, altered(night(FIRST), "p_comedy", value))

    assert findings(opened(tmp_path)) == [("probabilities", "2026-11-20", 1, "s3://p/a.jpg")]


@pytest.mark.parametrize("others", [[(0.9, 0.2, 0.1)], [(0.9, 0.2, 0.1), (0.8, 0.3, 0.2)]], ids=["one", "some"])
@pytest.mark.parametrize("labels", [LABELS, LABELS[1:2]], ids=["three labels", "one label"])
def test_a_nan_among_numbers_is_found(tmp_path, others, labels):
    of, first = night(FIRST, labels=labels), LABELS.index(labels[0])
    posters = [(f"s3://p/{number}.jpg", "1", row) for number, row in enumerate(others)]
    posters += [("s3://p/nan.jpg", "1", (0.9, float("nan"), 0.1))]
    scored(tmp_path, of, [(uri, etag, row[first : first + len(labels)]) for uri, etag, row in posters])

    assert findings(opened(tmp_path, labels)) == [("probabilities", "2026-11-20", 1, "s3://p/nan.jpg")]


def test_the_night_comes_from_the_folder_of_the_file_and_not_from_folders_above(tmp_path):
    output = tmp_path / "model_version=9" / ODD
    scored(output, night(FIRST), [("s3://p/a.jpg", "1", DRAMA)])
    scored(output, night(SECOND), [("s3://p/b.jpg", "1", COMEDY)])
    failed(output, night(SECOND), [("s3://p/c.jpg", "1", "empty")])
    alike = tmp_path / "model_version=9" / ODD.replace("[a]*", "a").replace("?", "!")
    scored(alike, night(THIRD), [("x", "1", BOTH)])

    database = opened(output)

    nights = database.sql("select uri, model_version, dt from genretag.predictions order by uri").fetchall()
    assert nights == [("s3://p/a.jpg", "model1", FIRST), ("s3://p/b.jpg", "model1", SECOND)]
    assert database.sql("select uri, dt from genretag.failures").fetchall() == [("s3://p/c.jpg", SECOND)]


def test_a_query_of_one_night_opens_the_files_of_that_night(tmp_path):
    for dt in (FIRST, SECOND, THIRD):
        scored(tmp_path, night(dt), [(f"s3://p/{dt}.jpg", "1", DRAMA)])

    query = f"explain analyze select uri from genretag.predictions where dt = date '{SECOND}'"

    assert "Scanning Files: 1/3" in str(opened(tmp_path).execute(query).fetchall())


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("genres", []),
        ("genres", ["Comedy"]),
        ("genres", ["Drama", "Drama"]),
        ("genres", None),
        ("is_drama", False),
        ("is_comedy", True),
        ("is_comedy", None),
    ],
)
def test_genres_that_do_not_fit_the_columns_are_found(tmp_path, column, value):
    put(tmp_path, "predictions", night(FIRST), 0, altered(night(FIRST), column, value))

    assert findings(opened(tmp_path)) == [("genres", "2026-11-20", 1, "s3://p/a.jpg")]


def test_missing_nights_are_found(tmp_path):
    for dt in (FIRST, date(2026, 11, 24)):
        scored(tmp_path, night(dt), [(f"s3://p/{dt}.jpg", "1", DRAMA)])

    assert findings(opened(tmp_path)) == [("missing_nights", "2026-11-20", 3, "no rows for that many nights after it")]


def test_nights_missing_until_today_are_found(tmp_path):
    scored(tmp_path, night(date(2020, 1, 1)), [("s3://p/a.jpg", "1", DRAMA)])

    found = opened(tmp_path).sql("select found from genretag.data_quality").fetchall()

    assert found == [((datetime.now(UTC).date() - date(2020, 1, 1)).days - 1,)]


def test_a_night_with_far_fewer_posters_is_found(tmp_path):
    posters = [100, 4, 4, 5, 4, 6, 4, 1, 4]  # the first night scores all posters of the bucket
    for number, count in enumerate(posters):
        dt = date(2026, 11, 1 + number)
        scored(tmp_path, night(dt), [(f"s3://p/{dt}/{poster}.jpg", "1", DRAMA) for poster in range(count)])

    assert [finding[:3] for finding in findings(opened(tmp_path))] == [("drop", "2026-11-08", 1)]


def test_a_reason_that_many_posters_fail_for_is_found(tmp_path):
    scored(tmp_path, night(FIRST), [(f"s3://p/{number}.jpg", "1", DRAMA) for number in range(150)])
    reasons = {"truncated": 12, "empty": 9, "other_file": 90}
    for hour, (reason, count) in enumerate(reasons.items()):
        failed(tmp_path, night(FIRST), [(f"s3://p/{reason}-{n}.jpg", "1", reason) for n in range(count)], hour)

    assert findings(opened(tmp_path)) == []
    failed(tmp_path, night(FIRST), [("s3://p/more.jpg", "1", "truncated")], 4)
    failed(tmp_path, night(FIRST), [("s3://p/more.jpg", "1", "truncated")], 5)
    assert findings(opened(tmp_path)) == [("failures", "2026-11-20", 14, "decode: truncated")]


def test_the_queries_return_the_expected_rows(tmp_path):
    scored(tmp_path, night(FIRST), [("s3://p/a.jpg", "1", DRAMA), ("s3://p/b.jpg", "1", BOTH)])
    scored(tmp_path, night(SECOND, "model2"), [("s3://p/a.jpg", "1", BOTH), ("s3://p/b.jpg", "1", BOTH)])
    failed(tmp_path, night(SECOND, "model2"), [("s3://p/c.jpg", "1", "empty"), ("s3://p/d.jpg", "1", "empty")])

    shares, drift, uncertain, together, of_a_genre, why_failed = query_results(opened(tmp_path))

    assert [row[:4] for row in shares if row[0] == FIRST] == [
        (FIRST, "Drama", 2, 1.0), (FIRST, "Comedy", 1, 0.5), (FIRST, "Sci-Fi", 0, 0.0),
    ]  # fmt: skip
    assert drift[0][:7] == ("model1", "model2", "Comedy", 2, 0.5, 1.0, 0.5)
    assert drift[0][7] == pytest.approx(0.25)
    assert uncertain[0][1:] == ("s3://p/a.jpg", pytest.approx(0.6 * 0.4 + 0.7 * 0.3 + 0.4 * 0.6))
    assert together == [("Comedy", "Drama", 2, 1.0)]
    assert of_a_genre == [(f"{poster}.jpg", f"s3://p/{poster}.jpg", pytest.approx(0.6)) for poster in "ab"]
    assert why_failed == [(SECOND, "decode", "empty", 2, 0.5, "s3://p/c.jpg")]


@pytest.mark.parametrize("broken", [0, 2])
def test_the_sql_reads_what_the_job_writes_to_a_folder(run, small_bundle, few_posters, tmp_path, broken):
    for number in range(broken):  # without a failure there is no folder `failures`
        (few_posters / f"broken-{number}.jpg").write_bytes(b"no picture")
    run(few_posters, tmp_path / "out")

    database = opened(tmp_path / "out", load_bundle(small_bundle, Storage()).labels)

    assert current(database) == {row["uri"]: row["genres"] for row in rows(tmp_path / "out")}
    assert database.sql("select scored, failed from genretag.nights").fetchall() == [(12, broken)]
    assert database.sql("select count(*) from genretag.current_failures").fetchall() == [(broken,)]
    assert findings(database) == []
    assert all(query_results(database, load_bundle(small_bundle, Storage()).labels)[0])


def test_the_sql_reads_what_the_job_writes_to_a_bucket(run, small_bundle, bucket, storage, drawn_posters, command):
    for poster in drawn_posters[:12]:
        storage.put(join(bucket, poster.key), poster.data)
    storage.put(join(bucket, "posters/broken.jpg"), b"no picture")
    output = join(bucket, "genres")
    run(join(bucket, "posters"), output)
    labels = load_bundle(small_bundle, storage).labels

    code, script, _ = command("warehouse", "--dialect", "duckdb", "--location", output, "--model", small_bundle)
    database = opened(output, labels, storage)
    database.execute(script).fetchall()  # the whole script at once

    assert code == 0
    assert current(database) == {row["uri"]: row["genres"] for row in rows(output)}
    assert database.sql("select reason from genretag.current_failures").fetchall() == [("not_an_image",)]
    assert findings(database) == []


def test_the_tables_have_the_columns_and_types_of_the_files(tmp_path):
    scored(tmp_path, night(FIRST), [("s3://p/a.jpg", "1", DRAMA)])
    failed(tmp_path, night(FIRST), [("s3://p/b.jpg", "1", "empty")])
    database = opened(tmp_path)

    for table in ("predictions", "failures"):
        files = database.read_parquet(f"{tmp_path}/{table}/*/*.parquet", hive_partitioning=True)
        view = database.sql(f"from genretag.{table}")
        assert dict(zip(view.columns, view.types, strict=True)) == dict(zip(files.columns, files.types, strict=True))


def test_labels_are_those_of_the_bundle_word_for_word(tmp_path):
    scored(tmp_path, night(FIRST), [("s3://p/a.jpg", "1", BOTH)])

    genres = opened(tmp_path).sql("select genre from genretag.genre_scores order by probability desc").fetchall()

    assert genres == [("Comedy",), ("Drama",), ("Sci-Fi",)]
    assert set(LABELS) == {genre for (genre,) in genres}
