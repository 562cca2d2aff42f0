"""Actors and nodes of a real cluster die, come late, or run out of memory: each poster still ends as one row."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from fault_proxy import Faults, fault_proxy
from outputs import rows
from ray_cluster_faults import ray_cluster, until

from genretag.storage import Storage, join

POSTERS = 600
UNDER_WAY = 260  # GETs: more than one step of work is done, and there is more to do
RUNS_AT_MOST = 2
SMALL_STORE_BYTES = 80 << 20  # Ray wants 75 MB at least
RUN_TIMEOUT_S = 150  # generous: a run that hangs must not hang the tests


@pytest.fixture(scope="module")
def cluster(s3_server):
    """A head and two worker nodes; a test leaves as many as it found."""
    with ray_cluster(workers=2) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def images(s3_server, drawn_posters):
    """600 whole posters in a bucket."""
    s3_server.create_bucket("ray-faults")
    uris = [f"s3://ray-faults/posters/{number:04d}.jpg" for number in range(POSTERS)]
    storage = Storage()
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda n: storage.put(uris[n], drawn_posters[n % len(drawn_posters)].data), range(POSTERS)))
    return set(uris)


@pytest.fixture
def tag(cluster, images, s3_server, request):
    """Tags all posters while `fault(cluster)` happens half way, again if need be, and checks the rows.

    `apart` keeps the stages in actors of their own, as they are where there are GPUs.
    """
    output = f"s3://ray-faults/{request.node.name}"

    def tag(fault, *, half_way=UNDER_WAY, apart=False):
        with fault_proxy(s3_server.endpoint_url, Faults()) as proxy:
            command = [sys.executable, "-m", "genretag.cli", "tag", "s3://ray-faults/posters", output]
            command += ["--address", cluster.address, "--endpoint-url", proxy.endpoint_url, "--rows-per-file", "100"]
            command += ["--fetch-actors", "3"] if apart else []

            def start():
                environment = {**os.environ, **cluster.environment}
                return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)

            job = start()
            until(lambda: proxy.requests["GET"] >= half_way or job.poll() is not None, RUN_TIMEOUT_S)
            assert job.poll() is None, f"it ended before anything could happen: {job.stderr.read()}"
            fault(cluster)
            for run in range(RUNS_AT_MOST):
                job = job if run == 0 else start()
                errors = _end(job)
                if job.returncode == 0:
                    break
                assert job.returncode == 1, errors
                assert "Traceback" not in errors
                assert errors.splitlines()[-1].startswith("genretag: ")
            assert job.returncode == 0, errors
        assert sorted(row["uri"] for row in rows(output)) == sorted(images)
        assert rows(output, "failures") == []
        _counts_come_out(output)

    return tag


def _end(job):
    try:
        return job.communicate(timeout=RUN_TIMEOUT_S)[1]
    except subprocess.TimeoutExpired:
        job.kill()
        raise AssertionError(f"the run hangs: {job.communicate()[1]}") from None


def _counts_come_out(output):
    storage = Storage()
    records = [info.uri for page in storage.list(join(output, "runs")) for info in page]
    record = json.loads(bytes(storage.get(max(records)).data))
    parts = ("already_scored", "already_failed", "scored", "failed")
    assert record["listed"] == sum(record[part] for part in parts) == POSTERS


def test_an_actor_is_killed(tag):
    tag(lambda cluster: cluster.kill_actor("FetchDecodePredict"))


def test_a_fetch_actor_is_killed(tag):
    tag(lambda cluster: cluster.kill_actor("FetchDecode"), apart=True)


def test_a_predict_actor_is_killed(tag):
    def kill(cluster):
        until(lambda: cluster.actors("Predict"))
        cluster.kill_actor("Predict")

    tag(kill, apart=True)


def test_a_worker_node_is_lost_and_another_joins_late(tag):
    tag(lambda cluster: (cluster.kill_worker(), cluster.add_worker()))


def test_the_worker_node_with_the_predictor_is_lost_and_none_takes_its_place(tag, cluster):
    """What is left of the cluster has CPUs enough for all stages, though not for as many actors as were planned."""

    def kill(cluster):
        until(lambda: cluster.actors("Predict"))
        cluster.kill_worker(next(node for node in cluster.workers if node.processes("MapBatches(Predict)")))

    tag(kill, apart=True)
    cluster.add_worker()


def test_the_object_store_of_a_node_is_too_small(tag, cluster):
    """Ray spills to disk what does not fit: decoded posters of two steps, where there is room for one."""
    for node in list(cluster.workers):
        cluster.kill_worker(node)
    small = cluster.add_worker(cpus=8, store_bytes=SMALL_STORE_BYTES)

    tag(lambda _: until(lambda: any(small.spilled.rglob("*"))), half_way=0, apart=True)
