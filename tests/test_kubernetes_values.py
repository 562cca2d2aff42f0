"""The values in cluster/kubernetes are ones that Kubernetes and KubeRay's operator accept."""

import copy

import pytest
from kubernetes_values import WRONG_IN_A_CRONJOB, changed, refused_by_cel, refused_by_kuberay, wrong_values
from manifests import CRDS, OVERLAYS, build, of_kind

RAYS_OWN = ("RayCluster", "RayJob")
needs_definitions = pytest.mark.skipif(
    not CRDS.exists(), reason="KubeRay's resource definitions (../shared/schemas/kuberay) are not here"
)


@pytest.fixture(params=OVERLAYS)
def objects(request):
    return build(request.param)


def test_kubernetes_accepts_every_value(objects):
    assert [wrong for item in objects for wrong in wrong_values(item)] == []


def test_the_operator_of_kuberay_accepts_every_cluster_and_job(objects):
    assert [why for kind in RAYS_OWN for item in of_kind(objects, kind) for why in refused_by_kuberay(item)] == []


@needs_definitions
def test_the_rules_of_the_resource_definitions_hold_for_new_and_for_changed_objects(objects):
    for kind in RAYS_OWN:
        for item in of_kind(objects, kind):
            assert list(refused_by_cel(item)) == []
            assert list(refused_by_cel(item, old=item)) == []


@needs_definitions
def test_a_rule_of_the_resource_definition_is_applied():
    job = of_kind(build("cpu"), "RayJob")[0]
    mine, other = copy.deepcopy(job), copy.deepcopy(job)
    mine["spec"]["managedBy"] = "me"
    other["spec"]["managedBy"] = "kueue.x-k8s.io/multikueue"
    job["spec"]["managedBy"] = "ray.io/kuberay-operator"

    assert any("managedBy" in message for message in refused_by_cel(mine))
    assert list(refused_by_cel(other)) == []
    assert any("immutable" in message for message in refused_by_cel(other, old=job))


@pytest.mark.parametrize(("place", "value"), WRONG_IN_A_CRONJOB)
def test_a_wrong_value_of_kubernetes_is_found(place, value):
    cron_job = of_kind(build("cpu"), "CronJob")[0]

    found = list(wrong_values(changed(cron_job, place, value)))

    assert len(found) == 1, found


CLUSTER = "spec.rayClusterSpec"


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("metadata.name", "a-name-that-is-longer-than-47-characters-is-refused"),
        ("metadata.name", "1st-night"),
        ("spec.shutdownAfterJobFinishes", False),
        ("spec.ttlSecondsAfterFinished", -1),
        ("spec.activeDeadlineSeconds", 0),
        ("spec.clusterSelector", {"ray.io/cluster": "other"}),
        ("spec.runtimeEnvYAML", "- a list"),
        ("spec.submissionMode", "SidecarMode"),
        (f"{CLUSTER}.rayVersion", "2.51.0"),
        (f"{CLUSTER}.headGroupSpec.rayStartParams.labels", "a=b"),
        (f"{CLUSTER}.workerGroupSpecs.0.suspend", True),
        (f"{CLUSTER}.headGroupSpec.resources", {"cpu": "4"}),
        (f"{CLUSTER}.workerGroupSpecs.0.template.spec.containers", []),
    ],
)
def test_a_job_that_the_operator_refuses_is_found(place, value):
    job = of_kind(build("cpu"), "RayJob")[0]
    assert list(refused_by_kuberay(job)) == []

    assert list(refused_by_kuberay(changed(job, place, value)))
