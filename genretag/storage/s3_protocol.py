"""The store for services with the protocol of S3: S3 itself, compatible stores, and Google's XML API.

obstore reads and writes objects. A boto3 client does what obstore cannot: it lists every key, and requests objects with
odd keys (`is_odd`).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from genretag.errors import one_line
from genretag.storage.access import Access
from genretag.storage.bucket_store import BucketStore, Result, is_odd, parts_of, prefix_of
from genretag.storage.clients import CONNECT_S
from genretag.storage.objects import Fetched, ObjectInfo, StorageError, bare_etag, refuse_large
from genretag.storage.retries import RetryPolicy, within
from genretag.storage.s3_listing import list_below, take_columns
from genretag.storage.store_errors import Advice, Answer, of_answer, words_of

if TYPE_CHECKING:
    import pyarrow as pa

CONNECTIONS = 64  # that the boto3 client keeps open for threads that list, or read odd keys, at the same time


def boto_config(retry_policy: RetryPolicy, **more: Any) -> Any:
    """Return botocore's `Config` for a client that makes one attempt per call. `more` are further arguments."""
    from botocore.config import Config

    return Config(
        connect_timeout=min(CONNECT_S, retry_policy.attempt_s),
        read_timeout=retry_policy.attempt_s,
        retries={"total_max_attempts": 1},
        max_pool_connections=CONNECTIONS,
        request_checksum_calculation="when_required",  # stores that are not AWS refuse the newer checksums
        response_checksum_validation="when_required",
        **more,
    )


def boto_events() -> Any:
    """Return a new emitter of botocore's events in which `take_columns` reads the answers of listings."""
    from botocore.hooks import HierarchicalEmitter

    events = HierarchicalEmitter()
    # first, because one of botocore's own handlers parses the whole answer to see whether it is an error
    events.register_first("before-parse.s3.*", take_columns)
    return events


@contextmanager
def boto_errors(uri: str, advice: Advice) -> Iterator[None]:
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
            raise of_answer(name, Answer(status), advice) from None
        answer = Answer(status, one_line(code, 60), words_of(str(told.get("Message", ""))))
        raise of_answer(name, answer, advice) from None
    except BotoCoreError as error:
        raise _without_answer(name, error, advice) from None


def _without_answer(uri: str, error: Exception, advice: Advice) -> StorageError:
    """Return the `StorageError` for an exception of botocore that contains no answer of the store."""
    from botocore import exceptions

    if isinstance(error, exceptions.ConnectTimeoutError | exceptions.ReadTimeoutError):
        return StorageError("timeout", f"{uri}: the store did not send its whole answer in time")
    if isinstance(error, exceptions.SSLError):
        return StorageError("certificate_refused", f"{uri}: {advice.trust}")
    if isinstance(error, exceptions.NoCredentialsError | exceptions.CredentialRetrievalError):
        return StorageError("credentials_refused", f"no credentials for {uri}: {advice.credentials}")
    if isinstance(error, exceptions.ParamValidationError):
        return StorageError("refused", f"{uri}: this bucket or key is not valid in S3")
    return StorageError("unavailable", f"{uri}: the connection failed")


class S3ProtocolStore(BucketStore):
    """A store whose listings and odd keys go through boto3. `Storage` documents the methods."""

    scheme: ClassVar[str]

    def __init__(self, access: Access) -> None:
        super().__init__(access)
        self._clients: dict[bool, Any] = {}  # one for requests without credentials, and one for all others

    def _is_anonymous(self, bucket: str) -> bool:
        """Return whether requests for a bucket carry no credentials."""
        return self._access.is_anonymous(f"{self.scheme}{bucket}")

    def _new_client(self, bucket: str) -> Any:
        """Return a new boto3 client with which a bucket is listed. Threads may share it."""
        raise NotImplementedError

    def _odd_write_arguments(self) -> dict[str, Any]:
        """Return boto3's arguments for a write of an object with an odd key, such as encryption."""
        return {}

    def list_tables(self, uri: str) -> "Iterator[pa.Table]":
        bucket, prefix = prefix_of(uri)
        scheme = uri.partition("://")[0]
        root = f"{scheme}://{bucket}"
        return list_below(self._boto(uri), root, prefix, lambda ask: self._persist_boto(root, ask))

    def stat(self, uri: str) -> ObjectInfo:
        if not is_odd(uri):
            return super().stat(uri)
        found = self._call(uri, "head_object")
        return ObjectInfo(uri, bare_etag(found["ETag"]), found["ContentLength"], found["LastModified"])

    def get(self, uri: str, max_bytes: int | None) -> Fetched:
        if not is_odd(uri):
            return super().get(uri, max_bytes)

        def attempt(client: Any, place: dict[str, str]) -> Fetched:
            found = client.get_object(**place)
            with found["Body"] as body:
                refuse_large(found["ContentLength"], max_bytes)
                return Fetched(memoryview(body.read()), bare_etag(found["ETag"]))

        return self._ask_boto(uri, attempt)

    def put(self, uri: str, data: bytes) -> None:
        if not is_odd(uri):
            super().put(uri, data)
        else:
            self._call(uri, "put_object", Body=data, **self._odd_write_arguments())

    def _call(self, uri: str, name: str, **arguments: Any) -> Any:
        """Call the method `name` of the boto3 client for one object, with retries, and return its answer."""
        return self._ask_boto(uri, lambda client, place: getattr(client, name)(**place, **arguments))

    def _ask_boto(self, uri: str, attempt: Callable[[Any, dict[str, str]], Result]) -> Result:
        """Call `attempt` for one object, and return its result. Retry while the error is temporary.

        `attempt` gets the boto3 client, and the object's bucket and key as boto3's arguments `{"Bucket": …, "Key": …}`.
        """
        bucket, key = parts_of(uri)
        client = self._boto(uri)
        return self._persist_boto(uri, lambda: attempt(client, {"Bucket": bucket, "Key": key}))

    def _persist_boto(self, uri: str, attempt: Callable[[], Result]) -> Result:
        """Call `attempt`, which uses boto3, and return its result. Retry as `_persist` does.

        Each attempt has a deadline. botocore's exceptions become `StorageError`.
        """

        def translated() -> Result:
            with boto_errors(uri, self.advice):
                return within(self._retry_policy.attempt_s, uri, attempt)

        return self._persist(uri, translated)

    def _boto(self, uri: str) -> Any:
        """Return the boto3 client for a bucket, which is created at the first call.

        Before that, open the bucket of `uri`, which raises a clear error if credentials or the server are missing.
        """
        bucket, _ = parts_of(uri)
        self._open(uri)  # raises an error with advice if there are no credentials or no server
        anonymous = self._is_anonymous(bucket)
        with self._lock:
            if anonymous not in self._clients:
                self._clients[anonymous] = self._new_client(bucket)
            return self._clients[anonymous]
