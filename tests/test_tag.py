"""The main job with real Ray, S3 and posters: every object becomes exactly one row, whatever happens."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import compress
from pathlib import Path

import duckdb
import numpy as np
import pyarrow.parquet
import pytest
from outputs import rows
from suspended_runs import suspended_run

from genretag.commands import tag as night
from genretag.data.labels import column_names
from genretag.demo.posters import draw_posters
from genretag.errors import JobError, UsageError
from genretag.model.bundle import load_bundle, write_bundle
from genretag.scoring.worklist import make_worklist
from genretag.storage import Storage, join

BROKEN = {"empty.jpg": b"", "page.jpg": b"<html><body>Not found</body></html>", "notes.txt": b"no picture at all"}


def test_each_poster_becomes_one_row_and_each_broken_one_a_failure(run, few_posters, tmp_path):
    for name, data in BROKEN.items():
        (few_posters / name).write_bytes(data)

    record = run(few_posters, tmp_path / "out")

    assert (record.listed, record.scored, record.failed, record.already_scored) == (15, 12, 3, 0)
    assert record.failures == {"decode: not_an_image": 1, "decode: empty": 1, "decode: other_file": 1}
    scored = rows(tmp_path / "out")
    assert sorted(row["uri"] for row in scored) == sorted(
        str(file) for file in few_posters.iterdir() if file.name not in BROKEN
    )
    failed = {row["poster_id"]: row for row in rows(tmp_path / "out", "failures")}
    assert failed.keys() == {"empty", "page", "notes"}
    assert (failed["page"]["stage"], failed["page"]["reason"], failed["page"]["size"]) == ("decode", "not_an_image", 35)
    assert json.loads((tmp_path / "out" / "runs" / record.run_id / "run.json").read_text())["scored"] == 12


def test_part_files_have_the_documented_columns_types_and_metadata(run, small_bundle, few_posters, tmp_path):
    record = run(few_posters, tmp_path / "out", date="2026-11-20")

    file = tmp_path / "out" / "predictions" / "dt=2026-11-20" / f"part-{record.run_id}-00000.parquet"
    schema = pyarrow.parquet.read_schema(file)
    labels = load_bundle(small_bundle, Storage()).labels
    columns = [label.lower().replace("-", "_") for label in labels]
    assert {field.name: str(field.type) for field in schema} == (
        {"poster_id": "string", "uri": "string", "etag": "string", "genres": "list<element: string>"}
        | {f"is_{name}": "bool" for name in columns}
        | {f"p_{name}": "float" for name in columns}
        | {"width": "int32", "height": "int32", "model_version": "string", "run_id": "string"}
        | {"scored_at": "timestamp[us, tz=UTC]"}
    )
    assert json.loads(schema.metadata[b"genretag.labels"]) == list(labels)
    assert len(json.loads(schema.metadata[b"genretag.thresholds"])) == len(labels)
    assert schema.metadata[b"genretag.model_version"].decode() == record.model_version


def test_genres_probabilities_and_multi_hot_columns_agree(run, small_bundle, few_posters, tmp_path):
    run(few_posters, tmp_path / "out")

    bundle = load_bundle(small_bundle, Storage())
    for row in rows(tmp_path / "out"):
        named = {label: label.lower().replace("-", "_") for label in bundle.labels}
        predicted = [label for label, column in named.items() if row[f"is_{column}"]]
        by_probability = sorted(predicted, key=lambda label: -row[f"p_{named[label]}"])
        assert row["genres"] == by_probability
        for label, threshold in zip(bundle.labels, bundle.profile().thresholds, strict=True):
            assert row[f"is_{named[label]}"] == (row[f"p_{named[label]}"] >= threshold)


@pytest.mark.parametrize(("profile", "at_most"), [("precise", None), ("generous", None), ("top-3", b"3")])
def test_columns_lists_and_metadata_agree_for_every_profile(run, small_bundle, few_posters, tmp_path, profile, at_most):
    record = run(few_posters, tmp_path / "out", profile=profile)

    bundle = load_bundle(small_bundle, Storage())
    decides = bundle.profile(profile)
    file = next((tmp_path / "out").glob("predictions/*/*.parquet"))
    metadata = pyarrow.parquet.read_schema(file).metadata
    assert metadata[b"genretag.profile"].decode() == record.profile == profile
    assert json.loads(metadata[b"genretag.thresholds"]) == list(decides.thresholds)
    assert metadata.get(b"genretag.at_most") == at_most
    columns = column_names(bundle.labels)
    for row in rows(tmp_path / "out"):
        probabilities = np.array([[row[f"p_{column}"] for column in columns]], dtype=np.float32)
        predicted = decides.predicted(probabilities)[0]
        assert [row[f"is_{column}"] for column in columns] == predicted.tolist()
        assert set(row["genres"]) == set(compress(bundle.labels, predicted))
        assert at_most is None or len(row["genres"]) == 3


def test_a_second_run_adds_nothing(run, few_posters, tmp_path):
    (few_posters / "empty.jpg").write_bytes(b"")
    run(few_posters, tmp_path / "out")
    before = rows(tmp_path / "out")

    again = run(few_posters, tmp_path / "out")

    assert (again.listed, again.already_scored, again.already_failed, again.scored) == (13, 12, 1, 0)
    assert rows(tmp_path / "out") == before


def test_a_changed_object_is_scored_again_and_a_new_one_too(run, few_posters, tmp_path):
    run(few_posters, tmp_path / "out")
    first, second = sorted(few_posters.iterdir())[:2]
    first.write_bytes(second.read_bytes())
    (few_posters / "new.jpg").write_bytes(second.read_bytes())

    record = run(few_posters, tmp_path / "out")

    assert (record.scored, record.already_scored) == (2, 11)
    assert sorted(row["uri"] for row in rows(tmp_path / "out") if row["run_id"] == record.run_id) == sorted(
        [str(first), str(few_posters / "new.jpg")]
    )


def test_a_new_model_version_scores_everything_again(run, small_bundle, few_posters, tmp_path):
    bundle = load_bundle(small_bundle, Storage())
    other = replace(bundle, thresholds={"balanced": tuple(0.9 for _ in bundle.labels)})
    write_bundle(other, str(tmp_path / "other"), Storage())
    run(few_posters, tmp_path / "out")

    record = run(few_posters, tmp_path / "out", model=str(tmp_path / "other"))

    assert (record.scored, record.already_scored) == (12, 0)
    assert {row["model_version"] for row in rows(tmp_path / "out")} == {bundle.model_version, other.model_version}


def test_a_model_with_other_labels_is_refused_in_the_same_output(run, small_bundle, few_posters, tmp_path):
    bundle = load_bundle(small_bundle, Storage())
    write_bundle(replace(bundle, labels=(*bundle.labels[:-1], "Opera")), str(tmp_path / "other"), Storage())
    run(few_posters, tmp_path / "out")
    before = rows(tmp_path / "out")

    with pytest.raises(UsageError, match="a model with other labels"):
        run(few_posters, tmp_path / "out", model=str(tmp_path / "other"))
    assert rows(tmp_path / "out") == before


def test_failed_posters_are_tried_again_on_request(run, few_posters, tmp_path):
    (few_posters / "empty.jpg").write_bytes(b"")
    run(few_posters, tmp_path / "out")

    record = run(few_posters, tmp_path / "out", retry_failed=True)

    assert (record.scored, record.failed, record.already_scored) == (0, 1, 12)


def test_a_bucket_is_tagged_into_a_bucket(run, bucket, storage, drawn_posters):
    posters = [*drawn_posters[:30], *(p for p in draw_posters(40, seed=3, broken_share=0.3) if p.broken)]
    keys = [f"films/odd name {i} & 100%/{poster.key}" for i, poster in enumerate(posters)]
    for key, poster in zip(keys, posters, strict=True):
        storage.put(join(bucket, key), poster.data)

    record = run(join(bucket, "films"), join(bucket, "genres"), rows_per_file=10)

    assert (record.listed, record.scored, record.failed) == (len(posters), 30, len(posters) - 30)
    got = [row["uri"] for kind in ("predictions", "failures") for row in rows(join(bucket, "genres"), kind)]
    assert sorted(got) == sorted(join(bucket, key) for key in keys)
    assert run(join(bucket, "films"), join(bucket, "genres")).scored == 0


def test_duckdb_reads_the_bucket(run, bucket, storage, drawn_posters):
    for poster in drawn_posters[:8]:
        storage.put(join(bucket, poster.key), poster.data)
    run(join(bucket, "posters"), join(bucket, "genres"))

    database = duckdb.connect()
    database.register_filesystem(storage.filesystem(bucket)[0])
    found = database.execute(
        f"select count(*), count(distinct poster_id), min(width) > 0, bool_and(p_horror between 0 and 1) "
        f"from read_parquet('{bucket}/genres/predictions/dt=*/*.parquet')"
    ).fetchone()
    assert found == (8, 8, True, True)


def test_an_object_that_is_gone_is_a_failure_row(run, few_posters, tmp_path):
    present = sorted(few_posters.iterdir())[0]
    (tmp_path / "manifest.csv").write_text(f"uri\n{present}\n{few_posters}/gone.jpg\n")

    record = run(tmp_path / "manifest.csv", tmp_path / "out")

    assert (record.scored, record.failed) == (1, 1)
    assert rows(tmp_path / "out", "failures")[0]["reason"] == "not_found"


@pytest.mark.parametrize("apart", [False, True])
def test_too_many_failures_fail_the_job_but_keep_what_was_done(run, few_posters, tmp_path, apart):
    for number in range(101):
        (few_posters / f"bad{number}.jpg").write_bytes(b"not a poster")

    with pytest.raises(JobError, match=r"posters failed, more than the error budget allows"):
        run(few_posters, tmp_path / "out", error_budget=0.0, fetch_actors=1 if apart else None)

    assert not (tmp_path / "out" / "runs").exists(), "the night is not published"
    assert len(rows(tmp_path / "out", "failures")) == 101
    record = run(few_posters, tmp_path / "out", error_budget=1.0)
    assert record.listed == 113
    assert record.scored + record.already_scored == 12


@pytest.mark.parametrize("apart", [[], ["--fetch-actors", "1"]])
def test_a_job_that_stops_says_why_in_one_line(few_posters, small_bundle, tmp_path, process, apart):
    """The first of several steps has more failures than allowed, so the other steps do not begin."""
    for number in range(600):
        (few_posters / f"{number:03}.jpg").write_bytes(b"not a poster")

    done = process("tag", few_posters, tmp_path / "out", "--model", small_bundle, "--no-report", *apart)

    assert done.returncode == 1
    told = [line for line in done.stderr.splitlines() if not re.match(r"\d\d:\d\d:\d\d ", line)]
    assert len(told) == 1, done.stderr
    assert re.match(r"genretag: \d+ of 612 posters failed, more than the error budget allows, \d+ of them by", told[0])


def test_an_output_that_becomes_unwritable_fails_the_job_with_a_clear_message(run, few_posters, tmp_path):
    (tmp_path / "out" / "predictions").mkdir(parents=True)
    (tmp_path / "out" / "predictions" / "dt=2026-11-20").symlink_to("nowhere")

    with pytest.raises(JobError, match=r"cannot write to .*/out: .*run the same command again"):
        run(few_posters, tmp_path / "out", date="2026-11-20")
    assert not (tmp_path / "out" / "runs").exists()


def test_an_output_that_holds_something_else_is_not_touched(run, few_posters, tmp_path):
    (tmp_path / "out" / "predictions").mkdir(parents=True)
    (tmp_path / "out" / "predictions" / "part-0.parquet").write_bytes(b"not parquet")

    with pytest.raises(UsageError, match=r"cannot read what .* holds already"):
        run(few_posters, tmp_path / "out")
    assert [file.name for file in (tmp_path / "out").rglob("*.*")] == ["part-0.parquet"]


def test_an_output_inside_the_images_folder_is_not_tagged(run, few_posters):
    run(few_posters, few_posters / "genres")

    assert run(few_posters, few_posters / "genres").listed == 12


def test_both_engines_give_the_same_answers(run, few_posters, tmp_path):
    pytest.importorskip("tensorflow")
    for engine in ("openvino", "tensorflow"):
        run(few_posters, tmp_path / engine, engine=engine, precision="float32")

    for ours, theirs in zip(
        *(sorted(rows(tmp_path / name), key=lambda row: row["uri"]) for name in ("openvino", "tensorflow")), strict=True
    ):
        for column in (name for name in ours if name.startswith("p_")):
            assert ours[column] == pytest.approx(theirs[column], abs=1e-3)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"profile": "prudent"}, "no threshold profile 'prudent'"),
        ({"engine": "theano"}, "no engine 'theano': choose from"),
        ({"retries": -1}, "retries must be at least 0, not -1"),
    ],
)
def test_settings_that_cannot_work_say_so_before_anything_is_written(run, few_posters, tmp_path, settings, says):
    with pytest.raises(UsageError, match=says):
        run(few_posters, tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_a_job_killed_half_way_is_finished_by_the_next_run(process, poster_folder, small_bundle, tmp_path):
    """Only the command is killed by SIGKILL, not Ray's processes. After the next run, each poster has one row."""
    images = tmp_path / "images"
    images.mkdir()
    files = sorted(file for file in poster_folder.rglob("*") if file.is_file())
    for number in range(1500):
        os.link(files[number % len(files)], images / f"{number}.jpg")
    command = ["tag", images, tmp_path / "out", "--model", small_bundle]
    job = suspended_run(2, *command, "--rows-per-file", "256")
    job.kill()
    job.wait()
    held = len(rows(tmp_path / "out"))

    again = process(*command)

    assert 512 <= held < 1500
    assert not (tmp_path / "out" / "_lock.json").exists(), "the dead run's lock was taken over and let go of"
    scored = [row["uri"] for row in rows(tmp_path / "out")]
    assert len(scored) == len(set(scored)) == 1500
    record = json.loads(next(Path(tmp_path / "out").glob("runs/*/run.json")).read_text())
    assert record["already_scored"] + record["scored"] == record["listed"] == 1500, again.stderr


