"""Actors and nodes of a real cluster die, join late, or run out of memory. Each poster still becomes one row."""

import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from fault_proxy import Faults, fault_proxy
from outputs import rows
from ray_cluster_faults import TITLES, ray_cluster, until

from genretag.storage import Storage, join

POSTERS = 1_100  # three steps of 256 posters, after the small ones at the start
UNDER_WAY = 260  # number of GETs after which more than one step of work has begun
LAST = f"posters/{POSTERS - 1:04d}"  # a poster of the last step
SMALL_STORE_BYTES = 80 << 20  # Ray needs at least 75 MB
RUN_TIMEOUT_S = 300  # a generous limit, only so that a hanging run does not hang the tests


@pytest.fixture(scope="module")
def cluster(s3_server):
    """Start a head. Tests add and kill worker nodes."""
    with ray_cluster(workers=0) as cluster:
        yield cluster


@pytest.fixture
def two_workers(cluster):
    """Add worker nodes until there are two, because earlier tests have killed some."""
    while len(cluster.workers) < 2:
        cluster.add_worker()


@pytest.fixture(scope="module")
def images(s3_server, drawn_posters):
    """Fill a bucket with 1,100 posters, none of them broken, and return their URIs."""
    s3_server.create_bucket("ray-faults")
    uris = [f"s3://ray-faults/posters/{number:04d}.jpg" for number in range(POSTERS)]
    storage = Storage()
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda n: storage.put(uris[n], drawn_posters[n % len(drawn_posters)].data), range(POSTERS)))
    return set(uris)


@pytest.fixture(scope="module")
def labelled(s3_server, drawn_posters, poster_folder):
    """Fill a bucket with labelled posters and their CSV, and return its URI."""
    s3_server.create_bucket("ray-faults-labelled")
    place, storage = "s3://ray-faults-labelled", Storage()
    storage.put(join(place, "labels.csv"), (poster_folder.parent / "labels.csv").read_bytes())
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda poster: storage.put(join(place, "posters", poster.key), poster.data), drawn_posters))
    return place


@pytest.fixture
def start(cluster, tmp_path):
    """Return a function that starts a `genretag` command on the cluster, in a new process.

    The function returns the process and the file of its error output.
    """

    def start(*arguments):
        errors = tmp_path / "errors.txt"
        command = [sys.executable, "-m", "genretag.cli", *map(str, arguments), "--address", cluster.address]
        with errors.open("w") as file:
            return subprocess.Popen(command, env={**os.environ, **cluster.environment}, stderr=file), errors

    return start


