"""A store that throttles, resets, slows down or loses answers costs time, but never a poster.

A wrong key is reported at once.
"""

import errno
import json
import os
import pickle
import platform
import socket
import time

import pytest
from fault_proxy import KINDS, Faults, fault_proxy
from outputs import rows
from store_front import ErrorAnswer, store_front

from genretag.commands.tag import tag
from genretag.errors import UsageError
from genretag.runtime.session import Session
from genretag.scoring.settings import TagSettings
from genretag.storage import Storage, StorageError, bucket_store, join, local
from genretag.storage.retries import RetryPolicy
from genretag.storage.s3_errors import S3_ADVICE
from genretag.storage.store_errors import Answer, of_answer, store_error, words_of

ONCE = [kind for kind in KINDS if kind != "lost_answer"]
START_DEADLINE_S = 60  # far below the time for repeated requests
REPEATED_FOR_S = "200"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    """Give each request one second instead of twenty, so that the tests need not wait."""
    monkeypatch.setenv("GENRETAG_STORE_ATTEMPT_S", "1")
    monkeypatch.setenv("GENRETAG_STORE_TOTAL_S", "30")


@pytest.fixture
def through(s3_server):
    """Return a function that makes a `Storage` behind a proxy with these faults. It returns both."""
    proxies = []

    def through(**faults):
        context = fault_proxy(s3_server.endpoint_url, Faults(**faults))
        proxies.append(context)
        proxy = context.__enter__()
        return Storage(proxy.endpoint_url), proxy

    yield through
    for context in proxies:
        context.__exit__(None, None, None)


# The first connection


def test_a_worker_outlasts_an_outage_at_its_first_connection(bucket, monkeypatch):
    """A person who starts a job soon reads that nobody answers."""
    storage = Storage()
    storage.put(join(bucket, "a.jpg"), b"poster")
    connect, refused = socket.create_connection, [OSError("timed out")] * 2

    def refusing_twice(*arguments, **options):
        if refused:
            raise refused.pop()
        return connect(*arguments, **options)

    monkeypatch.setattr(bucket_store, "KNOCK_S", 0.0)
    monkeypatch.setattr(socket, "create_connection", refusing_twice)
    with pytest.raises(StorageError, match=r"no store answers at .* \(timed out\)"):
        Storage().stat(join(bucket, "a.jpg"))
    refused.append(OSError("timed out"))

    assert bytes(pickle.loads(pickle.dumps(storage)).get(join(bucket, "a.jpg")).data) == b"poster"


# Single requests


@pytest.mark.parametrize("kind", ONCE)
def test_a_read_survives_faults(bucket, storage, through, kind):
    storage.put(join(bucket, "a.jpg"), b"poster" * 5000)
    faulty, proxy = through(rates={kind: 1}, first=2)

    fetched = faulty.get(join(bucket, "a.jpg"))

    assert bytes(fetched.data) == b"poster" * 5000
    assert fetched.etag == faulty.stat(join(bucket, "a.jpg")).etag == storage.stat(join(bucket, "a.jpg")).etag
    assert proxy.counts[kind] >= 2


@pytest.mark.parametrize("kind", ONCE)
def test_a_listing_survives_faults(bucket, storage, through, kind):
    for name in ("a.jpg", "b.jpg"):
        storage.put(join(bucket, "posters", name), b"x")
    faulty, proxy = through(rates={kind: 1}, first=2)

    listed = [info.uri for page in faulty.list(join(bucket, "posters")) for info in page]

    assert sorted(listed) == [join(bucket, "posters/a.jpg"), join(bucket, "posters/b.jpg")]
    assert proxy.counts[kind] == 2


@pytest.mark.parametrize("kind", KINDS)
def test_removing_a_folder_survives_faults(bucket, storage, through, kind):
    for name in ("_worklist/1/a", "_worklist/1/b", "_worklist.txt"):
        storage.put(join(bucket, name), b"x")
    faulty, proxy = through(rates={kind: 1}, first=2)

    faulty.delete_below(join(bucket, "_worklist"))

    assert [info.uri for page in storage.list(bucket) for info in page] == [join(bucket, "_worklist.txt")]
    assert proxy.counts[kind] >= 1


