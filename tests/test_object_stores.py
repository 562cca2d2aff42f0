"""One interface to every store: S3 (SeaweedFS), Azure (Azurite) and Google Cloud Storage (fake-gcs-server)."""

import json
import os
import pickle
import threading
import time
import uuid

import boto3
import pyarrow as pa
import pyarrow.parquet
import pytest
from fault_proxy import Faults, fault_proxy
from outputs import rows

from genretag.errors import UsageError
from genretag.output.compaction import write_whole
from genretag.storage import Access, Storage, StorageError, azure_rest, join, s3_listing
from genretag.storage.bucket_store import is_odd
from genretag.storage.conditional_writes import lock_storage
from genretag.storage.uris import path_in_files, resolve

STORES = ("s3", "az", "abfss", "gs")
KEYS = (
    *("a.jpg", "a-b.jpg", "a/b.jpg", "b c+%20ü#?&;.jpg", "😀.jpg", "x" * 200),
    *("two//slashes.jpg", "dot/./segment.jpg", "dots/../segment.jpg", "slash at the end/", "tab\t.jpg"),
)


@pytest.fixture(params=STORES)
def place(request):
    """Create an empty bucket on a real server or an emulator, and return the URI of a prefix in it."""
    return new_bucket(request, request.param)


def new_bucket(request, scheme, *, public=False):
    """Create an empty bucket of a scheme and return the URI of a prefix in it."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    if scheme == "s3":
        request.getfixturevalue("s3_server").create_bucket(name)
        if public:
            boto3.Session().client("s3").put_bucket_policy(Bucket=name, Policy=json.dumps(public_policy(name)))
        return f"s3://{name}/films"
    if scheme == "gs":
        request.getfixturevalue("gcs_server").create_bucket(name, public=public)
        return f"gs://{name}/films"
    server = request.getfixturevalue("azure_server")
    server.create_container(name, public=public)
    host = f"@{server.account}.dfs.core.windows.net" if scheme == "abfss" else ""
    return f"{scheme}://{name}{host}/films"


def public_policy(bucket):
    """Return a bucket policy that lets anybody list the bucket and read its objects."""
    statements = [("s3:ListBucket", f"arn:aws:s3:::{bucket}"), ("s3:GetObject", f"arn:aws:s3:::{bucket}/*")]
    allowed = [{"Effect": "Allow", "Principal": "*", "Action": [what], "Resource": [on]} for what, on in statements]
    return {"Version": "2012-10-17", "Statement": allowed}


def listed(uri, storage=None):
    """Return the rows of a listing by URI."""
    return {row["uri"]: row for table in (storage or Storage()).list_tables(uri) for row in table.to_pylist()}


def failure(call, *arguments):
    """Call a function, and return the `StorageError` that it raises."""
    with pytest.raises(StorageError) as raised:
        call(*arguments)
    return raised.value


def test_every_key_is_listed_looked_up_and_read_as_it_was_written(place):
    storage = Storage()
    takes_odd_keys = not place.startswith("s3://")  # SeaweedFS does not; `test_odd_keys.py` has a server that does
    uris = [uri for uri in (join(place, key) for key in KEYS) if takes_odd_keys or not is_odd(uri)]
    for uri in uris:
        storage.put(uri, uri.encode())
    if takes_odd_keys:
        storage.put(join(place, "only a mark of a folder/"), b"")

    found = listed(place)

    assert sorted(found) == sorted(uris)
    for uri in uris:
        looked_up, fetched = storage.stat(uri), storage.get(uri, None)
        assert bytes(fetched.data) == uri.encode()
        assert looked_up.etag == fetched.etag == found[uri]["etag"]
        assert looked_up.size_bytes == found[uri]["size"] == len(uri.encode())
        assert abs((looked_up.last_modified - found[uri]["last_modified"]).total_seconds()) < 2


def test_only_what_is_below_the_prefix_is_listed(place):
    for key in ("films/a.jpg", "films2/a.jpg", "films"):
        Storage().put(join(place.rsplit("/", 1)[0], key), b"1")

    assert list(listed(place)) == [join(place, "a.jpg")]
    assert list(listed(join(place, "none"))) == []


@pytest.mark.parametrize("pages", ["one after another", "by ranges of keys"])
def test_each_of_many_objects_is_listed_once(place, pages, monkeypatch):
    monkeypatch.setattr(s3_listing, "PAGE", 7)
    monkeypatch.setattr(azure_rest, "PAGE", 7)
    if pages == "by ranges of keys":
        if not place.startswith("gs://"):
            pytest.skip("SeaweedFS does not list in order, and Azure cannot start after a key")
        monkeypatch.setattr(s3_listing, "ORDERED_SERVERS", ("",))  # the emulator does not say that it is Google's
    uris = [join(place, f"{number % 5}/{number:03}.jpg") for number in range(60)]
    for uri in uris:
        Storage().put(uri, b"1")

    found = [row["uri"] for table in Storage().list_tables(place) for row in table.to_pylist()]

    assert sorted(found) == sorted(uris)


@pytest.mark.parametrize("key", ["none.jpg", "two//slashes.jpg"])
def test_what_does_not_exist_is_not_found(place, key):
    uri = join(place, key)

    assert failure(Storage().stat, uri).reason == "not_found"
    assert failure(Storage().get, uri).reason == "not_found"
    Storage().delete(join(place, "none.jpg"))


@pytest.mark.parametrize("key", ["a.jpg", "two//slashes.jpg"])
def test_an_object_above_the_limit_is_not_read(place, key):
    if place.startswith("s3://") and is_odd(join(place, key)):
        pytest.skip("SeaweedFS takes no such key")
    Storage().put(join(place, key), b"four")

    assert failure(Storage().get, join(place, key), 3).reason == "too_many_bytes"
    assert bytes(Storage().get(join(place, key), 4).data) == b"four"


def test_a_bucket_that_does_not_exist_is_named(place):
    missing = place.replace("test-", "none-", 1)

    error = failure(listed, missing)

    assert error.reason == "bucket_missing"
    assert missing.rsplit("/", 1)[0] in str(error)


def test_of_many_writers_one_creates_and_one_replaces(place):
    uri, storage = join(place, "lock"), Storage()
    created = at_once(lambda number: storage.create(uri, f"writer {number}".encode()))
    etag = next(filter(None, created))
    replaced = at_once(lambda number: storage.replace(uri, f"second {number}".encode(), etag))

    assert sum(map(bool, created)) == 1
    assert sum(map(bool, replaced)) == 1
    assert bytes(storage.get(uri).data) == f"second {replaced.index(next(filter(None, replaced)))}".encode()
    assert failure(storage.replace, uri, b"late", etag).reason == "changed"
    assert failure(storage.create, uri, b"late").reason == "exists"
    storage.delete(uri)
    assert failure(storage.replace, uri, b"late", etag).reason == "changed"


def at_once(call):
    """Call a function of a number in 8 threads at once. Return the results, None for each `StorageError`."""
    results = [None] * 8

    def run(number):
        try:
            results[number] = call(number)
        except StorageError as error:
            assert error.reason in ("exists", "changed"), error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(results))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_a_write_that_took_effect_although_its_answer_was_lost_counts(place):
    uri, storage = join(place, "lock"), Storage()
    etag = storage.create(uri, b"ours")

    assert storage.create(uri, b"ours") == etag
    second = storage.replace(uri, b"again", etag)
    assert storage.replace(uri, b"again", etag) == second


@pytest.mark.parametrize("scheme", ["az", "gs"])
def test_temporary_errors_are_repeated_until_each_object_is_written_and_read(request, scheme, monkeypatch):
    """A tenth of the requests each get no answer, an answer that is cut short, too many requests, or an error."""
    place = new_bucket(request, scheme)
    if scheme == "gs":
        upstream = request.getfixturevalue("gcs_server").url
    else:
        upstream = request.getfixturevalue("azure_server").endpoint.rpartition("/")[0]
    rates = dict.fromkeys(("throttled", "slow_down", "internal_error", "reset", "short_body", "lost_answer"), 0.07)
    with fault_proxy(upstream, Faults(seed=3, rates=rates)) as proxy:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", proxy.endpoint_url)
        connection = os.environ["AZURE_STORAGE_CONNECTION_STRING"].replace(upstream, proxy.endpoint_url)
        monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", connection)
        storage, uris = Storage(), [join(place, f"{number:02}.jpg") for number in range(40)]
        for uri in uris:
            storage.put(uri, uri.encode())
        etag = storage.create(join(place, "lock"), b"first")
        for number in range(10):
            etag = storage.replace(join(place, "lock"), f"renewal {number}".encode(), etag)

        assert sorted(listed(place, storage)) == [*uris, join(place, "lock")]
        assert [bytes(storage.get(uri).data) for uri in uris] == [uri.encode() for uri in uris]
        assert bytes(storage.get(join(place, "lock")).data) == b"renewal 9"
    assert sum(proxy.counts.values()) > 10
    assert len(proxy.counts) >= 5


def test_conditional_writes_are_used_for_the_lock(place):
    assert type(lock_storage(join(place, "test"), Storage())) is Storage
    assert listed(place) == {}


def test_the_file_system_for_libraries_writes_reads_copies_and_lists(place):
    filesystem, path = Storage().filesystem(join(place, "dt=1", "part #1?.parquet"))
    table = pa.table({"a": list(range(1000))})

    write_whole([table], table.schema, 1000, join(place, "dt=1", "part #1?.parquet"), filesystem)
    again = pickle.loads(pickle.dumps(filesystem))
    again.cp_file(path, path_in_files(join(place, "dt=2", "copy.parquet")))

    assert [row["a"] for row in rows(place, "dt=2")] == list(range(1000))
    assert len(rows(place, "dt=1")) == 1000
    with again.open(path, "rb") as file:
        assert pyarrow.parquet.read_metadata(file).num_rows == 1000
    Storage().delete_below(join(place, "dt=1"))
    assert list(listed(place)) == [join(place, "dt=2", "copy.parquet")]


@pytest.mark.parametrize("scheme", ["az", "gs"])
def test_an_error_of_the_file_system_is_an_oserror_with_our_message(request, scheme, monkeypatch):
    place = new_bucket(request, scheme)
    Storage().put(join(place, "a.parquet"), b"1")
    without_credentials(monkeypatch, request)
    filesystem, path = Storage(access=Access(anonymous=True)).filesystem(join(place, "a.parquet"))

    for call in (
        lambda: filesystem.cp_file(path, f"{path}.copy"),
        lambda: filesystem.open(path, "rb").read(),
        lambda: filesystem.cat_file(path),
    ):
        with pytest.raises(OSError, match=r"AZURE_STORAGE_KEY|refuses access") as refused:
            call()
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("scheme", ["s3", "az", "gs"])
def test_a_public_bucket_is_read_without_credentials_and_a_private_one_is_not(request, scheme, monkeypatch):
    public, private = new_bucket(request, scheme, public=True), new_bucket(request, scheme)
    keys = ("a.jpg", "b.jpg" if scheme == "s3" else "two//slashes.jpg")
    for place in (public, private):
        for key in keys:
            Storage().put(join(place, key), b"1")
    without_credentials(monkeypatch, request)
    storage = Storage(access=Access(anonymous=True))

    assert sorted(listed(public, storage)) == [join(public, key) for key in keys]
    for key in keys:
        assert bytes(storage.get(join(public, key)).data) == b"1"
        assert failure(storage.get, join(private, key)).reason in ("access_denied", "credentials_refused")
    assert failure(listed, private, storage).reason in ("access_denied", "credentials_refused")


def without_credentials(monkeypatch, request):
    """Leave only the addresses of the servers in the environment."""
    server = request.getfixturevalue("azure_server")
    monkeypatch.setenv(
        "AZURE_STORAGE_CONNECTION_STRING", f"AccountName={server.account};BlobEndpoint={server.endpoint}"
    )
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("scheme", ["s3", "az", "abfss", "gs"])
def test_the_buckets_of_the_output_get_credentials_in_spite_of_anonymous(request, scheme):
    public, own = new_bucket(request, scheme, public=True), new_bucket(request, scheme)
    Storage().put(join(public, "a.jpg"), b"1")
    storage = Storage(access=Access(anonymous=True, own=(join(own, "output"),)))

    storage.put(join(own, "b.jpg"), b"2")

    assert bytes(storage.get(join(own, "b.jpg")).data) == b"2"
    assert list(listed(public, storage)) == [join(public, "a.jpg")]
    assert failure(storage.put, join(public, "c.jpg"), b"3").reason in ("access_denied", "credentials_refused")


def azure(server, **parts):
    """Return a connection string with these parts instead of the account's key."""
    given = {"AccountName": server.account, "BlobEndpoint": server.endpoint, **parts}
    return ";".join(f"{name}={value}" for name, value in given.items())


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"AccountKey": "eHh4eHh4"}, "AZURE_STORAGE_KEY"),
        ({"AccountKey": "not in base64!"}, "AZURE_STORAGE_KEY"),
        ({}, "AZURE_STORAGE_ACCOUNT with AZURE_STORAGE_KEY"),
        ({"AccountKey": "eHh4eHh4", "BlobEndpoint": "http://127.0.0.1:9/posters"}, "127.0.0.1:9"),
        ({"AccountName": "", "BlobEndpoint": ""}, "names no account"),
    ],
)
def test_unusable_credentials_of_azure_are_one_line_with_advice_and_no_key(azure_server, parts, says, monkeypatch):
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", azure(azure_server, **parts))

    for call in (lambda: Storage().get("az://films/a.jpg"), lambda: listed("az://films")):
        with pytest.raises((StorageError, UsageError)) as refused:
            call()
        assert says in str(refused.value)
        assert "\n" not in str(refused.value)
        assert parts.get("AccountKey", "no key") not in str(refused.value)


