"""Log lines are text for people, or JSON with the run id in every line. Neither form has secrets."""

import json
import logging
import os

import pytest
import ray

from genretag.errors import redact
from genretag.runtime.logs import JsonFormatter, TextFormatter
from genretag.runtime.session import current_run_id, new_run_id

SECRET = "wJalrXUtnFEMI/K7MDENG"


@pytest.fixture
def secret(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    return SECRET


def logged(formatter, message, *values):
    return formatter.format(logging.LogRecord("genretag.test", logging.INFO, "file", 1, message, values, None))


def test_a_json_line_has_time_level_logger_run_id_and_message():
    run_id = new_run_id()

    line = json.loads(logged(JsonFormatter(), "%d posters\nlisted", 3))

    assert list(line) == ["time", "level", "logger", "run_id", "message"]
    assert (line["level"], line["logger"], line["run_id"]) == ("INFO", "genretag.test", run_id)
    assert line["message"] == "3 posters\nlisted"
    assert current_run_id() == run_id


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()])
def test_secrets_are_redacted_in_both_formats(secret, formatter):
    said = logged(formatter, "signed with %s", secret) + logged(formatter, "at http://me:hunter2@store:9000/x")

    assert secret not in said
    assert "hunter2" not in said
    assert "signed with ***" in said
    assert "http://***@store:9000/x" in said


def test_redact_removes_secrets_and_keeps_the_rest(secret):
    assert redact(f"key {secret}") == "key ***"
    assert redact("GET https://s3/b/k?X-Amz-Signature=0f3a&x=1") == "GET https://s3/b/k?X-Amz-Signature=***&x=1"
    assert redact("Authorization: Bearer abcdefgh1234") == "Authorization: Bearer ***"
    assert redact("s3://films/posters/me@home.jpg of user@host") == "s3://films/posters/me@home.jpg of user@host"


def test_the_keys_of_azure_are_redacted_and_its_locations_are_not(monkeypatch):
    key, signature = "a2V5LW9mLXRoZS1hY2NvdW50", "sv=2021&sig=c2lnbmF0dXJl"
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", f"AccountName=studio;AccountKey={key};BlobEndpoint=https://a")
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", signature)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/etc/service-account.json")

    assert redact(f"the key {key} and {signature}") == "the key *** and ***"
    assert redact("https://studio.blob.core.windows.net/a?sv=1&sig=abc") == (
        "https://studio.blob.core.windows.net/a?sv=1&sig=***"
    )
    for plain in (
        "abfss://films@studio.dfs.core.windows.net/a.jpg",
        "az://films@studio/a",
        "/etc/service-account.json",
    ):
        assert redact(plain) == plain
    assert redact("https://me:password@host/a") == "https://***@host/a"


def test_the_path_of_a_token_file_is_not_redacted(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/run/secrets/token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0123456789abcdef")

    assert redact("no token in /run/secrets/token, 0123456789abcdef") == "no token in /run/secrets/token, ***"


def test_an_endpoint_with_a_password_is_refused_and_not_repeated(process, secret, bucket):
    for flags, variable in ((("--endpoint-url", "http://me:hunter2@127.0.0.1:1"), {}), ((), "http://me:hunter2@x:1")):
        environment = {"AWS_ENDPOINT_URL": variable} if variable else {}
        done = process("tag", bucket, bucket + "/out", *flags, env={**os.environ, **environment})

        assert done.returncode == 2
        assert "carries a user name or password" in done.stderr
        assert "hunter2" not in done.stdout + done.stderr
        assert secret not in done.stdout + done.stderr


def test_every_line_of_a_run_is_json_with_its_run_id(process, ray_cluster, few_posters, tmp_path, small_bundle):
    address = ray.get_runtime_context().gcs_address
    tag = ("tag", few_posters, tmp_path / "out", "--model", small_bundle, "--address", address, "--log-format", "json")

    done = process(*tag)
    again = process(*tag, "--carry", "title")  # an error, because a folder has no column `title`

    assert (done.returncode, again.returncode) == (0, 2), done.stderr + again.stderr
    (run,) = (tmp_path / "out" / "runs").iterdir()
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert lines
    assert {line["run_id"] for line in lines} == {run.name}
    last = json.loads(again.stderr.splitlines()[-1])
    assert (last["level"], last["exit_code"]) == ("ERROR", 2)
    assert last["run_id"] not in (None, run.name)
