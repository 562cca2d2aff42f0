"""The Ray session of a command: connect to a cluster, or start a local Ray that ends with the command.

A cluster may ask for a token. genretag makes Ray send the user's token, and never logs the token.

A local Ray must start for any folder that TMPDIR names. Ray puts its sockets below that folder, but a socket path has
at most 107 bytes. A Ray node also does not start if the path contains a quote. If the path is too long or has such
characters, `ray_folder` makes a short symbolic link to the folder.
"""

import logging
import os
import re
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from genretag.errors import JobError, UsageError, one_line, redact
from genretag.runtime import logs
from genretag.runtime.compat import (
    is_other_version,
    is_refused_token,
    is_slow_start,
    starting_small,
    without_helper_actors,
)
from genretag.runtime.cpus import cpus_here
from genretag.runtime.ending import close_at_the_end
from genretag.runtime.session import Session
from genretag.runtime.stopping import holding_signals, keeping_sigterm, leftovers, warn_of_leftovers
from genretag.runtime.worker import HOOK

logger = logging.getLogger(__name__)


def show_a_token_where_there_is_one() -> None:
    """If the user has a token, make Ray send it to a cluster. Call this before Ray is imported.

    A cluster may ask for a token, but Ray sends one only if RAY_AUTH_MODE is `token`. If the user has set
    RAY_AUTH_MODE, its value stays.
    """
    if _has_token():
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def make_a_token_where_none_can_be_kept() -> None:
    """Set RAY_AUTH_TOKEN to a new token if Ray could not store one. Call this before a local Ray starts.

    Ray makes a token for a local Ray and stores the token in the home folder. If the home folder is missing or
    read-only (OpenShift), RAY_AUTH_TOKEN passes a token to this process and its children. If there is a token already,
    or if RAY_AUTH_MODE has another value than `token`, do nothing.
    """
    if _has_token() or os.environ.get("RAY_AUTH_MODE", "token") != "token":
        return
    folder = _in_home()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        can_be_kept = os.access(folder, os.W_OK)
    except OSError:
        can_be_kept = False
    if not can_be_kept:
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _has_token() -> bool:
    """Return whether the environment or Ray's folder in the home folder has a token."""
    given = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    return bool(given) or (_in_home() / "auth_token").exists()


def _in_home() -> Path:
    """Return Ray's folder in the home folder. Without a home folder, return `/dev/null/.ray`, which cannot exist."""
    home = os.path.expanduser("~")  # noqa: PTH111 - Path.home raises if there is none
    return Path("/dev/null" if home == "~" else home) / ".ray"


def refused_token(address: str | None) -> UsageError:
    """Return the error to raise if the cluster at `address` does not accept the user's token."""
    return UsageError(
        f"the Ray cluster at {address} does not accept our token: set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the one "
        "that it was started with"
    )


LONGEST_SOCKET = 107  # bytes: the size of `sun_path` on Linux, minus its final zero byte
SOCKET = "/session_2026-11-27_10-15-53_123456_1234567/sockets/plasma_store"  # the path that Ray appends to its folder
PLAIN = re.compile(r"[\w/.,:=@+-]*")
SHORT_PLACES = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 - parents of a new folder with a random name


@contextmanager
def ray_folder() -> Iterator[str | None]:
    """Yield a folder for the argument `_temp_dir` of `ray.init`, or None if Ray's default folder works.

    The default is `ray` below RAY_TMPDIR, TMPDIR or /tmp. If its path is too long or has odd characters, yield a short
    link to the default folder. So the default folder still gets the logs and spilled objects. The link is removed after
    the block. Raises `UsageError` if the folder or the link cannot be made.
    """
    chosen = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"  # noqa: S108 - as Ray does it
    folder = os.path.abspath(os.path.join(chosen, "ray"))  # noqa: PTH100, PTH118 - as Ray does it
    if len(os.fsencode(folder + SOCKET)) <= LONGEST_SOCKET and PLAIN.fullmatch(folder):
        yield None
        return
    short = _short_folder()
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        if short is None:
            raise OSError("no link can be made in /tmp")
        link = short / "ray"
        link.symlink_to(folder)
    except OSError as error:
        raise UsageError(
            f"Ray needs a folder with a shorter path than {one_line(folder, 200)} ({error.strerror or error}): set "
            f"RAY_TMPDIR to one that can be written, of at most {LONGEST_SOCKET - len(SOCKET) - len('/ray')} bytes"
        ) from error
    try:
        yield str(link)
    finally:
        shutil.rmtree(link.parent, ignore_errors=True)  # removes the link, not its target


