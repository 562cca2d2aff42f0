"""A Ray cluster of several nodes on this machine. A test can add nodes, and kill nodes and actors."""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

import ray  # noqa: F401 - brings psutil along

# isort: split
import psutil
from azure_server import free_port
from network_namespaces import Host, Loopback, Network

from genretag.runtime.ray_session import QUIET_RAY

STORE_BYTES = 150 << 20  # object store of a node: enough for three steps of decoded posters
NONE: Mapping[str, str] = {}
Value = TypeVar("Value")
STARTED = "Ray runtime started"
START_TIMEOUT_S = 120
STARTS_AT_MOST = 5
PATIENT = {"GENRETAG_STORE_TOTAL_S": "600"}  # of jobs: a poster that the fault proxy holds back does not fail
TITLES = {"Score": "MapBatches(Score)", "Predict": "ray::Predict"}  # part of the titles of actors' processes
QUICK_TO_NOTICE = {  # the head notices a dead node after 2 s instead of half a minute
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "4",
}


class Node:
    """A Ray node: one `ray start --block` and all processes that it started."""

    def __init__(self, arguments: list[str], folder: Path, environment: Mapping[str, str], host: Host) -> None:
        self.host = host
        self.spilled = Path(tempfile.mkdtemp(prefix="spilled-", dir=folder))
        self._log = self.spilled.with_suffix(".log")
        command = [*host.prefix, sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *arguments]
        command += ["--node-ip-address", host.address]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*command, "--object-spilling-directory", str(self.spilled), "--include-log-monitor", "false"],
                env={**os.environ, **QUIET_RAY, **QUICK_TO_NOTICE, **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        with suppress(TimeoutError):
            until(lambda: STARTED in self._log.read_text() or self._process.poll() is not None, START_TIMEOUT_S)
        if self._process.poll() is not None or STARTED not in self._log.read_text():
            self.kill()
            raise RuntimeError(f"the Ray node did not start: {self._log.read_text()[-2000:]}")

    def processes(self, title: str) -> list[psutil.Process]:
        """Return the processes of this node whose title contains `title`.

        An example is `ray::MapWorker(MapBatches(Score))`.
        """
        return [process for process in self.everything() if title in titled(process)]

    def runs(self) -> bool:
        """Return False if the node has ended, such as one that the head took for dead."""
        return self._process.poll() is None

    def kill(self) -> None:
        """Kill all processes of this node by SIGKILL, as if the machine were gone."""
        for process in self.everything():  # the parent comes first, so that it cannot clean up
            _kill(process)
        self._process.wait()

    def everything(self) -> list[psutil.Process]:
        """Return all processes of this node, the parent first."""
        with suppress(psutil.NoSuchProcess):
            parent = psutil.Process(self._process.pid)
            return [parent, *parent.children(recursive=True)]
        return []


class RayCluster:
    """A head node without CPUs, and worker nodes that can be added and killed.

    Each node runs on a host of the network `net` (None: loopback). If `jobs` is True, the head also runs a job server.
    """

    def __init__(
        self, folder: Path, environment: Mapping[str, str], net: Network | Loopback | None = None, *, jobs: bool = False
    ) -> None:
        self._net = net or Loopback()
        host = self._net.host()
        port, client_port, dashboard_port = (free_port() for _ in range(3))
        self.address = f"{host.address}:{port}"
        self.job_server = f"http://{host.address}:{dashboard_port}"
        """Address of the job server. It runs only if `jobs` is True."""
        self.environment = {"RAY_ADDRESS": self.address, **_token(), **PATIENT}
        """Environment variables with which a driver can connect: address and token."""
        self.folder = folder
        self.node_environment = {**environment, **self.environment}
        head = ["--head", f"--port={port}", f"--ray-client-server-port={client_port}", "--num-cpus=0"]
        head += [f"--include-dashboard={str(jobs).lower()}", f"--temp-dir={folder}"]
        head += ["--dashboard-host", host.address, f"--dashboard-port={dashboard_port}"] if jobs else []
        self.head = self._start(head, host)
        self.workers: list[Node] = []

    def _start(
        self, arguments: list[str], host: Host, store_bytes: int = STORE_BYTES, environment: Mapping[str, str] = NONE
    ) -> Node:
        """Start a node and return it. On a busy machine, Ray may give up after 30 s: try again then."""
        arguments = [*arguments, f"--object-store-memory={store_bytes}"]
        start = partial(Node, arguments, self.folder, {**self.node_environment, **environment}, host)
        for _ in range(STARTS_AT_MOST - 1):
            with suppress(RuntimeError):
                return start()
        return start()

    def add_worker(
        self,
        cpus: int = 4,
        store_bytes: int = STORE_BYTES,
        gpus: int = 0,
        hide: Path | None = None,
        environment: Mapping[str, str] = NONE,
    ) -> Node:
        """Start a worker node, wait until it has joined the cluster, and return it.

        `gpus` are only declared, and do not exist. The node sees the folder `hide` empty, if its host has its own
        namespace. `environment` has variables of this node only.
        """
        arguments = [f"--address={self.address}", f"--num-cpus={cpus}", f"--num-gpus={gpus}"]
        host = self._net.host()
        node = self._start(arguments, host.hiding(hide) if hide else host, store_bytes, environment)
        self.workers.append(node)
        return node

    def kill_worker(self, node: Node | None = None) -> None:
        """Kill a worker node. If `node` is None, kill the newest one."""
        node = node or self.workers[-1]
        self.workers.remove(node)
        node.kill()

    def actors(self, stage: str) -> list[psutil.Process]:
        """Return the processes of the actors of a stage, `Score` or `Predict`, on all nodes."""
        return [process for node in (self.head, *self.workers) for process in node.processes(TITLES[stage])]

    def kill_actor(self, stage: str, number: int = 0) -> int:
        """Kill an actor of a stage by SIGKILL, and return its process id. Fail if the stage has no actor.

        `number` chooses among the actors of the stage.
        """
        found = self.actors(stage)
        victim = found[number % len(found)]
        _kill(victim)
        return victim.pid

    def stop(self) -> None:
        """Kill all nodes."""
        for node in (*self.workers, self.head):
            node.kill()


@contextmanager
def ray_cluster(
    workers: int = 2,
    environment: Mapping[str, str] | None = None,
    net: Network | Loopback | None = None,
    *,
    jobs: bool = False,
    cpus: int = 4,
) -> Iterator[RayCluster]:
    """Run a cluster of a head and worker nodes in a new folder, separate from any other Ray on this machine."""
    # A short path, because paths of sockets are limited.
    folder = Path(tempfile.mkdtemp(prefix="ray-faults-", dir="/tmp"))
    cluster = RayCluster(folder, environment or {}, net, jobs=jobs)
    try:
        for _ in range(workers):
            cluster.add_worker(cpus)
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)


def until(condition: Callable[[], Value], timeout_s: float = 120) -> Value:
    """Wait until `condition` returns a true value, and return it. Raise `TimeoutError` after `timeout_s` seconds."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError("the condition did not come true in time")
        time.sleep(0.02)
    return value


def titled(process: psutil.Process) -> str:
    """Return the title of a process, or an empty text if it has ended."""
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def stacks(pid: int) -> str:
    """Return the stacks of all threads of a Python process, to find out why it hangs."""
    py_spy = str(Path(sys.executable).with_name("py-spy"))  # Ray needs it too
    found = subprocess.run([py_spy, "dump", "--pid", str(pid)], capture_output=True, text=True, check=False)
    return found.stdout + found.stderr


def _kill(process: psutil.Process) -> None:
    with suppress(psutil.Error):
        process.send_signal(signal.SIGKILL)  # psutil checks that the process id was not reused


def _token() -> dict[str, str]:
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
