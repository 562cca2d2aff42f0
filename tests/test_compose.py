"""docker/compose.yaml fits the Compose specification, and its commands and variables are known to their programs."""

import json
import re

import pytest
import yaml
from compose_spec import PyCompose
from dockerfile import read_stages
from manifests import REPOSITORY, as_genretag_reads, variable_exists
from ray._private import ray_constants
from ray.scripts.scripts import cli as ray_cli

from genretag.demo import bucket as demo_bucket

FILE = REPOSITORY / "docker" / "compose.yaml"
SECRET = re.compile(r"\$\{CLUSTER_SECRET:\?[^}]*\}")


def _parsed(text):
    parsed = PyCompose.from_json(json.dumps(yaml.safe_load(SECRET.sub("drawn", text))))
    parsed.validate()
    return json.loads(parsed.to_json())


@pytest.fixture(scope="module")
def services():
    return _parsed(FILE.read_text())["services"]


def test_the_file_fits_the_compose_specification(services):
    assert set(services) == {"store", "posters", "head", "worker", "job"}
    assert services["worker"]["deploy"]["replicas"] == 2


@pytest.mark.parametrize("field", ["depends_on", "cap_drop", "healthcheck", "service_healthy"])
def test_a_renamed_field_is_refused(field):
    with pytest.raises(ValueError, match=f"{field}_|{field}s?"):
        _parsed(FILE.read_text().replace(field, f"{field}_"))


def test_nothing_starts_without_a_secret_and_none_is_written_down():
    text = FILE.read_text()

    assert len(SECRET.findall(text)) == 1
    assert {line.split(":", 1)[1].strip() for line in text.splitlines() if "SECRET_ACCESS_KEY:" in line} == {"*secret"}


def test_only_this_machine_reaches_the_ports(services):
    ports = [port for service in services.values() for port in service.get("ports", [])]

    assert sorted(ports) == ["127.0.0.1:8265:8265", "127.0.0.1:8333:8333"]


def test_containers_run_read_only_and_without_capabilities(services):
    for name in ("posters", "head", "worker", "job"):
        service = services[name]
        assert service["read_only"] and service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["build"]["target"] in read_stages(REPOSITORY / "docker" / "Dockerfile")
        assert service["image"].endswith("-" + service["build"]["target"])


def test_every_environment_variable_is_read_by_some_program(services):
    names = {name for service in services.values() for name in service["environment"]}

    assert [name for name in names if not variable_exists(name)] == []


def test_ray_and_genretag_accept_the_commands(services):
    for name in ("head", "worker"):
        _, command, *options = services[name]["command"]
        ray_cli.commands[command].make_context(command, options)
    genretag, submit, address, wait, *command = services["job"]["command"]
    assert (genretag, submit, wait) == ("genretag", "submit", "--wait")
    assert address == f"--address=http://head:{ray_constants.DEFAULT_DASHBOARD_PORT}"
    assert as_genretag_reads([genretag, *command])[0] == "tag"


def test_the_module_that_fills_the_bucket_exists(services):
    command = services["posters"]["command"]

    assert command[:3] == ["python", "-m", demo_bucket.__name__]
    assert demo_bucket.parser().parse_args(command[3:]).bucket == "s3://films"


def test_posters_are_drawn_into_a_new_bucket_and_again_into_the_same(s3_server, storage):
    demo_bucket.fill_bucket("s3://drawn-by-compose", 5)
    demo_bucket.fill_bucket("s3://drawn-by-compose", 5)

    uris = sorted(found.uri for page in storage.list("s3://drawn-by-compose") for found in page)
    assert len(uris) == 6 and uris[0] == "s3://drawn-by-compose/labels.csv"
