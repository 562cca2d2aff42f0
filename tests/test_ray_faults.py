"""Actors and nodes of a real cluster die, come late, or run out of memory: each poster still ends as one row."""

import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from fault_proxy import Faults, fault_proxy
from outputs import rows
from ray_cluster_faults import ray_cluster, until

from genretag.storage import Storage, join

POSTERS = 600
UNDER_WAY = 260  # GETs: more than one step of work is begun
LAST = "posters/0599"  # of the last step
SMALL_STORE_BYTES = 80 << 20  # Ray wants 75 MB at least
RUN_TIMEOUT_S = 150  # generous: a run that hangs must not hang the tests


@pytest.fixture(scope="module")
def cluster(s3_server):
    """A head and worker nodes, of which tests kill some."""
    with ray_cluster(workers=0) as cluster:
        yield cluster


@pytest.fixture
def two_workers(cluster):
    """Worker nodes are there again that other tests have killed."""
    while len(cluster.workers) < 2:
        cluster.add_worker()


@pytest.fixture(scope="module")
def images(s3_server, drawn_posters):
    """600 whole posters in a bucket."""
    s3_server.create_bucket("ray-faults")
    uris = [f"s3://ray-faults/posters/{number:04d}.jpg" for number in range(POSTERS)]
    storage = Storage()
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda n: storage.put(uris[n], drawn_posters[n % len(drawn_posters)].data), range(POSTERS)))
    return set(uris)


@pytest.fixture(scope="module")
def labelled(s3_server, drawn_posters, poster_folder):
    """Where labelled posters are, and their CSV."""
    s3_server.create_bucket("ray-faults-labelled")
    place, storage = "s3://ray-faults-labelled", Storage()
    storage.put(join(place, "labels.csv"), (poster_folder.parent / "labels.csv").read_bytes())
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda poster: storage.put(join(place, "posters", poster.key), poster.data), drawn_posters))
    return place


@pytest.fixture
def start(cluster, tmp_path):
    """Starts a `genretag` command on the cluster, in a process of its own; returns that and the file of its errors."""

    def start(*arguments):
        errors = tmp_path / "errors.txt"
        command = [sys.executable, "-m", "genretag.cli", *map(str, arguments), "--address", cluster.address]
        with errors.open("w") as file:
            return subprocess.Popen(command, env={**os.environ, **cluster.environment}, stderr=file), errors

    return start


@pytest.fixture
def tag(cluster, images, start, s3_server, request):
    """Tags all posters in one run while `fault(cluster)` happens half way, and checks the rows.

    The bucket holds back the last poster until then, so that no run is done too early, however fast the machine.
    `apart` keeps the stages in actors of their own, as they are where there are GPUs. A fault may want what the run
    says until then: a function that returns it is passed on as `said`.
    """
    output = f"s3://ray-faults/{request.node.name}"

    def tag(fault, *options, half_way=UNDER_WAY, apart=False):
        options += ("--fetch-actors", 3) if apart else ()
        with fault_proxy(s3_server.endpoint_url, Faults(held=LAST)) as proxy:
            endpoint = ("--endpoint-url", proxy.endpoint_url, "--rows-per-file", 100, "--no-report")
            job, errors = start("tag", "s3://ray-faults/posters", output, *endpoint, *options)
            until(lambda: proxy.requests["GET"] >= half_way or job.poll() is not None, RUN_TIMEOUT_S)

            def said():
                assert job.poll() is None, f"it ended too early, with {job.poll()}: {errors.read_text()}"
                return errors.read_text()

            said()
            fault(cluster, said)
            proxy.faults = Faults()
            assert _end(job, errors) == 0, errors.read_text()
        assert sorted(row["uri"] for row in rows(output)) == sorted(images)
        assert rows(output, "failures") == []
        _counts_come_out(output)

    return tag


