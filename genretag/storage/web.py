"""The store for `https://` and `http://` URLs that a manifest lists. They can be looked up and read, and nothing else.

The version of a page is its ETag or, if the server sends none, its Last-Modified. A server gets few connections at a
time from each process, and as long a pause as it asks for (Retry-After).

A manifest is data, and may come from strangers. So a URL must not lead into the network of this machine, where a
cloud's metadata service would give away credentials. Each connection goes to an address that was checked after the name
was resolved, also after a redirect. `--private-hosts` allows all addresses.
"""

import ipaddress
import socket
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import partial
from typing import IO, TYPE_CHECKING, Any, NoReturn
from urllib.parse import urljoin, urlsplit

from genretag.errors import one_line
from genretag.storage.access import Access
from genretag.storage.clients import CONNECT_S, authorities_file
from genretag.storage.objects import Fetched, ObjectInfo, StorageError, bare_etag, refuse_large
from genretag.storage.retries import RetryPolicy, retry, within

if TYPE_CHECKING:
    import pyarrow as pa

CONNECTIONS = 8  # to one server at a time, for each process
MOST_REDIRECTS = 5
AGENT = "genretag"
REASONS = {  # status -> reason, and what the message says
    401: ("access_denied", "the server wants a login, and genretag sends none"),
    403: ("access_denied", "the server refuses access"),
    404: ("not_found", "it does not exist"),
    410: ("gone", "it is gone for good"),
    429: ("throttled", "the server gets too many requests"),
}
CHUNK = 1 << 16


class WebServers:
    """The store for URLs. `Storage` documents the methods."""

    def __init__(self, access: Access) -> None:
        self._retry_policy = RetryPolicy.of_environment()
        self._pools = _pools(self._retry_policy, private_hosts=access.private_hosts)

    def stat(self, uri: str) -> ObjectInfo:
        headers = self._headers(uri)
        version, length = _version(headers), headers.get("Content-Length", "")
        if not version:
            return ObjectInfo.unknown(uri)
        modified = _time(headers.get("Last-Modified")) or datetime.fromtimestamp(0, UTC)
        return ObjectInfo(uri, version, int(length) if _is_number(length) else 0, modified)

    def _headers(self, uri: str) -> Any:
        """Return the headers of a page. A server that does not know HEAD is asked for the page."""
        try:
            return self._ask("HEAD", uri, None)[0]
        except StorageError as error:
            if error.reason != "refused":
                raise
        return self._ask("GET", uri, 0, headers_only=True)[0]

    def get(self, uri: str, max_bytes: int | None) -> Fetched:
        headers, data = self._ask("GET", uri, max_bytes)
        return Fetched(memoryview(data), _version(headers))

    def _ask(self, method: str, uri: str, max_bytes: int | None, *, headers_only: bool = False) -> tuple[Any, bytes]:
        """Make a request with retries. Return the headers and the body of the answer; with `headers_only`, no body.

        Each attempt has a deadline, because a server could send its answer byte by byte without end.
        """

        def attempt() -> tuple[Any, bytes]:
            seconds = self._retry_policy.attempt_s
            body = partial(_body, max_bytes=max_bytes, headers_only=headers_only, deadline=time.monotonic() + seconds)
            return within(seconds, uri, lambda: self._attempt(method, uri, body))

        return retry(attempt, self._retry_policy)

    def _attempt(self, method: str, uri: str, body: Callable[[str, Any], bytes]) -> tuple[Any, bytes]:
        import urllib3

        url = uri
        try:
            for _ in range(MOST_REDIRECTS + 1):
                answer = self._pools.request(
                    method, url, headers={"user-agent": AGENT}, redirect=False, retries=False, preload_content=False
                )
                place = answer.get_redirect_location()
                if not place:
                    return answer.headers, body(uri, answer)
                _drop(answer)  # without its body, which may be endless
                url = urljoin(url, place)
                scheme = urlsplit(url).scheme
                if scheme not in ("http", "https") or (scheme == "http" and uri.startswith("https:")):
                    raise StorageError("refused", f"{uri}: it redirects to another protocol")
        except urllib3.exceptions.LocationParseError:
            raise StorageError("refused", f"{one_line(uri, 200)} is no valid URL") from None
        except urllib3.exceptions.SSLError:
            raise StorageError(  # one server's certificate must not stop the run, as a store's does
                "refused",
                f"{uri}: the server's certificate is not accepted: name the file of its authority with SSL_CERT_FILE",
            ) from None
        except urllib3.exceptions.TimeoutError:
            raise StorageError("timeout", f"{uri}: the server did not send its whole answer in time") from None
        except urllib3.exceptions.HTTPError as error:
            raise StorageError("unavailable", f"{uri}: the connection failed ({type(error).__name__})") from None
        except (ValueError, OverflowError):  # of a host name, a port or a header
            raise StorageError(
                "refused", f"{one_line(uri, 200)}: the URL or the server's answer is not valid"
            ) from None
        raise StorageError("refused", f"{uri}: more than {MOST_REDIRECTS} redirects")

    def open(self, uri: str, size_bytes: int) -> IO[bytes]:  # noqa: ARG002
        import io

        return io.BytesIO(self.get(uri, None).data)

    def list_tables(self, uri: str) -> "Iterator[pa.Table]":
        _refuse(uri)

    def put(self, uri: str, data: bytes) -> None:  # noqa: ARG002
        _refuse(uri)

    def create(self, uri: str, data: bytes) -> str:  # noqa: ARG002
        _refuse(uri)

    def replace(self, uri: str, data: bytes, etag: str) -> str:  # noqa: ARG002
        _refuse(uri)

    def delete(self, uri: str) -> None:
        _refuse(uri)

    def delete_below(self, uri: str) -> None:
        _refuse(uri)


