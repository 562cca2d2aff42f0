"""A Ray cluster of several nodes on this machine, whose actors and nodes can be killed, and added, while it works."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import ray  # noqa: F401 - brings psutil along

# isort: split
import psutil

LOOPBACK = "127.0.0.1"
STORE_BYTES = 150 << 20  # of one node: enough for three steps of decoded posters
STARTED = "Ray runtime started"
START_TIMEOUT_S = 120
QUICK_TO_NOTICE = {  # how a head learns that a node is gone: after 2 s here, not after half a minute
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "4",
}


class Node:
    """One `ray start --block` and all that it started."""

    def __init__(self, arguments: list[str], folder: Path, environment: Mapping[str, str]) -> None:
        self.spilled = Path(tempfile.mkdtemp(prefix="spilled-", dir=folder))
        self._log = self.spilled.with_suffix(".log")
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *arguments]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*command, "--object-spilling-directory", str(self.spilled), "--include-log-monitor", "false"],
                env={**os.environ, **QUICK_TO_NOTICE, **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        until(lambda: STARTED in self._log.read_text() or self._process.poll() is not None, START_TIMEOUT_S)
        if self._process.poll() is not None:
            raise RuntimeError(f"the Ray node did not start: {self._log.read_text()[-2000:]}")

    def processes(self, title: str) -> list[psutil.Process]:
        """Its processes whose title contains a text, such as `ray::MapWorker(MapBatches(FetchDecode))`."""
        return [process for process in self._all() if title in _title(process)]

    def kill(self) -> None:
        """kill -9 for all its processes: as if the machine were gone."""
        for process in self._all():  # the parent is the first, so that it cannot tidy up
            _kill(process)
        self._process.wait()

    def _all(self) -> list[psutil.Process]:
        with suppress(psutil.NoSuchProcess):
            parent = psutil.Process(self._process.pid)
            return [parent, *parent.children(recursive=True)]
        return []


class RayCluster:
    """A head without CPUs, and worker nodes that come and go."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        port, client_port = _free_ports(2)
        self.address = f"{LOOPBACK}:{port}"
        self.environment = {"RAY_ADDRESS": self.address, **_token()}
        """What a driver needs to get in."""
        self._folder = folder
        self._environment = {**environment, **self.environment}
        head = ["--head", f"--port={port}", f"--ray-client-server-port={client_port}", "--include-dashboard=false"]
        self.head = self._start([*head, "--node-ip-address", LOOPBACK, "--num-cpus=0", f"--temp-dir={folder}"])
        self.workers: list[Node] = []

    def _start(self, arguments: list[str], store_bytes: int = STORE_BYTES) -> Node:
        return Node([*arguments, f"--object-store-memory={store_bytes}"], self._folder, self._environment)

    def add_worker(self, cpus: int = 4, store_bytes: int = STORE_BYTES) -> Node:
        """Starts a worker node and returns it once it belongs to the cluster."""
        arguments = [f"--address={self.address}", "--node-ip-address", LOOPBACK, f"--num-cpus={cpus}"]
        node = self._start(arguments, store_bytes)
        self.workers.append(node)
        return node

    def kill_worker(self, node: Node | None = None) -> None:
        """Kills a worker node, the youngest where none is named."""
        node = node or self.workers[-1]
        self.workers.remove(node)
        node.kill()

    def actors(self, stage: str) -> list[psutil.Process]:
        """The processes of an actor stage, such as `FetchDecode` or `Predict`, on all nodes."""
        return [process for node in (self.head, *self.workers) for process in node.processes(f"MapBatches({stage})")]

    def kill_actor(self, stage: str, number: int = 0) -> int:
        """Kills one actor's process by kill -9 and returns its process number; none there is an error."""
        found = self.actors(stage)
        victim = found[number % len(found)]
        _kill(victim)
        return victim.pid

    def stop(self) -> None:
        """Kills all nodes."""
        for node in (*self.workers, self.head):
            node.kill()


@contextmanager
def ray_cluster(workers: int = 2, environment: Mapping[str, str] | None = None) -> Iterator[RayCluster]:
    """Runs a cluster of a head and worker nodes in a folder of its own, apart from any other Ray on this machine."""
    folder = Path(tempfile.mkdtemp(prefix="ray-faults-", dir="/tmp"))  # short: the paths of sockets are limited
    cluster = RayCluster(folder, environment or {})
    try:
        for _ in range(workers):
            cluster.add_worker()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)


def until(condition: Callable[[], object], timeout_s: float = 120) -> None:
    """Waits until a condition comes true."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the condition did not come true in time")
        time.sleep(0.02)


def _title(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def _kill(process: psutil.Process) -> None:
    with suppress(psutil.Error):
        process.send_signal(signal.SIGKILL)  # psutil sees to it that the number is still this process's


def _token() -> dict[str, str]:
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


def _free_ports(count: int) -> list[int]:
    probes = [socket.create_server((LOOPBACK, 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports
