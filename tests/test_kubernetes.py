"""The manifests in cluster/kubernetes fit the schemas of Kubernetes and KubeRay, and the commands and settings."""

import re
import shutil
import tomllib
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import ray
from cyclopts import CycloptsError
from manifests import (
    KUBERNETES,
    KUBERNETES_VERSIONS,
    OVERLAYS,
    REPOSITORY,
    as_genretag_reads,
    build,
    cluster_specs,
    crd,
    of_kind,
    pod_templates,
    strings,
    variable_exists,
)
from ray._private import ray_constants

from genretag import errors
from genretag.errors import UsageError

RAYS_OWN = ("RayCluster", "RayJob")
KUBERAY_METRICS = 8080


@pytest.fixture(params=OVERLAYS)
def overlay(request):
    return request.param


@pytest.fixture
def objects(overlay):
    return build(overlay)


@pytest.fixture
def settings(objects, tmp_path):
    """Write the settings file that the pods see, and return its path."""
    data = of_kind(objects, "ConfigMap", "genretag-settings")[0]["data"]
    (tmp_path / "genretag.toml").write_text(data["genretag.toml"])
    return tmp_path / "genretag.toml"


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
def test_every_object_of_kubernetes_fits_its_schema(objects, version):
    for item in objects:
        if item["kind"] not in RAYS_OWN:
            kubernetes_validate.validate(item, version, strict=True)


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
def test_every_pod_of_kuberay_fits_the_schema_of_pods(objects, version):
    for item in objects:
        if item["kind"] in RAYS_OWN:
            for template in pod_templates(item):
                pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "pod"}, "template": template}
                kubernetes_validate.validate(pod, version, strict=True)


def test_every_object_of_kuberay_fits_its_resource_definition(objects):
    for kind in RAYS_OWN:
        for item in of_kind(objects, kind):
            crd(kind).validate(item)


@pytest.mark.parametrize("overlay", ["cpu", "gpu"])
def test_a_copy_beside_the_overlays_has_its_own_registry_bucket_and_roles(tmp_path, overlay):
    kubernetes = Path(shutil.copytree(KUBERNETES, tmp_path / "kubernetes"))
    mine = Path(shutil.copytree(kubernetes / "overlays" / overlay, kubernetes / "overlays" / "mine"))
    settings, kustomization = mine / "genretag.toml", mine / "kustomization.yaml"
    settings.write_text(settings.read_text().replace("s3://films/", "s3://ours/"))
    text = kustomization.read_text().replace("newName: genretag}", "newName: registry.example.org/genretag}")
    text = re.sub(r"(?m)^# (?=patches:|  )", "", text)  # the patches with roles
    kustomization.write_text(text)

    objects = build("mine", kubernetes)

    images = {text for text in strings(list(pod_templates(objects))) if "genretag:0.1.0-" in text}
    assert images >= {f"registry.example.org/genretag:0.1.0-{overlay}"}
    assert all(image.startswith("registry.example.org/genretag:") for image in images)
    (found,) = of_kind(objects, "ConfigMap", "genretag-settings")
    assert "s3://ours/posters" in found["data"]["genretag.toml"]
    if overlay == "cpu":
        for name in ("genretag-tag", "genretag-train"):
            (account,) = of_kind(objects, "ServiceAccount", name)
            assert account["metadata"]["annotations"] == {
                "eks.amazonaws.com/role-arn": f"arn:aws:iam::ACCOUNT:role/{name}"
            }


def test_a_misspelt_field_is_refused_by_both_schemas():
    objects = build("cpu")
    rayjob, cronjob = of_kind(objects, "RayJob")[0], of_kind(objects, "CronJob")[0]
    rayjob["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParameters"] = {}
    cronjob["spec"]["concurrency"] = cronjob["spec"].pop("concurrencyPolicy")

    with pytest.raises(kubernetes_validate.ValidationError, match="'concurrency' was unexpected"):
        kubernetes_validate.validate(cronjob, KUBERNETES_VERSIONS[-1], strict=True)
    with pytest.raises(jsonschema.ValidationError, match="rayStartParameters"):
        crd("RayJob").validate(rayjob)


def test_the_commands_and_settings_are_ones_that_genretag_has(objects, settings):
    ran = {as_genretag_reads(rayjob["spec"]["entrypoint"], settings)[0] for rayjob in of_kind(objects, "RayJob")}

    assert ran == {"tag", "train"}
    tables = tomllib.loads(settings.read_text())
    assert set(tables) == ran


def test_settings_reach_the_job(settings, overlay):
    _, arguments = as_genretag_reads("genretag train --config x", settings)

    assert arguments["settings"].gpu == (overlay == "gpu")
    assert arguments["labels"] == "s3://films/labels.csv"


def test_a_renamed_setting_is_refused(settings):
    settings.write_text(settings.read_text().replace("output =", "outputs ="))

    with pytest.raises((CycloptsError, UsageError), match="outputs"):
        as_genretag_reads("genretag tag --config x", settings)


def test_training_on_several_nodes_has_its_checkpoints_in_a_bucket(settings, overlay):
    _, arguments = as_genretag_reads("genretag train --config x", settings)

    assert arguments["settings"].worker_range == (1, 1) or arguments["run"].checkpoints.startswith("s3://")


