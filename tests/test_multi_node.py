"""From `genretag submit` to the SQL query in the morning, on a cluster of several nodes that come and go.

Every node has its own raylet. If network namespaces can be made, every node also has its own address.
"""

import json
import os
import re
import subprocess
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from conftest import REPOSITORY
from fault_proxy import Faults, fault_proxy
from network_namespaces import network
from outputs import rows
from ray_cluster_faults import TITLES, ray_cluster, stacks, titled, until
from warehouse_rows import opened

from genretag.model.bundle import load_bundle
from genretag.runtime.telemetry import METRICS
from genretag.storage import Storage, StorageError, join

BUCKET = "s3://cluster-nights"
POSTERS = 600
LAST = "posters/00599"
RUN_TIMEOUT_S = 600  # a generous limit, only so that a hanging run does not hang the tests
CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
SENDS = tuple(word for name in CREDENTIALS for word in ("--env", name))
FAST_TRAINING = (
    "--height=96", "--width=64", "--head-epochs=1", "--epochs=0", "--min-positives=5", "--batch-size=16",
    "--cpus-per-worker=2",
)  # fmt: skip
DIRECTLY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@pytest.fixture(scope="module")
def net():
    """The network of the cluster."""
    with network() as net:
        yield net


@pytest.fixture(scope="module")
def store(s3_server, net):
    """The S3 server as the cluster's hosts reach it: a proxy that can hold requests back."""
    with fault_proxy(s3_server.endpoint_url, Faults(), address=net.gateway) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def cluster(net, store):
    """A head without CPUs and two worker nodes of two CPUs. The nodes have no credentials."""
    environment = {
        "AWS_ENDPOINT_URL": store.endpoint_url,
        "NO_PROXY": f"{os.environ.get('NO_PROXY', '127.0.0.1')},{net.gateway}",
        "RAY_enable_metrics_collection": "true",  # a Ray of our own in this process has switched it off
        "RAY_metrics_report_interval_ms": "1000",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        **dict.fromkeys(CREDENTIALS, ""),
    }
    environment["no_proxy"] = environment["NO_PROXY"]
    with ray_cluster(workers=2, environment=environment, net=net, jobs=True, cpus=2) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def bucket(s3_server, drawn_posters, poster_folder):
    """Fill a bucket with many posters to tag, and a few labelled posters to train on."""
    s3_server.create_bucket(BUCKET.removeprefix("s3://"))
    storage = Storage()
    labels = (poster_folder.parent / "labels.csv").read_bytes()
    objects = {join(BUCKET, "labels.csv"): labels}
    objects |= {join(BUCKET, "labelled", poster.key): poster.data for poster in drawn_posters}
    objects |= {
        join(BUCKET, "posters", f"{n:05d}.jpg"): drawn_posters[n % len(drawn_posters)].data for n in range(POSTERS)
    }
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda uri: storage.put(uri, objects[uri]), objects))
    return BUCKET


