"""A small server before an S3 server, or in place of one: it notes requests, answers some itself, changes headers."""

import http.client
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

HOP = ("connection", "transfer-encoding", "content-length", "expect")


@dataclass(frozen=True)
class Request:
    """What a client asked for: `host` and `path` as they stand in the request, headers with names in lower case."""

    method: str
    host: str
    path: str
    query: str
    headers: dict[str, str]

    @property
    def writes(self) -> bool:
        """Whether it makes an object: a PUT of a whole one, a copy, or the beginning of an upload in parts."""
        return (self.method == "PUT" and "partNumber" not in self.query) or (
            self.method == "POST" and self.query.startswith("uploads")
        )


@dataclass(frozen=True)
class ScoredPosters:
    """An error as S3 words it."""

    status: int
    code: str = ""
    words: str = ""

    @property
    def body(self) -> bytes:
        return f"<Error><Code>{self.code}</Code><Message>{self.words}</Message></Error>".encode()


@dataclass
class Front:
    """Where the server listens, and what it was asked. `answer` gives what it says itself; none passes on."""

    url: str = ""
    answer: Callable[[Request], ScoredPosters | None] = lambda request: None
    requests: list[Request] = field(default_factory=list)

    def asked(self, method: str, ending: str = "") -> list[Request]:
        return [one for one in self.requests if one.method == method and one.path.endswith(ending)]


@contextmanager
def store_front(
    upstream: str = "",
    answer: Callable[[Request], ScoredPosters | None] = lambda request: None,
    leave_out: tuple[str, ...] = (),
    certificate: tuple[Path, Path] | None = None,
) -> Iterator[Front]:
    """Runs the server in threads. Headers in `leave_out` are not passed on; `certificate` is a chain and its key."""
    front = Front(answer=answer)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def relay(self):
            headers = {name.lower(): value for name, value in self.headers.items()}
            if headers.get("expect") == "100-continue":
                self.send_response_only(100)
                self.end_headers()
            body = self._body(headers)
            target = urlsplit(self.path)  # a proxy is asked for a whole URL
            host = target.netloc or headers.get("host", "")
            front.requests.append(request := Request(self.command, host, unquote(target.path), target.query, headers))
            if (said := front.answer(request)) is not None:
                return self._send(said.status, {"Content-Type": "application/xml"}, said.body)
            passed = {n: v for n, v in headers.items() if n not in HOP and n not in leave_out}
            connection = http.client.HTTPConnection(urlsplit(upstream).netloc, timeout=60)
            path = target.path + (f"?{target.query}" if target.query else "")
            connection.request(self.command, path, body, passed | {"content-length": str(len(body))})
            found = connection.getresponse()
            answered = {n: v for n, v in found.getheaders() if n.lower() not in ("date", "server")}
            self._send(found.status, answered, found.read())
            return connection.close()

        def _body(self, headers):
            if headers.get("transfer-encoding") != "chunked":
                return self.rfile.read(int(headers.get("content-length", 0)))
            body = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

        def _send(self, status, headers, body):
            self.send_response(status)
            for name, value in headers.items():
                if name.lower() not in HOP:
                    self.send_header(name, value)
            lengths = [value for name, value in headers.items() if name.lower() == "content-length"]
            self.send_header("Content-Length", lengths[0] if lengths and self.command == "HEAD" else str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = relay

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_):
            """A client that hangs up, or that does not accept the certificate, is no error of ours."""

    server = Server(("127.0.0.1", 0), Handler)
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*map(str, certificate))
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    front.url = f"{'https' if certificate else 'http'}://127.0.0.1:{server.server_port}"
    try:
        yield front
    finally:
        server.shutdown()
        server.server_close()
