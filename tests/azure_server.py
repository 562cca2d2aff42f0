"""Run Azurite, Microsoft's emulator of Azure Blob Storage, on the loopback address for the tests.

`make setup` installs Azurite into `.venv/azurite` if npm is there. Without it, the tests that need it are skipped.
"""

import base64
import random
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

LOOPBACK = "127.0.0.1"
MAIN = Path(__file__).parents[1] / ".venv/azurite/node_modules/azurite/dist/src/blob/main.js"
ACCOUNT = "studio"
DEADLINE_S = 60.0


@dataclass(frozen=True)
class AzureServer:
    """A running Azurite: its blob endpoint, and the name and the key of its only account."""

    endpoint: str
    account: str
    key: str = field(repr=False)

    @property
    def connection_string(self) -> str:
        return (
            f"DefaultEndpointsProtocol=http;AccountName={self.account};AccountKey={self.key};"
            f"BlobEndpoint={self.endpoint};"
        )

    def create_container(self, name: str, *, public: bool = False) -> None:
        """Create an empty container. If it is `public`, anybody may list and read its blobs."""
        from azure.storage.blob import BlobServiceClient

        service = BlobServiceClient.from_connection_string(self.connection_string)
        service.create_container(name, public_access="container" if public else None)

    def sas(self, permissions: str = "rwdlac", valid_for: timedelta = timedelta(hours=1)) -> str:
        """Return a shared access signature of the account. A negative `valid_for` gives an expired one."""
        from azure.storage.blob import AccountSasPermissions, ResourceTypes, generate_account_sas

        return generate_account_sas(
            self.account,
            self.key,
            ResourceTypes(container=True, object=True),
            AccountSasPermissions.from_string(permissions),
            expiry=datetime.now(UTC) + valid_for,
            start=datetime.now(UTC) - timedelta(days=1),
        )


def why_no_azurite() -> str | None:
    """Return why Azurite cannot run here, or None if it can."""
    if shutil.which("node") is None:
        return "no node here: Azurite cannot run"
    return None if MAIN.is_file() else "no Azurite here: install npm and run  make setup"


@contextmanager
def running_azurite(folder: Path) -> Iterator[AzureServer]:
    """Run Azurite, with its data in memory, and kill it at the end of the block. Its log goes to `folder`."""
    key = base64.b64encode(secrets.token_bytes(32)).decode()
    port = free_port()
    log = folder / "azurite.log"
    options = f"--blobHost {LOOPBACK} --blobPort {port} --inMemoryPersistence --silent"
    options += " --disableTelemetry --skipApiVersionCheck"
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["node", str(MAIN), *options.split()],
            env={"PATH": "/usr/bin:/bin:/usr/local/bin", "HOME": str(folder), "AZURITE_ACCOUNTS": f"{ACCOUNT}:{key}"},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_for_port(port, process, log)
        yield AzureServer(f"http://{LOOPBACK}:{port}/{ACCOUNT}", ACCOUNT, key)
    finally:
        process.kill()
        process.wait()


PORTS = range(7_000, 10_000)  # below those of SeaweedFS, of Ray's workers, and those that Linux gives to clients


def free_port() -> int:
    """Return a port of the loopback address that is free now, and that nobody gets by chance until it is used."""
    while True:
        with suppress(OSError), socket.create_server((LOOPBACK, random.SystemRandom().choice(PORTS))) as server:
            return server.getsockname()[1]


def wait_for_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until a process listens at `port`. Raises `RuntimeError` with the end of its log if it does not."""
    deadline = time.monotonic() + DEADLINE_S
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection((LOOPBACK, port), timeout=1):
            return
        time.sleep(0.05)
    raise RuntimeError(f"no server at port {port}: {log.read_text(errors='replace')[-2000:]}")
