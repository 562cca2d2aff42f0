"""`https://` URLs of a manifest: versions, redirects, refusals and pauses, and addresses that must not be reached."""

import socket
import threading
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise

import pytest

from genretag.storage import Access, Storage, StorageError, web


@contextmanager
def web_server(pages, modified="Sat, 28 Nov 2026 10:00:00 GMT"):
    """Run a web server with these pages, bytes by path. A path such as `/410.jpg` answers with that status.

    `/to/PLACE` redirects to PLACE, and `/loop` to itself. `/later` answers 503 twice, with Retry-After: 1. `/no-head`
    does not know HEAD. `/etag` has an etag instead of a date.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            server.asked.append((self.command, self.path, time.monotonic()))
            if self.path == "/later" and sum(path == "/later" for _, path, _ in server.asked) <= 2:
                self.answer(503, b"busy", {"Retry-After": "1"})
            elif self.path.startswith("/to/"):
                self.answer(302, b"", {"Location": self.path.removeprefix("/to/")})
            elif self.path == "/loop":
                self.answer(302, b"", {"Location": "/loop"})
            elif self.path[1:4].isdigit():
                self.answer(int(self.path[1:4]), b"no", {"Retry-After": "60"} if self.path == "/429.jpg" else {})
            elif self.path == "/no-head" and self.command == "HEAD":
                self.answer(405, b"", {})
            elif self.path == "/etag":
                self.answer(200, b"page", {"ETag": 'W/"abc"', "Last-Modified": modified})
            elif self.path in ("/later", "/no-head") or self.path in pages:
                self.answer(200, pages.get(self.path, b"page"), {"Last-Modified": modified})
            else:
                self.answer(404, b"no", {})

        do_HEAD = do_GET

        def answer(self, status, body, headers):
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.url = [], f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def server():
    with web_server({"/a.jpg": b"a poster"}) as found:
        yield found


@pytest.fixture
def storage(monkeypatch):
    monkeypatch.setenv("GENRETAG_STORE_ATTEMPT_S", "2")
    monkeypatch.setenv("GENRETAG_STORE_TOTAL_S", "12")
    return Storage(access=Access(private_hosts=True))


def reason(call, *arguments):
    with pytest.raises(StorageError) as raised:
        call(*arguments)
    assert "\n" not in str(raised.value)
    return raised.value.reason


def test_a_page_has_its_date_or_its_etag_as_version(server, storage):
    page = storage.stat(f"{server.url}/a.jpg")

    assert (page.etag, page.size_bytes, page.last_modified.hour) == ("Sat, 28 Nov 2026 10:00:00 GMT", 8, 10)
    assert bytes(storage.get(f"{server.url}/a.jpg").data) == b"a poster"
    assert storage.stat(f"{server.url}/etag").etag == storage.get(f"{server.url}/etag").etag == "abc"
    assert storage.stat(f"{server.url}/no-head").size_bytes == 4


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        ("/none.jpg", "not_found"),
        ("/401.jpg", "access_denied"),
        ("/403.jpg", "access_denied"),
        ("/410.jpg", "gone"),
        ("/429.jpg", "throttled"),
        ("/400.jpg", "refused"),
        ("/loop", "refused"),
        ("/to/ftp://127.0.0.1/a.jpg", "refused"),
    ],
)
def test_each_refusal_of_a_server_has_a_reason(server, storage, page, expected):
    assert reason(storage.get, server.url + page) == expected


def test_a_pause_that_the_server_asks_for_is_kept_unless_it_is_too_long(server, storage):
    assert bytes(storage.get(f"{server.url}/later").data) == b"page"
    times = [at for _, path, at in server.asked if path == "/later"]
    assert len(times) == 3
    assert all(after - before >= 1 for before, after in pairwise(times))
    reason(storage.get, f"{server.url}/429.jpg")
    assert sum(path == "/429.jpg" for _, path, _ in server.asked) == 1, "60 s is more than the time for a poster"


def test_redirects_are_followed_and_a_page_above_the_limit_is_not_read(server, storage):
    assert bytes(storage.get(f"{server.url}/to/{server.url}/a.jpg").data) == b"a poster"
    assert reason(storage.get, f"{server.url}/a.jpg", 7) == "too_many_bytes"


def test_a_page_without_end_and_a_page_that_drips_are_given_up(storage):
    """One server sends bytes as fast as it can, the other one byte at a time. Neither ever ends its answer."""
    for pause_s, status, expected in ((0, 200, "too_many_bytes"), (0.05, 200, "timeout"), (0, 404, "not_found")):
        with endless_server(pause_s, status) as url:
            began = time.monotonic()
            assert reason(lambda url=url: storage.get(url, 1_000_000)) == expected
            assert time.monotonic() - began < 20


@contextmanager
def endless_server(pause_s, status):
    """Run a server that answers each request with bytes without end, one after each pause (0: many at once)."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.end_headers()
            with suppress(OSError):
                while True:
                    self.wfile.write(b"x" if pause_s else b"x" * 65_536)
                    time.sleep(pause_s)

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/a.jpg"
    server.shutdown()
    server.server_close()


