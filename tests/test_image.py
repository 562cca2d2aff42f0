"""The container images are built, and compose.yaml runs in containers, for real: `make image-test` runs this file."""

import os
import subprocess

import pytest
from containers import REPOSITORY, Compose, build, make_base, opened, run, why_not
from network_namespaces import Network, network
from outputs import rows

from genretag.storage import Storage

TARGETS = ("cpu", "train", "gpu")
CPU_BYTES_AT_MOST = 1_080_000_000
ASKED_FOR = "GENRETAG_IMAGE_TEST"
IMPORTS = {  # what each target must be able to import, besides everything that `genretag --help` needs
    "cpu": "genretag.commands.tag, openvino, deltalake, pyiceberg, google.auth, azure.identity",
    "train": "genretag.commands.train, tensorflow, keras, nncf, sklearn, ray.train",
    "gpu": "genretag.commands.train, tensorflow, keras, nncf, sklearn, ray.train",
}

pytestmark = pytest.mark.skipif(
    ASKED_FOR not in os.environ, reason="`make image-test` builds the images, in some 20 minutes"
)


@pytest.fixture(scope="module")
def commit():
    return run("git", "rev-parse", "HEAD", cwd=REPOSITORY).strip()


@pytest.fixture(scope="module")
def built(commit):
    """Return a function that builds a target once, and returns the image's name."""
    assert why_not() is None, why_not()
    make_base()
    done = {}

    def built(target):
        if target not in done:
            done[target] = build(target, commit)
        return done[target]

    return built


@pytest.fixture
def compose(built, tmp_path):
    """Return a function that makes the services of compose.yaml, for a user (None: the image's)."""
    with opened(built("cpu")) as image, network() as net:
        assert isinstance(net, Network), "containers need network namespaces"
        made = []

        def compose(user=None):
            folder = tmp_path / f"compose-{len(made)}"
            folder.mkdir()
            made.append(Compose(image, net, folder, user))
            return made[-1]

        yield compose
        for one in made:
            one.down()


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_is_built_and_names_its_commit(built, commit, target):
    with opened(built(target)) as image:
        packages = run("chroot", image.root, "/usr/local/bin/pip", "list", "--format", "freeze")
        imported = subprocess.run(
            ["chroot", image.root, "/usr/local/bin/python", "-c", f"import {IMPORTS[target]}"],
            capture_output=True,
            text=True,
            env={"HOME": "/tmp", "PYTHONDONTWRITEBYTECODE": "1", "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin"},
        )
        size, config = image.size, image.config
        home = (image.root / "home" / "genretag").lstat()
    print(f"{target}: {size / 1e9:.2f} GB")

    assert f"genretag==0.1.0+g{commit[:7]}" in packages.splitlines()
    assert config["Labels"]["org.opencontainers.image.revision"] == commit
    assert config["User"] == "1000:1000"
    assert imported.returncode == 0, imported.stderr
    assert (home.st_gid, home.st_mode & 0o777) == (0, 0o770), "an arbitrary user id is in group 0"
    assert size <= CPU_BYTES_AT_MOST or target != "cpu"


@pytest.mark.parametrize("user", [None, "123456:0"], ids=["uid 1000", "an arbitrary uid"])
def test_the_night_of_compose_yaml_runs_in_containers(compose, monkeypatch, user):
    services = compose(user)

    code = services.up("job")

    log = services.running["job"].log.read_text()
    assert code == 0, log
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{services.address('store')}:8333")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, services.services["store"]["environment"][name])
    monkeypatch.setenv("NO_PROXY", "*")
    listed = [info.uri for page in Storage().list("s3://films/posters") for info in page]
    scored, failed = rows("s3://films/genres"), rows("s3://films/genres", "failures")
    assert len(listed) == 300
    assert sorted(row["uri"] for row in (*scored, *failed)) == sorted(listed)
    assert len(scored) > 280
    worker = services.running["worker"]
    status = worker.run("cat", "/proc/1/status")[1]
    facts = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert facts["Uid"].split()[0] == (user or "1000").partition(":")[0]
    assert facts["CapBnd"] == "0" * 16
    assert facts["NoNewPrivs"] == "1"
    assert "Read-only file system" in worker.run("touch", "/usr/local/x")[1]


def test_the_exit_code_of_the_command_is_that_of_the_job(compose):
    services = compose()
    services.services["job"]["command"][-2] = "s3://films/no-such-prefix"

    code = services.up("job")

    log = services.running["job"].log.read_text()
    assert code == 2, log
    assert "no-such-prefix" in log
    assert "Traceback" not in log


def test_without_the_token_nobody_submits_a_job(compose):
    services = compose()
    job = services.services["job"]  # the services share one dictionary of variables
    job["environment"] = {**job["environment"], "RAY_AUTH_TOKEN": "0" * 64}

    code = services.up("job")

    log = services.running["job"].log.read_text()
    assert code == 2, log
    assert "does not accept our token" in log
