"""A real control plane of Kubernetes without nodes: etcd, the API server and its controllers.

The API server and the controller manager are built from the source of Debian 12's package kubernetes, whose version is
1.20. It is the only API server in the package indexes that CI reaches. etcd is a package of Debian. All of them listen
at 127.0.0.1 only, and are killed at the end of the block.
"""

import copy
import functools
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from azure_server import LOOPBACK, free_port, wait_for_port
from containers import run
from manifests import CRDS, REPOSITORY
from ray_cluster_faults import until

RELEASE = "bookworm"
BUILT = REPOSITORY / "build" / "kubernetes"
SERVERS = ("kube-apiserver", "kube-controller-manager")
NEEDED = ("kubectl", "etcd", "go", "jq", "rsync", "dpkg-source", "openssl", "unshare")
REFLECT2 = Path("/usr/share/gocode/src/github.com/modern-go/reflect2")  # of golang-github-modern-go-reflect2-dev
IDENTITY = "/var/run/secrets/kubernetes.io/serviceaccount"


def why_not() -> str | None:
    """Return why the control plane cannot run here, or None."""
    absent = [name for name in NEEDED if not shutil.which(name)]
    absent += [] if REFLECT2.exists() else [str(REFLECT2)]
    if absent:
        return f"missing here: {', '.join(absent)} (`make kubernetes-test` installs the packages of Debian)"
    if not CRDS.exists():
        return "KubeRay's resource definitions (../shared/schemas/kuberay) are not here"
    return None


def build_servers() -> None:
    """Build the API server and the controller manager from Debian's source, unless they are there."""
    if all((BUILT / name).exists() for name in SERVERS):
        return
    BUILT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="source-", dir=BUILT) as name:
        folder = Path(name)
        source = _source(folder)
        inside = folder / "go" / "src" / "k8s.io"
        inside.mkdir(parents=True)
        (inside / "kubernetes").symlink_to(source)
        # No network: all that the build needs is in the source package.
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": name,
            "GOPATH": str(folder / "go"),
            "GOPROXY": "off",
            "GO111MODULE": "off",
            "CGO_ENABLED": "0",
        }
        run("make", f"WHAT={' '.join(f'cmd/{server}' for server in SERVERS)}", cwd=source, env=environment)
        for server in SERVERS:
            shutil.move((source / "_output" / "bin" / server).resolve(), BUILT / server)


def _source(folder: Path) -> Path:
    """Fetch Debian's source package of Kubernetes into this folder, and return the folder of the source."""
    lists = folder / "lists"
    lists.mkdir()
    own, lines = Path("/etc/apt"), []
    for file in (own / "sources.list", *sorted((own / "sources.list.d").glob("*"))):
        text = file.read_text() if file.is_file() else ""
        if file.suffix == ".sources":
            (lists / file.name).write_text(re.sub(r"(?m)^Types:.*", "Types: deb-src", text))
        else:
            lines += re.findall(r"(?m)^deb(?:-src)? +(.*)", text)
    (folder / "sources.list").write_text("".join(f"deb-src {line}\n" for line in lines))
    settings = {
        "Dir::Etc::sourcelist": folder / "sources.list",
        "Dir::Etc::sourceparts": lists,
        "Dir::State::lists": folder / "state",
        "Dir::Cache": folder / "cache",
        "APT::Sandbox::User": "root",
    }
    for place in ("state/partial", "cache/archives/partial"):
        (folder / place).mkdir(parents=True)
    apt = ["apt-get", "--quiet", *(f"--option={key}={value}" for key, value in settings.items())]
    subprocess.run([*apt, "update"], capture_output=True, check=False)  # other sources may have no source packages
    run(*apt, "source", f"kubernetes/{RELEASE}", cwd=folder)
    source = next(path for path in folder.glob("kubernetes-*") if path.is_dir())
    # The copy in the source package garbles memory if Go is 1.18 or later. Its version 1.0.2 does not.
    old = source / "vendor" / "github.com" / "modern-go" / "reflect2"
    shutil.rmtree(old)
    shutil.copytree(REFLECT2, old, ignore=shutil.ignore_patterns("*_test.go"))
    return source


