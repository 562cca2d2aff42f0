"""`genretag submit` sends the command as a job, refuses mistakes before it sends anything, and returns the exit code.

test_multi_node.py runs whole jobs on a real cluster.
"""

import asyncio
import http.server
import json
import threading
from types import SimpleNamespace

import pytest
import ray

from genretag.commands.submit import _next, _print_log, exit_code
from genretag.errors import JobError, UsageError
from genretag.runtime.job_server import JobServer
from genretag.settings import SubmitSettings

TAG = ("tag", "s3://films/posters", "s3://films/genres")


@pytest.fixture
def dry(command, monkeypatch):
    """Return a function that returns what a dry run would send: name, command line, and variables."""
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)

    def dry(*arguments, options=()):
        code, out, err = command("submit", "--dry-run", *options, *arguments)
        assert code == 0, err
        first, line, variables = out.splitlines()
        return first.split()[2], line.strip(), variables.strip()

    return dry


def test_the_command_is_sent_unchanged_with_its_date(dry):
    name, line, variables = dry(*TAG, "--batch-size", "16", "--date", "2026-11-23")

    assert line == "python -m genretag tag s3://films/posters s3://films/genres --batch-size=16 --date=2026-11-23"
    assert name.startswith("genretag-tag-2026-11-23-")
    assert variables == "with no variables of this environment"


@pytest.mark.parametrize("verb", ["requantize", "calibrate"])
def test_commands_that_make_bundles_are_sent(dry, verb):
    places = ("--labels", "s3://f/l.csv", "--images", "s3://f/p", "--output", "s3://f/m2")

    name, line, _ = dry(verb, "s3://f/m", *places)

    assert name.startswith(f"genretag-{verb}-")
    assert line == f"python -m genretag {verb} s3://f/m " + " ".join(
        f"{option}={value}" for option, value in zip(places[::2], places[1::2], strict=True)
    )


def test_the_date_of_today_is_sent_so_that_a_waiting_job_keeps_it(dry):
    name, line, _ = dry(*TAG)

    night = line.rpartition("--date=")[2]
    assert name.startswith(f"genretag-tag-{night}-")


def test_settings_of_the_environment_and_of_the_file_are_sent_too(dry, tmp_path, monkeypatch):
    monkeypatch.setenv("GENRETAG_TAG_PROFILE", "precise")
    nightly = tmp_path / "nightly.toml"
    nightly.write_text(
        '[submit]\naddress = "http://head:8265"\n'
        '[tag]\nimages = "s3://a b"\noutput = "s3://d"\nretry_failed = true\ncarry = ["title", "year"]\n'
    )

    _, line, _ = dry("tag", "--config", nightly, "--carry", "year", "--date", "2026-11-23")

    assert line == (
        "python -m genretag tag 's3://a b' s3://d --profile=precise --carry=year --retry-failed=True --date=2026-11-23"
    )


@pytest.mark.parametrize(
    ("variables", "server"),
    [
        ({"RAY_ADDRESS": "http://head:8265"}, "http://head:8265"),
        ({"RAY_ADDRESS": "http://head:8265", "RAY_API_SERVER_ADDRESS": "http://api:8265"}, "http://api:8265"),
        ({"RAY_ADDRESS": "head:6379"}, "http://127.0.0.1:8265"),
    ],
)
def test_the_server_is_the_one_that_ray_job_submit_takes(monkeypatch, variables, server):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert SubmitSettings().server == server


def test_a_recipe_is_sent_by_its_name(dry):
    train = ("train", "--labels", "s3://a", "--images", "s3://b", "--output", "s3://c")

    _, line, _ = dry(*train, "--recipe", "frozen", "--epochs", "3")

    assert line.endswith("--labels=s3://a --images=s3://b --output=s3://c --recipe=frozen --epochs=3")


def test_the_name_depends_on_the_command_and_the_date(dry):
    first, again = dry(*TAG)[0], dry(*TAG)[0]
    other_night, other_output = dry(*TAG, "--date", "2026-11-23")[0], dry(*TAG[:2], "s3://films/other")[0]

    assert first == again
    assert len({first, other_night, other_output}) == 3
    assert dry(*TAG, options=("--submission-id", "nightly"))[0] == "nightly"


def test_variables_are_sent_by_name_and_never_printed(dry, monkeypatch):
    monkeypatch.setenv("MY_PASSWORD", "correct horse battery staple")

    said = dry(*TAG, options=("--env", "MY_PASSWORD"))

    assert said[2] == "with MY_PASSWORD of this environment"
    assert "horse" not in "".join(said)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "name what to run: genretag submit [options] tag|train"),
        (("gallery", "s3://a"), "name what to run, not 'gallery'"),
        ((*TAG, "--batchsize", "3"), "Unknown option: --batchsize"),
        ((*TAG, "--batch-size", "0"), "batch_size must be at least 1"),
        ((*TAG, "--wait"), "--wait is an option of submit: write it before tag"),
        ((*TAG, "--address", "x"), "write it before the command"),
        ((*TAG, "--model", "model"), "model 'model' is a path of this machine, which the cluster's nodes cannot see"),
        (("tag", "posters", "s3://films/genres"), "images 'posters' is a path of this machine"),
        (
            ("train", "--labels", "s3://f/l.csv", "--images", "s3://f/p", "--output", "s3://f/m", "--teacher", "old"),
            "teacher 'old' is a path of this machine",
        ),
        (
            ("evaluate", "s3://f/m", "--labels", "s3://f/l.csv", "--images", "s3://f/p", "--html", "card.html"),
            "html 'card.html' is a path of this machine",
        ),
        (("--env", "NOT_SET", *TAG), "--env 'NOT_SET' is not set here"),
        (("--submission-id", "a b", *TAG), "a submission id is of letters"),
        (("--address", "head:6379", *TAG), "'head:6379' is no job server: write http://HEAD:8265"),
        (("--address", "http://me:pw@head:8265", *TAG), "carries a user name or password: set RAY_AUTH_TOKEN"),
        (("--address", "http://127.0.0.1:1", *TAG), "no Ray job server answers at http://127.0.0.1:1"),
    ],
)
def test_commands_that_cannot_work_are_refused_in_one_line(command, arguments, says):
    code, out, err = command("submit", *arguments)

    assert (code, out) == (2, "")
    assert says in err.splitlines()[-1]
    assert "Traceback" not in err