def test_a_host_with_many_dead_links_and_redirects_is_still_asked(server, storage):
    for number in range(12):
        assert reason(storage.get, f"{server.url}/none{number}.jpg") == "not_found"
        assert reason(storage.stat, f"{server.url}/none{number}.jpg") == "not_found"
        assert bytes(storage.get(f"{server.url}/to/{server.url}/a.jpg").data) == b"a poster"


@pytest.mark.parametrize(
    "url", ["http://a..b/x.jpg", f"http://{'a' * 70}.org/x.jpg", "http://[::1/x.jpg", "http://a:b/c"]
)
def test_a_url_that_is_not_valid_is_one_failure(storage, url):
    assert reason(storage.get, url) in ("refused", "unavailable")


def test_a_redirect_that_is_not_valid_is_one_failure(server, storage):
    assert reason(storage.get, f"{server.url}/to/http://[::1") == "refused"


def test_nothing_is_written_to_a_web_server(server, storage):
    for call in (lambda: storage.put(f"{server.url}/a.jpg", b"1"), lambda: list(storage.list_tables(server.url))):
        assert reason(call) == "refused"
    assert server.asked == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "2130706433", "0.0.0.0"])
def test_addresses_of_this_machine_are_refused_without_a_request(server, host):
    port = server.server_address[1]

    assert reason(Storage().get, f"http://{host}:{port}/a.jpg") == "private_host"
    assert server.asked == []


@pytest.mark.parametrize(
    ("address", "public"),
    [
        *(("93.184.215.14", True), ("2606:2800:21f:cb07::1", True)),
        *(("10.0.0.1", False), ("172.16.3.4", False), ("192.168.1.1", False), ("100.64.0.1", False)),
        *(("169.254.169.254", False), ("127.0.0.1", False), ("0.0.0.0", False), ("224.0.0.1", False)),
        *(("::1", False), ("fe80::1%eth0", False), ("fd00:ec2::254", False), ("::ffff:10.0.0.1", False)),
        *(("2002:0a00:0001::", False), ("::ffff:93.184.215.14", True)),
        *(("64:ff9b::a9fe:a9fe", False), ("64:ff9b:1::1", False), ("fec0::1", False), ("::127.0.0.1", False)),
        *(("192.0.0.192", False), ("168.63.129.16", False)),
    ],
)
def test_only_addresses_of_the_internet_are_public(address, public):
    assert web.is_public(address) is public


def test_a_public_name_that_redirects_or_resolves_into_a_private_network_is_refused(server, monkeypatch):
    """Names resolve to whatever their owner wants. The address is checked at each connection, after a redirect too."""
    port = server.server_address[1]
    answers = {"public.example.org": "93.184.215.14", "trap.example.org": "127.0.0.1"}
    resolved = []

    def resolve(host, port, *arguments, **options):
        resolved.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (answers.get(host, host), port))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)

    assert reason(Storage().get, f"http://trap.example.org:{port}/a.jpg") == "private_host"
    assert resolved == ["trap.example.org"]
    assert server.asked == []


def test_a_redirect_into_a_private_network_is_refused(monkeypatch):
    with web_server({"/secret": b"secret"}) as inside, web_server({}) as outside:
        public = outside.server_address[1]
        checked = web.is_public
        monkeypatch.setattr(web, "is_public", lambda address: address == "127.0.0.1" or checked(address))
        secret = f"http://127.0.0.2:{inside.server_address[1]}/secret"

        assert reason(Storage().get, f"http://127.0.0.1:{public}/to/{secret}") == "private_host"
        assert inside.asked == []
