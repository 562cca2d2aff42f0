"""All code that depends on internals of Ray and pyiceberg: private modules, and the text of error messages.

`pyproject.toml` sets upper bounds for the versions of Ray and pyiceberg. `tests/test_compat.py` fails if these
internals change.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch
from uuid import uuid4

from genretag.errors import JobError, UsageError
from genretag.runtime.cluster import Ask, RoomWatch

OTHER_VERSION, SLOW_START = "ersion mismatch", "timed out during startup"  # in messages of `ray.init`'s errors
UNKNOWN_JOB, KNOWN_JOB = "status code 404", "already exists"  # in messages of errors of Ray's job client


def why_ray_gave_up(error: BaseException) -> str:
    """Return the line of an error of Ray that says why: its first line, or what the constructor of an actor raised."""
    lines = str(error).strip().splitlines()
    return lines[-1] if "creation task" in lines[0] else lines[0]


def is_other_version(error: BaseException) -> bool:
    """Return whether `ray.init` failed because the cluster runs another version of Ray or Python."""
    return OTHER_VERSION in str(error)


def is_slow_start(error: BaseException) -> bool:
    """Return whether `ray.init` failed because a local Ray did not start in time."""
    return SLOW_START in str(error)


def is_refused_token(error: BaseException) -> bool:
    """Return whether `error` means that Ray refused a missing or wrong token.

    `ray.init` retries for a while, and then quotes the refusal in the text of another error. Such an error counts too.
    """
    from ray.exceptions import AuthenticationError

    name = AuthenticationError.__name__
    return isinstance(error, AuthenticationError) or name in str(error) or name in str(error.__cause__)


def is_unknown_job(error: BaseException) -> bool:
    """Return whether an error of Ray's job client means that the job server has no job with the requested name."""
    return UNKNOWN_JOB in str(error)


def is_known_job(error: BaseException) -> bool:
    """Return whether an error of Ray's job client means that the server already has a job with the submitted name."""
    return KNOWN_JOB in str(error)


def job_client(address: str, timeout_s: tuple[float, float]) -> Any:
    """Return Ray's client of the job server at `address`, with limits for its requests. Ray's own has none.

    `timeout_s` has the seconds to connect, and to wait for an answer. Then `requests.Timeout` is raised. The log of a
    job is read without limits.
    """
    from ray.job_submission import JobSubmissionClient

    class Client(JobSubmissionClient):
        def _do_request(self, *arguments: Any, **options: Any) -> Any:
            return super()._do_request(*arguments, timeout=timeout_s, **options)

    return Client(address)


def ending_without_nodes(asks: Sequence[Ask], wait_s: float, begun: Callable[[], bool]) -> type:
    """Return a Ray Data callback class that ends an execution if the cluster lacks resources for `wait_s` seconds.

    `asks` are the resources that the job needs. Add the class to a dataset's `custom_execution_callback_classes`.
    Without the class, Ray Data would wait for half an hour. `begun` returns whether the job has results. If the job has
    results, the callback only logs a warning. Run the dataset within `explaining_lost_nodes`, which turns the exception
    of the callback into a `UsageError`.
    """
    from ray.data._internal.execution.execution_callback import ExecutionCallback

    settings = {"asks": asks, "wait_s": wait_s, "begun": staticmethod(begun)}
    return type("EndWithoutNodes", (_EndWithoutNodes, ExecutionCallback), settings)


@contextmanager
def explaining_lost_nodes() -> Iterator[None]:
    """Turn Ray Data's `ExecutionTimeoutError` in the block into an error that tells the user what to do.

    Raises `UsageError` if the callback of `ending_without_nodes` ended the execution, because the cluster lacked
    resources. Otherwise raises `JobError`, because the execution made no progress for half an hour.
    """
    from ray.data.exceptions import ExecutionTimeoutError

    try:
        yield
    except ExecutionTimeoutError as error:
        if getattr(error, "lost_nodes", False):
            raise UsageError(str(error)) from error
        raise JobError("nothing moved for half an hour: see `ray status`, and run the same command again") from error


class _EndWithoutNodes:
    """Ray Data callback that raises an exception if the cluster lacks resources (`asks`) for `wait_s` seconds.

    The exception ends the execution. Ray Data makes one instance for each execution, and calls `on_execution_step` in a
    loop.
    """

    asks: Sequence[Ask]
    wait_s: float
    begun: Callable[[], bool]

    def before_execution_starts(self, _executor: Any) -> None:
        self._watch = RoomWatch(self.asks, self.wait_s)

    def on_execution_step(self, _executor: Any) -> None:
        from ray.data.exceptions import ExecutionTimeoutError

        try:
            self._watch.look(self.begun)
        except UsageError as error:
            # This is Ray Data's timeout error, because Ray Data prints a stack trace for other exceptions.
            timeout = ExecutionTimeoutError(str(error))
            timeout.lost_nodes = True  # type: ignore[attr-defined]
            raise timeout from error


THREADS_OF_AN_EXECUTION = ("StreamingExecutor-", "iter_threaded")  # beginnings of names
THREADS_END_WITHIN_S = 10


@contextmanager
def blocks_of(dataset: Any) -> Iterator[Iterator[Any]]:
    """Execute a Ray dataset, and yield an iterator over its blocks, which are Arrow tables.

    After the block, the execution has ended, and so have its threads in this process. Without this, an exception in the
    block would leave the threads running, because its traceback keeps the iterator. If a thread uses Ray after
    `ray.shutdown`, Ray ends the process at once, with exit code 1 and no message.
    """
    before = set(threading.enumerate())
    blocks = iter(dataset.iter_batches(batch_format="pyarrow", batch_size=None))
    try:
        yield blocks
    finally:
        blocks.close()
        deadline = time.monotonic() + THREADS_END_WITHIN_S
        for thread in set(threading.enumerate()) - before:
            if thread.name.startswith(THREADS_OF_AN_EXECUTION):
                thread.join(max(0, deadline - time.monotonic()))


