"""`genretag retag` gives stored probabilities the genres of another profile, exactly as `tag` would have done."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from dying import DEATHS, STEPS, dying_at
from nights import LABELS, a_run, write_night
from tagged_output import random_probabilities, write_tagged

from genretag.commands.retag import Retagged, retag
from genretag.images import ImageRule
from genretag.model.bundle import Bundle, write_bundle
from genretag.output.compaction_journal import JOURNAL
from genretag.output.iceberg_catalog import load_table, open_catalog
from genretag.output.label_lists import genre_lists
from genretag.output.tables import commit_parts
from genretag.runtime.session import Session
from genretag.settings import NO_TABLE, RetagSettings, TableSettings
from genretag.storage import Storage, join

STORAGE = Storage()
BUNDLE = Bundle(LABELS, {"balanced": (0.3, 0.5, 0.5), "precise": (0.6, 0.7, 0.8)}, ImageRule(96, 64), "none", files={})
MODEL = BUNDLE.model_version


@pytest.fixture(params=["folder", pytest.param("bucket", marks=pytest.mark.slow)])
def output(request, tmp_path):
    return str(tmp_path / "odd & 100%") if request.param == "folder" else join(request.getfixturevalue("bucket"), "out")


@pytest.fixture
def model(tmp_path):
    write_bundle(BUNDLE, str(tmp_path / "model"), STORAGE)
    return str(tmp_path / "model")


@pytest.fixture
def table(tmp_path):
    pytest.importorskip("pyiceberg")
    return TableSettings("films.genres", f"sqlite:///{tmp_path}/catalog.db")


def night_of(profile="balanced", day=0, run="ab12", model=MODEL):
    """Return a run of the test model with this profile."""
    chosen = BUNDLE.profile(profile)
    return replace(a_run(day, run, model), profile=profile, thresholds=chosen.thresholds, at_most=chosen.at_most)


def apply(output, profile, model, table=NO_TABLE, **settings):
    """Run `retag` with this profile."""
    return retag(output, RetagSettings(profile=profile, **settings), Session(quiet=True), model, table)


def tables(output, kind="predictions"):
    """Return the part files as tables, in the order of their names, which is that of nights and file numbers."""
    uris = sorted(info.uri for page in STORAGE.list(join(output, kind)) for info in page)
    return [pyarrow.parquet.read_table(pa.BufferReader(STORAGE.get(uri).data)) for uri in uris]


def rows(output):
    return sorted((row for part in tables(output) for row in part.to_pylist()), key=lambda row: row["uri"])


def as_tagged_with(profile, where, days=2):
    """Return the tables that `tag` writes if it uses this profile from the start."""
    for day in range(days):
        write_night(where, night_of(profile, day), rows=40)
    return tables(str(where))


@pytest.mark.parametrize("profile", ["precise", "top-2"])
def test_rows_and_metadata_become_those_of_a_night_with_that_profile(output, model, tmp_path, profile):
    for day in range(2):
        write_night(output, night_of("balanced", day), rows=40, failed=1)
    failures = tables(output, "failures")

    done = apply(output, profile, model)

    assert done == Retagged(files=6, rows=240, unchanged=0, of_other_models=0, outside_table=0)
    for found, expected in zip(tables(output), as_tagged_with(profile, tmp_path / "fresh"), strict=True):
        assert found.equals(expected)
        assert found.schema.equals(expected.schema, check_metadata=True)
    assert tables(output, "failures") == failures


def test_retagging_back_restores_the_rows_and_repeating_changes_nothing(output, model):
    write_night(output, night_of(), rows=40)
    before = tables(output)

    apply(output, "top-1", model)
    assert tables(output) != before
    apply(output, "balanced", model)

    assert [part.equals(other, check_metadata=True) for part, other in zip(tables(output), before, strict=True)] == [
        True
    ] * 3
    assert apply(output, "balanced", model) == Retagged(0, 0, unchanged=120, of_other_models=0, outside_table=0)


def test_other_models_keep_their_genres(output, model):
    write_night(output, night_of(run="aaaa"), files=1)
    write_night(output, night_of(run="bbbb", model="another"), files=1, rows=7)
    others = tables(output)[1]

    assert apply(output, "top-1", model).of_other_models == 7
    assert others in tables(output)


def test_a_dry_run_changes_nothing(output, model):
    write_night(output, night_of())
    before = tables(output)

    assert apply(output, "top-1", model, dry_run=True).rows == 12
    assert tables(output) == before


@pytest.mark.parametrize("step", STEPS)
def test_a_retag_that_died_is_finished_by_the_next(tmp_path, model, step):
    output = str(tmp_path / "out")
    for day in range(2):
        write_night(output, night_of(day=day), rows=40)

    with dying_at(step):
        apply(output, "precise", model)
    assert len({row["uri"] for row in rows(output)}) == len(rows(output)), "no reader sees a row twice"
    apply(output, "precise", model)

    expected = as_tagged_with("precise", tmp_path / "fresh")
    assert rows(output) == sorted((row for part in expected for row in part.to_pylist()), key=lambda row: row["uri"])
    assert not [page for page in STORAGE.list(join(output)) for info in page if JOURNAL in info.uri]


@pytest.mark.parametrize("step", [None, *DEATHS])
def test_a_table_reads_each_row_once_and_then_with_the_new_genres(tmp_path, model, table, step):
    output = str(tmp_path / "out")
    write_night(output, night_of(), rows=40)
    commit_parts(table, output, night_of().run_id, MODEL, STORAGE)

    def of_table():
        with open_catalog(table, output, STORAGE) as catalog:
            return sorted(load_table(catalog, table).scan().to_arrow().to_pylist(), key=lambda row: row["uri"])

    before = of_table()
    if step:
        with dying_at(step):
            apply(output, "precise", model, table)
        assert [row["uri"] for row in of_table()] == [row["uri"] for row in before]
    apply(output, "precise", model, table)

    assert of_table() == rows(output) != before


def test_files_that_are_not_in_the_table_are_not_retagged(tmp_path, model, table):
    write_night(tmp_path / "out", night_of(), rows=40)
    commit_parts(table, str(tmp_path / "out"), night_of().run_id, MODEL, STORAGE)
    write_night(tmp_path / "out", night_of(day=1))

    done = apply(str(tmp_path / "out"), "precise", model, table)

    assert (done.rows, done.outside_table) == (120, 12)


def test_the_command_says_what_it_did(command, tmp_path, model):
    write_night(tmp_path / "out", night_of(), failed=1)
    write_night(tmp_path / "out", night_of(run="bbbb", model="another"), files=1, rows=7)
    retag = ("retag", tmp_path / "out", "--model", model, "--profile", "top-1")

    assert command(*retag, "--dry-run")[1].splitlines() == [
        "12 rows in 3 files would get the profile top-1, 0 rows had it already",
        "7 rows of other models stay as they are",
    ]
    assert command(*retag)[1].startswith("12 rows in 3 files got the profile top-1, 0 rows had it already\n")
    assert command(*retag)[1].startswith("0 rows in 0 files got the profile top-1, 12 rows had it already\n")


def test_tag_says_that_rows_keep_another_profile_until_they_are_retagged(command, few_posters, tmp_path, model, caplog):
    out, posters = tmp_path / "out", sorted(few_posters.iterdir())
    write_tagged(out, random_probabilities(posters), night=night_of("balanced"))
    tag = ("tag", few_posters, out, "--model", model, "--profile", "top-1", "--no-report")

    assert command(*tag)[0] == 0
    assert f"12 rows in {out} keep the genres of the profile balanced: genretag retag {out}" in caplog.text

    assert command("retag", out, "--model", model, "--profile", "top-1")[0] == 0
    caplog.clear()
    assert command(*tag)[0] == 0
    assert "profile" not in caplog.text


@pytest.mark.parametrize("held", [None, "another"])
def test_an_output_without_rows_of_the_model_is_named(command, tmp_path, model, held):
    if held:
        write_night(tmp_path / "out", night_of(model=held))

    code, out, err = command("retag", tmp_path / "out", "--model", model)

    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith(f"genretag: {tmp_path / 'out'} holds no predictions")
    assert not (tmp_path / "out" / "_lock.json").exists()


def test_genres_come_most_probable_first_and_equal_ones_in_the_order_of_labels():
    random = np.random.default_rng(3)
    for labels in (1, 2, 25, 300):
        names = [f"label {number}" for number in range(labels)]
        probabilities = np.round(random.random((200, labels)), 1).astype(np.float32)
        probabilities[:2] = np.array([[-0.0], [1.0]])
        predicted = random.random((200, labels)) < 0.4

        found = genre_lists(names, probabilities, predicted).to_pylist()

        for row, chosen, genres in zip(probabilities, predicted, found, strict=True):
            assert genres == [names[at] for at in sorted(np.flatnonzero(chosen), key=lambda at: (-row[at], at))]
    assert json.dumps(found[0])