WRITES = ("throttled", "slow_down", "internal_error", "reset", "hang", "lost_answer")


@pytest.mark.parametrize("kind", WRITES)
def test_each_kind_of_write_survives_faults_and_recognises_its_own_earlier_write(bucket, storage, through, kind):
    faulty, proxy = through(rates={kind: 1}, first=2, methods=frozenset({"PUT", "DELETE"}))
    uri = join(bucket, "a")

    faulty.put(uri, b"put")
    assert bytes(storage.get(uri).data) == b"put"
    faulty.delete(uri)
    with pytest.raises(StorageError, match="does not exist"):
        storage.stat(uri)
    etag = faulty.create(join(bucket, "b"), b"created")
    assert (bytes(storage.get(join(bucket, "b")).data), etag) == (b"created", storage.stat(join(bucket, "b")).etag)
    # The same key has already had two requests.
    proxy.faults = Faults(rates={kind: 1}, first=4, methods=frozenset({"PUT"}))
    etag = faulty.replace(join(bucket, "b"), b"replaced", etag)
    assert (bytes(storage.get(join(bucket, "b")).data), etag) == (b"replaced", storage.stat(join(bucket, "b")).etag)
    assert proxy.counts[kind] >= 6


@pytest.mark.parametrize("call", ["create", "replace"])
def test_a_retried_conditional_write_does_not_claim_the_write_of_another(bucket, storage, through, call):
    """The answer to a conditional write is lost, and another writer writes before the retry."""
    uri = join(bucket, "_lock.json")
    etag = storage.create(uri, b"the first holder")
    faulty, _ = through(rates={"lost_answer": 1}, methods=frozenset({"PUT"}), first=1)

    def put_ours():
        return faulty.create(uri, b"ours") if call == "create" else faulty.replace(uri, b"ours", etag)

    storage.put(uri, b"theirs")
    with pytest.raises(StorageError) as error:
        put_ours()
    assert error.value.reason == {"create": "exists", "replace": "changed"}[call]
    assert bytes(storage.get(uri).data) == b"theirs"


@pytest.mark.parametrize(("kind", "reason"), [("hang", "timeout"), ("slow", "timeout"), ("slow_down", "unavailable")])
def test_a_fault_that_lasts_ends_with_its_exact_reason(bucket, storage, through, monkeypatch, kind, reason):
    monkeypatch.setenv("GENRETAG_STORE_TOTAL_S", "7")
    storage.put(join(bucket, "a.jpg"), b"poster" * 5000)
    faulty, _ = through(always={"a.jpg": kind})

    with pytest.raises(StorageError) as error:
        faulty.get(join(bucket, "a.jpg"))
    assert error.value.reason == reason
    assert str(error.value).startswith(join(bucket, "a.jpg"))


def test_pauses_between_retries_grow_are_random_and_end_before_the_deadline():
    pauses = RetryPolicy(attempt_s=20, total_s=60).pauses()

    drawn = [next(pauses) for _ in range(10)]
    assert all(0.05 * 2**n <= pause <= 0.1 * 2**n for n, pause in enumerate(drawn[:6]))
    assert max(drawn) <= 5
    assert next(RetryPolicy(attempt_s=20, total_s=25).pauses(), None) is None, "another attempt would end too late"