def test_no_worker_is_asked_for_more_cpus_than_it_has(objects, settings):
    _, arguments = as_genretag_reads("genretag train --config x", settings)

    for spec in cluster_specs(objects):
        for group in spec["workerGroupSpecs"]:
            limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
            assert int(limits["cpu"]) >= arguments["settings"].cpus_per_worker


def test_a_job_gets_a_cluster_of_the_raycluster_s_shape_with_its_own_image_and_account(objects, overlay):
    cluster = of_kind(objects, "RayCluster")[0]["spec"]
    images = {"genretag-tag": "cpu", "genretag-train": "train"} if overlay != "gpu" else {}
    for rayjob in of_kind(objects, "RayJob"):
        name, spec = rayjob["metadata"]["name"], rayjob["spec"]["rayClusterSpec"]
        assert set(spec) == set(cluster) - {"suspend"}
        assert spec["authOptions"] == {"mode": "token"}
        groups = [group["groupName"] for group in spec["workerGroupSpecs"]]
        assert groups == (["cpu", "gpu"] if overlay == "gpu" else ["cpu"])
        pods = [template["spec"] for template in pod_templates(spec)]
        assert {pod["containers"][0]["image"] for pod in pods} == {f"genretag:0.1.0-{images.get(name, 'gpu')}"}
        assert {pod["serviceAccountName"] for pod in pods} == {name}


def test_every_environment_variable_is_read_by_some_program(objects):
    pods = [template["spec"] for item in objects for template in pod_templates(item)]
    names = {variable["name"] for pod in pods for variable in pod["containers"][0].get("env", [])}

    assert names and [name for name in names if not variable_exists(name)] == []


def test_all_clusters_and_jobs_are_suspended_at_first(objects):
    assert all(item["spec"]["suspend"] for kind in RAYS_OWN for item in of_kind(objects, kind))


def test_versions_are_those_of_the_project(objects):
    constraints = (REPOSITORY / "constraints.txt").read_text()
    assert f"ray=={ray.__version__}" in constraints
    assert {spec["rayVersion"] for spec in cluster_specs(objects)} == {ray.__version__}
    version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    ours = {text for item in objects for text in strings(item) if text.startswith("genretag:")}
    assert all(image.startswith(f"genretag:{version}-") for image in ours)


def test_everything_that_pods_refer_to_exists(objects):
    """All named config maps, accounts and volumes exist. Only the Secret with keys of a store is made by hand."""
    maps = {item["metadata"]["name"] for item in of_kind(objects, "ConfigMap")}
    accounts = {item["metadata"]["name"] for item in of_kind(objects, "ServiceAccount")}
    for item in objects:
        for template in pod_templates(item):
            pod = template["spec"]
            named = {v["configMap"]["name"] for v in pod.get("volumes", []) if "configMap" in v}
            assert named <= maps
            assert pod.get("serviceAccountName") is None or pod["serviceAccountName"] in accounts
            mounted = {m["name"] for c in pod["containers"] for m in c.get("volumeMounts", [])}
            assert mounted == {v["name"] for v in pod.get("volumes", [])}
    assert {n for item in objects for n in re.findall(r"'secretRef': {'name': '([\w-]+)'", str(item))} == {
        "genretag-s3"
    }


def test_the_ports_are_the_defaults_of_ray(objects):
    for spec in cluster_specs(objects):
        ports = {
            port["name"]: port["containerPort"]
            for t in pod_templates(spec)
            for port in t["spec"]["containers"][0]["ports"]
        }
        assert ports == {
            "gcs-server": ray_constants.DEFAULT_PORT,
            "dashboard": ray_constants.DEFAULT_DASHBOARD_PORT,
            "metrics": KUBERAY_METRICS,
        }


@pytest.mark.parametrize("overlay", ["cpu", "gpu"])
def test_the_head_is_on_demand_and_the_workers_on_spot(overlay):
    for spec in cluster_specs(build(overlay)):
        assert _capacity(spec["headGroupSpec"]) == {"on-demand", "ON_DEMAND", "standard"}
        for group in spec["workerGroupSpecs"]:
            assert _capacity(group) == {"spot", "SPOT"}
            assert group["minReplicas"] == group["replicas"] < group["maxReplicas"]


def _capacity(group):
    """Return the kinds of machines that the node affinity of a group allows."""
    rules = group["template"]["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    return {value for term in rules["nodeSelectorTerms"] for one in term["matchExpressions"] for value in one["values"]}


def test_the_cronjob_runs_one_night_at_a_time_and_knows_the_exit_codes(objects):
    spec = of_kind(objects, "CronJob")[0]["spec"]
    job = spec["jobTemplate"]["spec"]

    assert spec["concurrencyPolicy"] == "Forbid"
    rules = {rule["action"]: rule for rule in job["podFailurePolicy"]["rules"]}
    assert rules["FailJob"]["onExitCodes"]["values"] == [errors.EXIT_USAGE, errors.EXIT_HELD]
    assert rules["FailJob"]["onExitCodes"]["containerName"] == job["template"]["spec"]["containers"][0]["name"]
    pattern = job["template"]["spec"]["containers"][0]["command"][-1]
    assert of_kind(objects, "RayJob", pattern)