@pytest.fixture
def answering():
    """Return a function that starts an HTTP server with a fixed status and JSON answer, and returns its address.

    Requests for paths that begin with `silent` get no answer.
    """
    servers, over = [], threading.Event()

    def answering(status, content, silent="nothing"):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                if self.path.startswith(silent):
                    over.wait()
                self.send_response(status)
                self.end_headers()
                self.wfile.write(json.dumps(content).encode())

            def log_message(self, *_):
                pass

        servers.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield answering
    over.set()
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "content", "says"),
    [
        (200, {"ray_version": "2.9.3"}, "runs Ray 2.9.3, and here is Ray 2."),
        (404, {}, "is no Ray job server (status 404)"),
        (200, ["hello"], "no Ray job server answers at"),
    ],
)
def test_a_server_that_is_no_matching_ray_job_server_is_refused(command, answering, status, content, says):
    code, _, err = command("submit", "--address", answering(status, content), *TAG)

    assert code == 2
    assert says in err.splitlines()[-1]


def test_a_server_that_stops_answering_is_given_up(answering, monkeypatch):
    monkeypatch.setattr("genretag.runtime.job_server.ANSWER_S", 3)
    server = JobServer(answering(200, {"ray_version": ray.__version__}, silent="/api/jobs"))

    with pytest.raises(JobError, match="does not answer any more"):
        server.info("night")


def ended(status, code=None, error_type=None, message=""):
    return SimpleNamespace(
        status=SimpleNamespace(value=status), driver_exit_code=code, error_type=error_type, message=message
    )


def test_the_exit_code_is_the_jobs_own():
    assert [exit_code(ended("FAILED", code), "night") for code in (1, 2, 3, -9)] == [1, 2, 3, 137]
    assert exit_code(ended("SUCCEEDED", 0), "night") == 0
    assert exit_code(ended("STOPPED"), "night") == 143


def test_a_command_that_could_not_run_says_who_must_act():
    with pytest.raises(UsageError, match="install genretag on them"):
        exit_code(ended("FAILED", 1, message="python: No module named genretag"), "night")
    with pytest.raises(UsageError, match="could not be started"):
        exit_code(ended("FAILED", error_type="RUNTIME_ENV_SETUP_FAILURE"), "night")
    with pytest.raises(JobError, match=r"was lost \(JOB_SUPERVISOR_ACTOR_DIED\)"):
        exit_code(ended("FAILED", error_type="JOB_SUPERVISOR_ACTOR_DIED"), "night")
    with pytest.raises(JobError, match="was started anew"):
        exit_code(None, "night")


def test_a_failed_night_is_submitted_again_with_the_next_number():
    assert [_next("n-2026-11-23-0a", latest) for latest in ("n-2026-11-23-0a", "n-2026-11-23-0a-2")] == [
        "n-2026-11-23-0a-2",
        "n-2026-11-23-0a-3",
    ]


def test_after_a_broken_connection_the_log_continues_without_repetition(capsys, monkeypatch):
    """Ray sends a log from its beginning each time."""

    class Server:
        connections = 0

        async def log(self, name):
            Server.connections += 1
            yield "one\n"
            if Server.connections == 1:
                raise RuntimeError("closed")
            yield "two\n"

        def info(self, name):
            return SimpleNamespace(status=SimpleNamespace(is_terminal=lambda: Server.connections == 2))

    monkeypatch.setattr("genretag.commands.submit.LOOK_AGAIN_S", 0)
    asyncio.run(_print_log(Server(), "night"))

    assert capsys.readouterr().out == "one\ntwo\n"


@pytest.mark.parametrize("last_word", ["two\n", ""], ids=["heard again", "lost for good"])
def test_a_connection_that_falls_silent_does_not_outlive_the_job(capsys, monkeypatch, last_word):
    """The first connection sends one line and then nothing, and the job ends. The next one may be silent too."""

    class Server:
        connections = 0

        async def log(self, name):
            Server.connections += 1
            yield "one\n"
            if Server.connections == 2 and last_word:
                yield last_word
            else:
                await asyncio.Event().wait()

        def info(self, name):
            return SimpleNamespace(status=SimpleNamespace(is_terminal=lambda: True))

    monkeypatch.setattr("genretag.commands.submit.LOOK_AGAIN_S", 0)
    monkeypatch.setattr("genretag.commands.submit.SILENT_AFTER_S", 0.05)
    asyncio.run(asyncio.wait_for(_print_log(Server(), "night"), 30))

    assert capsys.readouterr().out == "one\n" + last_word
    assert Server.connections == 2
