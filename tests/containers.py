"""Build the images of docker/Dockerfile, and run the services of docker/compose.yaml in containers made from them.

Needs root on Debian, with the packages buildah, crun and debootstrap. Images from a registry are not needed: the base
image is made from Debian's packages, and SeaweedFS comes from the wheel that the demo uses.
"""

import json
import os
import re
import secrets
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from network_namespaces import Host, Network

from genretag.demo.s3_server import find_weed

REPOSITORY = Path(__file__).parents[1]
COMPOSE = REPOSITORY / "docker" / "compose.yaml"
STORAGE = REPOSITORY / "build" / "containers"  # apart from other images: the base has the name of an official one
BUILDAH = ("buildah", "--root", str(STORAGE / "root"), "--runroot", str(STORAGE / "run"))
PROGRAMS = ("buildah", "crun", "debootstrap", "ip")
BASE = "docker.io/library/python:3.11-slim-bookworm"
BASE_PACKAGES = "python3,python3-venv,ca-certificates"
TMPFS = ["nosuid", "noexec", "nodev"]  # the options of Docker's `tmpfs`
READY_WITHIN_S = 120.0
# crun does not run where cgroups of both versions are mounted, so hide them. Nothing here limits resources by them.
WITHOUT_CGROUPS = 'umount --lazy /sys/fs/cgroup; mount -t tmpfs none /sys/fs/cgroup; exec "$@"'


def why_not() -> str | None:
    """Return why images cannot be built here, or None."""
    if os.geteuid() != 0:
        return "images are built as root"
    absent = [name for name in PROGRAMS if not shutil.which(name)]
    return f"missing here: {', '.join(absent)} (`make image-test` installs them on Debian)" if absent else None


def run(*command: str | Path, **options: Any) -> str:
    """Run a command and return its output. If it fails, raise an error with the end of its output."""
    done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, **options)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stdout[-4000:]}")
    return done.stdout


def make_base() -> None:
    """Make the base image from Debian's packages, unless it is there.

    Like the official image, it has Python in /usr/local: there, a virtual environment of Debian's Python.
    """
    if BASE in run(*BUILDAH, "images", "--format", "{{.Name}}:{{.Tag}}").split():
        return
    with tempfile.TemporaryDirectory(prefix="base-") as name:
        root = Path(name) / "root"
        run("debootstrap", "--variant=minbase", f"--include={BASE_PACKAGES}", "bookworm", root)
        run("chroot", root, "python3", "-m", "venv", "/usr/local")
        for folder in ("var/lib/apt/lists", "var/cache/apt", *(f"usr/share/{one}" for one in ("doc", "man", "locale"))):
            shutil.rmtree(root / folder, ignore_errors=True)
            (root / folder).mkdir()
        container = run(*BUILDAH, "from", "scratch").strip()
        run(*BUILDAH, "add", "--quiet", container, root, "/")
        run(*BUILDAH, "config", "--cmd", "python3", container)
        run(*BUILDAH, "commit", "--quiet", "--rm", container, BASE)


def build(target: str, commit: str) -> str:
    """Build a target of the Dockerfile, and return the name of the image."""
    image = f"localhost/genretag:0.1.0-{target}"
    with tempfile.TemporaryDirectory(prefix="pip-") as folder:
        run(
            *(*BUILDAH, "build", "--isolation", "chroot", "--pull-never", "--network", "host", "--format", "docker"),
            *("--layers", "--file", "docker/Dockerfile", "--target", target, "--tag", image),
            *("--build-arg", f"COMMIT={commit}", *_settings_of_pip(Path(folder)), "."),
            cwd=REPOSITORY,
        )
    return image


def _settings_of_pip(folder: Path) -> list[str]:
    """Return options that let pip in the build use the index and the certificates that pip uses here."""
    lines = run(sys.executable, "-m", "pip", "config", "list").splitlines()
    settings = {line.partition("=")[0].rpartition(".")[2]: line.partition("=")[2].strip("'") for line in lines}
    kept = {name: value for name, value in settings.items() if name in ("cert", "index-url", "timeout")}
    file = folder / "pip.conf"
    file.write_text("\n".join(["[global]", *(f"{name} = {value}" for name, value in kept.items()), ""]))
    found = ["--volume", f"{file}:/etc/pip.conf:ro"]
    return found + (["--volume", f"{kept['cert']}:{kept['cert']}:ro"] if "cert" in kept else [])


