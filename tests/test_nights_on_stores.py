"""Whole nights on every store: the demo's posters, a killed run, two runs at once, a mixed manifest."""

import os
import signal

import psutil
import pytest
from outputs import rows
from suspended_runs import suspended_run
from test_object_stores import listed, new_bucket
from test_web import web_server

from genretag.demo.posters import draw_posters, labels_csv
from genretag.storage import Storage, join

POSTERS = 120
CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE")
NIGHT = ("--no-report", "--error-budget", "0.5")


@pytest.fixture(scope="module")
def posters():
    return list(draw_posters(POSTERS, seed=1, broken_share=0.04, large_share=0.04))


def fill(place, posters):
    """Write posters below a prefix, and return the prefix."""
    storage = Storage()
    for poster in posters:
        storage.put(join(place, poster.key.rsplit("/")[-1]), poster.data)
    return place


def facts(output):
    """Return what an output says of its posters, without what differs from store to store (URI and etag)."""
    scored = {(row["poster_id"], tuple(row["genres"]), round(row["p_drama"], 4)) for row in rows(output)}
    failed = {(row["poster_id"], row["stage"], row["reason"]) for row in rows(output, "failures")}
    return scored, failed


def test_the_demos_night_has_the_same_rows_on_every_store(request, process, posters, tmp_path):
    found = {}
    for scheme in ("s3", "az", "gs"):
        place = fill(new_bucket(request, scheme), posters)
        output = join(place.rsplit("/", 1)[0], "genres")
        first = process("tag", place, output, *NIGHT, "--date", "2026-11-01", "--rows-per-file", "50")
        second = process("tag", place, output, *NIGHT)
        merged = process("compact", output)

        assert (first.returncode, second.returncode, merged.returncode) == (0, 0, 0), first.stderr + merged.stderr
        assert second.stdout.startswith("0 posters scored"), second.stdout
        assert len(listed(join(output, "predictions"))) == 1, merged.stdout
        found[scheme] = facts(output)

    assert len(found["s3"][0]) + len(found["s3"][1]) == POSTERS
    assert found["az"] == found["s3"]
    assert found["gs"] == found["s3"]


@pytest.mark.parametrize("scheme", ["az", "gs"])
def test_a_night_that_is_killed_at_three_moments_has_each_poster_once(request, process, posters, scheme):
    place = fill(new_bucket(request, scheme), posters)
    output = join(place.rsplit("/", 1)[0], "genres")
    command = ["tag", place, output, *NIGHT, "--rows-per-file", "8"]

    for part_files in (0, 1, 2):
        kill(suspended_run(part_files, *command))
        assert held(output)
    last = process(*command)

    assert last.returncode == 0, last.stderr
    assert len({name.partition("part-")[2][:21] for name in listed(join(output, "predictions"))}) == 3
    ids = [row["poster_id"] for kind in ("predictions", "failures") for row in rows(output, kind)]
    assert sorted(ids) == sorted({poster.key.rsplit("/")[-1].rsplit(".")[0] for poster in posters})


def held(output):
    """Return True if a run holds the output."""
    return join(output, "_lock.json") in listed(output)


def kill(job):
    """Kill a job with all its processes by SIGKILL."""
    everyone = [psutil.Process(job.pid), *psutil.Process(job.pid).children(recursive=True)]
    for one in everyone:
        if one.is_running():
            one.send_signal(signal.SIGKILL)
    job.wait()


@pytest.mark.parametrize("scheme", ["az", "gs"])
def test_of_two_nights_at_once_one_ends_with_3(request, process, posters, scheme):
    place = fill(new_bucket(request, scheme), posters[:20])
    output = join(place.rsplit("/", 1)[0], "genres")
    command = ["tag", place, output, *NIGHT]
    first = suspended_run(0, *command)

    second = process(*command)
    first.send_signal(signal.SIGCONT)
    _, errors = first.communicate(timeout=240)

    assert (second.returncode, first.returncode) == (3, 0), second.stderr + errors
    assert "is held by run" in second.stderr.splitlines()[-1]


