"""What the tests share: one Ray, one S3 server, one small trained model, drawn posters, the real set if there.

`make test` runs them in two processes (pytest-xdist), each file in one: both have a Ray and an S3 server of their own,
and both use the one small model.
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
from filelock import FileLock

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
"""One worker, two epochs, tiny pictures: trained in half a minute."""


SLOW_FIXTURES = frozenset({"ray_cluster", "s3_server", "browser", "process", "real_posters"})
"""A test that needs one of these is slow, also through another fixture: `small_bundle`, `run`, `bucket`, `page`."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark slow tests by what they need, so that `make test-quick` leaves them out."""
    for item in items:
        if SLOW_FIXTURES.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session", autouse=True)
def _no_settings_from_outside():
    for name in [name for name in os.environ if name.startswith(("AWS_", "GENRETAG_", "RAY_ADDRESS"))]:
        del os.environ[name]


@pytest.fixture(autouse=True)
def _warnings_reach_caplog(caplog):
    """Libraries that the tests before have used set the levels of all handlers that they found, pytest's too."""
    caplog.handler.setLevel(logging.NOTSET)
    logging.getLogger().setLevel(logging.WARNING)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory):
    """A SeaweedFS on the loopback address; its credentials and endpoint are in the environment."""
    with running_s3_server(tmp_path_factory.mktemp("s3")) as server:
        os.environ.update(server.environment())
        yield server


@pytest.fixture
def bucket(s3_server):
    """The URI of an empty bucket."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    s3_server.create_bucket(name)
    return f"s3://{name}"


@pytest.fixture(scope="session")
def moto_url():
    """moto's S3, in this process."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def moto_bucket(moto_url, monkeypatch):
    """The URI of an empty bucket of moto, which the environment points to."""
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
def ray_cluster(s3_server):  # after the S3 server: Ray's workers inherit its environment
    """One Ray for all tests that run jobs in this process."""
    with ray_session(Session(quiet=True)) as cluster:
        yield cluster


@pytest.fixture
def storage():
    return Storage()


@pytest.fixture(scope="session")
def drawn_posters():
    """160 drawn posters with labels, all whole."""
    return list(draw_posters(160, seed=7))


@pytest.fixture(scope="session")
def poster_folder(drawn_posters, tmp_path_factory):
    """The drawn posters as files, below `posters/`; `labels.csv` stands beside it."""
    folder = tmp_path_factory.mktemp("drawn")
    for poster in drawn_posters:
        file = folder / poster.key
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(poster.data)
    (folder / "labels.csv").write_text(labels_csv(drawn_posters))
    return folder / "posters"


@pytest.fixture(scope="session")
def small_bundle(ray_cluster, poster_folder, tmp_path_factory):
    """The path of a bundle that was trained for two epochs on the drawn posters, by the process that asked first."""
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
    """Makes training keep the int8 network on every CPU: the small model loses more by 7 bits than a real one does."""
    with (
        patch.object(make_bundle, "MAP_IT_MAY_COST", 1.0),
        patch.object(make_bundle, "_says_the_same_everywhere", lambda *_: (True, {})),
    ):
        yield


@pytest.fixture
def run(ray_cluster, small_bundle):
    """Tags in the shared Ray with the small model; keyword arguments are settings. Draws no page unless asked to."""

    def run(images, output, model=small_bundle, **settings):
        return tag(str(images), str(output), TagSettings(**{"report": False} | settings), Session(quiet=True), model)

    return run


@pytest.fixture
def few_posters(poster_folder, tmp_path):
    """A folder of its own with twelve whole posters."""
    folder = tmp_path / "images"
    folder.mkdir()
    for file in sorted(poster_folder.rglob("*.*"))[:12]:
        shutil.copy(file, folder)
    return folder


@pytest.fixture
def command(capfd):
    """Runs a `genretag` command in this process; returns its exit code, its output and its error output."""

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
    """Runs a `genretag` command in a process of its own."""

    def run(*arguments, **options):
        line = [sys.executable, "-m", "genretag.cli", *(str(argument) for argument in arguments)]
        return subprocess.run(line, capture_output=True, text=True, timeout=300, **options)

    return run


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium; tests of the pages are skipped where there is none (`make test` installs it on Debian).

    Of a module, as Playwright keeps an event loop running in this thread for as long as it is there.
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
    """The folder of real labelled posters; tests that need it are skipped where it is absent."""
    if not (REAL_POSTERS / "train.csv").exists():
        pytest.skip("the real posters (../shared/posters) are not here")
    return REAL_POSTERS
