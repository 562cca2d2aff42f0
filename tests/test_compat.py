"""The internals of Ray and pyiceberg that `genretag.runtime.compat` uses are unchanged."""

import inspect
import threading
from contextlib import suppress
from pathlib import Path

import psutil
import pyarrow as pa
import pytest
import ray
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data.exceptions import ExecutionTimeoutError

from genretag.errors import JobError, UsageError
from genretag.runtime import compat
from genretag.runtime.cluster import Ask

SERVICES = ("gcs_server", "raylet", "dashboard/agent.py", "runtime_env/agent", "monitor.py", "dashboard/dashboard.py")


def source_of(*parts):
    return Path(ray.__file__).parent.joinpath(*parts).read_text()


def test_ray_has_the_error_messages_that_compat_matches():
    assert compat.SLOW_START in source_of("_private", "node.py")
    assert f"V{compat.OTHER_VERSION}: " in source_of("_private", "utils.py")
    assert compat.KNOWN_JOB in source_of("dashboard", "modules", "job", "job_manager.py")
    assert "status code" in source_of("dashboard", "modules", "dashboard_sdk.py")


def test_ray_data_calls_a_callback_before_an_execution_and_in_its_loop():
    for name in ("before_execution_starts", "on_execution_step"):
        assert list(inspect.signature(getattr(ExecutionCallback, name)).parameters) == ["self", "executor"]
    kind = compat.ending_without_nodes([Ask("an actor", 1)], 45, lambda: True)
    assert issubclass(kind, ExecutionCallback)
    assert kind().begun()


def test_an_exception_leaves_no_thread_of_the_execution_behind(ray_cluster):
    def threads():
        return {thread for thread in threading.enumerate() if thread.name.startswith(compat.THREADS_OF_AN_EXECUTION)}

    def interrupted(blocks):
        next(blocks)
        started.update(threads())
        raise KeyboardInterrupt

    before, started = threads(), set()
    with pytest.raises(KeyboardInterrupt) as stop, compat.blocks_of(ray.data.range(100, override_num_blocks=50)) as b:
        interrupted(b)

    assert stop.value.__traceback__, "it would keep the iterator"
    assert {thread.name.split("-")[0] for thread in started - before} >= {"StreamingExecutor", "iter_threaded"}
    assert threads() <= before


def test_lost_nodes_and_a_stalled_run_give_different_errors():
    lost = ExecutionTimeoutError("the cluster has no room")
    lost.lost_nodes = True
    with pytest.raises(UsageError, match="no room"), compat.explaining_lost_nodes():
        raise lost
    with pytest.raises(JobError, match="nothing moved"), compat.explaining_lost_nodes():
        raise ExecutionTimeoutError("30 minutes")


def test_pyiceberg_refuses_a_type_that_iceberg_lacks():
    compat.require_iceberg_types(pa.schema([("uri", pa.string())]))
    with pytest.raises(Exception, match=r"[Uu]nsupported"):
        compat.require_iceberg_types(pa.schema([("took", pa.duration("s"))]))


def test_what_the_constructor_of_an_actor_raised_is_told(ray_cluster):
    class Failing:  # local, so that Ray pickles the class: a worker cannot import this file
        def __init__(self):
            raise RuntimeError("no home here")

        def ask(self):
            pass

    with pytest.raises(ray.exceptions.ActorDiedError) as died:
        ray.get(ray.remote(num_cpus=0)(Failing).remote().ask.remote())

    assert compat.why_ray_gave_up(died.value) == "RuntimeError: no home here"


def test_a_local_ray_starts_none_of_ray_datas_helper_actors(run, few_posters, tmp_path):
    def named():
        return {actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True)}

    before = named()  # training or another process may have started some
    record = run(few_posters, tmp_path / "out")

    assert record.scored == 12
    assert named() == before


def test_a_local_ray_starts_only_the_processes_that_it_needs(ray_cluster):
    """Autoscaler, dashboard and log monitor serve clusters. Each of them would cost seconds of CPU time."""
    lines = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it has ended meanwhile
            lines.append(" ".join(process.cmdline()))

    assert {name for name in SERVICES if any(name in line for line in lines)} == set(SERVICES[:4])