@contextmanager
def starting_small(hook: str, *, with_logs: bool) -> Iterator[None]:
    """Let `ray.init` start a local Ray in the block without the processes that only clusters need.

    These processes are the autoscaler's monitor, the server of the dashboard and, if `with_logs` is false, the process
    that prints the logs of workers. Ray does not start without the two agents of a node, so these only load less.

    Each worker process calls `hook`, the full name of a function, when it starts. A hook in the job's runtime
    environment would do the same, but Ray would then start two processes for each worker.
    """
    from ray._private import ray_constants, utils
    from ray._private.node import Node

    not_started = ["start_monitor", "start_api_server", *([] if with_logs else ["start_log_monitor"])]
    with ExitStack() as patches:
        for name in not_started:
            patches.enter_context(patch.object(Node, name, lambda *_arguments, **_options: None))
        patches.enter_context(patch.object(utils, "get_dashboard_dependency_error", lambda: ImportError("not needed")))
        os.environ[ray_constants.WORKER_PROCESS_SETUP_HOOK_ENV_VAR] = hook
        patches.callback(os.environ.pop, ray_constants.WORKER_PROCESS_SETUP_HOOK_ENV_VAR)
        yield  # Ray sets further variables, which stay


@contextmanager
def without_helper_actors() -> Iterator[None]:
    """Keep Ray Data from starting its three helper actors in the block. Each one costs a process that imports Ray Data.

    They serve a dashboard, the choice between nodes, and the growth of a cluster. So use this only with a local Ray,
    which has one node and no dashboard.
    """
    from ray.data._internal import stats
    from ray.data._internal.cluster_autoscaler import rate_based_cluster_autoscaler
    from ray.data._internal.execution.operators import actor_pool_map_operator
    from ray.data._internal.utils import cached_ray_internals

    with ExitStack() as patches:
        for module, name, stand_in in (
            (stats, "get_or_create_stats_actor", _NoHelper),
            (actor_pool_map_operator, "get_or_create_actor_location_tracker", _NoHelper),
            (cached_ray_internals, "get_or_create_actor_location_tracker", _NoHelper),
            (rate_based_cluster_autoscaler, "DefaultAutoscalingCoordinator", _AllResources),
        ):
            patches.enter_context(patch.object(module, name, stand_in))
        yield


@contextmanager
def without_train_helpers() -> Iterator[None]:
    """Keep Ray Train from starting its helper actors in the block. Each one costs a process that imports Ray.

    They notice nodes that a cloud takes back, remove the reservations of a controller that died, share out datasets of
    Ray Data, and ask a cluster to grow. A local Ray has one node and ends with the command, and genretag passes no
    dataset. So use this only with a local Ray. If the number of workers may change, the last helper starts anyway.
    """
    from ray.train.v2._internal.constants import ENABLE_PREEMPTION_WATCHER_ENV_VAR
    from ray.train.v2._internal.execution.callback import WorkerGroupCallback
    from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy, create_scaling_policy
    from ray.train.v2.api import data_parallel_trainer

    def without_requests(scaling_config: Any) -> Any:
        policy = create_scaling_policy(scaling_config)
        if isinstance(policy, FixedScalingPolicy):
            for name in ("_send_resource_request", "_maybe_send_resource_request", "_cancel_resource_request"):
                setattr(policy, name, _do_nothing)
        return policy

    with ExitStack() as patches:
        for name in ("PlacementGroupCleanerCallback", "DatasetsCallback"):
            patches.enter_context(patch.object(data_parallel_trainer, name, lambda **_options: WorkerGroupCallback()))
        patches.enter_context(patch.object(data_parallel_trainer, "create_scaling_policy", without_requests))
        patches.enter_context(patch.dict(os.environ, {ENABLE_PREEMPTION_WATCHER_ENV_VAR: "0"}))
        yield


def _do_nothing() -> None:
    """Do nothing. Ray Train pickles this function by its name."""


class _NoHelper:
    """A stand-in for the handle of a helper actor of Ray Data. Its methods do nothing."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _NoMethod(name)


class _NoMethod:
    """A method of `_NoHelper`. `remote` returns a reference to what Ray Data waits for, if it waits."""

    def __init__(self, name: str) -> None:
        self._name = name

    def remote(self, *arguments: Any, **_options: Any) -> Any:
        import ray

        if self._name == "gen_dataset_id":
            return ray.put(uuid4().hex)
        if self._name == "get_actor_locations":
            return ray.put(dict.fromkeys(arguments[0]))
        return None


class _AllResources:
    """A stand-in for Ray Data's client of its autoscaling coordinator: the execution may use the whole local Ray."""

    def __init__(self, *_arguments: Any, **_options: Any) -> None:
        import ray

        self._resources = {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}

    def request_resources(self, *_arguments: Any, **_options: Any) -> None:
        """Do nothing, because a local Ray cannot grow."""

    def cancel_request(self) -> None:
        """Do nothing, because nothing was requested."""

    def get_reserved_resources(self) -> dict[str, dict[str, float]]:
        """Return the resources of the node, by node id."""
        return self._resources


def require_iceberg_types(schema: Any) -> None:
    """Raise pyiceberg's error if an Arrow schema has a column type that Iceberg lacks.

    pyiceberg's public converter cannot be used, because it needs field ids, which the schema does not have.
    """
    from pyiceberg.io.pyarrow import _pyarrow_to_schema_without_ids

    _pyarrow_to_schema_without_ids(schema)
