"""Fixtures of all tests: a Ray, an S3 server, a small trained model, drawn posters, and real posters if present.

`make test` runs the tests in two processes (pytest-xdist), and each test file in one of them. Each process has its own
Ray and its own S3 server. Both processes use the same small model.
"""

import logging
import os
import shutil
import subprocess
import sys
import uuid
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import pytest
from azure_server import running_azurite, why_no_azurite
from filelock import FileLock
from gcs_server import running_gcs, why_no_gcs

from genretag import cli
from genretag.commands.tag import tag
from genretag.commands.train import train
from genretag.demo.posters import draw_posters, labels_csv
from genretag.demo.s3_server import running_s3_server
from genretag.model.bundle import MANIFEST
from genretag.runtime.ray_session import ray_session
from genretag.runtime.session import Session
from genretag.scoring.settings import TagSettings
from genretag.storage import Storage
from genretag.training import make_bundle
from genretag.training.settings import TrainRunSettings, TrainSettings

REPOSITORY = Path(__file__).parents[1]
REAL_POSTERS = REPOSITORY.parent / "shared" / "posters"
SMALL_MODEL = TrainSettings(
    workers=1, height=96, width=64, head_epochs=1, epochs=1, batch_size=16, head_learning_rate=0.01, min_positives=5
)
"""Settings of the small model: one worker, two epochs, tiny pictures. Training takes half a minute."""


SLOW_FIXTURES = frozenset(
    {"ray_cluster", "s3_server", "azure_server", "gcs_server", "moto_url", "browser", "process", "real_posters"}
)
"""A test that uses one of these fixtures is marked slow, also if it uses the fixture through another one, as `run`."""


OUTSIDE = ("AWS_", "AZURE_", "GOOGLE_", "STORAGE_EMULATOR_HOST", "GENRETAG_", "RAY_ADDRESS")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark tests that use a fixture in `SLOW_FIXTURES` as slow, so that `make test-quick` leaves them out."""
    for item in items:
        if SLOW_FIXTURES.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session", autouse=True)
def _no_settings_from_outside(tmp_path_factory):
    for name in [name for name in os.environ if name.startswith(OUTSIDE)]:
        del os.environ[name]
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def _warnings_reach_caplog(caplog):
    """Reset the log levels before each test, so that caplog sees warnings.

    Libraries that earlier tests used have changed the levels of all handlers, including pytest's.
    """
    caplog.handler.setLevel(logging.NOTSET)
    logging.getLogger().setLevel(logging.WARNING)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory):
    """Start a SeaweedFS on the loopback address. Its credentials and endpoint are put into the environment."""
    with running_s3_server(tmp_path_factory.mktemp("s3")) as server:
        os.environ.update(server.environment())
        yield server


@pytest.fixture
def bucket(s3_server):
    """Create an empty bucket on the SeaweedFS and return its URI."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    s3_server.create_bucket(name)
    return f"s3://{name}"


@pytest.fixture(scope="session")
def azure_server(tmp_path_factory):
    """Start Azurite on the loopback address. Its connection string is put into the environment."""
    if why := why_no_azurite():
        pytest.skip(why)
    with running_azurite(tmp_path_factory.mktemp("azure")) as server:
        os.environ["AZURE_STORAGE_CONNECTION_STRING"] = server.connection_string
        yield server


@pytest.fixture(scope="session")
def gcs_server(tmp_path_factory):
    """Start fake-gcs-server on the loopback address. Its address and a service account are put into the environment."""
    if why := why_no_gcs():
        pytest.skip(why)
    folder = tmp_path_factory.mktemp("gcs")
    with running_gcs(folder) as server:
        os.environ["STORAGE_EMULATOR_HOST"] = server.url
        os.environ["GOOGLE_APPLICATION_CREDENTIALS"] = str(server.service_account(folder))
        yield server