@dataclass(frozen=True)
class ControlPlane:
    """A running API server, with a file that makes `kubectl` its administrator."""

    port: int
    authority: Path
    config: Path

    def kubectl(self, *arguments: str, given: str | None = None) -> str:
        """Run `kubectl` with these arguments and this standard input, and return its output.

        Raises `RuntimeError`, with the output, if the command fails.
        """
        return run("kubectl", "--kubeconfig", self.config, *arguments, input=given)

    def send(self, *arguments: str, objects: list[dict[str, Any]]) -> str:
        """Run `kubectl` with these arguments on these objects, and return its output.

        Raises `RuntimeError`, with the output, if the command fails.
        """
        given = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        return self.kubectl(*arguments, "--filename=-", given=given)

    def get(self, kind: str, name: str = "") -> Any:
        """Return the object of this kind and name in the namespace `genretag`, or None if there is none.

        Without a name, return a list of all objects of this kind.
        """
        which = (kind, name) if name else (kind,)
        found = self.kubectl("--namespace=genretag", "get", *which, "--ignore-not-found", "--output=json")
        if not name:
            return json.loads(found)["items"] if found else []
        return json.loads(found) if found else None

    def token(self, account: str) -> str:
        """Return a new token of a service account, as a pod of the account would have."""
        return self.kubectl("--namespace=genretag", "create", "token", account).strip()

    def as_account(self, account: str, *arguments: str) -> str:
        """Run `kubectl` as this service account, which it is by its token. Raises `RuntimeError` if it fails."""
        server = f"--server=https://{LOOPBACK}:{self.port}"
        login = (server, f"--certificate-authority={self.authority}", f"--token={self.token(account)}")
        return run("kubectl", "--kubeconfig=/dev/null", *login, "--namespace=genretag", *arguments)

    def in_pod(self, pod: dict[str, Any], variables: dict[str, str], folder: Path) -> subprocess.Popen[str]:
        """Start the command of a pod as a process that sees the files and the identity that a node would give the pod.

        `pod` is the pod's spec. `variables` are those of its environment that only a node can fill in. Output and
        errors of the process are in one pipe.
        """
        (container,) = pod["containers"]
        files = {IDENTITY: {"namespace": "genretag", "token": self.token(pod["serviceAccountName"])}}
        files[IDENTITY]["ca.crt"] = self.authority.read_text()
        maps = {volume["name"]: volume["configMap"]["name"] for volume in pod["volumes"] if "configMap" in volume}
        for mount in container["volumeMounts"]:
            files[mount["mountPath"]] = self.get("configmap", maps[mount["name"]])["data"]
        steps = []
        for number, (path, contents) in enumerate(files.items()):
            source = folder / str(number)
            source.mkdir(parents=True)
            for name, text in contents.items():
                (source / name).write_text(text)
            # The process alone sees these mounts: an empty /etc and an empty /var with nothing but its files.
            steps.append(f"mount -t tmpfs none /{path.split('/')[1]}; mkdir -p {path}; mount --bind {source} {path}")
        command = [sys.executable if word == "python" else word for word in container["command"]]
        return subprocess.Popen(
            ["unshare", "--mount", "sh", "-ec", f'{"; ".join(steps)}; exec "$@"', "sh", *command],
            env={"KUBERNETES_SERVICE_HOST": LOOPBACK, "KUBERNETES_SERVICE_PORT": str(self.port), **variables},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )


def as_in_1_20(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return copies of objects as Kubernetes 1.20 knows them: a CronJob is `v1beta1`, and lacks two newer fields."""
    objects = copy.deepcopy(objects)
    for item in objects:
        if item["kind"] == "CronJob":
            item["apiVersion"] = "batch/v1beta1"
            del item["spec"]["timeZone"]  # came in 1.24
            del item["spec"]["jobTemplate"]["spec"]["podFailurePolicy"]  # came in 1.25
    return objects


@contextmanager
def control_plane(folder: Path) -> Iterator[ControlPlane]:
    """Run etcd, the API server and the controllers, with KubeRay's resource definitions, and end them afterwards."""
    etcd_port, peer_port, port = (free_port() for _ in range(3))
    etcd, api = f"http://{LOOPBACK}:{etcd_port}", f"https://{LOOPBACK}:{port}"
    key, tokens, config = folder / "accounts.key", folder / "tokens.csv", folder / "kubeconfig"
    run("openssl", "genrsa", "-out", key, "2048")
    token = secrets.token_hex(16)
    tokens.write_text(f"{token},administrator,1,system:masters\n")
    authority = folder / "certificates" / "apiserver.crt"  # the API server makes it
    with ExitStack() as stack:

        def start(name: str, program: str | Path, ready_port: int | None, **options: str | Path | int) -> None:
            log = folder / f"{name}.log"
            flags = [f"--{option.replace('_', '-')}={value}" for option, value in options.items()]
            with log.open("wb") as output:
                process = subprocess.Popen([program, *flags], cwd=folder, stdout=output, stderr=output)
            stack.callback(process.wait)
            stack.callback(process.kill)
            if ready_port:
                wait_for_port(ready_port, process, log)

        start(
            "etcd",
            "etcd",
            etcd_port,
            data_dir=folder / "etcd",
            listen_client_urls=etcd,
            advertise_client_urls=etcd,
            listen_peer_urls=f"http://{LOOPBACK}:{peer_port}",
        )
        start(
            "api",
            BUILT / "kube-apiserver",
            port,
            etcd_servers=etcd,
            bind_address=LOOPBACK,
            advertise_address=LOOPBACK,
            endpoint_reconciler_type="none",
            secure_port=port,
            insecure_port=0,
            cert_dir=authority.parent,
            token_auth_file=tokens,
            authorization_mode="RBAC",
            enable_admission_plugins="OwnerReferencesPermissionEnforcement",  # as OpenShift has it
            service_account_issuer=api,
            service_account_key_file=key,
            service_account_signing_key_file=key,
            service_cluster_ip_range="10.0.0.0/24",
        )
        cluster = {"name": "own", "cluster": {"server": api, "certificate-authority": str(authority)}}
        user = {"name": "administrator", "user": {"token": token}}
        context = {"name": "own", "context": {"cluster": "own", "user": "administrator"}}
        made = {"clusters": [cluster], "users": [user], "contexts": [context], "current-context": "own"}
        config.write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Config", **made}))
        plane = ControlPlane(port, authority, config)
        until(lambda: _works(plane, "get", "--raw", "/readyz"))
        start(
            "controllers",
            BUILT / "kube-controller-manager",
            None,
            kubeconfig=config,
            port=0,
            secure_port=0,
            leader_elect="false",
            service_account_private_key_file=key,
            root_ca_file=authority,
        )
        for kind in ("rayclusters", "rayjobs"):
            # 1.20 reads the default "" as null, and refuses it. It lacks rules in CEL, so `kubectl` must not validate.
            definition = (CRDS / f"ray.io_{kind}.yaml").read_text().replace('default: ""', 'default: "-"')
            plane.kubectl("create", "--validate=false", "--filename=-", given=definition)
            until(functools.partial(_works, plane, "get", kind))
        yield plane


def _works(plane: ControlPlane, *arguments: str) -> bool:
    with suppress(RuntimeError):
        plane.kubectl(*arguments)
        return True
    return False