def _short_folder() -> Path | None:
    """Create a folder in one of `SHORT_PLACES`, such as /tmp, and return its path. If none is writable, return None."""
    for place in SHORT_PLACES:
        try:
            return Path(tempfile.mkdtemp(prefix="gt-", dir=place))
        except OSError:
            continue
    return None


STARTS_AT_MOST = 3  # of a local Ray
SLOW = "Ray did not start here in time"
LOGICAL_CPUS_PER_CPU = 4  # declared to a local Ray; actor pools keep CPUs reserved, and other stages need some too
CONNECT_TIMEOUT_S = 10
QUIET_RAY = {  # turns off services that a local Ray does not need, and that cost 5 % of two CPUs
    "RAY_prestart_worker_first_driver": "0",  # idle workers, which take seconds to start
    "RAY_enable_metrics_collection": "false",
    "RAY_event_stats": "false",
    "RAY_task_events_report_interval_ms": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}
OBJECT_STORE_BYTES = 1 << 30  # for decoded batches in flight; bounded so that a laptop keeps enough memory


@dataclass(frozen=True)
class Cluster:
    """The resources of a Ray cluster, as the cluster declares them.

    If `ray_session` has started a local Ray, `cpus` is the number of real CPUs. The local Ray itself declares more
    CPUs.
    """

    cpus: float
    gpus: float
    nodes: int = 1  # with CPUs
    memory_bytes: float = float("inf")  # of all nodes
    is_local: bool = False  # started by `ray_session` on this machine, so it stays one node

    @property
    def cpus_of_a_node(self) -> float:
        """The average number of CPUs per node."""
        return self.cpus / self.nodes


_local: Cluster | None = None  # the local Ray of this process, while it runs


@contextmanager
def ray_session(session: Session) -> Iterator[Cluster]:
    """Connect to `session.address` or RAY_ADDRESS. If neither is set, start a local Ray for the block.

    Yield the resources of the cluster. After the block, disconnect, or end the local Ray; if the block succeeds within
    `ray_until_the_end`, do so only at the end of that. If this process is connected to Ray already, leave that
    connection open. Raises `UsageError` if no cluster answers at the address, if it refuses the user's token or has
    another version of Ray or Python, or if it is a dashboard's URL. Raises `JobError` if a local Ray starts too slowly.
    """
    global _local
    if not session.verbose:
        logs.quieten_libraries()
    address = session.address or os.environ.get("RAY_ADDRESS")
    if address:
        _refuse_dashboard(address)
        show_a_token_where_there_is_one()
    with holding_signals():
        import ray

    if ray.is_initialized():
        yield _local or _declared()
        return
    with ExitStack() as opened:  # closed here only if the block fails
        with ThreadPoolExecutor(1) as importer:
            importer.submit(import_module, "ray.data")  # takes seconds, as Ray's processes do
            _connect(address, session.verbose, None if address else opened.enter_context(ray_folder()))
        _configure_data(session.verbose)
        if not address:
            opened.enter_context(without_helper_actors())
            _local = replace(_declared(), cpus=cpus_here(), is_local=True)
        opened.callback(_shut_down)  # the last one, so it is the first to be called
        try:
            yield _local or _declared()
        except KeyboardInterrupt:
            logger.info("stopping")  # Ray takes some seconds to stop
            raise
        close_at_the_end(opened.pop_all())


def _shut_down() -> None:
    global _local
    import ray

    _local = None
    ray.shutdown()