def test_a_signature_of_azure_reads_and_writes_and_an_expired_or_weak_one_does_not(request, azure_server, monkeypatch):
    from datetime import timedelta

    place = new_bucket(request, "az")
    Storage().put(join(place, "a.jpg"), b"1")

    def with_signature(sas):
        monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", azure(azure_server, SharedAccessSignature=sas))
        return Storage()

    storage = with_signature(azure_server.sas())
    storage.put(join(place, "b//c.jpg"), b"2")
    assert len(listed(place, storage)) == 2
    readers = with_signature(azure_server.sas("rl"))
    assert len(listed(place, readers)) == 2
    denied = failure(readers.put, join(place, "d.jpg"), b"3")
    assert (denied.reason, "permissions of the SAS" in str(denied)) == ("access_denied", True)
    expired = failure(with_signature(azure_server.sas(valid_for=-timedelta(minutes=5))).get, join(place, "a.jpg"))
    assert (expired.reason, "sig=" in str(expired)) == ("credentials_refused", False)


def test_a_token_that_google_no_longer_accepts_is_refused_with_advice(request, gcs_server, monkeypatch):
    place, storage = new_bucket(request, "gs"), Storage()
    storage.put(join(place, "a.jpg"), b"1")
    monkeypatch.setattr(gcs_server, "tokens", set())

    for call in (lambda: storage.get(join(place, "a.jpg")), lambda: listed(place, storage)):
        error = failure(call)
        assert (error.reason, "gcloud auth application-default login" in str(error)) == ("credentials_refused", True)