@pytest.fixture(scope="module")
def submit(cluster):
    """Return a function that starts `genretag submit` outside of the cluster's network, with the cluster's token."""

    def submit(*arguments, **environment):
        words = [sys.executable, "-m", "genretag", "submit", "--address", cluster.job_server]
        token = {name: value for name, value in cluster.environment.items() if name.startswith("RAY_AUTH")}
        return subprocess.Popen(
            [*words, *map(str, arguments)],
            env={**os.environ, **token, "NO_PROXY": "*", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return submit


@pytest.fixture(scope="module")
def ended(submit):
    """Return a function that runs `genretag submit` to its end.

    The function returns the exit code, the standard output and the standard error output.
    """

    def ended(*arguments, **environment):
        return end(submit(*arguments, **environment))

    return ended


@pytest.fixture
def driver(cluster, s3_server):
    """Return a function that runs a script of `jobs/` on the head's host, without the job server.

    `before` is Python code that runs first.
    """

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
        commands = [process for process in psutil.process_iter() if "-m genretag tag " in titled(process)]
        where = "\n".join(stacks(command.pid) for command in commands) or "its command on the cluster is over"
        job.kill()
        raise AssertionError(f"it hangs: {job.communicate()}\n{where}") from None
    return job.returncode, out, err


def scrape(cluster):
    """Return the metrics of all nodes, which Ray's service discovery names, as Prometheus scrapes them."""
    texts, targets = [], json.loads((cluster.folder / "prom_metrics_service_discovery.json").read_text())
    for address in (address for target in targets for address in target["targets"]):
        with suppress(OSError), DIRECTLY.open(f"http://{address}/metrics", timeout=5) as answer:
            texts.append(answer.read().decode())  # a node that has gone is still listed for a while
    return "\n".join(texts)


def total(text, metric, **labels):
    """Return the sum of all series of a metric that have these labels."""
    suffix = "_count" if metric.kind == "histogram" else ""
    found = re.findall(rf"^{metric.exposed_name}{suffix}\{{(.*)\}} (\S+)$", text, flags=re.MULTILINE)
    return sum(float(value) for tags, value in found if all(f'{name}="{v}"' in tags for name, v in labels.items()))


def nodes_with(cluster, title):
    """Return the number of worker nodes that have a process with this title."""
    return sum(bool(node.processes(title)) for node in cluster.workers)


def morning_query(genres, model):
    """Return the number of posters in the warehouse view, and the number of rows in the part files."""
    database = opened(genres, load_bundle(model, Storage()).labels, Storage())
    sql = "select (select count(*) from genretag.current_genres), (select count(*) from genretag.predictions)"
    return database.sql(sql).fetchall()


def lock_is_there(genres):
    try:
        return bool(Storage().stat(join(genres, "_lock.json")))
    except StorageError:
        return False


@pytest.fixture(scope="module")
def model(cluster, bucket, submit):
    """Train a model with a submitted job of two data-parallel workers on two nodes, and return its location."""
    model = join(bucket, "model")
    training = submit(
        "--wait", *SENDS, "train", "--labels", join(bucket, "labels.csv"), "--images", join(bucket, "labelled"),
        "--output", model, "--checkpoints", join(bucket, "checkpoints"), "--workers=2", *FAST_TRAINING,
    )  # fmt: skip
    until(lambda: nodes_with(cluster, "ray::RayTrainWorker") == 2 or training.poll() is not None, RUN_TIMEOUT_S)
    code, out, err = end(training)
    assert code == 0, out + err
    return model


def test_training_tagging_crashes_and_the_query_in_the_morning(cluster, store, bucket, model, submit, ended):
    """The store holds back the last poster, so that no run ends before it is stopped or has lost its node."""
    genres = join(bucket, "genres")
    store.faults = Faults(held=LAST)
    night = (
        "--wait", *SENDS, "tag", join(bucket, "posters"), genres, "--model", model, "--fetch-actors=3",
        "--predict-actors=2", "--rows-per-file=100", "--date=2026-11-25", "--log-format=json",
    )  # fmt: skip
    seen, spread = set(), set()  # metrics that had a value, and stages that ran on two nodes

    def watch(job, until_this):
        def ended_or_seen():
            text = scrape(cluster)
            seen.update(metric for metric in METRICS if total(text, metric))
            spread.update(stage for stage, title in TITLES.items() if nodes_with(cluster, title) >= 2)
            return until_this() or job.poll() is not None

        until(ended_or_seen, RUN_TIMEOUT_S)

    first = submit(*night)
    watch(first, lambda: rows(genres))
    assert lock_is_there(genres)
    stop(cluster, submission_id(first))
    code, out, err = end(first)
    assert code == 143, out + err
    assert not lock_is_there(genres), "a job that is stopped gives its lock back"
    kept = len(rows(genres))
    assert 0 < kept < POSTERS

    victim = cluster.workers[0]
    earlier = {*victim.processes(TITLES["Score"])}  # of the first run: under load, Ray may leave them behind
    second = submit(*night)
    everything = (set(METRICS), set(TITLES))
    watch(second, lambda: (seen, spread) == everything and {*victim.processes(TITLES["Score"])} - earlier)
    assert second.poll() is None, ([metric.name for metric in seen], spread, end(second))
    cluster.kill_worker(victim)
    cluster.add_worker(cpus=2)
    store.faults = Faults()
    code, out, err = end(second)
    assert code == 0, out + err
    assert len(rows(genres)) == POSTERS
    assert morning_query(genres, model) == [(POSTERS, POSTERS)]
    for line in out.splitlines():
        if line.startswith("{"):
            assert json.loads(line)["run_id"]
    for name in (*CREDENTIALS, "RAY_AUTH_TOKEN"):
        assert {**os.environ, **cluster.environment}[name] not in out + err

    code, out, err = ended(*night)
    assert code == 0, out + err
    assert "has succeeded already: nothing is submitted" in out


def stop(cluster, name):
    """Stop a job by the request that `ray job stop` makes. The command itself takes seconds to start."""
    bearer = {"Authorization": f"Bearer {cluster.environment['RAY_AUTH_TOKEN']}"}
    DIRECTLY.open(urllib.request.Request(f"{cluster.job_server}/api/jobs/{name}/stop", headers=bearer, method="POST"))


def submission_id(job):
    """Return the submission id, which `submit` prints first."""
    return job.stdout.readline().split()[0]


SUBMITS_AND_FOLLOWS = """
import sys
from genretag.commands import submit
from genretag.runtime.job_server import JobServer

submit.SILENT_AFTER_S = 5
server = JobServer(sys.argv[1])
server.submit("brief", "echo it begins; sleep 5; exit 7", {})
sys.exit(submit._follow(server, "brief"))
"""


def test_submit_ends_with_its_job_even_if_the_agent_that_reads_the_log_stands_still(cluster):
    token = {name: value for name, value in cluster.environment.items() if name.startswith("RAY_AUTH")}
    job = subprocess.Popen(
        [sys.executable, "-c", SUBMITS_AND_FOLLOWS, cluster.job_server],
        env={**os.environ, **token, "NO_PROXY": "*"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert any("it begins" in line for line in job.stdout)
    (agent,) = cluster.head.processes("ray::DashboardAgent")
    agent.suspend()
    try:
        code, _, err = end(job)
    finally:
        agent.resume()
    assert code == 7, err


def test_a_wrong_token_is_refused(cluster, bucket, ended):
    code, out, err = ended("tag", join(bucket, "labelled"), join(bucket, "refused"), RAY_AUTH_TOKEN="0" * 64)

    assert (code, "Traceback" in err) == (2, False), err
    assert f"the Ray cluster at {cluster.job_server} does not accept our token" in err.splitlines()[-1]
    assert "0" * 64 not in out + err


def test_another_version_of_ray_is_named(cluster, bucket, driver):
    code, _, err = driver(
        "tag", join(bucket, "labelled"), join(bucket, "other-version"), before="import ray; ray.__version__ = '2.9.0'"
    )

    assert (code, "Traceback" in err) == (2, False), err
    assert "is of another version" in err.splitlines()[-1]
    assert "Ray: 2.60" in err.splitlines()[-1]


@pytest.fixture(scope="module")
def hidden(tmp_path_factory):
    """Return a folder that the GPU node cannot see."""
    return tmp_path_factory.mktemp("hidden")


@pytest.fixture(scope="module")
def gpu_node(cluster, hidden):
    """Add a node that declares a GPU, and that sees the hidden folder empty."""
    return cluster.add_worker(cpus=2, gpus=1, hide=hidden)


def test_on_a_mixed_cluster_gpus_predict_and_cpus_decode(cluster, gpu_node, bucket, model, submit):
    """The GPU is only declared. The test shows where actors are placed, not their speed."""
    genres = join(bucket, "mixed")
    earlier = set(cluster.actors("Predict"))  # actors of earlier jobs, which Ray may leave behind under load
    job = submit("--wait", *SENDS, "tag", join(bucket, "labelled"), genres, "--model", model)
    predicts, fetches = set(), set()

    def look():
        predicts.update(node for node in cluster.workers if {*node.processes(TITLES["Predict"])} - earlier)
        fetches.update(node for node in cluster.workers if node.processes(TITLES["Score"]))
        return job.poll() is not None

    until(look, RUN_TIMEOUT_S)
    code, out, err = end(job)
    assert code == 0, out + err
    assert predicts == {gpu_node}
    assert len(fetches) >= 1
    assert record(genres)["actors"]["engine"] == "tensorflow"
    assert len(rows(genres)) == 160


def record(genres):
    storage = Storage()
    (info,) = (info for page in storage.list(join(genres, "runs")) for info in page if info.uri.endswith(".json"))
    return json.loads(bytes(storage.get(info.uri).data))


def test_an_output_folder_that_a_node_cannot_see_is_refused(cluster, gpu_node, hidden, bucket, driver):
    if not gpu_node.host.prefix:
        pytest.skip("no namespaces can be made here")

    code, _, err = driver("tag", join(bucket, "labelled"), hidden / "genres")

    assert (code, "Traceback" in err) == (2, False), err
    assert f"the node at {gpu_node.host.address} cannot see {hidden}/genres" in err.splitlines()[-1]
