"""The values that Kubernetes and KubeRay refuse, which the schemas of the fields accept.

The rules of Kubernetes are those of its API reference and of "Object Names and IDs" and "Quantity"
(https://kubernetes.io/docs/reference/kubernetes-api/). Those of KubeRay are what its operator checks before it makes a
cluster (`ValidateRayClusterSpec` and `ValidateRayJobSpec` in KubeRay's `validation.go`), and the rules in CEL, the
Common Expression Language, that its resource definitions have for the API server.
"""

import copy
import re
import zoneinfo
from collections.abc import Iterator
from typing import Any

import celpy
import yaml
from celpy.adapter import json_to_cel
from manifests import CRDS, LOADER

CHOICES = {
    "concurrencyPolicy": {"Allow", "Forbid", "Replace"},
    "restartPolicy": {"Always", "OnFailure", "Never"},
    "imagePullPolicy": {"Always", "IfNotPresent", "Never"},
    "effect": {"NoSchedule", "PreferNoSchedule", "NoExecute"},
    "operator": {"In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt", "Equal"},
    "protocol": {"TCP", "UDP", "SCTP"},
    "policyTypes": {"Ingress", "Egress"},
    "whenUnsatisfiable": {"DoNotSchedule", "ScheduleAnyway"},
    "dnsPolicy": {"ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"},
    "verbs": {"get", "list", "watch", "create", "update", "patch", "delete", "deletecollection", "*"},
    "submissionMode": {"K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"},
    "upscalingMode": {"Default", "Aggressive", "Conservative"},
}
"""Values of fields of these names, wherever they are. In a list, each item is one."""
SECCOMP = {"RuntimeDefault", "Localhost", "Unconfined"}
QUANTITY = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?\d+)?")
QUANTITIES = ("limits", "requests", "sizeLimit", "hard", "storage")
LABEL = re.compile(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?")
SUBDOMAIN = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
KUBERAY_NAME = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?")
KUBERAY_NAME_AT_MOST = {"RayCluster": 63, "RayJob": 47}
CRON_NAME_AT_MOST = 52
CRON_FIELD = re.compile(r"(\*|\d+(-\d+)?)(/\d+)?(,(\*|\d+(-\d+)?)(/\d+)?)*")
TOKENS_SINCE = (2, 52)
_POD = "spec.jobTemplate.spec.template.spec"
WRONG_IN_A_CRONJOB = (
    ("spec.concurrencyPolicy", "forbid"),
    ("spec.schedule", "0 2 * *"),
    ("spec.timeZone", "Mars/Olympus"),
    ("metadata.name", "Nightly"),
    ("metadata.labels", {"app.kubernetes.io/part-of": "genre tag"}),
    (f"{_POD}.restartPolicy", "Always"),
    (f"{_POD}.containers.0.imagePullPolicy", "always"),
    (f"{_POD}.containers.0.resources", {"limits": {"memory": "1.5GB"}}),
    (f"{_POD}.containers.0.name", "Submit_1"),
    (f"{_POD}.securityContext.seccompProfile", {"type": "runtimeDefault"}),
    (f"{_POD}.volumes", [{"name": "tmp", "emptyDir": {"sizeLimit": "64 Mi"}}]),
    (f"{_POD}.tolerations", [{"key": "gpu", "operator": "exists", "effect": "NoSchedule"}]),
)
"""Places in a CronJob, each with one value that Kubernetes refuses there."""


def wrong_values(item: Any, where: str = "") -> Iterator[str]:
    """Yield each value of an object that Kubernetes refuses, with its place."""
    if isinstance(item, list):
        for number, inner in enumerate(item):
            yield from wrong_values(inner, f"{where}[{number}]")
    if not isinstance(item, dict):
        return
    for key, value in item.items():
        place = f"{where}.{key}"
        values = value if isinstance(value, list) else [value]
        if key in CHOICES:
            yield from (f"{place}: {one}" for one in values if one not in CHOICES[key])
        elif key in QUANTITIES:
            amounts = value.values() if isinstance(value, dict) else values
            yield from (f"{place}: {one}" for one in amounts if not QUANTITY.fullmatch(str(one)))
        elif key in ("labels", "matchLabels", "nodeSelector") and isinstance(value, dict):
            yield from (f"{place}: {one}" for one in value.values() if not LABEL.fullmatch(one))
        elif key == "metadata" and "name" in value and not SUBDOMAIN.fullmatch(value["name"]):
            yield f"{place}.name: {value['name']}"
        elif key in ("containers", "initContainers", "volumes"):
            yield from (f"{place}: {one['name']}" for one in value if not NAME.fullmatch(one["name"]))
        elif key in ("containerPort", "port", "targetPort", "endPort") and isinstance(value, int):
            yield from [f"{place}: {value}"] if not 0 < value < 65536 else []
        elif key == "seccompProfile" and value["type"] not in SECCOMP:
            yield f"{place}.type: {value['type']}"
        yield from wrong_values(value, place)
    if item.get("kind") == "CronJob":
        yield from _wrong_cron_job(item)


def _wrong_cron_job(item: dict[str, Any]) -> Iterator[str]:
    spec, name = item["spec"], item["metadata"]["name"]
    fields = spec["schedule"].split()
    if len(fields) != 5 or not all(CRON_FIELD.fullmatch(field) for field in fields):
        yield f".spec.schedule: {spec['schedule']}"
    if spec.get("timeZone", "UTC") not in zoneinfo.available_timezones():
        yield f".spec.timeZone: {spec['timeZone']}"
    if len(name) > CRON_NAME_AT_MOST:
        yield f".metadata.name: {name} is too long for a CronJob"
    if spec["jobTemplate"]["spec"]["template"]["spec"].get("restartPolicy") not in ("OnFailure", "Never"):
        yield ".spec.jobTemplate: a Job needs restartPolicy OnFailure or Never"


def refused_by_kuberay(item: dict[str, Any]) -> Iterator[str]:
    """Yield why KubeRay's operator refuses a RayCluster or a RayJob."""
    name, spec = item["metadata"]["name"], item["spec"]
    if not KUBERAY_NAME.fullmatch(name) or len(name) > KUBERAY_NAME_AT_MOST[item["kind"]]:
        yield f"the name {name} is no label of DNS (RFC 1035), or too long"
    if item["kind"] == "RayCluster":
        yield from _refused_cluster(spec, item["metadata"].get("annotations", {}))
        return
    shuts_down = spec.get("shutdownAfterJobFinishes", False)
    if spec.get("suspend") and not shuts_down:
        yield "a suspended RayJob needs shutdownAfterJobFinishes"
    if spec.get("ttlSecondsAfterFinished", 0) < 0:
        yield "ttlSecondsAfterFinished is negative"
    if spec.get("ttlSecondsAfterFinished", 0) > 0 and not shuts_down:
        yield "ttlSecondsAfterFinished needs shutdownAfterJobFinishes"
    if spec.get("activeDeadlineSeconds", 1) <= 0 or spec.get("backoffLimit", 0) < 0:
        yield "activeDeadlineSeconds must be positive, and backoffLimit not negative"
    selector, mode = spec.get("clusterSelector"), spec.get("submissionMode", "K8sJobMode")
    if spec.get("suspend") and selector:
        yield "a RayJob with a clusterSelector cannot be suspended"
    if selector and not selector.get("ray.io/cluster"):
        yield "clusterSelector names no cluster"
    if not selector and "rayClusterSpec" not in spec:
        yield "one of rayClusterSpec and clusterSelector is needed"
    if mode == "InteractiveMode" and spec.get("backoffLimit", 0) > 0:
        yield "InteractiveMode knows no backoffLimit"
    if mode == "SidecarMode" and ({"submitterPodTemplate", "submitterConfig"} & spec.keys() or selector):
        yield "SidecarMode knows no submitterPodTemplate, submitterConfig and clusterSelector"
    if not isinstance(yaml.safe_load(spec.get("runtimeEnvYAML", "{}")), dict):
        yield "runtimeEnvYAML is no YAML"
    if "rayClusterSpec" in spec:
        yield from _refused_cluster(spec["rayClusterSpec"], item["metadata"].get("annotations", {}))


def _refused_cluster(spec: dict[str, Any], annotations: dict[str, str]) -> Iterator[str]:
    head, workers = spec["headGroupSpec"], spec.get("workerGroupSpecs", [])
    for group in (head, *workers):
        parameters, name = group.get("rayStartParams", {}), group.get("groupName", "head")
        if not group["template"]["spec"]["containers"]:
            yield f"the group {name} has no container"
        if group.get("resources") and {"num-cpus", "num-gpus", "memory", "resources"} & parameters.keys():
            yield f"the group {name} has resources twice"
        if "labels" in parameters:
            yield f"the group {name} has labels in rayStartParams"
    variables = {one["name"]: one.get("value") for one in head["template"]["spec"]["containers"][0].get("env", [])}
    if "RAY_REDIS_ADDRESS" in variables or annotations.get("ray.io/ft-enabled"):
        yield "fault tolerance of the head needs gcsFaultToleranceOptions"
    scales = spec.get("enableInTreeAutoscaling", False)
    options = spec.get("autoscalerOptions", {})
    if any(group.get("suspend") for group in workers):
        yield "a group of workers is suspended"
    if not scales and variables.get("RAY_enable_autoscaler_v2") in ("1", "true"):
        yield "RAY_enable_autoscaler_v2 without enableInTreeAutoscaling"
    if scales and "version" in options and "RAY_enable_autoscaler_v2" in variables:
        yield "the version of the autoscaler is set twice"
    if scales and (options.get("version") == "v2" or variables.get("RAY_enable_autoscaler_v2") in ("1", "true")):
        policies = {group["template"]["spec"].get("restartPolicy", "Never") for group in (head, *workers)}
        yield from [] if policies == {"Never"} else ["autoscaler v2 needs restartPolicy Never"]
    if spec.get("authOptions", {}).get("mode") == "token":
        version = tuple(int(part) for part in spec.get("rayVersion", "0.0").split(".")[:2])
        yield from [] if version >= TOKENS_SINCE else ["tokens need Ray 2.52 or later, named in rayVersion"]


def changed(item: dict[str, Any], place: str, value: Any) -> dict[str, Any]:
    """Return a copy of an object with another value at a place such as `spec.containers.0.name`."""
    item = copy.deepcopy(item)
    *way, last = place.split(".")
    inner: Any = item
    for name in way:
        inner = inner[int(name)] if name.isdigit() else inner[name]
    inner[last] = value
    return item


def refused_by_cel(item: dict[str, Any], old: dict[str, Any] | None = None) -> Iterator[str]:
    """Yield the messages of the CEL rules of KubeRay's resource definition that an object breaks.

    `old` is the object before an update (None: the object is new). Rules about `oldSelf` need it.
    """
    definition = yaml.load((CRDS / f"ray.io_{item['kind'].lower()}s.yaml").read_text(), LOADER)
    schema = next(
        v["schema"]["openAPIV3Schema"]
        for v in definition["spec"]["versions"]
        if v["name"] == item["apiVersion"].rpartition("/")[2]
    )
    yield from _broken_rules(schema, item, old)


def _broken_rules(schema: dict[str, Any], value: Any, old: Any) -> Iterator[str]:
    for rule in schema.get("x-kubernetes-validations", []):
        if "oldSelf" in rule["rule"] and old is None:
            continue
        environment = celpy.Environment()
        program = environment.program(environment.compile(rule["rule"]))
        if not program.evaluate({"self": json_to_cel(value), "oldSelf": json_to_cel(old)}):
            yield rule.get("message", rule["rule"])
    if isinstance(value, dict):
        for name, inner in schema.get("properties", {}).items():
            if name in value:
                yield from _broken_rules(inner, value[name], old.get(name) if isinstance(old, dict) else None)
    elif isinstance(value, list):
        for one in value:
            yield from _broken_rules(schema.get("items", {}), one, None)
