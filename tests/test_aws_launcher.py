"""cluster/aws.yaml is checked with Ray's schema, Ray's launcher and a simulated EC2."""

import json
import re
from pathlib import Path

import boto3
import botocore.session
import jsonschema
import pytest
import ray
import yaml
from botocore.validate import ParamValidator
from manifests import REPOSITORY
from moto import mock_aws

FILE = REPOSITORY / "cluster" / "aws.yaml"
SCHEMA = Path(ray.__file__).parent / "autoscaler" / "ray-schema.json"
RAYS_OWN_KEYS = {"SubnetIds"}  # a key of Ray, not of EC2: Ray chooses one of the subnets


@pytest.fixture
def config():
    return yaml.safe_load(FILE.read_text())


def test_the_file_fits_ray_s_schema(config):
    schema = json.loads(SCHEMA.read_text())

    jsonschema.validate(config, schema)
    with pytest.raises(jsonschema.ValidationError, match="max_worker"):
        jsonschema.validate({**config, "max_worker": 3}, schema)


def test_ec2_accepts_the_settings_of_every_machine(config):
    shape = botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape
    for kind in config["available_node_types"].values():
        machine = {name: value for name, value in kind["node_config"].items() if name not in RAYS_OWN_KEYS}
        assert set(machine) <= set(shape.members)
        report = ParamValidator().validate({**machine, "MinCount": 1, "MaxCount": 1}, shape)
        assert not report.has_errors(), report.generate_report()


def test_ray_adds_no_commands_of_its_own(config):
    from ray.autoscaler._private.util import prepare_config

    filled = prepare_config(config)

    assert filled["setup_commands"] == filled["head_setup_commands"] == filled["worker_setup_commands"] == []
    assert filled["head_start_ray_commands"] == config["head_start_ray_commands"]


def test_the_launcher_starts_an_on_demand_head_and_spot_workers(config, monkeypatch, tmp_path):
    """Run Ray's own launcher against moto, which simulates EC2."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    with mock_aws():
        started = _launch(config)

        assert {kind: len(machines) for kind, machines in started.items()} == {"head": 1, "cpu": 1, "gpu": 1}
        assert started["head"][0].instance_lifecycle is None
        assert {m.instance_lifecycle for kind in ("cpu", "gpu") for m in started[kind]} == {"spot"}
        assert started["head"][0].iam_instance_profile["Arn"].endswith("genretag-head")
        assert {m.iam_instance_profile["Arn"].rpartition("/")[2] for m in started["cpu"]} == {"genretag-worker"}
        assert {m.metadata_options["HttpTokens"] for machines in started.values() for m in machines} == {"required"}
        tags = {tag["Key"]: tag["Value"] for tag in started["cpu"][0].tags}
        assert tags["ray-cluster-name"] == "genretag"  # cluster/iam/aws-launcher-head.json requires this tag


def _launch(config):
    """Start a head, a CPU worker and a GPU worker with Ray's launcher. Return the machines by node type."""
    from ray.autoscaler._private.aws.config import bootstrap_aws
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
    from ray.autoscaler._private.util import prepare_config

    region = config["provider"]["region"]
    ec2, iam = boto3.resource("ec2", region_name=region), boto3.client("iam")
    network = ec2.create_vpc(CidrBlock="10.1.0.0/16")
    subnet = network.create_subnet(CidrBlock="10.1.1.0/24")
    group = network.create_security_group(GroupName="genretag", Description="genretag")
    for profile in ("genretag-head", "genretag-worker"):
        iam.create_instance_profile(InstanceProfileName=profile)
    image = boto3.client("ec2", region_name=region).describe_images()["Images"][0]["ImageId"]
    for kind in config["available_node_types"].values():
        kind["node_config"] |= {"SubnetIds": [subnet.id], "SecurityGroupIds": [group.id], "ImageId": image}
    ready = bootstrap_aws(prepare_config(config))
    provider = AWSNodeProvider(ready["provider"], ready["cluster_name"])
    started = {}
    for name in ("head", "cpu", "gpu"):
        machine = ready["available_node_types"][name]["node_config"]
        made = provider.create_node(machine, {"ray-node-type": "head" if name == "head" else "worker"}, 1)
        started[name] = [ec2.Instance(identifier) for identifier in made]
    return started


def test_the_head_s_policy_names_the_calls_that_ray_s_launcher_makes():
    source = (Path(ray.__file__).parent / "autoscaler/_private/aws/node_provider.py").read_text()
    policy = json.loads((REPOSITORY / "cluster/iam/aws-launcher-head.json").read_text())
    allowed = {
        action
        for s in policy["Statement"]
        for action in ([s["Action"]] if isinstance(s["Action"], str) else s["Action"])
    }

    called = {
        "ec2:" + "".join(word.title() for word in call.split("_")) for call in re.findall(r"client\.(\w+)\(", source)
    }
    stopping = {"ec2:StartInstances", "ec2:StopInstances"}  # Ray calls these only if `cache_stopped_nodes` is true
    assert called - stopping - {"ec2:DescribeInstances"} <= allowed | {"ec2:RunInstances"}
    assert allowed >= {"ec2:RunInstances", "ec2:TerminateInstances", "ec2:CreateTags", "iam:PassRole"}


def test_tokens_are_on_and_only_the_head_itself_reaches_the_dashboard(config):
    starts = [
        line for line in config["head_start_ray_commands"] + config["worker_start_ray_commands"] if "ray start" in line
    ]

    assert len(starts) == 2
    assert all(line.startswith("RAY_AUTH_MODE=token ray start ") for line in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert config["provider"]["use_internal_ips"]
    assert set(config["file_mounts"].values()) == {"~/.ray/auth_token", "cluster/kubernetes/overlays/cpu/genretag.toml"}
    assert (REPOSITORY / "cluster/kubernetes/overlays/cpu/genretag.toml").exists()


@pytest.mark.parametrize("kind", ["head_start_ray_commands", "worker_start_ray_commands"])
def test_ray_knows_the_options(config, kind):
    from ray.scripts.scripts import cli as ray_cli

    for line in config[kind]:
        words = line.removeprefix("RAY_AUTH_MODE=token ").replace("$RAY_HEAD_IP", "10.0.0.1").split()
        assert words[0] == "ray"
        ray_cli.commands[words[1]].make_context(words[1], words[2:])