def test_the_time_of_the_first_attempt_counts(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    pauses = RetryPolicy(attempt_s=20, total_s=60).pauses()

    now[0] += 36

    assert next(pauses, None) is None


def test_a_request_is_repeated_by_genretag_and_not_by_the_library_as_well(bucket, through, monkeypatch):
    monkeypatch.setenv("GENRETAG_STORE_TOTAL_S", "10")  # the pauses of at most 7 retries begin within 4 s
    faulty, proxy = through(always={"a.jpg": "slow_down"})

    with pytest.raises(StorageError):
        faulty.stat(join(bucket, "a.jpg"))
    assert 1 < proxy.counts["slow_down"] <= 8


def test_an_unusable_deadline_is_refused(monkeypatch):
    monkeypatch.setenv("GENRETAG_STORE_TOTAL_S", "a while")
    with pytest.raises(UsageError, match="GENRETAG_STORE_TOTAL_S is a number of seconds, not 'a while'"):
        Storage().stat("s3://films/a.jpg")


# What an error means


@pytest.mark.parametrize(
    ("status", "code", "reason", "says"),
    [
        ("403 Forbidden", "InvalidAccessKeyId", "credentials_refused", "AWS_ACCESS_KEY_ID"),
        ("403 Forbidden", "SignatureDoesNotMatch", "credentials_refused", "AWS_SECRET_ACCESS_KEY"),
        ("400 Bad Request", "ExpiredToken", "credentials_refused", "AWS_PROFILE"),
        ("400 Bad Request", "InvalidToken", "credentials_refused", "400 InvalidToken"),
        ("401 Unauthorized", "", "credentials_refused", "AWS_PROFILE"),
        ("403 Forbidden", "AccessDenied", "access_denied", "refuses access to s3://films/a.jpg"),
        ("404 Not Found", "NoSuchBucket", "bucket_missing", "the bucket s3://films does not exist"),
        ("404 Not Found", "NoSuchKey", "not_found", "s3://films/a.jpg does not exist"),
        ("301 Moved Permanently", "PermanentRedirect", "wrong_region", "AWS_REGION"),
        ("400 Bad Request", "AuthorizationHeaderMalformed", "wrong_region", "AWS_REGION"),
        ("507 Insufficient Storage", "", "disk_full", "no space left"),
        ("400 Bad Request", "RequestTimeout", "unavailable", "400 RequestTimeout"),
        ("400 Bad Request", "KeyTooLongError", "refused", "400 KeyTooLongError"),
        ("501 Not Implemented", "NotImplemented", "refused", "501 NotImplemented"),
        ("403 Forbidden", "RequestTimeTooSkewed", "credentials_refused", f"the clock of {platform.node()} is wrong"),
        ("400 Bad Request", "TokenRefreshRequired", "credentials_refused", "aws sso login"),
        ("403 Forbidden", "InvalidObjectState", "archived", "s3://films/a.jpg is archived (403 InvalidObjectState"),
        ("403 Forbidden", "AllAccessDisabled", "access_denied", "its owner must act"),
        ("403 Forbidden", "AccountProblem", "access_denied", "its owner must act"),
        ("400 Bad Request", "KMS.DisabledException", "access_denied", "the KMS key is enabled"),
        ("400 Bad Request", "KMS.ThrottlingException", "unavailable", "400 KMS.ThrottlingException"),
        ("403 Forbidden", "SecondLevelDomainForbidden", "refused", "AWS_VIRTUAL_HOSTED_STYLE_REQUEST=true"),
        ("403 Forbidden", "PathStyleDomainForbidden", "refused", "addressing_style = virtual"),
        ("403 Forbidden", "SomethingNew", "access_denied", "403 SomethingNew: told in words"),
    ],
)
def test_an_error_of_s3_becomes_a_reason_and_names_what_to_check(status, code, reason, says):
    """The error has the body that AWS sends for a wrong signature, which includes secrets."""
    body = (
        f"<Error><Code>{code}</Code><Message>told in words.</Message><AWSAccessKeyId>AKIASECRET</AWSAccessKeyId>"
        "<StringToSign>S</StringToSign></Error>"
    )
    raw = (
        "Generic S3 error: Error performing GET https://h/films/a.jpg?X-Amz-Signature=abc in 1ms - "
        f"Server returned non-2xx status code: {status}: {body}\n\nDebug source:\nauthorization: AWS4-HMAC"
    )

    error = store_error("s3://films/a.jpg", OSError(raw), S3_ADVICE)

    assert error.reason == reason
    assert says in str(error)
    for secret in ("AKIASECRET", "StringToSign", "X-Amz", "HMAC", "\n"):
        assert secret not in str(error)


@pytest.mark.parametrize(
    ("words", "reason", "says"),
    [
        ("User: arn:aws:iam::1:user/a is not authorized to perform: kms:Decrypt", "access_denied", "kms:Decrypt"),
        ("not authorized with an explicit deny in a resource-based policy", "access_denied", "a policy denies it"),
        ("must be addressed using the specified endpoint", "wrong_region", "AWS_ENDPOINT_URL"),
        ("Access Denied", "access_denied", "what these credentials may do"),
    ],
)
def test_the_advice_to_access_denied_fits_what_the_store_says(words, reason, says):
    error = of_answer("s3://films/a.jpg", Answer(403, "AccessDenied", words), S3_ADVICE)

    assert (error.reason, words in str(error), says in str(error)) == (reason, True, True)
    assert "AWS_SERVER_SIDE_ENCRYPTION" not in str(error)


def test_the_advice_to_a_refused_write_mentions_encryption():
    denied = of_answer("s3://films/a", Answer(403, "AccessDenied", writing=True), S3_ADVICE)

    assert "set AWS_SERVER_SIDE_ENCRYPTION" in str(denied)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("&quot;a&quot; &lt;b&gt;\n\x1b[31mred", '"a" <b> [31mred'),
        ("x" * 500, "x" * 159 + "…"),
        ("AWS4-HMAC-SHA256 Credential=AKIA/20261127", ""),
        ("https://user:password@host/ is closed", "https://***@host/ is closed"),
    ],
)
def test_messages_of_a_store_become_one_short_line_without_secrets(text, kept):
    assert words_of(text) == kept


