"""The list form of predictions, for models with very many labels: rows, DuckDB, other warehouses, retag and pages."""

import json
import shutil
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlglot
from taggers import HEIGHT, WIDTH, save_onnx
from warehouse_rows import LABELS, findings, night, opened, put, query_results, scored

from genretag.commands.bundle import bundle
from genretag.commands.retag import retag
from genretag.commands.tag import tag
from genretag.commands.warehouse import as_script, generate
from genretag.errors import UsageError
from genretag.images import ImageRule, decode
from genretag.importing.settings import ImportSettings
from genretag.model.bundle import load_bundle
from genretag.model.engines import open_engine
from genretag.model.thresholds import Profile
from genretag.output.label_lists import ALWAYS, genres_of_lists
from genretag.output.schema import Run, predictions_schema, predictions_table
from genretag.output.warehouse import DIALECTS
from genretag.reports.gallery import gallery
from genretag.reports.run_report import report
from genretag.runtime.session import Session
from genretag.scoring.settings import TagSettings
from genretag.settings import GallerySettings, RetagSettings, WarehouseSettings
from genretag.storage import Storage

MANY = tuple(f"tag {number}" for number in range(10_000))
LISTS = WarehouseSettings(form="lists")
FIRST, SECOND = date(2026, 11, 20), date(2026, 11, 21)


def in_lists(of, floor=0.25):
    """Return a run that writes the list form."""
    return replace(of, floor=floor)


def rows_of(probabilities, labels, floor, threshold=0.5):
    """Return rows of the list form, as dictionaries, for probabilities of posters."""
    of = Run("run", FIRST, "model", labels, "balanced", (threshold,) * len(labels), floor=floor)
    values = np.array(probabilities, dtype=np.float32)
    count = len(values)
    rows = pa.table(
        {
            **{name: [f"{name}{row}" for row in range(count)] for name in ("poster_id", "uri", "etag")},
            "probabilities": pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), len(labels)),
            "width": pa.array([1] * count, pa.int32()),
            "height": pa.array([1] * count, pa.int32()),
            "at": pa.array([0] * count, pa.timestamp("us", "UTC")),
        }
    )
    table = predictions_table(rows, of)
    assert table.schema == predictions_schema(of)
    return table


def test_a_row_lists_labels_above_the_floor_and_its_most_probable_ones():
    labels = MANY[:30]
    few, many = np.zeros(30), np.zeros(30)
    few[[7, 3]] = 0.9, 0.3
    many[:15] = np.linspace(0.9, 0.4, 15)

    first, second = rows_of([few, many], labels, floor=0.25).to_pylist()

    assert first["labels"][:2] == ["tag 7", "tag 3"]
    assert len(first["labels"]) == len(first["probabilities"]) == ALWAYS
    np.testing.assert_allclose(first["probabilities"][:3], [0.9, 0.3, 0], atol=1e-6)
    assert second["labels"] == list(labels[:15])
    assert second["genres"] == [label for label, p in zip(labels, many, strict=True) if p >= 0.5]


def test_a_predicted_label_is_listed_below_the_floor():
    p = np.linspace(0.2, 0.1, 20)

    (row,) = rows_of([p], MANY[:20], floor=0.9, threshold=0.12).to_pylist()

    assert len(row["labels"]) == (p >= 0.12).sum() > ALWAYS
    assert row["genres"] == row["labels"]


@pytest.mark.parametrize("profile", [Profile((0.3,) * 40), Profile((0.0,) * 40, at_most=3), Profile((0.99,) * 40)])
def test_other_thresholds_give_the_genres_that_tagging_again_would_give(profile):
    values = np.random.default_rng(5).random((50, 40)).astype(np.float32) ** 4
    rows = rows_of(values, MANY[:40], floor=0.3)

    found = genres_of_lists(rows, MANY[:40], profile).to_pylist()

    of = profile.predicted(values)
    assert [set(genres) for genres in found] == [{MANY[n] for n in np.flatnonzero(row)} for row in of]
    assert all(
        genres == [label for label in row["labels"] if label in genres]
        for genres, row in zip(found, rows.to_pylist(), strict=True)
    )


def test_the_views_of_duckdb_read_lists(tmp_path):
    scored(
        tmp_path,
        in_lists(night(FIRST)),
        [("s3://p/a.jpg", "1", (0.9, 0.2, 0.1)), ("s3://p/b.jpg", "1", (0.3, 0.8, 0.1))],
    )
    scored(tmp_path, in_lists(night(SECOND)), [("s3://p/a.jpg", "2", (0.6, 0.7, 0.1))])

    database = opened(tmp_path, settings=LISTS)

    assert dict(database.sql("select uri, genres from genretag.current_genres").fetchall()) == {
        "s3://p/a.jpg": ["Comedy", "Drama"],
        "s3://p/b.jpg": ["Comedy"],
    }
    scores = database.sql(
        "select genre, is_predicted, round(probability, 2) from genretag.current_genre_scores "
        "where uri like '%b.jpg' order by 3"
    ).fetchall()
    assert scores == [("Sci-Fi", False, 0.1), ("Drama", False, 0.3), ("Comedy", True, 0.8)]
    assert findings(database) == []
    shares = query_results(database, settings=LISTS)[0]
    assert shares == [
        (SECOND, "Comedy", 1, 1.0, pytest.approx(0.7)),
        (SECOND, "Drama", 1, 1.0, pytest.approx(0.6)),
        (FIRST, "Comedy", 1, 0.5, pytest.approx(0.8)),
        (FIRST, "Drama", 1, 0.5, pytest.approx(0.9)),
    ]