@pytest.fixture
def tag(cluster, images, start, s3_server, request):
    """Return a function that tags all posters in one run, calls `fault(cluster, said)` half way, and checks the rows.

    The bucket holds back the last poster until after the fault, so that no run ends too early on a fast machine. If
    `apart` is True, fetching and predicting have their own actors, as on GPUs. `said` returns the run's log so far.
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
    """Wait until the job ends and return its exit code. Fail if the job hangs."""
    try:
        return job.wait(timeout=RUN_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        job.kill()
        raise AssertionError(f"the run hangs: {errors.read_text()}") from None


def _counts_come_out(output):
    """Fail if the counts in the newest run record do not add up."""
    storage = Storage()
    records = [info.uri for page in storage.list(join(output, "runs")) for info in page]
    record = json.loads(bytes(storage.get(max(records)).data))
    parts = ("already_scored", "already_failed", "scored", "failed")
    assert record["listed"] == sum(record[part] for part in parts) == POSTERS


def test_a_run_survives_the_death_of_an_actor(two_workers, tag):
    tag(lambda cluster, _: cluster.kill_actor("Score"))


def test_a_run_survives_the_death_of_a_fetch_actor_and_a_predict_actor(two_workers, tag):
    def kill(cluster, _):
        cluster.kill_actor("Score")
        until(lambda: cluster.actors("Predict"))
        cluster.kill_actor("Predict")

    tag(kill, apart=True)


def test_a_run_survives_the_loss_of_the_worker_node_that_predicts(two_workers, tag, cluster):
    """The remaining nodes have enough CPUs for all stages, but not for all planned actors."""

    def kill(cluster, _):
        until(lambda: cluster.actors("Predict"))
        cluster.kill_worker(next(node for node in cluster.workers if node.processes(TITLES["Predict"])))

    tag(kill, apart=True)


def test_a_run_that_loses_all_worker_nodes_continues_when_another_joins(two_workers, tag, cluster):
    """Some posters are done. So the run waits for nodes longer than it would before its first poster, and says so."""

    def kill(cluster, said):
        until(lambda: re.search(rf"scoring: [1-9][\d,]*/{POSTERS:,}", said()))
        kill_all(cluster)
        until(lambda: "any more: waiting for nodes" in said())
        assert cluster.head.processes("ray::Ledger")
        cluster.add_worker()

    tag(kill, "--wait-for-nodes-s", 0)


def kill_all(cluster):
    for node in list(cluster.workers):
        cluster.kill_worker(node)


def test_a_run_that_loses_all_worker_nodes_before_its_first_poster_ends(two_workers, cluster, images, start):
    job, errors = start("tag", "s3://ray-faults/posters", "s3://ray-faults/too-late", "--wait-for-nodes-s", 1)
    until(lambda: cluster.actors("Score") or job.poll() is not None)
    kill_all(cluster)

    assert _end(job, errors) == 2
    assert "the cluster has no room for an actor that predicts with 0.5 CPU: it has 1 node" in last_line(errors)
    assert rows("s3://ray-faults/too-late") == []


def last_line(errors):
    """Return the last line of the error output. Fail if the output has a traceback."""
    said = errors.read_text()
    assert "Traceback" not in said
    return said.splitlines()[-1]


def test_a_job_that_starts_right_after_the_death_of_the_last_worker_node_ends(two_workers, cluster, images, start):
    """Ray still lists the dead node, so listing the nodes does not show its death."""
    job, errors = start("tag", "s3://ray-faults/posters", "s3://ray-faults/no-node", "--wait-for-nodes-s", 1)
    until(lambda: "to score" in errors.read_text() or job.poll() is not None)
    kill_all(cluster)

    assert _end(job, errors) == 2
    assert "the cluster has no room for an actor that predicts with 0.5 CPU: it has 1 node" in last_line(errors)


@pytest.fixture
def small(cluster):
    """Replace all worker nodes by one whose object store has room for the decoded posters of one step only."""
    kill_all(cluster)
    small = cluster.add_worker(cpus=8, store_bytes=SMALL_STORE_BYTES)
    yield small
    cluster.kill_worker(small)


def test_a_run_survives_an_object_store_that_is_too_small(tag, small):
    """While the engines stand still, decoded posters of several steps wait for them. Ray spills them to disk."""
    frozen = set()

    def has_spilled():
        for engine in set(small.processes(TITLES["Predict"])) - frozen:
            engine.suspend()
            frozen.add(engine)
        return any(small.spilled.rglob("*"))

    def wait(*_):
        try:
            until(has_spilled)
        finally:
            for engine in frozen:
                engine.resume()

    tag(wait, half_way=0, apart=True)
    assert frozen


def test_training_with_more_workers_than_fit_is_refused(two_workers, cluster, labelled, start):
    """Each node has room for some of the workers, but all nodes together have too little."""
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


def test_a_wrong_cluster_token_is_refused(cluster, images, start, monkeypatch):
    wrong = "0" * 64
    monkeypatch.setitem(cluster.environment, "RAY_AUTH_TOKEN", wrong)
    monkeypatch.setitem(cluster.environment, "RAY_NUM_REDIS_GET_RETRIES", "1")  # otherwise Ray retries for 20 s
    job, errors = start("tag", "s3://ray-faults/posters", "s3://ray-faults/refused")

    assert _end(job, errors) == 2
    assert f"the Ray cluster at {cluster.address} does not accept our token" in last_line(errors)
    assert wrong not in errors.read_text()
