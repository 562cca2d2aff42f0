"""The morning report is written after each night and can be drawn again. Its failure never fails the night."""

import logging

import pytest
from nights import a_run
from tagged_output import random_probabilities, write_tagged

from genretag.model.engines.processors import this_processor
from genretag.reports import run_report as morning_report
from genretag.reports.run_facts import busy_shares, earlier_records, phases, read_record, what_bounded
from genretag.storage import Storage, join


@pytest.fixture(scope="module")
def paths(poster_folder):
    return sorted(poster_folder.rglob("*.*"))[:40]


def page_of(output, record):
    return (output / "runs" / record.run_id / "run.html").read_text()


def test_a_night_writes_its_report_page(run, few_posters, tmp_path):
    (few_posters / "broken<b>.jpg").write_bytes(b"no picture")

    record = run(few_posters, tmp_path / "out", report=True)

    page = page_of(tmp_path / "out", record)
    assert sum(record.genres.values()) + record.without_genre >= record.scored == 12
    assert all(sum(bins) == 12 for bins in record.histograms.values())
    assert all(record.busy_s[stage] > 0 for stage in ("fetch", "decode", "predict"))
    assert record.run_id in page
    (engines,) = record.processors
    assert (engines["cpu"], engines["precision"]) == (this_processor().model, "int8")
    assert 1 <= engines["engines"] <= record.actors["predict_actors"]  # one engine at least, and one per actor at most
    assert f"in int8 on {engines['cpu']}" in page
    assert "broken&lt;b&gt;.jpg" in page
    assert page.count("data:image/webp") == 3 * 12


def test_a_page_that_cannot_be_drawn_is_a_warning(run, few_posters, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(morning_report, "render", lambda *_, **__: 1 / 0)

    with caplog.at_level(logging.WARNING):
        record = run(few_posters, tmp_path / "out", report=True)

    assert (tmp_path / "out" / "runs" / record.run_id / "run.json").exists()
    assert not (tmp_path / "out" / "runs" / record.run_id / "run.html").exists()
    assert "the morning report could not be drawn" in caplog.text


def test_a_night_that_looks_like_those_before_it_does_not_warn(paths, tmp_path, command):
    for day in range(3):
        record = write_tagged(tmp_path, random_probabilities(paths, seed=day), night=a_run(day))

    code, out, err = command("report", tmp_path)

    assert (code, out) == (0, out), err
    assert out.startswith("night of 2026-11-03: 40 scored, 0 failed, genres as before (PSI ")
    assert "The genres have drifted" not in page_of(tmp_path, record)


def test_a_night_of_other_genres_warns(paths, tmp_path, command):
    write_tagged(tmp_path, random_probabilities(paths))
    record = write_tagged(tmp_path, {path: [0.0, 0.1, 0.9] for path in paths}, night=a_run(1))

    _, out, _ = command("report", tmp_path, "--run", record.run_id)
    page = page_of(tmp_path, record)

    assert "genres HAVE DRIFTED" in out
    assert "The genres have drifted." in page
    assert "population stability index against 1 earlier run is" in page


def test_only_runs_of_the_same_model_are_compared_with(paths, tmp_path):
    write_tagged(tmp_path, random_probabilities(paths[:5]), night=a_run(0, model="other"))
    first = write_tagged(tmp_path, random_probabilities(paths[:5]), night=a_run(1))
    second = write_tagged(tmp_path, random_probabilities(paths[:5]), night=a_run(2))

    assert [r.run_id for r in earlier_records(second, Storage())] == [first.run_id]


def test_a_report_in_a_bucket_shows_failures_although_part_files_are_gone(paths, bucket, command, storage):
    output = join(bucket, "genres")
    failed = [("s3://films/posters/<script>.jpg", "decode", "truncated", "the end is missing")] * 4
    record = write_tagged(output, random_probabilities(paths[:3]), failed=failed)
    storage.delete(join(output, "predictions", "dt=2026-11-01", f"part-{record.run_id}-00000.parquet"))

    code, out, err = command("report", output)

    assert (code, out) == (0, f"night of 2026-11-01: 3 scored, 4 failed: {output}/runs/{record.run_id}/run.html\n"), err
    page = bytes(storage.get(join(output, "runs", record.run_id, "run.html")).data).decode()
    assert page.count("posters/&lt;script&gt;.jpg") == 3, "three examples"
    assert "the end is missing" in page


def test_an_output_without_runs_and_an_unknown_run_are_refused(tmp_path, command, paths):
    assert "there is no published run in" in command("report", tmp_path / "nothing")[2]
    write_tagged(tmp_path, random_probabilities(paths[:2]))
    code, _, err = command("report", tmp_path, "--run", "2026")
    assert (code, "there is no record of a run 2026 in" in err) == (2, True)


def test_the_bottleneck_is_the_busiest_stage(paths, tmp_path):
    written = write_tagged(tmp_path, random_probabilities(paths[:2]))
    record = read_record(str(tmp_path), written.run_id, Storage())

    shares = busy_shares(record)

    assert shares["predict"] == (40.0, pytest.approx(40 / 45))
    assert shares["decode"] == (20.0, pytest.approx(20 / (4 * 45)))
    assert dict(phases(record)) == {
        "listing": 1.0, "worklist": 2.0, "Ray’s start and end": 5.0, "scoring": 45.0, "the rest": 7.0
    }  # fmt: skip
    assert what_bounded(record, shares, phases(record)).startswith("The network limited the speed")
