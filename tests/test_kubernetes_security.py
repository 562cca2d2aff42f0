"""Pods, network, permissions and secrets in cluster/kubernetes are restricted."""

import ast
import re

import pytest
from manifests import KUBERNETES, OVERLAYS, build, cluster_specs, of_kind, pod_templates
from ray._private import ray_constants

KUBERAY_METRICS = 8080
WRITABLE = {"/tmp", "/home/genretag", "/dev/shm"}


@pytest.fixture(params=OVERLAYS)
def overlay(request):
    return request.param


@pytest.fixture
def objects(overlay):
    return build(overlay)


def test_every_container_runs_unprivileged_and_read_only(objects):
    for item in objects:
        for template in pod_templates(item):
            pod = template["spec"]
            assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] > 0
            assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
            assert "hostNetwork" not in pod and "hostPath" not in str(pod.get("volumes", ""))
            for container in pod["containers"]:
                assert container["securityContext"] == {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                }
                assert {"requests", "limits"} <= set(container["resources"])
    assert all(
        spec["autoscalerOptions"]["securityContext"]["readOnlyRootFilesystem"] for spec in cluster_specs(objects)
    )


def test_the_folders_that_ray_writes_to_are_writable_and_limited(objects):
    for spec in cluster_specs(objects):
        for template in pod_templates(spec):
            volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
            mounts = {m["mountPath"]: m["name"] for m in template["spec"]["containers"][0]["volumeMounts"]}
            assert set(mounts) >= WRITABLE
            assert all("sizeLimit" in volumes[mounts[path]]["emptyDir"] for path in WRITABLE)
        for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
            shm = next(v for v in group["template"]["spec"]["volumes"] if v["name"] == "shm")["emptyDir"]
            assert (
                int(group["rayStartParams"]["object-store-memory"]) <= int(shm["sizeLimit"].removesuffix("Gi")) * 2**30
            )


def test_secrets_are_referenced_and_never_contained(objects):
    assert not of_kind(objects, "Secret")
    for item in objects:
        for template in pod_templates(item):
            for variable in template["spec"]["containers"][0].get("env", []):
                assert not re.search("KEY|TOKEN|SECRET|PASSWORD", variable["name"]) or "valueFrom" in variable


def test_the_probes_use_paths_that_ray_serves_without_a_token(objects):
    from ray.dashboard.http_server_agent import PUBLIC_EXACT_PATHS

    agent, dashboard = ray_constants.DEFAULT_DASHBOARD_AGENT_LISTEN_PORT, ray_constants.DEFAULT_DASHBOARD_PORT
    for spec in cluster_specs(objects):
        for template in pod_templates(spec):
            container = template["spec"]["containers"][0]
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                asked = container[probe]["httpGet"]
                assert asked["port"] in (agent, dashboard)
                assert asked["path"] in (*PUBLIC_EXACT_PATHS, "/api/gcs_healthz")


def test_nothing_is_reachable_from_outside_and_only_submitters_reach_the_dashboard(objects):
    assert not of_kind(objects, "Ingress")
    assert all(item["spec"].get("type", "ClusterIP") == "ClusterIP" for item in of_kind(objects, "Service"))
    policies = {item["metadata"]["name"]: item["spec"] for item in of_kind(objects, "NetworkPolicy")}
    assert policies["nothing"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    ports = {rule["ports"][0]["port"]: rule["from"] for rule in policies["ray"]["ingress"] if "ports" in rule}
    assert set(ports) == {ray_constants.DEFAULT_DASHBOARD_PORT, KUBERAY_METRICS}
    labels = {
        template["metadata"]["labels"].get("genretag/submits")
        for rayjob in of_kind(objects, "RayJob")
        for template in [rayjob["spec"]["submitterPodTemplate"]]
    }
    assert labels == {"yes"} and "'genretag/submits': 'yes'" in str(ports[ray_constants.DEFAULT_DASHBOARD_PORT])


def test_the_cronjob_may_do_what_its_script_does_and_no_more(objects):
    role = of_kind(objects, "Role", "genretag-nightly")[0]
    asked = {
        node.args[0].value
        for node in ast.walk(ast.parse((KUBERNETES / "base" / "nightly.py").read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "_ask"
    }

    assert role["rules"] == [{"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["get", "create"]}]
    assert asked == {"GET", "POST"}
