"""The entry points for `ray job submit`: the same commands, on the cluster that RAY_ADDRESS names."""

import os
import subprocess
import sys

import pytest
import ray
from conftest import REPOSITORY

from genretag.storage import join


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
