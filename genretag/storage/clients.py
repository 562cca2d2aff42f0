"""Options that all of obstore's stores share: deadlines, retries, certificates. Also: does a server listen at all?"""

import os
import socket
import time
import urllib.request
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from genretag.errors import UsageError, one_line
from genretag.storage.objects import StorageError
from genretag.storage.retries import FIRST_PAUSE_S, LONGEST_PAUSE_S, RetryPolicy

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

CONNECT_S = 5.0  # limit for opening a connection: longer than the delay of three lost packets
MOST_ATTEMPTS = 1000  # never reached, because the time for one object limits the retries
KNOCK_S = 2.0  # if the server is unreachable at the start of a job, try again for this long


def client_options(url: str, retry_policy: RetryPolicy, certificates: bytes | None) -> "ClientConfig":
    """Return obstore's options for connections to the server `url`.

    `certificates` are authorities to trust, in PEM. None means the system's authorities.
    """
    options: ClientConfig = {
        "allow_http": url.startswith("http://"),
        "timeout": timedelta(seconds=retry_policy.attempt_s),
        "connect_timeout": timedelta(seconds=min(CONNECT_S, retry_policy.attempt_s)),
    }
    if certificates:
        options["root_certificate"] = certificates
    return options


def retry_config(retry_policy: RetryPolicy, *, retries: bool) -> "RetryConfig":
    """Return obstore's settings for retries. If `retries` is false, each request is made once."""
    return {
        "max_retries": MOST_ATTEMPTS if retries else 0,
        "retry_timeout": timedelta(seconds=retry_policy.retry_s),
        "backoff": {
            "init_backoff": timedelta(seconds=FIRST_PAUSE_S),
            "max_backoff": timedelta(seconds=LONGEST_PAUSE_S),
            "base": 2,
        },
    }


def authorities_file() -> str | None:
    """Return the PEM file of authorities that SSL_CERT_FILE or REQUESTS_CA_BUNDLE names, or None if neither is set."""
    return os.environ.get("SSL_CERT_FILE") or os.environ.get("REQUESTS_CA_BUNDLE") or None


def authorities() -> bytes | None:
    """Return the content of `authorities_file`, or None. Raises `UsageError` if the file cannot be read."""
    file = authorities_file()
    try:
        return Path(file).read_bytes() if file else None
    except OSError as error:
        raise UsageError(
            f"the certificates in {one_line(file, 200)} cannot be read ({error.strerror}): check SSL_CERT_FILE or "
            "REQUESTS_CA_BUNDLE"
        ) from None


def proxy_of(url: str) -> str | None:
    """Return the URL of the proxy that the environment names for the server `url`, or None if there is none."""
    parts = urlsplit(url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    return proxy if proxy and not urllib.request.proxy_bypass(parts.hostname or "") else None


def knock(url: str, advice: str, patience_s: float) -> None:
    """Raise `StorageError` if no server listens at `url`, and `UsageError` if `url` names no host.

    If no connection can be made, try again for `patience_s` seconds. obstore itself would retry for a minute, and its
    error would not name the address. `advice` ends the message.
    """
    parts = urlsplit(url)
    host, port = parts.hostname, parts.port or (80 if parts.scheme == "http" else 443)
    if not host:
        raise UsageError(f"{one_line(url, 100)!r} is no endpoint: write http://HOST:PORT or https://HOST")
    if proxy_of(url):
        return  # a proxy connects to the server; this machine itself may not be able to
    deadline = time.monotonic() + patience_s
    while True:
        try:
            socket.create_connection((host, port), timeout=CONNECT_S).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                why = one_line(error.strerror or error, 80)
                raise StorageError("unavailable", f"no store answers at {host}:{port} ({why}): {advice}") from None
        time.sleep(0.5)
