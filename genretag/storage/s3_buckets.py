"""Opens buckets: credentials from boto3's whole chain, deadlines for every request, and a knock at the door first."""

import os
import random
import socket
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from genretag.errors import UsageError, one_line
from genretag.storage.aws_settings import AwsSettings, Encryption, core_session
from genretag.storage.objects import StorageError
from genretag.storage.s3_errors import ENDPOINT, REGION

if TYPE_CHECKING:
    from obstore.store import ClientConfig, S3Store

CONNECT_S = 5.0  # for a connection: longer than three lost packets take
ATTEMPT_S = 20.0  # for one request and its whole answer: after that the connection counts as dead
TOTAL_S = 60.0  # for all attempts at one object: longer than most outages
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0  # between attempts, doubling, and drawn from there down
MOST_ATTEMPTS = 1000  # time decides, not the number
KNOCK_S = 2.0  # how long a server may be away at the start before we say that there is none
CREDENTIALS_TTL = timedelta(minutes=10)
"""How long obstore may use credentials (it asks again 5 minutes before). boto3's are good for 10 minutes at least
when it gives them; obstore's own choice, 30, would go on with expired ones."""


@dataclass(frozen=True)
class Patience:
    """How long to go on with one object."""

    attempt_s: float
    total_s: float

    @staticmethod
    def of_environment() -> "Patience":
        """The defaults, or what GENRETAG_STORE_ATTEMPT_S and GENRETAG_STORE_TOTAL_S say."""
        return Patience(_seconds("GENRETAG_STORE_ATTEMPT_S", ATTEMPT_S), _seconds("GENRETAG_STORE_TOTAL_S", TOTAL_S))

    @property
    def retry_s(self) -> float:
        """How long after the first attempt another may be chosen, so that all ends in time."""
        return max(0.0, self.total_s - self.attempt_s - LONGEST_PAUSE_S)

    def pauses(self) -> Iterator[float]:
        """Seconds to wait before each further attempt, for as long as one may begin."""
        started, pause = time.monotonic(), FIRST_PAUSE_S
        while time.monotonic() - started <= self.retry_s:
            yield random.uniform(pause / 2, pause)  # noqa: S311 - jitter, so that many clients do not come back at once
            pause = min(2 * pause, LONGEST_PAUSE_S)


def _seconds(variable: str, default: float) -> float:
    text = os.environ.get(variable, "")
    try:
        seconds = float(text or default)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 86_400:
        raise UsageError(f"{variable} is a number of seconds, not {one_line(text, 40)!r}")
    return seconds


def open_bucket(
    bucket: str, settings: AwsSettings, encryption: Encryption, patience: Patience, *, retries: bool
) -> "S3Store":
    """Opens a bucket; without `retries` obstore makes one attempt only, for writes that may not be made twice, and
    removes each object by a request of its own.

    Raises `UsageError` without credentials, `StorageError` where no server listens.
    """
    import boto3
    from obstore.auth.boto3 import Boto3CredentialProvider
    from obstore.exceptions import BaseError
    from obstore.store import S3Store

    session = boto3.Session(botocore_session=core_session())
    _require_credentials(session, bucket)
    _knock(settings.server, given=bool(settings.endpoint_url))
    url, in_host = settings.url_of(bucket)
    client_options: ClientConfig = {
        "allow_http": url.startswith("http://"),
        "timeout": timedelta(seconds=patience.attempt_s),
        "connect_timeout": timedelta(seconds=min(CONNECT_S, patience.attempt_s)),
    }
    if certificates := settings.root_certificate():
        client_options["root_certificate"] = certificates
    try:
        return S3Store(
            bucket,
            endpoint=url,
            aws_endpoint_url_s3=url,  # or the variable AWS_ENDPOINT_URL_S3 would come before what was given
            virtual_hosted_style_request=in_host,
            disable_bulk_delete=not retries,  # one object by a DELETE, which every store knows
            request_payer=settings.requester_pays,
            region=settings.region,
            credential_provider=Boto3CredentialProvider(session, ttl=CREDENTIALS_TTL),
            client_options=client_options,
            retry_config={
                "max_retries": MOST_ATTEMPTS if retries else 0,
                "retry_timeout": timedelta(seconds=patience.retry_s),
                "backoff": {
                    "init_backoff": timedelta(seconds=FIRST_PAUSE_S),
                    "max_backoff": timedelta(seconds=LONGEST_PAUSE_S),
                    "base": 2,
                },
            },
            **encryption.obstore_arguments(),
        )
    except (BaseError, ValueError) as error:
        raise UsageError(f"s3://{bucket} cannot be opened: {one_line(error, 200)}") from None


def _require_credentials(session: Any, bucket: str) -> None:
    from botocore.exceptions import BotoCoreError

    try:
        found, why = session.get_credentials(), ""
    except BotoCoreError as error:  # such as a program that should give them and failed
        found, why = None, f" ({one_line(error, 200)})"
    if found is None:
        raise UsageError(
            f"no credentials for s3://{bucket}{why}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "or AWS_PROFILE, or run where a role gives them"
        )


def _knock(url: str, *, given: bool) -> None:
    """Makes sure that somebody listens: obstore itself would go on trying for a minute, and not say where."""
    parts = urlsplit(url)
    host, port = parts.hostname, parts.port or (80 if parts.scheme == "http" else 443)
    if not host:
        raise UsageError(f"{one_line(url, 100)!r} is no endpoint: write http://HOST:PORT or https://HOST")
    if parts.scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(host):
        return  # the proxy connects, not we
    deadline = time.monotonic() + KNOCK_S
    while True:
        try:
            socket.create_connection((host, port), timeout=CONNECT_S).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                why = one_line(error.strerror or error, 80)
                raise StorageError(
                    "unavailable", f"no store answers at {host}:{port} ({why}): {ENDPOINT if given else REGION}"
                ) from None
        time.sleep(0.5)
