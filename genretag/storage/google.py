"""The store for Google Cloud Storage, with credentials from google-auth.

Objects are read and written through obstore, which uses Google's XML API. That API has S3's form. So listings and odd
keys go through boto3, with Google's tokens in place of S3's signatures.

The etag of an object is the one of the XML API, which is the MD5 sum of most objects. But Google's conditions compare
generations, not etags. So `replace` first asks for the object's generation.
"""

import os
import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from genretag.errors import UsageError, one_line
from genretag.storage.access import Access
from genretag.storage.aws_settings import core_session
from genretag.storage.clients import authorities, authorities_file, client_options, knock, retry_config
from genretag.storage.objects import StorageError, bare_etag
from genretag.storage.s3_protocol import S3ProtocolStore, boto_config, boto_events
from genretag.storage.store_errors import CLOCK, Advice, NoTokenNow

if TYPE_CHECKING:
    from obstore.store import GCSStore

GS = "gs://"
SERVER = "https://storage.googleapis.com"
# Without it, obstore would look for credentials for a write, in spite of `skip_signature`
NO_ACCOUNT = '{"disable_oauth": true, "client_email": "", "private_key": "", "private_key_id": ""}'
EMULATOR = "STORAGE_EMULATOR_HOST"  # the variable of Google's own libraries
SCOPE = "https://www.googleapis.com/auth/devstorage.read_write"
REFRESH = timedelta(minutes=4)  # before a token expires; Google's own libraries use 3 minutes 45 seconds
CERTIFICATE = "CERTIFICATE_VERIFY_FAILED"  # in google-auth's message
NO_ACCOUNT_HERE = "404"  # the metadata server's answer if no service account is attached
CREDENTIALS = (
    "check GOOGLE_APPLICATION_CREDENTIALS, run gcloud auth application-default login, or run where a service account "
    "is attached"
)
GOOGLE_ADVICE = Advice(
    credentials=CREDENTIALS,
    endpoint=f"check {EMULATOR}, if it is set",
    region=f"check {EMULATOR}, if it is set",
    trust="the server's certificate is not accepted: name the file of its authority with REQUESTS_CA_BUNDLE",
    policy="the roles on the bucket (Storage Object Viewer to read, Storage Object User to write)",
    credential_codes={
        "AuthenticationRequired": CREDENTIALS,
        "ExpiredToken": f"the token has expired, {CREDENTIALS}",
        "InvalidSecurity": CREDENTIALS,
        "RequestTimeTooSkewed": f"{CLOCK}; the credentials may be right",
    },
    refused_codes={
        "UserProjectMissing": "the bucket makes its readers pay: add --request-payer, and set GOOGLE_CLOUD_PROJECT"
    },
    account_codes=("AccountProblem", "UserProjectAccountProblem", "AccountDisabled"),
    again_codes=("RequestTimeout", "IncompleteBody", "BadDigest", "SlowDown"),
)


class Tokens:
    """Google's access tokens. Threads may share an instance. A call returns a token in the form that obstore takes."""

    def __init__(self, bucket: str) -> None:
        """Find the credentials. Raises `UsageError`, with a message that names the bucket, if there are none."""
        try:
            import google.auth
            from google.auth.exceptions import GoogleAuthError
            from google.auth.transport.requests import Request
        except ImportError as error:
            raise UsageError("gs:// needs google-auth: pip install 'genretag[gcs]'") from error

        self._lock = threading.Lock()
        self._request = Request()
        try:
            self._credentials, self.project = google.auth.default(scopes=[SCOPE])
        except (GoogleAuthError, OSError, ValueError) as error:
            raise UsageError(
                f"no credentials for {GS}{bucket} ({one_line(error, 120)}): set GOOGLE_APPLICATION_CREDENTIALS, run "
                "gcloud auth application-default login, or run where a service account is attached; --anonymous reads "
                "a public bucket without them"
            ) from None

    def __call__(self) -> dict[str, Any]:
        """Return `token` and `expires_at`.

        Raises `StorageError` if Google refuses to give a token, and `NoTokenNow` if the server does not answer.
        """
        with self._lock:
            if not self._credentials.valid or (self._expires_at() or datetime.max.replace(tzinfo=UTC)) < _soon():
                self._refresh()
            return {"token": self._credentials.token, "expires_at": self._expires_at()}

    def _refresh(self) -> None:
        from google.auth.exceptions import GoogleAuthError, TransportError

        try:
            self._credentials.refresh(self._request)
        except GoogleAuthError as error:
            why = one_line(error, 160)
            if CERTIFICATE in why:
                raise StorageError("certificate_refused", f"no token from Google: {GOOGLE_ADVICE.trust}") from None
            # The metadata server of a machine on Google's cloud: its TransportError is the cause of a RefreshError.
            away = isinstance(error, TransportError) or isinstance(error.__cause__, TransportError)
            if error.retryable or (away and NO_ACCOUNT_HERE not in why):
                raise NoTokenNow("unavailable", f"the server of Google's tokens does not answer ({why})") from None
            raise StorageError("credentials_refused", f"Google gives no token ({why}): {CREDENTIALS}") from None

    def _expires_at(self) -> datetime | None:
        expiry = self._credentials.expiry
        return expiry.replace(tzinfo=UTC) if expiry else None