@pytest.fixture(scope="session")
def moto_url():
    """Start moto's S3 server in this process and return its URL."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def moto_bucket(moto_url, monkeypatch):
    """Create an empty bucket on the moto server, point the environment to the server, and return the URI."""
    for name, value in {
        "AWS_ENDPOINT_URL": moto_url,
        "AWS_ACCESS_KEY_ID": "any",
        "AWS_SECRET_ACCESS_KEY": "any",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "NO_PROXY": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    import boto3

    name = f"test-{uuid.uuid4().hex[:12]}"
    boto3.Session().client("s3").create_bucket(Bucket=name)
    return f"s3://{name}"


@pytest.fixture(scope="session")
def ray_cluster(request, s3_server):  # after the servers: Ray's workers inherit their environment
    """Start the Ray that all tests of this process share for their jobs."""
    for why, server in ((why_no_azurite(), "azure_server"), (why_no_gcs(), "gcs_server")):
        if why is None:
            request.getfixturevalue(server)
    with ray_session(Session(quiet=True)) as cluster:
        yield cluster


@pytest.fixture
def storage():
    return Storage()


@pytest.fixture(scope="session")
def drawn_posters():
    """Draw 160 posters with labels. None of the posters is broken."""
    return list(draw_posters(160, seed=7))


@pytest.fixture(scope="session")
def poster_folder(drawn_posters, tmp_path_factory):
    """Write the drawn posters to a folder `posters` and their `labels.csv` next to the folder. Return the folder."""
    folder = tmp_path_factory.mktemp("drawn")
    for poster in drawn_posters:
        file = folder / poster.key
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(poster.data)
    (folder / "labels.csv").write_text(labels_csv(drawn_posters))
    return folder / "posters"


@pytest.fixture(scope="session")
def small_bundle(ray_cluster, poster_folder, tmp_path_factory):
    """Train a bundle for two epochs on the drawn posters and return its path.

    The first test process that needs the bundle trains it. The other process uses the same bundle.
    """
    everyones = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        everyones = everyones.parent
    output, labels = everyones / "small", poster_folder.parent / "labels.csv"
    with FileLock(everyones / "small.lock"):
        if not (output / MANIFEST).exists():
            with _int8_kept():
                where = str(labels), str(poster_folder), str(output)
                train(*where, SMALL_MODEL, Session(quiet=True), TrainRunSettings(overwrite=True))
    return str(output)


@contextmanager
def _int8_kept():
    """Make training keep the int8 network on every CPU.

    Without this, training on some CPUs would drop it: 7-bit weights cost the small model more than a real model.
    """
    with (
        patch.object(make_bundle, "MAP_IT_MAY_COST", 1.0),
        patch.object(make_bundle, "_says_the_same_everywhere", lambda *_: (True, {})),
    ):
        yield


@pytest.fixture
def run(ray_cluster, small_bundle):
    """Return a function that tags with the small model in the shared Ray. Its keyword arguments are settings.

    It draws no report page unless `report=True` is passed.
    """

    def run(images, output, model=small_bundle, **settings):
        return tag(str(images), str(output), TagSettings(**{"report": False} | settings), Session(quiet=True), model)

    return run


@pytest.fixture
def few_posters(poster_folder, tmp_path):
    """Return a new folder with twelve posters, none of them broken."""
    folder = tmp_path / "images"
    folder.mkdir()
    for file in sorted(poster_folder.rglob("*.*"))[:12]:
        shutil.copy(file, folder)
    return folder


@pytest.fixture
def command(capfd):
    """Return a function that runs a `genretag` command in this process.

    The function returns the exit code, the standard output and the standard error output.
    """

    def run(*arguments):
        try:
            cli.main([str(argument) for argument in arguments])
            code = 0
        except SystemExit as ended:
            code = ended.code
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def process():
    """Return a function that runs a `genretag` command in a new process, and returns the completed process."""

    def run(*arguments, **options):
        line = [sys.executable, "-m", "genretag.cli", *(str(argument) for argument in arguments)]
        return subprocess.run(line, capture_output=True, text=True, timeout=300, **options)

    return run


@pytest.fixture(scope="module")
def browser():
    """Start a headless Chromium. If no Chromium is installed, skip the test (`make test` installs Chromium on Debian).

    The scope is one module, because Playwright keeps an event loop running in this thread while the browser is open.
    """
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("no Chromium here to look at the pages with: apt-get install chromium")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def real_posters():
    """Return the folder of real labelled posters. If there is no such folder, skip the test."""
    if not (REAL_POSTERS / "train.csv").exists():
        pytest.skip("the real posters (../shared/posters) are not here")
    return REAL_POSTERS
