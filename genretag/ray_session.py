"""Connects to a Ray cluster, or starts one on this machine that ends with the command."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from genretag import noise
from genretag.cpus import cpus_here
from genretag.errors import JobError, UsageError, one_line
from genretag.ray_folder import ray_folder
from genretag.ray_token import (
    is_a_refused_token,
    make_a_token_where_none_can_be_kept,
    refused_token,
    show_a_token_where_there_is_one,
)
from genretag.redaction import redact
from genretag.session import Session
from genretag.stopping import keeping_sigterm
from genretag.worker_exit import HOOK, leftovers, warn_of_leftovers

LOGICAL_CPUS_PER_CPU = 4  # actor pools hold CPUs while other stages wait for theirs; spare ones prevent that
CONNECT_TIMEOUT_S = 10
QUIET_RAY = {  # what nobody asks a Ray of our own for, and what costs 5 % of two CPUs
    "RAY_prestart_worker_first_driver": "0",  # idle workers, which take seconds to start
    "RAY_enable_metrics_collection": "false",
    "RAY_event_stats": "false",
    "RAY_task_events_report_interval_ms": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}
OBJECT_STORE_BYTES = 1 << 30  # decoded batches in flight; bounded, so that a laptop keeps its memory

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cluster:
    """What there is to compute with: real CPUs where Ray was started here, else what the cluster declares."""

    cpus: float
    gpus: float
    nodes: int = 1  # that have CPUs
    memory_bytes: float = float("inf")  # of all nodes

    @property
    def cpus_of_a_node(self) -> float:
        """On average."""
        return self.cpus / self.nodes


@contextmanager
def ray_session(session: Session) -> Iterator[Cluster]:
    """Connects to `session.address`, RAY_ADDRESS or the Ray that is already there, else starts one here.

    Raises `UsageError` where no cluster answers at the address, or it does not let us in.
    """
    if not session.verbose:
        noise.quieten()
    address = session.address or os.environ.get("RAY_ADDRESS")
    if address:
        _refuse_dashboard(address)
        show_a_token_where_there_is_one()
    import ray

    if ray.is_initialized():
        yield _declared()
        return
    with ExitStack() as opened:
        _connect(address, session.verbose, None if address else opened.enter_context(ray_folder()))
        _configure_data(session.verbose)
        try:
            yield _declared() if address else replace(_declared(), cpus=cpus_here())
        except KeyboardInterrupt:
            logger.info("stopping")  # which takes Ray some seconds
            raise
        finally:
            ray.shutdown()


def actor_here(kind: type, *arguments: Any) -> Any:
    """Starts a small actor on the driver's own node, so that it lives as long as the driver; returns its handle.

    Not softly: Ray would place it on another node now and then, and what it remembers would be lost with that.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options: dict[str, Any] = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1, "scheduling_strategy": here}
    return ray.remote(**options)(kind).remote(*arguments)


def _connect(address: str | None, verbose: bool, folder: str | None) -> None:
    import ray

    options: dict[str, Any] = {"address": address}
    if address:
        _require_answer(address)
    else:
        make_a_token_where_none_can_be_kept()
        for name, value in QUIET_RAY.items():
            os.environ.setdefault(name, value)
        options = {
            "address": "local",
            "num_cpus": cpus_here() * LOGICAL_CPUS_PER_CPU,
            "object_store_memory": OBJECT_STORE_BYTES,
            "include_dashboard": False,
            "_temp_dir": folder,
        }
    options["runtime_env"] = {"worker_process_setup_hook": HOOK}
    seen = leftovers()
    try:
        with noise.stderr_muted(not verbose), keeping_sigterm():
            ray.init(**options, log_to_driver=verbose, logging_level=logging.INFO if verbose else logging.ERROR)
    except (ConnectionError, ValueError, ray.exceptions.AuthenticationError) as error:
        raise (refused_token if is_a_refused_token(error) else _no_answer)(address) from error
    except RuntimeError as error:
        if "ersion mismatch" not in str(error):
            raise
        raise UsageError(f"the Ray cluster at {address} is of another version: {one_line(error)}") from error
    except Exception as error:
        if "timed out during startup" not in str(error):
            raise
        raise JobError("Ray did not start here in time: the machine is too busy, run the same command again") from error
    warn_of_leftovers(seen)


def _refuse_dashboard(address: str) -> None:
    """Raises `UsageError` for the URL of a dashboard, which `ray job submit` and `genretag submit` take."""
    if address.startswith(("http://", "https://")):
        shown = one_line(redact(address), 100)
        raise UsageError(
            f"{shown} is the address of Ray's dashboard, which takes jobs: genretag submit --address {shown} ...; to "
            "connect from here, RAY_ADDRESS or --address is HOST:6379 or ray://HOST:10001; unset it for a local Ray"
        )


def _require_answer(address: str) -> None:
    """Knocks at `host:port` first: Ray itself would go on trying for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdigit()):
        return  # `auto` and the like, which Ray answers at once
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise _no_answer(address) from error


def _no_answer(address: str | None) -> UsageError:
    return UsageError(f"no Ray cluster answers at {address}: start one, or leave --address and RAY_ADDRESS out")


def _declared() -> Cluster:
    import ray

    resources = ray.cluster_resources()
    nodes = sum(node["Alive"] and node["Resources"].get("CPU", 0) > 0 for node in ray.nodes())
    memory = resources.get("memory", float("inf"))
    return Cluster(resources.get("CPU", 1.0), resources.get("GPU", 0.0), max(nodes, 1), memory)


def _configure_data(verbose: bool) -> None:
    """Sets Ray Data's context: no progress bars of its own, and its log only on request."""
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = verbose
    context.enable_operator_progress_bars = verbose
    context.print_on_execution_start = verbose
    if not verbose:
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # it prints tracebacks of what is raised anyway
