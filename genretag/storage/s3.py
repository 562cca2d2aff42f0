"""The store for S3 and other stores with its protocol.

obstore reads and writes objects, with credentials from boto3. A boto3 client does what obstore cannot: it lists every
key, and handles keys that obstore's path parser refuses or changes.
"""

import io
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, TypeVar, cast

from genretag.errors import one_line
from genretag.storage.aws_settings import AwsSettings, Encryption, core_session
from genretag.storage.objects import PAGE, Fetched, ObjectInfo, RangeFile, StorageError, bare_etag, refuse_large
from genretag.storage.retries import RetryPolicy, retry, within
from genretag.storage.s3_errors import CREDENTIALS, NO_TRUST, Answer, of_answer, storage_errors, words_of
from genretag.storage.s3_listing import CONNECT_S, list_below, open_bucket, take_columns

if TYPE_CHECKING:
    import pyarrow as pa
    from obstore import PutMode
    from obstore.store import S3Store


CONNECTIONS = 64  # that the boto3 client keeps open for threads that list, or read odd keys, at the same time


def open_client(settings: AwsSettings, retry_policy: RetryPolicy) -> Any:
    """Return a new boto3 client for S3 that makes one attempt per call. Threads may share the client.

    boto3 looks for credentials in all its usual sources. Raises `UsageError` if the AWS settings cannot be used.
    """
    import boto3
    from botocore.config import Config
    from botocore.hooks import HierarchicalEmitter

    events = HierarchicalEmitter()
    # first, because one of botocore's own handlers parses the whole answer to see whether it is an error
    events.register_first("before-parse.s3.*", take_columns)
    session = boto3.Session(botocore_session=core_session(event_hooks=events))
    config = Config(
        connect_timeout=min(CONNECT_S, retry_policy.attempt_s),
        read_timeout=retry_policy.attempt_s,
        retries={"total_max_attempts": 1},
        max_pool_connections=CONNECTIONS,
        request_checksum_calculation="when_required",  # stores that are not AWS refuse the newer checksums
        response_checksum_validation="when_required",
        **settings.config_arguments(),
    )
    client = session.client("s3", config=config, **settings.client_arguments())
    if settings.requester_pays:
        client.meta.events.register_last("before-call.s3.*", _agree_to_pay)
    return client


def _agree_to_pay(params: Any, **_event: Any) -> None:
    params["headers"]["x-amz-request-payer"] = "requester"


