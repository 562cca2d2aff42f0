"""The fault proxy injects and counts the chosen faults, and changes nothing else."""

import http.client
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest
from fault_proxy import KINDS, Faults, fault_proxy

from genretag.storage import Storage, join

BODY = b"0123456789" * 1000


@pytest.fixture
def upstream():
    """Start an HTTP server that answers each request with `BODY`, and lists the requests in `seen`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            server.seen.append((self.command, self.path, self.headers["Host"], body))
            self.send_response(200)
            self.send_header("Content-Length", str(len(BODY)))
            self.end_headers()
            self.wfile.write(BODY if self.command != "HEAD" else b"")

        do_GET = do_PUT = do_HEAD = do_DELETE = answer

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.seen = []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def through(upstream):
    """Return a function that makes requests through a proxy with the given faults.

    The function returns the answers or errors, and the proxy.
    """

    def ask(faults, *requests, patience=10):
        """`patience` is the limit in seconds for an answer to the first request."""
        results, timeout = [], patience
        with fault_proxy(f"http://127.0.0.1:{upstream.server_port}", faults) as proxy:
            address = urlsplit(proxy.endpoint_url)
            for method, path, *body in requests:
                connection = http.client.HTTPConnection(address.hostname, address.port, timeout=timeout)
                try:
                    connection.request(method, path, *body, headers={"Host": "signed.example:9"})
                    answer = connection.getresponse()
                    results.append((answer.status, answer.read()))
                except (OSError, http.client.HTTPException) as error:
                    results.append(error)
                finally:
                    connection.close()
                    timeout = 10
        return results, proxy

    return ask


def test_without_faults_the_proxy_changes_nothing(through, upstream):
    results, proxy = through(Faults(), ("GET", "/b/k%20%2F?x=1"), ("PUT", "/b/k", b"data"), ("HEAD", "/b/k"))

    assert results == [(200, BODY), (200, BODY), (200, b"")]
    assert upstream.seen == [
        ("GET", "/b/k%20%2F?x=1", "signed.example:9", b""),
        ("PUT", "/b/k", "signed.example:9", b"data"),
        ("HEAD", "/b/k", "signed.example:9", b""),
    ]
    assert (proxy.counts, proxy.requests) == ({}, {"GET": 1, "PUT": 1, "HEAD": 1})


@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [("throttled", 429, b"SlowDown"), ("slow_down", 503, b"SlowDown"), ("internal_error", 500, b"InternalError")],
)
def test_error_answers_have_the_form_of_s3(through, upstream, kind, status, code):
    [answer], proxy = through(Faults(rates={kind: 1}), ("GET", "/b/k"))

    assert answer[0] == status
    assert b"<Code>%s</Code>" % code in answer[1]
    assert upstream.seen == []
    assert proxy.counts == {kind: 1}


def test_a_reset_ends_the_connection_before_the_request_reaches_the_server(through, upstream):
    [error], _ = through(Faults(rates={"reset": 1}), ("PUT", "/b/k", b"data"))

    assert isinstance(error, ConnectionError)
    assert upstream.seen == []


def test_a_lost_answer_is_a_reset_after_the_server_did_its_work(through, upstream):
    results, _ = through(Faults(rates={"lost_answer": 1}), ("PUT", "/b/k", b"data"), ("DELETE", "/b/k"), ("GET", "/b"))

    assert [type(result) for result in results[:2]] == [ConnectionResetError] * 2
    assert results[2] == (200, BODY), "reads have no answer to lose"
    assert [seen[0] for seen in upstream.seen] == ["PUT", "DELETE", "GET"]


def test_held_requests_continue_when_the_faults_are_replaced(upstream):
    with fault_proxy(f"http://127.0.0.1:{upstream.server_port}", Faults(held="/b/last")) as proxy:
        held, free = (http.client.HTTPConnection(urlsplit(proxy.endpoint_url).netloc, timeout=10) for _ in range(2))
        held.request("GET", "/b/last")
        free.request("GET", "/b/first")
        assert free.getresponse().read() == BODY
        assert [path for _, path, *_ in upstream.seen] == ["/b/first"]

        proxy.faults = Faults()

        assert held.getresponse().read() == BODY
        held.close()
        free.close()


@pytest.mark.parametrize("kind", ["short_body", "reset_in_body"])
def test_a_cut_body_is_an_error_for_the_client(through, kind):
    [error], _ = through(Faults(rates={kind: 1}), ("GET", "/b/k"))

    assert isinstance(error, http.client.IncompleteRead | ConnectionResetError)


@pytest.mark.parametrize("kind", ["hang", "slow"])
def test_a_hanging_or_slow_answer_does_not_end_by_itself(through, kind):
    results, _ = through(Faults(always={"/slow": kind}), ("GET", "/b/slow"), ("GET", "/b/other"), patience=0.05)

    assert isinstance(results[0], TimeoutError)
    assert results[1] == (200, BODY), "others are served meanwhile"


def test_faults_are_limited_by_method_key_and_number_of_earlier_requests(through):
    faults = Faults(rates={"slow_down": 1}, methods=frozenset({"GET"}), keys=r"\.jpg$", first=2)
    asked = [("GET", "/b/a.jpg")] * 3 + [("PUT", "/b/a.jpg", b""), ("GET", "/b/a.png")]

    results, _ = through(faults, *asked)

    assert [status for status, _ in results] == [503, 503, 200, 200, 200]


def test_faults_depend_on_the_seed_and_not_on_the_order_of_requests():
    def met(seed, keys):
        faults = Faults(seed=seed, rate=0.03)
        return {key: faults.of("GET", f"/{seed}-bucket/{key}", 0) for key in keys}

    keys = [f"{number}.jpg" for number in range(2000)]
    assert met(1, keys) == met(1, reversed(keys))
    assert met(1, keys) != met(2, keys)
    injected = [kind for kind in met(1, keys).values() if kind]
    assert set(injected) == set(KINDS) - {"lost_answer"}
    assert 0.18 < len(injected) / len(keys) < 0.30, "eight kinds at 3 % each"


def test_an_unknown_fault_is_refused():
    with pytest.raises(ValueError, match="no such fault: sloth; there are throttled, "):
        Faults(rates={"sloth": 1})


def test_signatures_stay_valid(bucket, s3_server):
    with fault_proxy(s3_server.endpoint_url, Faults()) as proxy:
        storage = Storage(proxy.endpoint_url)
        storage.put(join(bucket, "a b/ü.jpg"), b"x" * 100_000)

        assert len(storage.get(join(bucket, "a b/ü.jpg")).data) == 100_000
        assert [info.uri for page in storage.list(bucket) for info in page] == [join(bucket, "a b/ü.jpg")]
        filesystem, path = storage.filesystem(join(bucket, "a b/ü.jpg"))
        assert filesystem.cat_file(path) == b"x" * 100_000
    assert proxy.requests["GET"] >= 2


def test_requests_are_counted_by_the_path_that_they_mean(through):
    _, proxy = through(Faults(), ("PUT", "/b/runs%2F1%2Frun%2Ejson", b""), ("PUT", "/b/runs/2/run.json", b""))

    assert proxy.asked("PUT", r"/runs/[^/]+/run\.json$") == 2