def test_a_public_bucket_is_tagged_without_credentials_anywhere(request, process, posters, tmp_path):
    place = fill(new_bucket(request, "s3", public=True), posters[:12])
    private = fill(new_bucket(request, "s3"), posters[:2])
    left = {name: value for name, value in os.environ.items() if name not in CREDENTIALS}
    nowhere = {**left, "HOME": str(tmp_path), "AWS_EC2_METADATA_DISABLED": "true"}

    done = process("tag", place, tmp_path / "out", "--anonymous", *NIGHT, env=nowhere)
    without = process("tag", place, tmp_path / "other", *NIGHT, env=nowhere)
    refused = process("tag", private, tmp_path / "other", "--anonymous", *NIGHT, env=nowhere)

    assert done.returncode == 0, done.stderr
    assert len(rows(tmp_path / "out")) + len(rows(tmp_path / "out", "failures")) == 12
    assert without.returncode == 2
    assert "--anonymous reads a public bucket" in without.stderr.splitlines()[-1]
    assert refused.returncode == 2
    assert "the store refuses access" in refused.stderr.splitlines()[-1]
    assert not (tmp_path / "other").exists()


def test_a_model_is_trained_from_and_into_buckets_and_draws_its_pages_there(request, process, tmp_path):
    """Labels, images, cache, checkpoints, bundle, predictions and pages are on two clouds. Nothing is local."""
    azure, google = new_bucket(request, "az"), new_bucket(request, "gs")
    posters, storage = list(draw_posters(120, seed=2)), Storage()
    fill(join(azure, "posters"), posters)
    storage.put(join(google, "labels.csv"), labels_csv(posters).encode())
    small = "--workers 1 --backbone tutorial --height 96 --width 80 --epochs 1 --head-epochs 1 --min-positives 5"

    trained = process(
        *("train", "--labels", join(google, "labels.csv"), "--images", join(azure, "posters")),
        *("--output", join(google, "model"), "--checkpoints", join(azure, "checkpoints")),
        *("--cache", join(azure, "cache"), "--batch-size", "16", *small.split()),
    )
    tagged = process("tag", join(azure, "posters"), join(azure, "genres"), "--model", join(google, "model"))
    drawn = process("gallery", join(azure, "genres"))
    printed = process("predict", join(azure, "posters", posters[0].key.rsplit("/")[-1]))

    for done in (trained, tagged, drawn, printed):
        assert done.returncode == 0, done.stderr
    assert join(google, "model", "bundle.json") in listed(join(google, "model"))
    assert not listed(join(azure, "checkpoints")), "a run that succeeds deletes its checkpoints"
    assert len(listed(join(azure, "cache"))) > 0
    assert join(azure, "genres", "gallery.html") in listed(join(azure, "genres"))
    assert [uri for uri in listed(join(azure, "genres", "runs")) if uri.endswith("run.html")]
    assert len(rows(join(azure, "genres"))) == 120


def test_a_manifest_of_all_stores_is_tagged_in_one_run_and_each_failure_has_its_reason(
    request, process, posters, tmp_path
):
    whole = [poster for poster in posters if not poster.broken][:5]
    storage = Storage()
    places = [new_bucket(request, scheme) for scheme in ("s3", "gs", "az", "abfss")] + [str(tmp_path / "here")]
    uris = [join(place, poster.key.rsplit("/")[-1]) for place, poster in zip(places, whole, strict=True)]
    for uri, poster in zip(uris, whole, strict=True):
        storage.put(uri, poster.data)
    with web_server({"/a.jpg": whole[0].data}) as server:
        wrong = {
            f"{server.url}/410.jpg": "gone",
            f"{server.url}/403.jpg": "access_denied",
            f"{server.url}/429.jpg": "throttled",
            f"{server.url}/none.jpg": "not_found",
            **{join(place, "none.jpg"): "not_found" for place in places},
            "gs://no-such-bucket-of-ours/a.jpg": "bucket_missing",
        }
        manifest = tmp_path / "manifest.csv"
        manifest.write_text("\n".join(["uri", *uris, f"{server.url}/a.jpg", *wrong]))
        environment = {**os.environ, "GENRETAG_STORE_TOTAL_S": "40", "GENRETAG_STORE_ATTEMPT_S": "10"}
        done = process("tag", manifest, tmp_path / "out", "--private-hosts", "--error-budget", "1", env=environment)
        refused = process("tag", manifest, tmp_path / "out2", "--error-budget", "1", env=environment)

    assert done.returncode == 0, done.stderr
    assert {row["uri"] for row in rows(tmp_path / "out")} == {*uris, f"{server.url}/a.jpg"}
    failed = {row["uri"]: (row["stage"], row["reason"]) for row in rows(tmp_path / "out", "failures")}
    assert failed == {uri: ("fetch", reason) for uri, reason in wrong.items()}
    assert refused.returncode == 0, refused.stderr
    private = [row["uri"] for row in rows(tmp_path / "out2", "failures") if row["reason"] == "private_host"]
    assert len(private) == 5
    assert all(uri.startswith(server.url) for uri in private)
