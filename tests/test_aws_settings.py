"""AWS settings in the environment and the profile apply to every S3 client: obstore, boto3, s3fs and pyiceberg's."""

import pickle
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import pytest
from store_front import ErrorAnswer, store_front

from genretag.errors import UsageError
from genretag.storage import Storage, StorageError, join
from genretag.storage.aws_settings import AwsSettings, Encryption

ODD = "//odd.jpg"  # a key that only boto3 handles: all other keys go through obstore


@pytest.fixture
def profile(monkeypatch, tmp_path):
    """Return a function that writes an AWS config file with a profile `store` of these lines.

    All other AWS settings about the store are removed from the environment.
    """
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_CA_BUNDLE", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)

    def write(*lines, after=""):
        (tmp_path / "config").write_text("\n".join(["[profile store]", *lines, after]))
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
        monkeypatch.setenv("AWS_PROFILE", "store")

    return write


def use_all(storage, bucket):
    """Write and read an object through each client, and return the URIs in the bucket."""
    for key in ("/plain.jpg", ODD):
        storage.put(bucket + key, b"x")
        assert bytes(storage.get(bucket + key).data) == b"x"
    filesystem, path = storage.filesystem(f"{bucket}/by-s3fs.jpg")
    filesystem.pipe_file(path, b"x")
    assert filesystem.cat_file(path) == b"x"
    return [info.uri for page in storage.list(bucket) for info in page]


# The endpoint of the store


SERVICES = "[services ours]\ns3 =\n  endpoint_url = http://services-s3\n"


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "http://services-s3"),
        ({"AWS_ENDPOINT_URL": "http://all"}, "http://all"),
        ({"AWS_ENDPOINT_URL": "http://all", "AWS_ENDPOINT_URL_S3": "http://s3"}, "http://s3"),
        ({"AWS_ENDPOINT_URL": "http://all", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"}, None),
    ],
)
def test_the_endpoint_is_the_one_that_boto3_takes(profile, monkeypatch, variables, expected):
    import boto3

    profile("services = ours", "endpoint_url = http://profile", after=SERVICES)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    assert AwsSettings.read().endpoint_url == expected
    theirs = boto3.Session().client("s3", region_name="eu-west-1").meta.endpoint_url
    assert theirs == (expected or "https://s3.eu-west-1.amazonaws.com")
    assert AwsSettings.read("http://given").endpoint_url == "http://given"


def test_a_profile_without_services_has_one_endpoint_for_all(profile):
    profile("endpoint_url = http://profile")
    assert AwsSettings.read().endpoint_url == "http://profile"


def test_a_missing_services_section_is_named(profile):
    profile("services = elsewhere")
    with pytest.raises(UsageError, match="the section services 'elsewhere', which is missing"):
        AwsSettings.read()


def test_every_client_finds_the_store_of_the_profile(s3_server, bucket, profile):
    profile("region = us-east-1", f"endpoint_url = {s3_server.endpoint_url}")

    assert len(use_all(Storage(), bucket)) >= 2


