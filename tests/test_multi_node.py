"""A cluster of several nodes that cannot do a job says why.

Every node is a raylet of its own, with an address of its own where network namespaces can be made.
"""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import REPOSITORY
from network_namespaces import forwarded, network
from ray_cluster_faults import ray_cluster

from genretag.storage import Storage, join

BUCKET = "s3://cluster-nights"
RUN_TIMEOUT_S = 600  # generous: a run that hangs must not hang the tests
CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


@pytest.fixture(scope="module")
def cluster(s3_server):
    """A head without CPUs and two worker nodes of two CPUs, which have no credentials of their own."""
    port = int(s3_server.endpoint_url.rpartition(":")[2])
    with network() as net, forwarded(net.gateway, port) as reached_at:
        environment = {
            "AWS_ENDPOINT_URL": f"http://{net.gateway}:{reached_at}",
            "NO_PROXY": f"{os.environ['NO_PROXY']},{net.gateway}",
            "RAY_enable_metrics_collection": "true",  # a Ray of our own in this process has switched it off
            "RAY_metrics_report_interval_ms": "1000",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            **dict.fromkeys(CREDENTIALS, ""),
        }
        environment["no_proxy"] = environment["NO_PROXY"]
        with ray_cluster(workers=2, environment=environment, net=net, jobs=True, cpus=2) as cluster:
            yield cluster


@pytest.fixture(scope="module")
def bucket(s3_server, drawn_posters):
    """A few posters to tag."""
    s3_server.create_bucket(BUCKET.removeprefix("s3://"))
    storage = Storage()
    objects = {join(BUCKET, "labelled", poster.key): poster.data for poster in drawn_posters[:8]}
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda uri: storage.put(uri, objects[uri]), objects))
    return BUCKET


@pytest.fixture
def driver(cluster, s3_server):
    """Runs a job of `jobs/` on the head's host, without the job server; `before` is Python that goes first."""

    def driver(command, *arguments, before="", **environment):
        code = f"{before}\nimport runpy, sys\nrunpy.run_path(sys.argv.pop(1), run_name='__main__')"
        words = [*cluster.head.host.prefix, sys.executable, "-c", code, str(REPOSITORY / "jobs" / f"{command}.py")]
        inside = {**os.environ, **cluster.node_environment, **{name: os.environ[name] for name in CREDENTIALS}}
        job = subprocess.Popen(
            [*words, *map(str, arguments)],
            env={**inside, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        return end(job)

    return driver


def end(job):
    try:
        out, err = job.communicate(timeout=RUN_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        job.kill()
        raise AssertionError(f"it hangs: {job.communicate()}") from None
    return job.returncode, out, err


def test_another_version_of_ray_is_named(cluster, bucket, driver):
    code, _, err = driver(
        "tag", join(bucket, "labelled"), join(bucket, "other-version"), before="import ray; ray.__version__ = '2.9.0'"
    )

    assert (code, "Traceback" in err) == (2, False), err
    assert "is of another version" in err.splitlines()[-1]
    assert "Ray: 2.60" in err.splitlines()[-1]


@pytest.fixture(scope="module")
def hidden(tmp_path_factory):
    """A folder that one node cannot see."""
    return tmp_path_factory.mktemp("hidden")


@pytest.fixture(scope="module")
def gpu_node(cluster, hidden):
    """A node that declares a GPU, and has a disk of its own where others have the hidden folder."""
    return cluster.add_worker(cpus=2, gpus=1, hide=hidden)


def test_an_output_that_a_node_cannot_see(cluster, gpu_node, hidden, bucket, driver):
    if not gpu_node.host.prefix:
        pytest.skip("no namespaces can be made here")

    code, _, err = driver("tag", join(bucket, "labelled"), hidden / "genres")

    assert (code, "Traceback" in err) == (2, False), err
    assert f"the node at {gpu_node.host.address} cannot see {hidden}/genres" in err.splitlines()[-1]


def test_a_cluster_without_a_node_that_computes(cluster, bucket, driver):
    """Comes last: it takes all worker nodes away."""
    for node in list(cluster.workers):
        cluster.kill_worker(node)

    code, _, err = driver("tag", join(bucket, "labelled"), join(bucket, "nothing"), "--wait-for-nodes-s=8")

    assert (code, "Traceback" in err) == (2, False), err
    assert "the cluster has no room for an actor that predicts with 0.5 CPU: it has 1 node" in err.splitlines()[-1]
