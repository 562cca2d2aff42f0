"""Plain loops, the ceiling of `bench`, process each poster once and leave no process behind."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from genretag.model.bundle import DEFAULT_BUNDLE, load_bundle
from genretag.reports.bench_table import Benchmark
from genretag.scoring.ceiling import Deal, PlainLoops
from genretag.storage import Storage, join

PLAN = {"engine": "openvino", "batch_size": 4, "precision": "int8", "predict_gpus": 0.0}
KINDS = ("in_threads", "in_processes")


@pytest.fixture
def uris(poster_folder):
    return [str(file) for file in sorted(poster_folder.rglob("*.*"))]


def plain_loops():
    storage = Storage()
    return PlainLoops(load_bundle(str(DEFAULT_BUNDLE), storage), storage, PLAN, fetch_threads=4)


def test_loops_that_share_a_deal_get_each_poster_once():
    deal = Deal(list(range(10)), 4)
    one, other = iter(deal), iter(deal)

    assert [next(one), next(other), next(one), *other, *one] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_a_stopped_deal_has_no_more_posters():
    deal = Deal(list(range(10)), 4)
    batches = iter(deal)
    next(batches)

    deal.stop()

    assert list(batches) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_loop_counts_each_poster_of_a_folder_also_unreadable_ones(kind, uris, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    told = []

    finished = getattr(plain_loops(), kind)([*uris, str(broken), str(tmp_path / "missing.jpg")], told.append)

    assert sum(posters for _, posters in finished) == sum(told) == len(uris) + 2
    assert multiprocessing.active_children() == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_loop_reads_posters_from_a_bucket(kind, drawn_posters, bucket, storage):
    uris = [join(bucket, poster.key) for poster in drawn_posters[:40]]
    for uri, poster in zip(uris, drawn_posters, strict=False):
        storage.put(uri, poster.data)

    finished = getattr(plain_loops(), kind)(uris, lambda posters: None)

    assert sum(posters for _, posters in finished) == 40


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_ctrl_c_ends_a_loop_and_its_processes(kind, uris):
    told = []

    def stop(posters):
        told.append(posters)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        getattr(plain_loops(), kind)(uris * 20, stop)

    assert sum(told) < len(uris) * 20
    assert multiprocessing.active_children() == []


@pytest.mark.slow
def test_a_process_that_is_killed_ends_the_measurement(uris):
    def kill(posters):
        multiprocessing.active_children()[0].kill()

    with pytest.raises(RuntimeError, match="ended with status -9"):
        plain_loops().in_processes(uris * 20, kill)

    assert multiprocessing.active_children() == []


KILLED = """
import os, signal, sys
from test_ceiling import plain_loops

def die(posters):
    import psutil
    print(*(child.pid for child in psutil.Process().children(recursive=True)), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    plain_loops().in_processes(sys.argv[1:] * 20, die)
"""


@pytest.mark.slow
def test_processes_end_if_the_process_that_started_them_is_killed(uris, tmp_path):
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    paths = os.pathsep.join(sys.path)

    killed = subprocess.run(
        [sys.executable, script, *uris], env={**os.environ, "PYTHONPATH": paths}, stdout=subprocess.PIPE, text=True
    )

    assert killed.returncode == -signal.SIGKILL
    until = time.monotonic() + 60
    while any(map(psutil.pid_exists, map(int, killed.stdout.split()))):
        assert time.monotonic() < until, "a process is left"
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("loops", "fastest"),
    [
        ({"threads": [260.0, 250.0, 240.0], "processes": [245.0, 300.0, 278.0]}, "processes"),
        ({"threads": [float("nan")], "processes": [100.0]}, "processes"),
        ({"threads": [100.0]}, "threads"),
    ],
)
def test_the_ceiling_is_the_loop_with_the_higher_median(loops, fastest):
    found = Benchmark(posters=10, cpus=2, nodes=1, stages={}, loops=loops, jobs=[])

    assert found.fastest_loop == fastest
    assert found.ceilings == loops[fastest]