def _end(job, errors):
    try:
        return job.wait(timeout=RUN_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        job.kill()
        raise AssertionError(f"the run hangs: {errors.read_text()}") from None


def _counts_come_out(output):
    storage = Storage()
    records = [info.uri for page in storage.list(join(output, "runs")) for info in page]
    record = json.loads(bytes(storage.get(max(records)).data))
    parts = ("already_scored", "already_failed", "scored", "failed")
    assert record["listed"] == sum(record[part] for part in parts) == POSTERS


def test_an_actor_is_killed(two_workers, tag):
    tag(lambda cluster, _: cluster.kill_actor("FetchDecodePredict"))


def test_a_fetch_actor_and_a_predict_actor_are_killed(two_workers, tag):
    def kill(cluster, _):
        cluster.kill_actor("FetchDecode")
        until(lambda: cluster.actors("Predict"))
        cluster.kill_actor("Predict")

    tag(kill, apart=True)


def test_the_worker_node_with_the_predictor_is_lost_and_none_takes_its_place(two_workers, tag, cluster):
    """What is left of the cluster has CPUs enough for all stages, though not for as many actors as were planned."""

    def kill(cluster, _):
        until(lambda: cluster.actors("Predict"))
        cluster.kill_worker(next(node for node in cluster.workers if node.processes("MapBatches(Predict)")))

    tag(kill, apart=True)


def test_all_worker_nodes_are_lost_under_way_and_another_joins_late(two_workers, tag, cluster):
    """Posters are done already: so it waits for nodes, for longer than it would at first, and says so."""

    def kill(cluster, said):
        until(lambda: re.search(r"scoring: [1-9]\d*/600", said()))
        kill_all(cluster)
        until(lambda: "any more: waiting for nodes" in said())
        assert cluster.head.processes("ray::Ledger")
        cluster.add_worker()

    tag(kill, "--wait-for-nodes-s", 0)


def kill_all(cluster):
    for node in list(cluster.workers):
        cluster.kill_worker(node)


def test_all_worker_nodes_are_lost_before_the_first_poster_is_done(two_workers, cluster, images, start):
    job, errors = start("tag", "s3://ray-faults/posters", "s3://ray-faults/too-late", "--wait-for-nodes-s", 1)
    until(lambda: cluster.actors("FetchDecodePredict") or job.poll() is not None)
    kill_all(cluster)

    assert _end(job, errors) == 2
    assert "the cluster has no room for an actor that predicts with 0.5 CPU: it has 1 node" in last_line(errors)
    assert rows("s3://ray-faults/too-late") == []


def last_line(errors):
    said = errors.read_text()
    assert "Traceback" not in said
    return said.splitlines()[-1]


def test_a_job_starts_right_after_the_last_worker_node_has_died(two_workers, cluster, images, start):
    """Ray still names it: a look at the nodes does not tell."""
    job, errors = start("tag", "s3://ray-faults/posters", "s3://ray-faults/no-node", "--wait-for-nodes-s", 1)
    until(lambda: "to score" in errors.read_text() or job.poll() is not None)
    kill_all(cluster)

    assert _end(job, errors) == 2
    assert "the cluster has no room for an actor that predicts with 0.5 CPU: it has 1 node" in last_line(errors)


def test_the_object_store_of_a_node_is_too_small(tag, cluster):
    """Ray spills to disk what does not fit: decoded posters of two steps, where there is room for one."""
    kill_all(cluster)
    small = cluster.add_worker(cpus=8, store_bytes=SMALL_STORE_BYTES)

    tag(lambda *_: until(lambda: any(small.spilled.rglob("*"))), half_way=0, apart=True)

    cluster.kill_worker(small)


def test_more_training_workers_than_there_is_room_for(two_workers, cluster, labelled, start):
    """On nodes that could hold some of them each, but not all of them together."""
    job, errors = start(
        "train", "--labels", f"{labelled}/labels.csv", "--images", f"{labelled}/posters",
        "--output", f"{labelled}/model", "--checkpoints", f"{labelled}/checkpoints",
        "--workers", 16, "--min-positives", 5, "--wait-for-nodes-s", 1,
    )  # fmt: skip

    assert _end(job, errors) == 2
    assert (
        "the cluster has no room for training workers with 1 CPU, 16 at a time: it has 3 nodes, with 4 CPU and 0 GPU "
        "at most" in last_line(errors)
    )


def test_a_wrong_token_is_told(cluster, images, start, monkeypatch):
    wrong = "0" * 64
    monkeypatch.setitem(cluster.environment, "RAY_AUTH_TOKEN", wrong)
    monkeypatch.setitem(cluster.environment, "RAY_NUM_REDIS_GET_RETRIES", "1")  # and not for 20 s
    job, errors = start("tag", "s3://ray-faults/posters", "s3://ray-faults/refused")

    assert _end(job, errors) == 2
    assert f"the Ray cluster at {cluster.address} does not accept our token" in last_line(errors)
    assert wrong not in errors.read_text()
