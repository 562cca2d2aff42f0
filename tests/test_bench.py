"""`genretag bench` measures correct rates, prints a complete table, and leaves no files behind."""

import json
import logging
import os
import signal
import time
from math import isnan

import pytest
import ray
from outputs import ODD

from genretag.commands.bench import _apart
from genretag.runtime.session import Session
from genretag.runtime.stopping import Terminated
from genretag.scoring.ceiling import measure, steady_rate
from genretag.storage import join


def test_the_steady_rate_ignores_start_up_and_the_last_tenth():
    even = [(100.0 + step, 50) for step in range(20)]
    slow_start, slow_end = (60.0, 50), (500.0, 50)

    assert steady_rate(even) == pytest.approx(50)
    assert steady_rate([slow_start, *even, slow_end]) == pytest.approx(50)
    assert steady_rate(reversed(even)) == pytest.approx(50), "batches may be told of in any order"


@pytest.mark.parametrize("finished", [[], [(1.0, 500)], [(1.0, 10), (2.0, 980), (3.0, 10)]])
def test_too_few_batches_have_no_steady_rate(finished):
    assert isnan(steady_rate(finished))


def test_a_stage_is_repeated_and_its_cpu_time_counted(monkeypatch):
    monkeypatch.setattr("genretag.scoring.ceiling.LONG_ENOUGH_S", 0.05)
    calls = []

    rate = measure(lambda: calls.append(sum(range(10_000))) or 10)

    assert len(calls) > 2
    assert 0 < rate.cpu_ms < 1000
    assert rate.posters_per_s > 0


@pytest.fixture
def on_the_shared_ray(ray_cluster, monkeypatch):
    """Make the command run on the shared Ray of the tests, as on any existing cluster."""
    monkeypatch.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)


def test_the_command_measures_stages_ceiling_and_job(
    command, on_the_shared_ray, poster_folder, bucket, storage, small_bundle, tmp_path
):
    file = tmp_path / "bench.json"

    code, out, err = command(
        *(
            "bench",
            poster_folder,
            "--output",
            join(bucket, ODD),
            "--posters",
            40,
            "--model",
            small_bundle,
            "--json",
            file,
        )
    )

    assert code == 0, err
    assert "plain loop in threads" in out
    assert "plain loop, one process per CPU" in out
    assert out.count("= ceiling") == 1
    assert "bounds it" in out
    found = json.loads(file.read_text())
    assert found["posters"] == 40
    assert found["stages"].keys() == {"fetch", "decode", "infer", "write"}
    assert all(rate["posters_per_s"] > 0 for rate in found["stages"].values())
    assert found["loops_per_s"].keys() == {"threads", "processes"}
    assert found["ceiling_per_s"] == found["loops_per_s"][found["ceiling_loop"]]
    assert found["job_with_start_up_per_s"][0] > 0
    assert [page for page in storage.list(join(bucket)) if page] == [], "nothing is left behind"


def test_on_a_cluster_the_images_argument_is_required(command, on_the_shared_ray):
    code, _, err = command("bench")

    assert code == 2
    assert "name IMAGES, and --output" in err


def test_quiet_also_silences_the_measuring_processes():
    level = logging.getLogger("botocore").getEffectiveLevel

    assert _apart(Session(), level) == logging.WARNING
    assert _apart(Session(verbose=True), level) == logging.INFO


class SignalledInItsDestructor:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)  # the signal raises an exception here, which Python ignores


def signalled():
    SignalledInItsDestructor()
    time.sleep(10)
    return "went on"


def test_a_signal_that_arrives_where_python_ignores_exceptions_ends_the_inner_process():
    with pytest.raises(Terminated):
        _apart(Session(), signalled)
