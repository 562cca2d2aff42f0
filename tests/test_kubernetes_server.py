"""cluster/kubernetes on a real API server of Kubernetes: `make kubernetes-test` builds it, and runs this file."""

import json
import os

import pytest
from kubernetes_server import as_in_1_20, build_servers, control_plane, why_not
from kubernetes_values import WRONG_IN_A_CRONJOB, changed, wrong_values
from manifests import OVERLAYS, build, of_kind, pod_templates
from ray_cluster_faults import until

ASKED_FOR = "GENRETAG_KUBERNETES_TEST"
SUCCEEDED = {"jobStatus": "SUCCEEDED", "jobDeploymentStatus": "Complete"}
FAILED = {
    "jobStatus": "FAILED",
    "jobDeploymentStatus": "Failed",
    "message": "Job entrypoint command failed with exit code 2, last available logs (truncated to 20,000 chars):",
}

pytestmark = pytest.mark.skipif(
    ASKED_FOR not in os.environ, reason="`make kubernetes-test` builds an API server, in some 15 minutes"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    assert why_not() is None, why_not()
    build_servers()
    with control_plane(tmp_path_factory.mktemp("kubernetes")) as plane:
        yield plane


@pytest.fixture
def applied(server):
    """Return a function that applies an overlay and returns its objects. The namespace is deleted afterwards."""

    def apply(overlay):
        objects = as_in_1_20(build(overlay))
        server.send("apply", objects=objects)
        return objects

    yield apply
    server.kubectl("delete", "namespace", "genretag", "--ignore-not-found", "--timeout=120s")


@pytest.fixture
def objects(server):
    """The objects of an overlay, of which only the namespace is applied."""
    objects = as_in_1_20(build("cpu"))
    server.send("apply", objects=of_kind(objects, "Namespace"))
    return objects


def _lacks(stored, given, place=""):
    """Yield each place of `given` where `stored` has no value or another one. Lists are equally long."""
    if isinstance(given, dict):
        for key, value in given.items():
            yield from _lacks(stored.get(key), value, f"{place}.{key}") if isinstance(stored, dict) else [place]
    elif isinstance(given, list):
        if not isinstance(stored, list) or len(stored) != len(given):
            yield place
            return
        for number, (one, other) in enumerate(zip(stored, given, strict=True)):
            yield from _lacks(one, other, f"{place}[{number}]")
    elif stored != given:
        yield f"{place}: {given!r} became {stored!r}"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_server_takes_every_object_as_it_is(applied, server, overlay):
    objects = applied(overlay)

    stored = [server.get(item["kind"], item["metadata"]["name"]) for item in objects]
    assert [list(_lacks(one, item)) for one, item in zip(stored, objects, strict=True)] == [[] for _ in objects]
    server.send("apply", objects=objects)
    again = [server.get(item["kind"], item["metadata"]["name"]) for item in objects]
    assert [one["metadata"].get("generation") for one in again] == [one["metadata"].get("generation") for one in stored]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_server_takes_the_pods_of_every_cluster(applied, server, overlay):
    """KubeRay makes these pods. The server checks their values only when they come, because KubeRay's types do not."""
    objects = applied(overlay)

    clusters = [*of_kind(objects, "RayCluster"), *of_kind(objects, "RayJob")]
    for number, template in enumerate(pod_templates(clusters)):
        metadata = {"labels": template["metadata"].get("labels", {}), "name": f"pod-{number}", "namespace": "genretag"}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
        assert "created" in server.send("create", "--dry-run=server", objects=[pod])


@pytest.mark.parametrize(("place", "value"), [wrong for wrong in WRONG_IN_A_CRONJOB if wrong[0] != "spec.timeZone"])
def test_the_server_refuses_what_our_own_check_of_values_finds(objects, server, place, value):
    (cron_job,) = of_kind(objects, "CronJob")
    wrong = changed(cron_job, place, value)

    assert len(list(wrong_values(wrong))) == 1
    with pytest.raises(RuntimeError, match=r"(?i)invalid|cannot be handled|unable to parse|quantit|must"):
        server.send("apply", "--dry-run=server", objects=[wrong])


@pytest.mark.parametrize(
    ("kind", "place", "value"),
    [
        ("RayJob", "spec.suspend", "yes"),
        ("RayJob", "spec.rayClusterSpec.workerGroupSpecs.0.replicas", "four"),
        ("RayJob", "spec.backoffLimit", 0.5),
        ("RayCluster", "spec.headGroupSpec.rayStartParams", {"num-cpus": 0}),
        ("RayCluster", "spec.headGroupSpec.template.spec.containers.0.ports", [{"name": "metrics"}]),
    ],
)
def test_the_server_refuses_what_kuberay_s_definitions_refuse(objects, server, kind, place, value):
    wrong = changed(of_kind(objects, kind)[0], place, value)

    with pytest.raises(RuntimeError, match=r"(?i)invalid|required|unknown"):
        server.send("apply", "--dry-run=server", objects=[wrong])


@pytest.fixture
def night(server, tmp_path):
    """Return a function that lets the CronJob start, and returns the name of the Job and the process of its pod."""
    started = []

    def start():
        every_minute = json.dumps({"spec": {"schedule": "* * * * *", "startingDeadlineSeconds": None}})
        server.kubectl("--namespace=genretag", "patch", "cronjob", "genretag-nightly", f"--patch={every_minute}")
        (job,) = until(lambda: server.get("jobs"))
        (pod,) = until(lambda: server.get("pods"))
        name, uid = job["metadata"]["name"], job["metadata"]["uid"]
        assert pod["metadata"]["ownerReferences"][0]["uid"] == uid
        # A node reads both from labels of the pod, which have these names since 1.27.
        variables = {"JOB_NAME": name, "JOB_UID": uid}
        assert {one["name"] for one in pod["spec"]["containers"][0]["env"]} == set(variables)
        started.append(server.in_pod(job["spec"]["template"]["spec"], variables, tmp_path))
        return name, started[0]

    yield start
    for process in started:
        process.kill()


@pytest.mark.parametrize(("status", "code"), [(SUCCEEDED, 0), (FAILED, 2)])
def test_a_night_of_the_cronjob_ends_with_the_exit_code_of_its_rayjob(applied, server, night, status, code):
    applied("cpu")
    job, process = night()
    name = f"{job}-1"

    rayjob = until(lambda: server.get("rayjob", name))
    as_operator = ("--subresource=status", "--type=merge", f"--patch={json.dumps({'status': status})}")
    server.kubectl("--namespace=genretag", "patch", "rayjob", name, *as_operator)
    said, _ = process.communicate(timeout=60)

    assert process.returncode == code, said
    assert rayjob["spec"] == {**server.get("rayjob", "genretag-tag")["spec"], "suspend": False}
    server.kubectl("--namespace=genretag", "delete", "cronjob", "genretag-nightly")
    until(lambda: server.get("rayjob", name) is None)  # it goes with the Job, which goes with the CronJob
    assert {one["metadata"]["name"] for one in server.get("rayjobs")} == {"genretag-tag", "genretag-train"}


def test_without_its_role_the_script_names_it(applied, night, server):
    applied("cpu")
    server.kubectl("--namespace=genretag", "delete", "rolebinding", "genretag-nightly")
    _, process = night()

    said, _ = process.communicate(timeout=60)

    assert process.returncode == 2, said
    assert "403" in said and "check the Role genretag-nightly" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("account", ["genretag-nightly", "genretag-tag", "genretag-train"])
def test_an_account_may_do_only_what_its_pods_need(applied, server, account):
    applied("cpu")
    verbs = ("get", "create", "list", "patch", "delete")

    may = {verb for verb in verbs if _may(server, account, verb, "rayjobs.ray.io")}

    assert may == ({"get", "create"} if account == "genretag-nightly" else set())
    assert not any(_may(server, account, "get", kind) for kind in ("secrets", "pods", "configmaps"))


def _may(server, account, verb, kind):
    """Return whether the API server lets an account do this."""
    try:
        return server.as_account(account, "auth", "can-i", verb, kind).strip() == "yes"
    except RuntimeError as error:  # kubectl's exit code for "no" is 1
        assert str(error).endswith("no\n")
        return False