def with_tokens_through(proxy, gcs_server, folder, monkeypatch):
    """Let Google's tokens come through a proxy. The requests to the store itself do not."""
    account = gcs_server.service_account(folder, through=proxy.endpoint_url)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(account))


def come_back(proxy):
    """End the faults of a proxy after two of them."""
    while sum(proxy.counts.values()) < 2:
        time.sleep(0.01)
    proxy.faults = Faults()


def test_a_server_of_tokens_that_is_away_for_a_moment_is_asked_again(request, gcs_server, tmp_path, monkeypatch):
    place = new_bucket(request, "gs")
    with fault_proxy(gcs_server.url, Faults(always={"/token": "reset"})) as proxy:
        with_tokens_through(proxy, gcs_server, tmp_path, monkeypatch)
        back = threading.Thread(target=come_back, args=(proxy,), daemon=True)
        back.start()
        storage = Storage()
        storage.put(join(place, "a.jpg"), b"1")
        back.join()
    assert proxy.counts["reset"] >= 2
    assert list(listed(place, storage)) == [join(place, "a.jpg")]


@pytest.mark.parametrize("fault", ["reset", "internal_error"])
def test_a_server_of_tokens_that_stays_away_is_no_matter_of_credentials(
    request, gcs_server, tmp_path, monkeypatch, fault
):
    place = new_bucket(request, "gs")
    monkeypatch.setenv("GENRETAG_STORE_TOTAL_S", "13")
    monkeypatch.setenv("GENRETAG_STORE_ATTEMPT_S", "8")
    with fault_proxy(gcs_server.url, Faults(always={"/token": fault})) as proxy:
        with_tokens_through(proxy, gcs_server, tmp_path, monkeypatch)
        for call in (lambda: Storage().get(join(place, "a.jpg")), lambda: listed(place, Storage())):
            error = failure(call)
            assert (error.reason, "Google's tokens does not answer" in str(error)) == ("unavailable", True)