@pytest.mark.parametrize("key", ["a.jpg", "//odd.jpg"], ids=["obstore", "boto3"])
def test_both_clients_keep_the_error_code_and_message_of_the_store(moto_url, moto_bucket, key):
    words = "The operation is not valid for the object's storage class"
    archived = ErrorAnswer(403, "InvalidObjectState", words)
    with store_front(moto_url, lambda request: archived) as front, pytest.raises(StorageError) as error:
        Storage(front.url).get(f"{moto_bucket}/{key}")

    assert error.value.reason == "archived"
    assert f"403 InvalidObjectState: {words}" in str(error.value)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_has_the_reason_disk_full(storage, tmp_path, monkeypatch, number):
    def full(_descriptor):
        raise OSError(number, os.strerror(number), "part-0.parquet")

    monkeypatch.setattr(local.os, "fsync", full)
    with pytest.raises(StorageError, match=r"part-0\.parquet") as error:
        storage.put(str(tmp_path / "a"), b"x")
    assert error.value.reason == "disk_full"


# The start of the command


def _stops_at_once(process, places, environment):
    started = time.monotonic()
    ended = process("tag", *places, env={**os.environ, **environment, "GENRETAG_STORE_TOTAL_S": REPEATED_FOR_S})
    seconds = time.monotonic() - started

    assert ended.returncode == 2, ended.stderr
    assert "Traceback" not in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert ended.stderr.startswith("genretag: ")
    assert seconds < START_DEADLINE_S
    return ended.stderr


@pytest.fixture
def places(bucket, storage):
    """Return the locations of images and of an output in a bucket. Fail if the test writes to the bucket."""
    storage.put(join(bucket, "posters/a.jpg"), b"x")
    yield join(bucket, "posters"), join(bucket, "genres")
    assert [info.uri for page in storage.list(bucket) for info in page] == [join(bucket, "posters/a.jpg")]


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "0123456789" * 4}, "AWS_SECRET_ACCESS_KEY"),
        ({"AWS_ACCESS_KEY_ID": "AKIANOBODYATALL"}, "AWS_ACCESS_KEY_ID"),
        ({"AWS_PROFILE": "nobody"}, "AWS_PROFILE"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, "AWS_ENDPOINT_URL"),
        ({"AWS_ENDPOINT_URL": "http://no-such-host.invalid:8333"}, "no-such-host.invalid:8333"),
        ({"AWS_ENDPOINT_URL": "127.0.0.1:8333"}, "is no endpoint"),
    ],
    ids=["wrong secret", "unknown key", "unknown profile", "nobody listens", "unknown host", "no URL"],
)
@pytest.mark.parametrize("where", ["images", "output"])
def test_a_wrong_setting_stops_the_command_in_one_line(process, places, few_posters, environment, says, where):
    images, output = places

    line = _stops_at_once(process, (images if where == "images" else few_posters, output), environment)

    assert says in line
    for secret in ("0123456789" * 4, os.environ["AWS_SECRET_ACCESS_KEY"]):
        assert secret not in line