def _refuse(uri: str) -> NoReturn:
    raise StorageError("refused", f"{one_line(uri, 200)}: a web server cannot be listed or written to")


def _drop(answer: Any) -> None:
    """Close the connection of an answer that was not read to its end, and give its place in the pool back."""
    answer.close()
    answer.release_conn()


def _body(uri: str, answer: Any, max_bytes: int | None, *, headers_only: bool, deadline: float) -> bytes:
    """Return the body of an answer, or nothing if `headers_only`.

    `deadline` is a time of `time.monotonic`. Raises `StorageError` for an error answer, after the deadline, and if the
    body is too large.
    """
    whole = False
    try:
        _require_success(uri, answer)
        data = b"" if headers_only else _read(uri, answer, max_bytes, deadline)
        whole = not headers_only
        return data
    finally:
        if not whole:
            _drop(answer)


def _require_success(uri: str, answer: Any) -> None:
    """Raise `StorageError` for an error answer, with the pause that the server asks for."""
    if answer.status >= 300:
        reason, says = REASONS.get(answer.status, ("refused", "the server refuses the request"))
        if (answer.status >= 500 and answer.status != 501) or answer.status == 408:
            reason, says = "unavailable", "the server cannot answer now"
        wait_s = _wait_s(answer.headers.get("Retry-After"))
        raise StorageError(reason, f"{uri}: {says} ({answer.status})", retry_after_s=wait_s)


def _read(uri: str, answer: Any, max_bytes: int | None, deadline: float) -> bytes:
    """Return the body of an answer. Raises `StorageError` if it is too large, or not complete at the deadline."""
    length = answer.headers.get("Content-Length", "")
    if _is_number(length):
        refuse_large(int(length), max_bytes)
    parts, size = [], 0
    for part in answer.stream(CHUNK, decode_content=True):  # a compressed answer may grow without end
        size += len(part)
        refuse_large(size, max_bytes)
        if time.monotonic() > deadline:
            raise StorageError("timeout", f"{uri}: the server did not send its whole answer in time")
        parts.append(part)
    return b"".join(parts)


def _version(headers: Any) -> str:
    """Return the version of a page: its etag without quotes or, if there is none, its Last-Modified."""
    return bare_etag(headers.get("ETag")) or headers.get("Last-Modified", "")


def _is_number(text: str) -> bool:
    """Return whether a text is a number of ASCII digits. `str.isdigit` also takes others, which `int` refuses."""
    return text.isascii() and text.isdigit()


def _time(text: str | None) -> datetime | None:
    try:
        return parsedate_to_datetime(text or "").astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        return None


def _wait_s(text: str | None) -> float | None:
    """Return the seconds of a header Retry-After, which is a number or a date, or None if there is none."""
    if text is None:
        return None
    if _is_number(text.strip()):
        return float(text)
    at = _time(text)
    return max(0.0, (at - datetime.now(UTC)) / timedelta(seconds=1)) if at else None


NOT_PUBLIC = tuple(  # what `is_global` lets pass, in some versions of Python
    map(
        ipaddress.ip_network,
        (
            *("::/96", "64:ff9b::/96", "64:ff9b:1::/48", "fec0::/10"),  # IPv4 inside IPv6, and site-local addresses
            *("192.0.0.0/24", "168.63.129.16/32"),  # agents and metadata services of clouds
        ),
    )
)


def is_public(address: str) -> bool:
    """Return whether an IP address is one of the public internet: not private, loopback, link-local or reserved."""
    found = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(found, "ipv4_mapped", None) or getattr(found, "sixtofour", None)
    if mapped is not None:
        return is_public(str(mapped))
    return found.is_global and not found.is_multicast and not any(found in network for network in NOT_PUBLIC)


def _pools(retry_policy: RetryPolicy, *, private_hosts: bool) -> Any:
    """Return urllib3's pools of connections. Unless `private_hosts`, they connect to public addresses only."""
    import urllib3
    from urllib3.connection import HTTPConnection, HTTPSConnection
    from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

    class ToPublic(HTTPConnection):
        """Connections that look up the host, refuse addresses that are not public, and connect to a checked one."""

        def _new_conn(self) -> socket.socket:
            host, port = self._dns_host, self.port
            try:
                found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            except OSError as error:
                raise urllib3.exceptions.NewConnectionError(self, f"{host} has no address: {error}") from error
            addresses = [str(place[0]) for *_, place in found]
            if not all(map(is_public, addresses)):
                raise StorageError(
                    "private_host",
                    f"the host {one_line(host, 100)} is in a private network: --private-hosts allows it",
                )
            self._dns_host = addresses[0]  # so that the name is not resolved again, perhaps to another address
            try:
                return super()._new_conn()
            finally:
                self._dns_host = host

    class PublicHttps(ToPublic, HTTPSConnection):
        pass

    class HttpPool(HTTPConnectionPool):
        ConnectionCls = ToPublic

    class HttpsPool(HTTPSConnectionPool):
        ConnectionCls = PublicHttps

    timeout = urllib3.Timeout(connect=min(CONNECT_S, retry_policy.attempt_s), read=retry_policy.attempt_s)
    trust: Any = {"ca_certs": file} if (file := authorities_file()) else {}
    pools = urllib3.PoolManager(maxsize=CONNECTIONS, block=True, timeout=timeout, **trust)
    if not private_hosts:
        pools.pool_classes_by_scheme = {"http": HttpPool, "https": HttpsPool}
    return pools