def test_missing_credentials_of_google_are_one_line(monkeypatch):
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nowhere.json")

    with pytest.raises(UsageError, match=r"no credentials for gs://films .*--anonymous reads a public bucket"):
        Storage().get("gs://films/a.jpg")


def test_the_payer_of_a_google_bucket_is_named_in_each_request(request, gcs_server, monkeypatch):
    place = new_bucket(request, "gs")
    Storage().put(join(place, "a.jpg"), b"1")
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "ours")
    storage = Storage(access=Access(request_payer=True))
    before = len(gcs_server.payers)

    storage.get(join(place, "a.jpg"))
    listed(place, storage)

    assert set(gcs_server.payers[before:]) == {"ours"}


@pytest.mark.parametrize(
    ("location", "says"),
    [
        ("gs://", "names no bucket: write gs://BUCKET/PREFIX"),
        ("az:///films", "names no bucket: write az://CONTAINER/PREFIX"),
        ("abfss://films/posters", "names no account: write abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/PREFIX"),
        ("gcs://films", "write gs:// instead of gcs://"),
        ("wasbs://films@a.blob.core.windows.net/b", "write abfss:// instead of wasbs://"),
        ("ftp://films", "is not a local path, s3://"),
        ("https://example.org/posters", "a web server cannot be listed"),
    ],
)
def test_a_location_in_no_known_form_is_refused_with_the_right_form(location, says):
    with pytest.raises(UsageError) as refused:
        resolve(location)

    assert says in str(refused.value)


@pytest.mark.parametrize(
    "host",
    [
        "films.dfs.example.org",
        "Films.dfs.core.windows.net",
        "u:p@localhost:443#.dfs.core.windows.net",
        "films.core.windows.net",
    ],
)
def test_a_token_never_goes_to_a_host_that_is_not_azures(host, monkeypatch):
    monkeypatch.delenv("AZURE_STORAGE_CONNECTION_STRING", raising=False)

    with pytest.raises(StorageError, match="is no storage account of Azure"):
        Storage().get(f"abfss://films@{host}/a.jpg")


def test_a_container_without_an_account_is_refused(monkeypatch):
    monkeypatch.delenv("AZURE_STORAGE_CONNECTION_STRING", raising=False)

    with pytest.raises(UsageError, match="which storage account has the container films"):
        Storage().get("az://films/a.jpg")