def test_lists_that_cannot_be_right_are_found(tmp_path):
    of = in_lists(night(FIRST))
    file = scored(tmp_path, of, [(f"s3://p/{name}.jpg", "1", (0.9, 0.2, 0.1)) for name in "abcd"])
    rows = predictions(tmp_path)
    lists = {
        "genres": [["Drama"], ["Drama", "Western"], ["Drama"], ["Drama"]],
        "labels": [["Drama", "Comedy", "Sci-Fi"]] * 4,
        "probabilities": [[0.9, 0.2], [0.9, 0.2, 0.1], [0.9, float("nan"), 0.1], [0.9, 0.2, 0.1]],
    }
    for name, values in lists.items():
        at = rows.schema.get_field_index(name)
        rows = rows.set_column(at, rows.schema.field(name), pa.array(values, rows.schema.field(name).type))
    put(tmp_path, "predictions", of, 1, rows)

    found = findings(opened(tmp_path, settings=LISTS))

    assert found == [("genres", "2026-11-20", 2, "s3://p/a.jpg"), ("probabilities", "2026-11-20", 2, "s3://p/a.jpg")], (
        file
    )


def predictions(output):
    """Return the predictions of an output as one table."""
    return pa.concat_tables([pq.read_table(file) for file in sorted((output / "predictions").rglob("*.parquet"))])


@pytest.mark.parametrize("dialect", [name for name, of in DIALECTS.items() if of.has_lists])
def test_every_warehouse_unnests_the_lists(dialect):
    place = "gs://films/genres" if dialect == "bigquery" else "s3://films/genres"
    script = as_script(generate(LABELS, dialect, place, LISTS))

    for statement in sqlglot.parse(script, dialect=dialect):
        assert statement is not None
    assert "is_drama" not in script
    assert "probabilities" in script


def test_redshift_cannot_read_lists():
    with pytest.raises(UsageError, match="redshift cannot read lists of labels: tag with --form columns"):
        generate(MANY, "redshift", "s3://films/genres")


@pytest.fixture(scope="module")
def many_labels(tmp_path_factory):
    """Make a bundle with 10,000 labels, a few of them probable. Return its location."""
    folder = tmp_path_factory.mktemp("many")
    (folder / "labels.json").write_text(json.dumps(MANY))
    file = save_onnx(folder, labels=len(MANY))
    settings = ImportSettings(scale="1/255", threshold=0.995)
    bundle(str(file), str(folder / "labels.json"), str(folder / "bundle"), settings, Session(quiet=True))
    return str(folder / "bundle")


@pytest.fixture(scope="module")
def tagged(ray_cluster, many_labels, poster_folder, tmp_path_factory):
    """Tag 2,000 posters with 10,000 labels, in the list form. Return the output and the images."""
    folder = tmp_path_factory.mktemp("tagged")
    (folder / "images").mkdir()
    posters = sorted(file for file in poster_folder.rglob("*.*"))
    for number in range(2_000):
        source = posters[number % len(posters)]
        (folder / "images" / f"{number:04d}{source.suffix}").hardlink_to(source)
    tag(str(folder / "images"), str(folder / "tags"), TagSettings(floor=0.99), Session(quiet=True), many_labels)
    return folder / "tags", folder / "images"


def test_ten_thousand_labels_tag_two_thousand_posters(tagged, many_labels):
    output, images = tagged
    database = opened(output, MANY)

    made = load_bundle(many_labels, Storage())
    pixels = decode((images / "0007.jpg").read_bytes(), ImageRule(HEIGHT, WIDTH)).pixels
    expected = open_engine("openvino", made, 1, 2).predict(pixels[None])[0]
    rows = database.execute(
        "select genre, probability from genretag.current_genre_scores where uri like '%/0007.jpg'"
    ).fetchall()
    assert database.sql("select count(*) from genretag.current_genres").fetchall() == [(2_000,)]
    assert {genre for genre, _ in rows} >= {MANY[label] for label in np.flatnonzero(expected >= 0.991)}
    assert len(rows) < len(MANY) / 2
    for genre, probability in rows:
        assert probability == pytest.approx(expected[MANY.index(genre)], abs=1e-3)
    assert database.sql("from genretag.data_quality").fetchall() == []
    record = json.loads(next(output.glob("runs/*/run.json")).read_text())
    counted = database.sql(
        "select genre, count(*) from genretag.genre_scores where is_predicted group by genre"
    ).fetchall()
    assert record["genres"] == dict(counted)
    assert record["histograms"] == {}


def test_the_pages_show_lists(tagged, storage):
    output, _ = tagged

    page = gallery(str(output), GallerySettings(limit=50), Session(quiet=True))
    drawn = report(str(output), None, storage)

    assert page.posters == 50
    text = (output / "gallery.html").read_text()
    assert "tag " in text
    assert len(text) < 3_000_000
    assert "less frequent than these" in Path(drawn.place).read_text()


def test_retag_reads_lists(tagged, many_labels, tmp_path):
    output = tmp_path / "tags"
    shutil.copytree(tagged[0], output)

    retag(str(output), RetagSettings(profile="top-2"), Session(quiet=True), many_labels)

    rows = predictions(output).to_pylist()
    assert all(row["genres"] == row["labels"][:2] for row in rows)
    with pytest.raises(UsageError, match="top-11 cannot be told: tag again"):
        retag(str(output), RetagSettings(profile="top-11"), Session(quiet=True), many_labels)


def test_an_output_has_one_form(tagged, many_labels):
    output, images = tagged

    with pytest.raises(UsageError, match=r"other columns, .* or of another --carry, --form or --embeddings"):
        tag(str(images), str(output), TagSettings(form="columns"), Session(quiet=True), many_labels)