def test_no_credentials_stop_the_command_though_the_metadata_service_never_answers(process, places, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    environment |= dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "")
    environment |= {"AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"), "AWS_CONFIG_FILE": str(tmp_path / "none")}
    with socket.create_server(("127.0.0.1", 0)) as never_answers:
        environment["AWS_EC2_METADATA_SERVICE_ENDPOINT"] = f"http://127.0.0.1:{never_answers.getsockname()[1]}"

        line = _stops_at_once(process, places, environment)
    assert "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in line


# The whole job


@pytest.fixture
def posters_in_bucket(bucket, storage, drawn_posters):
    """Put 160 posters into a bucket, and return their URIs."""
    for poster in drawn_posters:
        storage.put(join(bucket, poster.key), poster.data)
    return {join(bucket, poster.key) for poster in drawn_posters}


def _record(output):
    return next(
        json.loads(bytes(Storage().get(info.uri).data))
        for page in Storage().list(join(output, "runs"))
        for info in page
        if info.uri.endswith(".json")
    )


def test_a_run_through_all_faults_scores_each_poster_once(process, bucket, posters_in_bucket, s3_server):
    output = join(bucket, "genres")
    with fault_proxy(s3_server.endpoint_url, Faults(seed=5, rate=0.03)) as proxy:
        ended = process("tag", join(bucket, "posters"), output, "--endpoint-url", proxy.endpoint_url)

    assert ended.returncode == 0, ended.stderr
    assert sorted(row["uri"] for row in rows(output)) == sorted(posters_in_bucket)
    assert rows(output, "failures") == []
    assert sum(proxy.counts.values()) > 20, proxy.counts
    assert _record(output)["scored"] == len(posters_in_bucket)


@pytest.mark.parametrize("kind", ["slow", "hang"])
def test_one_poster_that_cannot_be_fetched_is_one_failure_and_does_not_delay_the_others(
    process, bucket, posters_in_bucket, s3_server, kind, monkeypatch
):
    monkeypatch.setenv("GENRETAG_STORE_TOTAL_S", "20")
    output, never = join(bucket, "genres"), sorted(posters_in_bucket)[70]
    with fault_proxy(s3_server.endpoint_url, Faults(always={never.removeprefix("s3://"): kind})) as proxy:
        ended = process("tag", join(bucket, "posters"), output, "--endpoint-url", proxy.endpoint_url)

    assert ended.returncode == 0, ended.stderr
    assert sorted(row["uri"] for row in rows(output)) == sorted(posters_in_bucket - {never})
    failed = rows(output, "failures")
    assert [(row["uri"], row["stage"], row["reason"]) for row in failed] == [(never, "fetch", "timeout")]

    assert process("tag", join(bucket, "posters"), output).returncode == 0, "the next night the store is well"
    assert sorted(row["uri"] for row in rows(output)) == sorted(posters_in_bucket)
    assert rows(output, "failures") == failed


def test_archived_posters_have_a_reason_of_their_own(ray_cluster, small_bundle, bucket, posters_in_bucket, s3_server):
    output, archived = join(bucket, "genres"), set(sorted(posters_in_bucket)[:3])

    def answer(request):
        if request.method == "GET" and f"s3:/{request.path}" in archived:
            return ErrorAnswer(403, "InvalidObjectState", "The operation is not valid for the object's storage class")
        return None

    with store_front(s3_server.endpoint_url, answer) as front:
        session = Session(endpoint_url=front.url, quiet=True)
        tag(join(bucket, "posters"), output, TagSettings(report=False), session, small_bundle)

    failed = rows(output, "failures")
    assert {(row["uri"], row["stage"], row["reason"]) for row in failed} == {(u, "fetch", "archived") for u in archived}
    assert all("403 InvalidObjectState" in row["message"] and "--retry-failed" in row["message"] for row in failed)
    assert len(rows(output)) == len(posters_in_bucket) - 3
