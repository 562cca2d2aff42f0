"""Read the files in `cluster/` with the programs that use them: kubectl builds overlays, genretag parses commands."""

import functools
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import botocore
import jsonschema
import pytest
import ray
import yaml

from genretag.cli import app, settings_sources

REPOSITORY = Path(__file__).parents[1]
KUBERNETES = REPOSITORY / "cluster" / "kubernetes"
CRDS = REPOSITORY.parent / "shared" / "schemas" / "kuberay"
# The loader in pure Python takes ten seconds for a resource definition.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
OVERLAYS = ("cpu", "gpu", "local")
# The oldest version with all fields that we use, and the newest that the validator knows.
KUBERNETES_VERSIONS = ("1.31", "1.37")


@functools.cache
def _built(folder: Path) -> str:
    return subprocess.run(["kubectl", "kustomize", folder], check=True, capture_output=True, text=True).stdout


def build(overlay: str, kubernetes: Path = KUBERNETES) -> list[dict[str, Any]]:
    """Return the objects of an overlay in the folder `kubernetes`, as `kubectl apply --kustomize` would send them.

    If kubectl is not installed, skip the test.
    """
    if not shutil.which("kubectl"):
        pytest.skip("kubectl, which builds the overlays, is not here")
    return list(yaml.load_all(_built(kubernetes / "overlays" / overlay), LOADER))


def of_kind(objects: list[dict[str, Any]], kind: str, name: str | None = None) -> list[dict[str, Any]]:
    """Return the objects of this kind. If `name` is given, return only those with this name."""
    return [o for o in objects if o["kind"] == kind and name in (None, o["metadata"]["name"])]


def cluster_specs(objects: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the specs of the RayCluster and of the clusters that the RayJobs start."""
    yield from (o["spec"] for o in of_kind(objects, "RayCluster"))
    yield from (o["spec"]["rayClusterSpec"] for o in of_kind(objects, "RayJob"))


def pod_templates(value: Any) -> Iterator[dict[str, Any]]:
    """Yield every pod template in a nested value, at any depth."""
    if isinstance(value, dict):
        if isinstance(spec := value.get("spec"), dict) and "containers" in spec:
            yield value
        for inner in value.values():
            yield from pod_templates(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from pod_templates(inner)


def strings(value: Any) -> Iterator[str]:
    """Yield every string in a nested value, at any depth."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from strings(inner)


def variable_exists(name: str) -> bool:
    """Return True if Ray, boto3 or a script in `cluster/kubernetes/base` contains the name of this variable.

    HOME and AWS_ENDPOINT_URL always count as known.
    """
    roots = (
        [Path(ray.__file__).parent / part for part in ("_private", "_common", "_raylet.so")]
        if name[:4] == "RAY_"
        else []
    )
    roots += [Path(botocore.__file__).parent] if name.startswith("AWS_") else [KUBERNETES / "base"]
    files = (file for root in roots for file in (root.rglob("*.py") if root.is_dir() else [root]))
    return name in ("HOME", "AWS_ENDPOINT_URL") or any(name.encode() in file.read_bytes() for file in files)


@functools.cache
def crd(kind: str) -> jsonschema.Draft202012Validator:
    """Return a validator of a KubeRay kind, which refuses unknown fields.

    If KubeRay's resource definitions are not here, skip the test.
    """
    file = CRDS / f"ray.io_{kind.lower()}s.yaml"
    if not file.exists():
        pytest.skip("KubeRay's resource definitions (../shared/schemas/kuberay) are not here")
    versions = yaml.load(file.read_text(), LOADER)["spec"]["versions"]
    schema = next(v["schema"]["openAPIV3Schema"] for v in versions if v["name"] == "v1")
    return jsonschema.Draft202012Validator(_strict(schema))


def _strict(schema: Any) -> Any:
    """Return a JSON schema in which objects refuse unknown properties."""
    if isinstance(schema, list):
        return [_strict(inner) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: _strict(inner) for name, inner in schema.items()}
    if isinstance(found.get("properties"), dict) and "additionalProperties" not in found and "type" in found:
        found["additionalProperties"] = False
    return found


def as_genretag_reads(line: str | list[str], settings: Path | None = None) -> tuple[str, dict[str, Any]]:
    """Parse a command line as `genretag` does, and return the name of the command and its arguments.

    If the line has `--config`, its file is replaced by `settings`. Raises the error that `genretag` answers with exit
    code 2.
    """
    words = shlex.split(line) if isinstance(line, str) else line
    assert words[0] == "genretag", words
    tokens = words[1:]
    if "--config" in tokens:
        at = tokens.index("--config")
        tokens = tokens[:at] + tokens[at + 2 :]
        assert settings is not None, words
    before = app.config
    try:
        app.config = settings_sources(app, settings)
        function, bound, _ = app.parse_args(tokens, exit_on_error=False, print_error=False)
    finally:
        app.config = before
    return function.__name__, dict(bound.arguments)