def test_an_explicit_endpoint_overrides_the_environment(s3_server, bucket, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")  # obstore itself would use this variable

    assert len(use_all(Storage(s3_server.endpoint_url), bucket)) >= 2


@pytest.mark.parametrize(
    ("lines", "server"),
    [
        (["region = eu-west-1"], "https://s3.eu-west-1.amazonaws.com"),
        (["region = cn-north-1"], "https://s3.cn-north-1.amazonaws.com.cn"),
        (["region = us-gov-west-1", "use_fips_endpoint = true"], "https://s3-fips.us-gov-west-1.amazonaws.com"),
        (["region = eu-west-1", "use_dualstack_endpoint = true"], "https://s3.dualstack.eu-west-1.amazonaws.com"),
    ],
)
def test_without_an_endpoint_the_server_is_the_one_that_boto3_uses(profile, lines, server):
    profile(*lines)
    assert AwsSettings.read().server == server


@pytest.mark.parametrize("set_by", ["profile", "variable"])
def test_a_store_may_want_the_bucket_in_the_host_name(profile, monkeypatch, set_by):
    """Send the requests through a proxy, so that the host names need no DNS. The proxy records them."""
    in_profile = ["s3 =", "  addressing_style = virtual"] if set_by == "profile" else []
    profile("endpoint_url = http://store.example", *in_profile)
    if set_by == "variable":
        monkeypatch.setenv("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "any")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "any")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with store_front(answer=lambda request: ErrorAnswer(404, "NoSuchKey")) as front:
        monkeypatch.setenv("HTTP_PROXY", front.url)
        monkeypatch.setenv("http_proxy", front.url)
        storage = Storage()
        filesystem, path = storage.filesystem("s3://films/by-s3fs.jpg")
        for read in (lambda: storage.get("s3://films/a.jpg"), lambda: storage.get(f"s3://films{ODD}")):
            with pytest.raises(StorageError, match="does not exist"):
                read()
        with pytest.raises(FileNotFoundError):
            filesystem.cat_file(path)

    assert {request.host for request in front.requests} == {"films.store.example"}
    assert {request.path for request in front.requests} >= {"/a.jpg", ODD, "/by-s3fs.jpg"}


@pytest.mark.parametrize("agreed", ["requester", ""])
def test_each_request_has_the_requester_pays_header_if_the_user_agrees_to_pay(
    moto_url, moto_bucket, monkeypatch, agreed
):
    monkeypatch.setenv("AWS_REQUEST_PAYER", agreed)
    with store_front(moto_url) as front:
        use_all(Storage(front.url), moto_bucket)

    assert {request.method for request in front.requests} >= {"GET", "PUT"}
    assert {request.headers.get("x-amz-request-payer") for request in front.requests} == {agreed or None}


def test_objects_are_deleted_one_by_one_if_the_store_refuses_bulk_deletes(moto_url, moto_bucket):
    """Aliyun OSS and GCS require a Content-MD5 header to delete many objects at once. obstore does not send it."""

    def answer(request):
        at_once = request.method == "POST" and request.query.startswith("delete")
        return ErrorAnswer(400, "MissingArgument", "Missing Some Required Arguments.") if at_once else None

    with store_front(moto_url, answer) as front:
        storage = Storage(front.url)
        for name in ("_worklist/1/a", "_worklist/1/b", "c", "d"):
            storage.put(join(moto_bucket, name), b"x")
        storage.delete_below(join(moto_bucket, "_worklist"))
        storage.delete(join(moto_bucket, "c"))
        storage.delete(join(moto_bucket, "nothing"))

    assert [info.uri for page in Storage().list(moto_bucket) for info in page] == [join(moto_bucket, "d")]


# Certificate authorities


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    """Make a certificate authority and a server certificate.

    Return a folder with the authority's file, and the certificate and key of a server at 127.0.0.1.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    folder, keys = tmp_path_factory.mktemp("tls"), [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    names = [x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]) for name in ("Films CA", "127.0.0.1")]
    extensions = [
        (x509.BasicConstraints(ca=True, path_length=None), True),
        (x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), False),
    ]
    for name, key, file, (extension, critical) in zip(names, keys, ("ca.pem", "server.pem"), extensions, strict=True):
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(names[0])
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(datetime.now(UTC) - timedelta(days=1))
            .not_valid_after(datetime.now(UTC) + timedelta(days=30))
            .add_extension(extension, critical)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(keys[0].public_key()), critical=False)
            .sign(keys[0], hashes.SHA256())
        )
        (folder / file).write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "server.key").write_bytes(keys[1].private_bytes(*form))
    return folder


@pytest.fixture
def tls_front(s3_server, authority):
    with store_front(s3_server.endpoint_url, certificate=(authority / "server.pem", authority / "server.key")) as front:
        yield front


@pytest.mark.parametrize("set_by", ["variable", "profile"])
def test_every_client_trusts_the_configured_certificate_authority(
    tls_front, authority, bucket, profile, monkeypatch, set_by
):
    profile(*[f"ca_bundle = {authority}/ca.pem"][: set_by == "profile"])
    if set_by == "variable":
        monkeypatch.setenv("AWS_CA_BUNDLE", f"{authority}/ca.pem")

    assert len(use_all(Storage(tls_front.url), bucket)) >= 2


@pytest.mark.parametrize("key", ["/a.jpg", ODD], ids=["obstore", "boto3"])
def test_an_untrusted_certificate_is_an_error_of_settings_not_of_the_poster(tls_front, bucket, monkeypatch, key):
    monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)
    monkeypatch.setenv("GENRETAG_STORE_ATTEMPT_S", "1")
    monkeypatch.setenv("GENRETAG_STORE_TOTAL_S", "7")

    with pytest.raises(StorageError, match="AWS_CA_BUNDLE") as error:
        Storage(tls_front.url).get(bucket + key)
    assert error.value.reason == "certificate_refused"


@pytest.mark.parametrize(("content", "says"), [(None, "cannot be read"), ("no certificate", "cannot be opened")])
def test_an_unreadable_file_of_certificate_authorities_is_refused(
    s3_server, bucket, monkeypatch, tmp_path, content, says
):
    if content is not None:
        (tmp_path / "ca.pem").write_text(content)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "ca.pem"))

    with pytest.raises(UsageError, match=says):
        Storage().get(join(bucket, "a.jpg"))


# Encryption


@pytest.fixture
def encrypting(monkeypatch):
    """Set the variables for encryption with a KMS key, and return the headers that each write must have."""
    monkeypatch.setenv("AWS_SERVER_SIDE_ENCRYPTION", "aws:kms")
    monkeypatch.setenv("AWS_SSE_KMS_KEY_ID", "films-key")
    monkeypatch.setenv("AWS_SSE_BUCKET_KEY_ENABLED", "true")
    return {
        "x-amz-server-side-encryption": "aws:kms",
        "x-amz-server-side-encryption-aws-kms-key-id": "films-key",
        "x-amz-server-side-encryption-bucket-key-enabled": "true",
    }


def headers_of(front):
    """Return the encryption headers of each write that the server got."""
    return [
        {name: value for name, value in request.headers.items() if name.startswith("x-amz-server-side-encryption")}
        for request in front.requests
        if request.writes
    ]


def test_every_write_carries_the_same_encryption(moto_url, moto_bucket, encrypting, monkeypatch):
    with store_front(moto_url) as front:
        storage = pickle.loads(pickle.dumps(Storage(front.url)))
        for name in ("AWS_SERVER_SIDE_ENCRYPTION", "AWS_SSE_KMS_KEY_ID", "AWS_SSE_BUCKET_KEY_ENABLED"):
            monkeypatch.delenv(name)  # a worker has only the pickled settings, not these variables
        storage.put(join(moto_bucket, "put"), b"x")
        storage.replace(join(moto_bucket, "created"), b"y", storage.create(join(moto_bucket, "created"), b"x"))
        storage.put(moto_bucket + ODD, b"x")
        filesystem, path = storage.filesystem(moto_bucket)
        filesystem.pipe_file(f"{path}/small", b"x")
        with filesystem.open(f"{path}/in parts", "wb", block_size=5 << 20) as file:
            file.write(b"x" * (6 << 20))
        filesystem.cp_file(f"{path}/small", f"{path}/copied")

    sent = headers_of(front)
    assert len(sent) == 7
    assert all(headers == encrypting for headers in sent), sent


def test_an_iceberg_table_is_encrypted_too(moto_url, moto_bucket, encrypting, tmp_path):
    import pyarrow as pa

    from genretag.output.iceberg_catalog import create_table, open_catalog
    from genretag.settings import TableSettings

    settings = TableSettings(table="films.genres", catalog=f"sqlite:///{tmp_path}/catalog.db")
    with store_front(moto_url) as front, open_catalog(settings, moto_bucket, Storage(front.url)) as catalog:
        create_table(catalog, settings, moto_bucket, pa.schema({"uri": pa.string()}))

    sent = headers_of(front)
    assert sent
    named = {"x-amz-server-side-encryption", "x-amz-server-side-encryption-aws-kms-key-id"}
    assert all(named <= set(headers) for headers in sent)


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"AWS_SERVER_SIDE_ENCRYPTION": "yes"}, "is one of AES256, aws:kms, aws:kms:dsse, not 'yes'"),
        ({"AWS_SERVER_SIDE_ENCRYPTION": "sse-c"}, "not 'sse-c'"),
        ({"AWS_SSE_KMS_KEY_ID": "films-key"}, "needs AWS_SERVER_SIDE_ENCRYPTION=aws:kms"),
    ],
)
def test_impossible_encryption_settings_are_refused(monkeypatch, variables, says):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=says):
        Storage()


def test_without_a_setting_no_encryption_headers_are_sent():
    assert Encryption.of_environment().boto_arguments() == {}