def actor_here(kind: type, *arguments: Any) -> Any:
    """Start an actor of the class `kind` on the driver's node, so that it lives as long as the driver.

    Return the actor's handle. The actor reserves no CPU. The node affinity is strict (`soft=False`). Otherwise Ray
    would sometimes place the actor on another node, and the actor's state would be lost together with that node.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options: dict[str, Any] = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1, "scheduling_strategy": here}
    return ray.remote(**options)(kind).remote(*arguments)


def _connect(address: str | None, verbose: bool, folder: str | None) -> None:
    """Connect to the cluster at `address`. If `address` is None, start a local Ray with its files in `folder`.

    If `address` and `folder` are both None, Ray chooses the folder. Raises `UsageError` and `JobError` as `ray_session`
    does.
    """
    import ray

    seen = leftovers()
    try:
        if address:
            _require_answer(address)
            _init(verbose, {"address": address, "runtime_env": {"worker_process_setup_hook": HOOK}}, nullcontext())
        else:
            _start_here(verbose, folder)
    except (ConnectionError, ValueError, ray.exceptions.AuthenticationError) as error:
        raise (refused_token if is_refused_token(error) else _no_answer)(address) from error
    except RuntimeError as error:
        if not is_other_version(error):
            raise
        raise UsageError(f"the Ray cluster at {address} is of another version: {one_line(error)}") from error
    warn_of_leftovers(seen)


def _start_here(verbose: bool, folder: str | None) -> None:
    """Start a local Ray. On a busy machine, Ray may give up after 30 s: end what it started, and try again.

    Raises `JobError` if Ray gives up `STARTS_AT_MOST` times.
    """
    import psutil  # Ray, which is imported, ships it

    here = psutil.Process()
    before = set(here.children())
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
    for left in reversed(range(STARTS_AT_MOST)):
        try:
            _init(verbose, options, starting_small(HOOK, with_logs=verbose))
        except Exception as error:
            if not is_slow_start(error):
                raise
            for process in set(here.children()) - before:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            if left == 0:
                raise JobError(f"{SLOW}: the machine is too busy, run the same command again") from error
            logger.warning("%s, because the machine is busy: trying again", SLOW)
        else:
            return


def _init(verbose: bool, options: dict[str, Any], starting: AbstractContextManager[None]) -> None:
    import ray

    with logs.stderr_muted(not verbose), keeping_sigterm(), starting:
        ray.init(**options, log_to_driver=verbose, logging_level=logging.INFO if verbose else logging.ERROR)


def _refuse_dashboard(address: str) -> None:
    """Raise `UsageError` if `address` is an HTTP URL: Ray's dashboard accepts submitted jobs, but no connections."""
    if address.startswith(("http://", "https://")):
        shown = one_line(redact(address), 100)
        raise UsageError(
            f"{shown} is the address of Ray's dashboard, which takes jobs: genretag submit --address {shown} ...; to "
            "connect from here, RAY_ADDRESS or --address is HOST:6379 or ray://HOST:10001; unset it for a local Ray"
        )


def _require_answer(address: str) -> None:
    """Raise `UsageError` if nothing listens at `address` (`host:port`), because Ray itself would retry for minutes.

    An address of another form, such as `auto`, is not checked.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdigit()):
        return  # such as `auto`, for which Ray answers at once
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise _no_answer(address) from error


def _no_answer(address: str | None) -> UsageError:
    return UsageError(f"no Ray cluster answers at {address}: start one, or leave --address and RAY_ADDRESS out")


def _declared() -> Cluster:
    """Return the resources that the connected cluster declares: CPUs, GPUs, nodes with CPUs, and memory."""
    import ray

    resources = ray.cluster_resources()
    nodes = sum(node["Alive"] and node["Resources"].get("CPU", 0) > 0 for node in ray.nodes())
    memory = resources.get("memory", float("inf"))
    return Cluster(resources.get("CPU", 1.0), resources.get("GPU", 0.0), max(nodes, 1), memory)


def _configure_data(verbose: bool) -> None:
    """Turn off Ray Data's progress bars and log lines in this process, unless `verbose`."""
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = verbose
    context.enable_operator_progress_bars = verbose
    context.print_on_execution_start = verbose
    if not verbose:
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # no tracebacks: the exceptions are raised
