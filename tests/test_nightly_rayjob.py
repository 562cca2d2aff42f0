"""cluster/kubernetes/base/nightly.py runs against a server that stores RayJobs as the Kubernetes API does."""

import importlib.util
import inspect
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from manifests import KUBERNETES
from ray.dashboard.modules.job import job_supervisor

from genretag import errors

PATTERN = {
    "apiVersion": "ray.io/v1",
    "kind": "RayJob",
    "metadata": {"name": "genretag-tag", "labels": {"app.kubernetes.io/part-of": "genretag"}, "uid": "1"},
    "spec": {"suspend": True, "entrypoint": "genretag tag"},
    "status": {"jobDeploymentStatus": "Suspended"},
}
DONE = {"jobStatus": "SUCCEEDED", "jobDeploymentStatus": "Complete"}


def _ended(code):
    """Return the status of a RayJob whose command failed with this exit code."""
    message = f"Job entrypoint command failed with exit code {code}, last available logs (truncated to 20,000 chars):"
    return {"jobStatus": "FAILED", "jobDeploymentStatus": "Failed", "message": message}


@pytest.fixture(scope="module")
def nightly():
    spec = importlib.util.spec_from_file_location("nightly", KUBERNETES / "base" / "nightly.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class _Api:
    """The RayJobs of a simulated API, by name.

    `fates` has a list of statuses for each new RayJob. Each request for the RayJob shows the next status.
    """

    def __init__(self, fates):
        self.rayjobs = {"genretag-tag": PATTERN}
        self.fates = list(fates)
        self.coming = {}
        self.tokens = set()
        self.broken_answers = 0

    def get(self, name):
        if self.broken_answers:
            self.broken_answers -= 1
            return 500, {"message": "etcd leader changed"}
        if name not in self.rayjobs:
            return 404, {"message": f'rayjobs.ray.io "{name}" not found'}
        if self.coming.get(name):
            self.rayjobs[name]["status"] = self.coming[name].pop(0)
        return 200, self.rayjobs[name]

    def create(self, rayjob):
        name = rayjob["metadata"]["name"]
        if name in self.rayjobs:
            return 409, {"message": f'rayjobs.ray.io "{name}" already exists'}
        self.rayjobs[name] = rayjob
        self.coming[name] = list(self.fates.pop(0))
        return 201, rayjob


@contextmanager
def _served(api, folder):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self._answer(*api.get(self._name()))

        def do_POST(self):
            assert self._name() == ""
            self._answer(*api.create(json.loads(self.rfile.read(int(self.headers["Content-Length"])))))

        def _name(self):
            prefix = "/apis/ray.io/v1/namespaces/genretag/rayjobs"
            assert self.path.startswith(prefix)
            return self.path.removeprefix(prefix).strip("/")

        def _answer(self, status, body):
            api.tokens.add(self.headers["Authorization"])
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    (folder / "namespace").write_text("genretag")
    (folder / "token").write_text("secret-token\n")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def night(nightly, tmp_path):
    """Return a function that runs the script as one pod would, and returns its exit code."""

    def run(api, pattern="genretag-tag"):
        with _served(api, tmp_path) as url:
            return nightly.run(
                nightly.RayJobs(url, tmp_path), pattern, "genretag-nightly-29400660", "uid-7", poll_s=0.01
            )

    return run


def test_the_suspended_pattern_is_copied_as_a_running_rayjob_that_the_kubernetes_job_owns(night):
    api = _Api([[{}, {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}, DONE]])

    assert night(api) == 0
    made = api.rayjobs["genretag-nightly-29400660-1"]
    assert made["spec"] == {"suspend": False, "entrypoint": "genretag tag"}
    assert made["metadata"]["labels"] == PATTERN["metadata"]["labels"]
    assert made["metadata"]["ownerReferences"] == [
        {"apiVersion": "batch/v1", "kind": "Job", "name": "genretag-nightly-29400660", "uid": "uid-7"}
    ]
    assert api.tokens == {"Bearer secret-token"}


@pytest.mark.parametrize("code", [1, 2, 3])
def test_the_exit_code_is_the_job_s_own(night, code):
    assert night(_Api([[_ended(code)]])) == code


def test_a_rayjob_that_kuberay_refuses_needs_a_person(night, capsys):
    says = "the RayJob name is too long, it must have at most 47 characters"
    refused = {"jobDeploymentStatus": "ValidationFailed", "reason": "ValidationFailed", "message": says}

    assert night(_Api([[{}, refused]])) == 2
    assert says in capsys.readouterr().out


@pytest.mark.parametrize(
    ("state", "code"),
    [
        ("ValidationFailed", 2),
        ("Failed", 1),
        ("Complete", 1),  # complete, but the job did not succeed
        *[(state, None) for state in ("", "Initializing", "Running", "Waiting", "Suspending", "Suspended", "Retrying")],
    ],
)
def test_every_state_of_kuberay_has_an_exit_code_or_is_waited_for(nightly, state, code):
    assert nightly.exit_code({"jobDeploymentStatus": state}) == code


def test_an_end_without_an_exit_code_is_retried(night):
    lost = {"jobDeploymentStatus": "Failed", "reason": "DeadlineExceeded", "message": "the RayJob took too long"}

    assert night(_Api([[lost]])) == 1


def test_the_next_pod_of_a_failed_night_tries_again_under_the_next_name(night):
    api = _Api([[_ended(1)], [DONE]])

    assert night(api) == 1
    assert night(api) == 0
    assert sorted(api.rayjobs) == ["genretag-nightly-29400660-1", "genretag-nightly-29400660-2", "genretag-tag"]


def test_a_second_pod_waits_for_the_rayjob_of_the_first(night):
    api = _Api([[DONE]])
    assert night(api) == 0

    assert night(api) == 0
    assert "genretag-nightly-29400660-2" not in api.rayjobs


def test_a_short_outage_of_the_api_is_tolerated(night, nightly, tmp_path):
    api = _Api([[DONE]])
    api.create({"metadata": {"name": "tonight"}})
    api.broken_answers = 3

    with _served(api, tmp_path) as url:
        assert nightly.wait(nightly.RayJobs(url, tmp_path), "tonight", poll_s=0.01) == 0


def test_a_missing_pattern_is_refused_with_its_name(night, nightly):
    with pytest.raises(nightly.Refused, match="genretag-tog"):
        night(_Api([]), pattern="genretag-tog")


def test_exit_codes_are_those_of_genretag_and_the_message_is_that_of_ray(nightly):
    assert (nightly.RETRY, nightly.ACT, nightly.HELD) == (errors.EXIT_FAILED, errors.EXIT_USAGE, errors.EXIT_HELD)
    assert "failed with exit code {return_code}" in inspect.getsource(job_supervisor)