@contextmanager
def boto_errors(uri: str) -> Iterator[None]:
    """Turn botocore's exceptions in the `with` block into `StorageError`, with a message that names `uri`.

    The original exception is dropped, because its text may contain secrets.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    name = one_line(uri, 1100)  # a key may contain line feeds
    try:
        yield
    except ClientError as error:
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        told = error.response.get("Error", {})
        code = str(told.get("Code", ""))
        if status == 412:
            raise StorageError("changed", f"{name} was changed by another writer") from None
        if code == str(status):  # the answer had no body
            raise of_answer(name, Answer(status)) from None
        raise of_answer(name, Answer(status, one_line(code, 60), words_of(str(told.get("Message", ""))))) from None
    except BotoCoreError as error:
        raise _without_answer(name, error) from None


def _without_answer(uri: str, error: Exception) -> StorageError:
    """Return the `StorageError` for an exception of botocore that contains no answer of the store."""
    from botocore import exceptions

    if isinstance(error, exceptions.ConnectTimeoutError | exceptions.ReadTimeoutError):
        return StorageError("timeout", f"{uri}: the store did not send its whole answer in time")
    if isinstance(error, exceptions.SSLError):
        return StorageError("certificate_refused", f"{uri}: {NO_TRUST}")
    if isinstance(error, exceptions.NoCredentialsError | exceptions.CredentialRetrievalError):
        return StorageError("credentials_refused", f"no credentials for {uri}: {CREDENTIALS}")
    if isinstance(error, exceptions.ParamValidationError):
        return StorageError("refused", f"{uri}: this bucket or key is not valid in S3")
    return StorageError("unavailable", f"{uri}: the connection failed")


S3 = "s3://"
FETCHED_WHOLE_BYTES = 1 << 20  # up to this size, the complete object arrives about as fast as a part of it
Result = TypeVar("Result")


class S3Client:
    """The store for S3 and compatible stores. `Storage` documents the methods.

    Credentials come from boto3: environment, profile, SSO or role. Buckets are opened at their first use.
    """

    def __init__(self, endpoint_url: str | None, encryption: Encryption) -> None:
        self._settings = AwsSettings.read(endpoint_url)
        self.encryption = encryption
        self._retry_policy = RetryPolicy.of_environment()
        self._buckets: dict[tuple[str, bool], S3Store] = {}
        self._boto_client: Any = None
        self._lock = threading.Lock()

    def _open(self, uri: str, *, retries: bool = True) -> tuple["S3Store", str]:
        """Return obstore's store for the bucket of a URI, and the key. Open the bucket at its first use.

        If `retries` is false, return a store that makes only one attempt per request (see `open_bucket`).
        """
        bucket, _, key = uri.removeprefix(S3).partition("/")
        with self._lock:
            if (bucket, retries) not in self._buckets:
                self._buckets[bucket, retries] = open_bucket(
                    bucket, self._settings, self.encryption, self._retry_policy, retries=retries
                )
            return self._buckets[bucket, retries], key

    def _persist(self, uri: str, attempt: Callable[[], Result], *, writing: bool = False) -> Result:
        """Call `attempt` and return its result. Retry while the error is temporary and time for the object is left.

        obstore retries only requests that are safe to repeat. This method retries the others: writes whose answer was
        lost, and temporary errors for which S3 sends a status of 400 to 499. Set `writing` for writes: if access is
        denied, the message then also gives advice on encryption.
        """

        def translated() -> Result:
            with storage_errors(uri, writing=writing):
                return attempt()

        return retry(translated, self._retry_policy)

    def list_tables(self, uri: str) -> "Iterator[pa.Table]":
        bucket, _, prefix = uri.removeprefix(S3).partition("/")
        below = f"{prefix}/" if prefix and not prefix.endswith("/") else prefix
        return list_below(self._boto(uri), bucket, below, lambda ask: self._persist_boto(f"{S3}{bucket}", ask))

    def ask_boto(self, uri: str, attempt: Callable[[Any, dict[str, str]], Result]) -> Result:
        """Call `attempt` for one object, and return its result. Retry while the error is temporary.

        `attempt` gets the boto3 client, and the object's bucket and key as boto3's arguments `{"Bucket": …, "Key": …}`.
        """
        bucket, _, key = uri.removeprefix(S3).partition("/")
        client = self._boto(uri)
        return self._persist_boto(uri, lambda: attempt(client, {"Bucket": bucket, "Key": key}))

    def _persist_boto(self, uri: str, attempt: Callable[[], Result]) -> Result:
        """Call `attempt`, which uses boto3, and return its result. Retry as `_persist` does.

        Each attempt has a deadline. botocore's exceptions become `StorageError`.
        """

        def translated() -> Result:
            with boto_errors(uri):
                return within(self._retry_policy.attempt_s, uri, attempt)

        return self._persist(uri, translated)

    def _boto(self, uri: str) -> Any:
        """Return the boto3 client, which is created at the first call.

        Before that, open the bucket of `uri`, which raises a clear error if credentials or the server are missing.
        """
        self._open(uri)  # raises an error with advice if there are no credentials or no server
        with self._lock:
            if self._boto_client is None:
                self._boto_client = open_client(self._settings, self._retry_policy)
            return self._boto_client

    def stat(self, uri: str) -> ObjectInfo:
        import obstore

        store, key = self._open(uri)
        found = self._persist(uri, lambda: obstore.head(store, key))
        return ObjectInfo(uri, bare_etag(found["e_tag"]), found["size"], found["last_modified"])

    def get(self, uri: str, max_bytes: int | None) -> Fetched:
        import obstore

        store, key = self._open(uri)

        def attempt() -> Fetched:
            result = obstore.get(store, key)
            refuse_large(result.meta["size"], max_bytes)
            return Fetched(memoryview(result.bytes()), bare_etag(result.meta["e_tag"]))

        return self._persist(uri, attempt)

    def open(self, uri: str, size_bytes: int) -> IO[bytes]:
        import obstore

        if size_bytes <= FETCHED_WHOLE_BYTES:
            return io.BytesIO(self.get(uri, None).data)
        store, key = self._open(uri)

        def read_range(start: int, length: int) -> bytes:
            return self._persist(uri, lambda: bytes(obstore.get_range(store, key, start=start, length=length)))

        return cast(IO[bytes], RangeFile(size_bytes, read_range))

    def put(self, uri: str, data: bytes) -> None:
        import obstore

        store, key = self._open(uri)
        # not multipart, because a store refuses repeated requests of a multipart upload that has ended
        self._persist(uri, lambda: obstore.put(store, key, data, use_multipart=False), writing=True)

    def create(self, uri: str, data: bytes) -> str:
        return self._put_where(uri, data, "create")

    def replace(self, uri: str, data: bytes, etag: str) -> str:
        return self._put_where(uri, data, {"e_tag": f'"{etag}"'})

    def _put_where(self, uri: str, data: bytes, mode: "PutMode") -> str:
        """Write an object under obstore's condition `mode`, and return its etag.

        If the condition fails, but the object holds `data`, the write counts as a success. An earlier attempt of this
        call then wrote the object, but the store's answer was lost.
        Raises `StorageError`, with the reason `exists` or `changed` if the condition fails and the object differs.
        """
        import obstore

        store, key = self._open(uri, retries=False)

        def attempt() -> str:
            return bare_etag(obstore.put(store, key, data, mode=mode, use_multipart=False)["e_tag"])

        try:
            return self._persist(uri, attempt, writing=True)
        except StorageError as error:
            if error.reason in ("exists", "changed") and (ours := self._etag_where_equal(uri, data)) is not None:
                return ours
            raise

    def _etag_where_equal(self, uri: str, data: bytes) -> str | None:
        """Return the etag of an object if the object holds exactly `data`. Return None if it differs or is missing."""
        try:
            found = self.get(uri, None)
        except StorageError as error:
            if error.reason == "not_found":
                return None
            raise
        return found.etag if bytes(found.data) == data else None

    def delete(self, uri: str) -> None:
        import obstore

        store, key = self._open(uri, retries=False)
        try:
            self._persist(uri, lambda: obstore.delete(store, key), writing=True)
        except StorageError as error:
            if error.reason != "not_found":
                raise

    def delete_below(self, uri: str) -> None:
        import obstore

        store, prefix = self._open(uri)

        def remove(by: "S3Store") -> None:
            for page in obstore.list(store, prefix, chunk_size=PAGE):
                obstore.delete(by, [found["path"] for found in page])

        try:
            self._persist(uri, lambda: remove(store))
        except StorageError as error:
            if error.reason != "refused":
                raise
            one_by_one, _ = self._open(uri, retries=False)  # not every store accepts DeleteObjects as obstore sends it
            self._persist(uri, lambda: remove(one_by_one))