@dataclass(frozen=True)
class Image:
    """An image: its root folder, its configuration in Docker's form, and its size in bytes."""

    root: Path
    config: dict[str, Any]
    size: int


@contextmanager
def opened(name: str) -> Iterator[Image]:
    """Mount an image until the end of the block."""
    container = run(*BUILDAH, "from", "--pull-never", name).strip()
    try:
        root = Path(run(*BUILDAH, "mount", container).strip())
        facts = json.loads(run(*BUILDAH, "inspect", "--type", "image", name))
        size = sum(file.lstat().st_size for file in root.rglob("*") if file.is_file() and not file.is_symlink())
        yield Image(root, facts["Docker"]["config"], size)
    finally:
        run(*BUILDAH, "rm", container)


def services(secret: str) -> dict[str, dict[str, Any]]:
    """Return the services of compose.yaml with this secret."""
    text = re.sub(r"\$\{CLUSTER_SECRET:\?[^}]*\}", secret, COMPOSE.read_text())
    return yaml.safe_load(text.replace("$$", "$"))["services"]


class Container:
    """A service of compose.yaml as a container, with the root, capabilities, user and health check as written there."""

    def __init__(self, name: str, service: Mapping[str, Any], image: Image, host: Host, folder: Path) -> None:
        self.name, self._service, self._image, self._host = name, service, image, host
        self._bundle = folder / name
        self._state = folder / "state"
        self.log = folder / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, hosts: Path, user: str | None) -> None:
        """Start the container. `hosts` is its /etc/hosts. `user` replaces the user of the image (None: it does not)."""
        self._bundle.mkdir()
        (self._bundle / "config.json").write_text(json.dumps(self._config(hosts, user)))
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                self._crun("run", "--bundle", str(self._bundle), self.name),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def wait(self, timeout_s: float = 600.0) -> int:
        """Wait until the container ends, and return its exit code."""
        assert self._process
        return self._process.wait(timeout_s)

    def await_health(self) -> None:
        """Wait until the health check succeeds that the service or its image has."""
        check = self._service.get("healthcheck", {}).get("test") or self._image.config["Healthcheck"]["Test"]
        deadline = time.monotonic() + READY_WITHIN_S
        while self.run(*check[1:])[0]:
            assert self._process
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} is not healthy:\n{self.log.read_text()[-4000:]}")
            time.sleep(1)

    def run(self, *command: str) -> tuple[int, str]:
        """Run a command in the container. Return its exit code and its output."""
        done = subprocess.run(self._crun("exec", self.name, *command), capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    def stop(self) -> None:
        """Kill everything in the container."""
        subprocess.run(self._crun("delete", "--force", self.name), capture_output=True, check=False)
        if self._process:
            self._process.wait()

    def _crun(self, *words: str) -> list[str]:
        crun = ["crun", "--cgroup-manager=disabled", "--root", str(self._state), *words]
        return ["unshare", "--mount", "sh", "-c", WITHOUT_CGROUPS, "sh", *crun]

    def _writable(self, item: str) -> dict[str, Any]:
        """Return the mount for an item `PATH:OPTIONS` of the service's `tmpfs`.

        As in Docker (runc 1.1), root owns it unless the options say otherwise. It has the mode of the image's folder,
        or 1777 if the image has none.
        """
        path, _, options = item.partition(":")
        folder = self._image.root / path.lstrip("/")
        mode = stat.S_IMODE(folder.stat().st_mode) if folder.exists() else 0o1777
        return _tmpfs(path, [*TMPFS, *filter(None, options.split(",")), f"mode={mode:o}"])

    def _config(self, hosts: Path, user: str | None) -> dict[str, Any]:
        service, config = self._service, self._image.config
        uid, _, gid = (user or config.get("User") or "0:0").partition(":")
        command = [*service.get("entrypoint", []), *service["command"]]
        variables = {name: str(value) for name, value in service["environment"].items()}
        shm = service.get("shm_size", "64m")
        mounts = [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            _tmpfs("/dev", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
            _tmpfs("/dev/shm", ["nosuid", "noexec", "nodev", "mode=1777", f"size={shm.removesuffix('b')}"]),
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/etc/hosts", "type": "bind", "source": str(hosts), "options": ["rbind", "ro"]},
            *map(self._writable, service.get("tmpfs", [])),
            *service.get("x-mounts", []),
        ]
        return {
            "ociVersion": "1.0.0",
            "hostname": self.name,
            "root": {"path": str(self._image.root), "readonly": service.get("read_only", False)},
            "process": {
                "user": {"uid": int(uid), "gid": int(gid or 0)},
                "args": command,
                "env": [*config["Env"], *(f"{name}={value}" for name, value in variables.items())],
                "cwd": config.get("WorkingDir") or "/",
                "noNewPrivileges": "no-new-privileges:true" in service.get("security_opt", []),
                "capabilities": {} if service.get("cap_drop") == ["ALL"] else {"bounding": ["CAP_CHOWN"]},
            },
            "mounts": mounts,
            "linux": {
                "namespaces": [
                    *({"type": kind} for kind in ("pid", "ipc", "uts", "mount")),
                    {"type": "network", "path": f"/var/run/netns/{self._host.prefix[-1]}"},
                ],
            },
        }


def _tmpfs(destination: str, options: list[str]) -> dict[str, Any]:
    return {"destination": destination, "type": "tmpfs", "source": "tmpfs", "options": options}


class Compose:
    """The services of compose.yaml as containers of one image, each with its own address.

    The store's image is not ours. Its service runs in our image too, with SeaweedFS's program from a wheel.
    """

    def __init__(self, image: Image, net: Network, folder: Path, user: str | None = None) -> None:
        self._image, self._net, self._folder, self._user = image, net, folder, user
        self.services = services(secrets.token_hex(32))
        self.services["store"] |= {
            "tmpfs": ["/data", "/tmp"],
            "read_only": True,
            "x-mounts": [
                {"destination": "/usr/bin/weed", "type": "bind", "source": str(find_weed()), "options": ["rbind", "ro"]}
            ],
        }
        self._hosts = {
            f"{name}-{number}" if number else name: (name, net.host())
            for name, service in self.services.items()
            for number in range(service.get("deploy", {}).get("replicas", 1))
        }
        lines = [f"{host.address} {name}" for name, (_, host) in self._hosts.items()]
        (folder / "hosts").write_text("\n".join(["127.0.0.1 localhost", *lines, ""]))
        self.running: dict[str, Container] = {}

    def address(self, name: str) -> str:
        """Return the address of a service."""
        return self._hosts[name][1].address

    def up(self, service: str) -> int:
        """Run a service after those it depends on, and return its exit code."""
        self._start(service)
        return self.running[service].wait()

    def down(self) -> None:
        """Kill all containers."""
        for container in self.running.values():
            container.stop()

    def _start(self, service: str) -> None:
        """Start all containers of a service, after the conditions of its `depends_on` have come true."""
        for needed, condition in self.services[service].get("depends_on", {}).items():
            if needed not in self.running:
                self._start(needed)
            for container in self._containers(needed):
                if condition["condition"] == "service_completed_successfully":
                    if code := container.wait():
                        raise RuntimeError(f"{needed} ended with {code}:\n{container.log.read_text()[-4000:]}")
                else:
                    container.await_health()
        for name, (of, host) in self._hosts.items():
            if of == service:
                container = Container(name, self.services[service], self._image, host, self._folder)
                container.start(self._folder / "hosts", "0:0" if service == "store" else self._user)
                self.running[name] = container

    def _containers(self, service: str) -> list[Container]:
        return [self.running[name] for name, (of, _) in self._hosts.items() if of == service]
