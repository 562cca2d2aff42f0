"""The scripts in `jobs/` run the commands on the Ray cluster at RAY_ADDRESS."""

import os
import subprocess
import sys

import pytest
import ray
from conftest import REPOSITORY
from outputs import rows
from ray_cluster_faults import until

from genretag.output.lock import output_lock
from genretag.storage import Storage, join


def run_job(name, *arguments, **environment):
    command = [sys.executable, str(REPOSITORY / "jobs" / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env={**os.environ, **environment})


def test_the_tag_job_runs_on_the_cluster_that_is_there(ray_cluster, few_posters, bucket, small_bundle):
    address = ray.get_runtime_context().gcs_address
    nodes = len(ray.nodes())

    done = run_job("tag.py", few_posters, join(bucket, "genres"), "--model", small_bundle, RAY_ADDRESS=address)

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("12 posters scored, 0 failed")
    assert len(ray.nodes()) == nodes, "no Ray of its own was started"


def test_sigterm_keeps_finished_part_files_and_releases_the_lock(ray_cluster, poster_folder, tmp_path, small_bundle):
    """`ray job stop` and the reclaim of a spot machine send SIGTERM. The next run goes on."""
    posters = sorted(poster_folder.rglob("*.*"))
    images, output = tmp_path / "images", tmp_path / "genres"
    images.mkdir()
    for number in range(4_000):
        os.link(posters[number % len(posters)], images / f"{number:04d}{posters[number % len(posters)].suffix}")
    command = [sys.executable, str(REPOSITORY / "jobs" / "tag.py"), str(images), str(output), "--model", small_bundle]
    command += ["--rows-per-file", "256"]
    environment = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}

    job = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    until(lambda: list(output.glob("predictions/*/*.parquet")) or job.poll() is not None)
    assert (output / "_lock.json").exists()
    job.terminate()
    _, err = job.communicate(timeout=240)

    assert job.returncode == 143, err
    assert err.splitlines()[-1].startswith("genretag: stopped; what was finished is kept")
    assert "Traceback" not in err
    assert not (output / "_lock.json").exists()
    kept = len(rows(output))
    assert 0 < kept < 4_000

    again = run_job("tag.py", images, output, "--model", small_bundle, RAY_ADDRESS=environment["RAY_ADDRESS"])

    assert again.returncode == 0, again.stderr
    assert again.stdout.startswith(f"{4_000 - kept} posters scored, 0 failed, {kept} already scored")


def test_the_settings_of_a_night_come_from_a_file(ray_cluster, few_posters, tmp_path, small_bundle):
    nightly = tmp_path / "nightly.toml"
    nightly.write_text(f'[tag]\nimages = "{few_posters}"\noutput = "{tmp_path}/out"\nmodel = "{small_bundle}"\n')
    address = ray.get_runtime_context().gcs_address

    done = run_job("tag.py", "--config", nightly, RAY_ADDRESS=address)

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("12 posters scored, 0 failed")


def test_a_held_output_ends_with_code_3(few_posters, tmp_path, small_bundle):
    with output_lock(str(tmp_path / "out"), "another", Storage(), lambda _reason: None):
        done = run_job("tag.py", few_posters, tmp_path / "out", "--model", small_bundle)

    assert done.returncode == 3, done.stderr
    assert "is held by run another" in done.stderr.splitlines()[-1]


def test_a_cluster_that_does_not_answer_is_named(few_posters, tmp_path, small_bundle):
    done = run_job("tag.py", few_posters, tmp_path / "out", "--model", small_bundle, RAY_ADDRESS="127.0.0.1:1")

    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].startswith("genretag: no Ray cluster answers at 127.0.0.1:1")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("job", ["tag.py", "train.py", "evaluate.py"])
def test_a_mistake_ends_with_code_2(job):
    done = run_job(job, "--no-such-option", "3")

    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("genretag: ")
