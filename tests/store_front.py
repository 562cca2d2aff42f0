"""A small S3 front server for tests: it records requests, can answer some itself, and forwards the rest."""

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
    """A request of a client. `host` and `path` are as in the request; names of headers are in lower case."""

    method: str
    host: str
    path: str
    query: str
    headers: dict[str, str]

    @property
    def writes(self) -> bool:
        """Return True if the request creates an object: a PUT, a copy, or the start of a multipart upload."""
        return (self.method == "PUT" and "partNumber" not in self.query) or (
            self.method == "POST" and self.query.startswith("uploads")
        )


@dataclass(frozen=True)
class ErrorAnswer:
    """An error answer in the form of S3: HTTP status, error code and message (`words`)."""

    status: int
    code: str = ""
    words: str = ""

    @property
    def body(self) -> bytes:
        return f"<Error><Code>{self.code}</Code><Message>{self.words}</Message></Error>".encode()


@dataclass
class Front:
    """A running server: its `url` and the `requests` it got.

    `answer` returns the server's own answer to a request. If it returns None, the request is forwarded.
    """

    url: str = ""
    answer: Callable[[Request], ErrorAnswer | None] = lambda request: None
    requests: list[Request] = field(default_factory=list)

    def asked(self, method: str, ending: str = "") -> list[Request]:
        return [one for one in self.requests if one.method == method and one.path.endswith(ending)]


@contextmanager
def store_front(
    upstream: str = "",
    answer: Callable[[Request], ErrorAnswer | None] = lambda request: None,
    leave_out: tuple[str, ...] = (),
    certificate: tuple[Path, Path] | None = None,
    edit: Callable[[Request, bytes], bytes] = lambda request, body: body,
) -> Iterator[Front]:
    """Run the server in threads. It forwards requests to the server at the URL `upstream`.

    Headers in `leave_out` are not forwarded. With `certificate`, files of a chain and its key, the server speaks HTTPS.
    `edit` returns the body to answer with, from the request and the body of the upstream's answer.
    """
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
            target = urlsplit(self.path)  # a request to a proxy has a whole URL here
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
            self._send(found.status, answered, edit(request, found.read()))
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
            """Ignore clients that close the connection or refuse the certificate."""

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