def test_a_part_file_that_a_dead_run_writes_too_late_is_removed(run, few_posters, tmp_path, monkeypatch):
    """A worker of a dead run may finish a file after the next run has listed the output and scores the same posters."""
    run(few_posters, tmp_path / "out")
    whole = {path.name: path.read_bytes() for path in (tmp_path / "out").rglob("part-*")}
    shutil.rmtree(tmp_path / "out")

    def make_worklist_before_the_late_file(*arguments, **options):
        worklist = make_worklist(*arguments, **options)
        for name, data in whole.items():
            late = tmp_path / "out" / "predictions" / "dt=2026-01-01" / name
            late.parent.mkdir(parents=True, exist_ok=True)
            late.write_bytes(data)
        return worklist

    monkeypatch.setattr(night, "make_worklist", make_worklist_before_the_late_file)
    run(few_posters, tmp_path / "out")

    assert len(whole) == 1
    uris = [row["uri"] for row in rows(tmp_path / "out")]
    assert len(uris) == len(set(uris)) == 12


def test_an_interrupted_job_says_how_to_go_on(few_posters, small_bundle, tmp_path):
    command = [sys.executable, "-m", "genretag.cli", "tag", str(few_posters), str(tmp_path / "out")]
    job = subprocess.Popen([*command, "--model", small_bundle], stderr=subprocess.PIPE, text=True)
    assert "12 to score" in job.stderr.readline()
    _await((tmp_path / "out" / "_lock.json").exists)
    job.send_signal(signal.SIGINT)
    _, errors = job.communicate(timeout=240)

    assert job.returncode == 130
    assert errors.splitlines()[-1].startswith("genretag: stopped; what was finished is kept")
    assert "Traceback" not in errors


def _await(condition, timeout_s=120):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.05)
