"""Run the services of docker/compose.yaml without Docker, as processes with the commands, names and variables there.

    python tests/benchmarks/compose.py

All processes run in one network namespace (Linux, as root), in which the names of services are addresses. So they
listen on exactly the ports in the file, and are not reachable from outside. The exit code is that of the job.
"""

import os
import re
import secrets
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).parents[2]
FILE = REPOSITORY / "docker" / "compose.yaml"
INSIDE = "--inside"
READY_S = 120
HEALTH = {"store": "http://127.0.0.1:8333/healthz", "head": "http://127.0.0.1:52365/api/local_raylet_healthz"}


def main() -> int:
    """Make the namespace, and run this file again in it."""
    if INSIDE in sys.argv:
        return run(Path(sys.argv[-1]))
    with tempfile.TemporaryDirectory() as folder:
        script = (
            "ip link set lo up; mkdir -p /tmp/ray; mount -t tmpfs tmpfs /tmp/ray;"
            'mount --bind "$1/hosts" /etc/hosts; shift; exec "$@"'
        )
        names = " ".join(services())
        (Path(folder) / "hosts").write_text(f"127.0.0.1 localhost {names}\n")
        command = ["unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "sh", "-ec", script, "sh", folder]
        return subprocess.call([*command, sys.executable, __file__, INSIDE, folder])


def services() -> dict[str, dict]:
    """Return the services, with a random secret."""
    text = re.sub(r"\$\{CLUSTER_SECRET:\?[^}]*\}", secrets.token_hex(32), FILE.read_text())
    return yaml.safe_load(text.replace("/data", "DATA"))["services"]


def run(folder: Path) -> int:
    """Start the services in the order of their dependencies. Return the exit code of the job."""
    found, started = services(), time.monotonic()
    for name in ("store", "head", "worker"):
        for number in range(found[name].get("deploy", {}).get("replicas", 1)):
            _start(name, found[name], folder / f"{name}-{number}")
        if name in HEALTH:
            _await(HEALTH[name])
            print(f"{name} is healthy after {time.monotonic() - started:.0f} s", flush=True)
    for name in ("posters", "job"):
        code = _start(name, found[name], folder / name).wait()
        print((folder / name / "log").read_text(), flush=True)
        print(f"{name} ended with exit code {code} after {time.monotonic() - started:.0f} s", flush=True)
        if code:
            return code
    return 0


def _start(name: str, service: dict, home: Path) -> subprocess.Popen:
    home.mkdir()
    (home / "DATA").mkdir()
    command = [*service.get("entrypoint", []), *service["command"]]
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
        "HOME": str(home),
        "RAY_AUTH_MODE": "token",  # as set in the image
        "RAY_USAGE_STATS_ENABLED": "0",
        **service["environment"],
    }
    with (home / "log").open("wb") as log:
        words = [word.replace("-dir=DATA", f"-dir={home / 'DATA'}") for word in command]
        return subprocess.Popen(words, cwd=home, env=environment, stdout=log, stderr=subprocess.STDOUT)


def _await(url: str) -> None:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        with suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
            if answer.status == 200:
                return
        time.sleep(0.5)
    raise SystemExit(f"{url} did not answer in time")


if __name__ == "__main__":
    sys.exit(main())