def _soon() -> datetime:
    return datetime.now(UTC) + REFRESH


class NoTokens:
    """The tokens for an emulator without credentials: it gets a token, and accepts any."""

    project: str | None = None

    def __init__(self, bucket: str) -> None:
        pass

    def __call__(self) -> dict[str, Any]:
        return {"token": "emulator", "expires_at": None}


class GoogleStore(S3ProtocolStore):
    """The store for Google Cloud Storage. `Storage` documents the methods."""

    scheme: ClassVar[str] = GS
    advice: ClassVar[Advice] = GOOGLE_ADVICE

    def __init__(self, access: Access) -> None:
        super().__init__(access)
        self._server = server()
        self._tokens: Any = None
        self._certificates = authorities()

    def _open_bucket(self, bucket: str, *, retries: bool) -> "GCSStore":
        from obstore.exceptions import BaseError
        from obstore.store import GCSStore

        anonymous = self._is_anonymous(bucket)
        if not anonymous and self._tokens is None:
            emulated = EMULATOR in os.environ and "GOOGLE_APPLICATION_CREDENTIALS" not in os.environ
            self._tokens = (NoTokens if emulated else Tokens)(bucket)
        knock(self._server, self.advice.endpoint, self._patience_s)
        options = client_options(self._server, self._retry_policy, self._certificates)
        if headers := self._payer():
            options["default_headers"] = headers
        credentials: Any = {"credential_provider": self._tokens}
        if anonymous:
            credentials = {"skip_signature": True, "service_account_key": NO_ACCOUNT}
        try:
            return GCSStore(
                bucket,
                base_url=self._server,
                client_options=options,
                retry_config=retry_config(self._retry_policy, retries=retries),
                **credentials,
            )
        except (BaseError, ValueError) as error:
            raise UsageError(f"{GS}{bucket} cannot be opened: {one_line(error, 200)}") from None

    def _new_client(self, bucket: str) -> Any:
        import boto3
        from botocore import UNSIGNED

        session = boto3.Session(botocore_session=core_session(event_hooks=boto_events()))
        client = session.client(
            "s3",
            region_name="auto",
            endpoint_url=self._server,
            verify=authorities_file(),
            config=boto_config(self._retry_policy, signature_version=UNSIGNED, s3={"addressing_style": "path"}),
        )
        headers = self._payer()
        anonymous = self._is_anonymous(bucket)

        def authorize(params: Any, **_event: Any) -> None:
            params["headers"].update(headers)
            if not anonymous:
                params["headers"]["Authorization"] = f"Bearer {self._tokens()['token']}"

        client.meta.events.register_last("before-call.s3.*", authorize)
        return client

    def delta_options(self, uri: str) -> dict[str, str]:
        self._open(uri)  # raises an error with advice if there are no credentials or no server
        return {  # no token: deltalake looks for credentials itself, in the same places
            "google_base_url": self._server,
            "allow_http": str(self._server.startswith("http://")).lower(),
        }

    def _payer(self) -> dict[str, str]:
        """Return the header that names the project that pays, or {} if the bucket's owner pays.

        Raises `UsageError` if nobody named a project.
        """
        if not self._access.request_payer:
            return {}
        project = os.environ.get("GOOGLE_CLOUD_PROJECT") or (self._tokens and self._tokens.project)
        if not project:
            raise UsageError("--request-payer: which project of Google Cloud pays? Set GOOGLE_CLOUD_PROJECT")
        return {"x-goog-user-project": project}

    def replace(self, uri: str, data: bytes, etag: str) -> str:
        import obstore

        store, key = self._open(uri)
        try:
            found = self._persist(uri, lambda: obstore.head(store, key))
        except StorageError as error:
            if error.reason != "not_found":
                raise
            raise StorageError("changed", f"{uri} was changed by another writer") from None
        if bare_etag(found["e_tag"]) != etag:
            if (ours := self._etag_where_equal(uri, data)) is not None:
                return ours
            raise StorageError("changed", f"{uri} was changed by another writer")
        return self._put_where(uri, data, {"e_tag": found["e_tag"], "version": found["version"]})


def server() -> str:
    """Return the URL of Google's server, or of an emulator that STORAGE_EMULATOR_HOST names."""
    named = os.environ.get(EMULATOR)
    if not named:
        return SERVER
    return named.rstrip("/") if "://" in named else f"http://{named.rstrip('/')}"
