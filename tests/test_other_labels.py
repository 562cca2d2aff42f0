"""Nothing is about films: clothes, labelled by type and colour, train and are tagged as posters are."""

from dataclasses import replace

import duckdb
import pytest
from conftest import SMALL_MODEL

from genretag.bundle import load_bundle
from genretag.demo.clothes import COLOURS, LABELS, OUTLINES, draw_clothes
from genretag.demo.posters import labels_csv
from genretag.session import Session
from genretag.storage import Storage
from genretag.training.job import train

CLOTHES_MODEL = replace(
    SMALL_MODEL, height=80, width=64, resize="letterbox", head_epochs=6, epochs=0, min_crop=0.95, colour=0.02
)


@pytest.fixture(scope="module")
def wardrobe(tmp_path_factory):
    """200 drawn pieces in `clothes/`, with `labels.csv` beside it."""
    folder, clothes = tmp_path_factory.mktemp("wardrobe"), list(draw_clothes(200, seed=5))
    (folder / "clothes").mkdir()
    for piece in clothes:
        (folder / piece.key).write_bytes(piece.data)
    (folder / "labels.csv").write_text(labels_csv(clothes))
    return folder


@pytest.fixture(scope="module")
def clothes_bundle(wardrobe, ray_cluster):
    train(
        str(wardrobe / "labels.csv"), str(wardrobe / "clothes"), str(wardrobe / "model"), CLOTHES_MODEL,
        Session(quiet=True),
    )  # fmt: skip
    return str(wardrobe / "model")


def test_each_piece_has_one_type_and_one_colour_and_a_seed_draws_the_same_again():
    first, again = (list(draw_clothes(30, seed=1)) for _ in range(2))

    assert first == again
    assert all(len(set(piece.labels) & set(OUTLINES)) == len(set(piece.labels) & set(COLOURS)) == 1 for piece in first)
    assert {label for piece in first for label in piece.labels} == set(LABELS)


def test_both_groups_of_labels_are_learnt_far_beyond_the_null_model(clothes_bundle):
    bundle = load_bundle(clothes_bundle, Storage())

    assert set(bundle.labels) == set(LABELS)
    assert bundle.rule.resize == "letterbox"
    test = bundle.facts["metrics"]["test"]
    assert test["model"]["macro_map"] > test["null"]["macro_map"] + 0.3
    assert test["model"]["bce"] < test["null"]["bce"]


def test_clothes_are_tagged_by_the_pipeline_that_tags_posters(clothes_bundle, wardrobe, run, tmp_path):
    record = run(wardrobe / "clothes", tmp_path / "out", model=clothes_bundle)

    assert (record.scored, record.failed) == (200, 0)
    rows = f"read_parquet('{tmp_path}/out/predictions/**/*.parquet')"
    columns = [name for name, *_ in duckdb.sql(f"describe select * from {rows}").fetchall()]
    assert {f"is_{label}" for label in LABELS} | {f"p_{label}" for label in LABELS} <= set(columns)
    is_red = "avg(is_red::int) filter (where labels {} '%red')"
    [(found, invented)] = duckdb.sql(
        f"select {is_red.format('like')}, {is_red.format('not like')} "
        f"from {rows} join read_csv('{wardrobe}/labels.csv') on poster_id = id"
    ).fetchall()
    assert found > invented + 0.4
