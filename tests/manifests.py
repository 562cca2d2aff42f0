"""Reads what is under `cluster/` as those who apply it do: overlays built by kubectl, commands read by genretag."""

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
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # Python's own takes ten seconds for a resource definition
OVERLAYS = ("cpu", "gpu", "local")
KUBERNETES_VERSIONS = ("1.31", "1.37")  # the oldest that knows all our fields, and the newest that the validator has


@functools.cache
def _built(overlay: str) -> str:
    command = ["kubectl", "kustomize", str(KUBERNETES / "overlays" / overlay)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def build(overlay: str) -> list[dict[str, Any]]:
    """The objects of an overlay, as `kubectl apply --kustomize` would send them."""
    if not shutil.which("kubectl"):
        pytest.skip("kubectl, which builds the overlays, is not here")
    return list(yaml.load_all(_built(overlay), LOADER))


def of_kind(objects: list[dict[str, Any]], kind: str, name: str | None = None) -> list[dict[str, Any]]:
    return [o for o in objects if o["kind"] == kind and name in (None, o["metadata"]["name"])]


def cluster_specs(objects: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Of the RayCluster, and of the clusters that the RayJobs start."""
    yield from (o["spec"] for o in of_kind(objects, "RayCluster"))
    yield from (o["spec"]["rayClusterSpec"] for o in of_kind(objects, "RayJob"))


def pod_templates(value: Any) -> Iterator[dict[str, Any]]:
    """Every pod template in an object, wherever it stands."""
    if isinstance(value, dict):
        if isinstance(spec := value.get("spec"), dict) and "containers" in spec:
            yield value
        for inner in value.values():
            yield from pod_templates(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from pod_templates(inner)


def strings(value: Any) -> Iterator[str]:
    """Every string in an object."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from strings(inner)


def variable_exists(name: str) -> bool:
    """Whether somebody reads an environment variable: Ray, boto3, or a script of ours."""
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
    """Of a kind of KubeRay's, by its resource definition, with unknown fields refused; skips where that is not here."""
    file = CRDS / f"ray.io_{kind.lower()}s.yaml"
    if not file.exists():
        pytest.skip("KubeRay's resource definitions (../shared/schemas/kuberay) are not here")
    versions = yaml.load(file.read_text(), LOADER)["spec"]["versions"]
    schema = next(v["schema"]["openAPIV3Schema"] for v in versions if v["name"] == "v1")
    return jsonschema.Draft202012Validator(_strict(schema))


def _strict(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_strict(inner) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: _strict(inner) for name, inner in schema.items()}
    if isinstance(found.get("properties"), dict) and "additionalProperties" not in found and "type" in found:
        found["additionalProperties"] = False
    return found


def as_genretag_reads(line: str | list[str], settings: Path | None = None) -> tuple[str, dict[str, Any]]:
    """The command and the arguments with which it would run. Raises what `genretag` itself answers with exit code 2.

    A `--config` in the line is replaced by `settings`.
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
