"""S3 and what speaks its protocol: objects through obstore, listings through boto3, credentials by boto3's chain."""

import io
import threading
import time
from collections.abc import Callable, Iterator
from typing import IO, TYPE_CHECKING, Any, TypeVar, cast

from genretag.storage.aws_settings import AwsSettings, Encryption
from genretag.storage.boto_client import boto_errors, open_client
from genretag.storage.deadlines import within
from genretag.storage.etags import bare_etag
from genretag.storage.objects import PAGE, Fetched, ObjectInfo, StorageError, refuse_large
from genretag.storage.range_file import RangeFile
from genretag.storage.s3_buckets import Patience, open_bucket
from genretag.storage.s3_errors import TRANSIENT, storage_errors
from genretag.storage.s3_listing import list_below

if TYPE_CHECKING:
    import pyarrow as pa
    from obstore import PutMode
    from obstore.store import S3Store

S3 = "s3://"
FETCHED_WHOLE_BYTES = 1 << 20  # a smaller object comes as fast as a piece of it
Result = TypeVar("Result")


class S3Client:
    """S3 and what speaks its protocol. Credentials come from boto3's chain: environment, profile, SSO, role."""

    def __init__(self, endpoint_url: str | None, encryption: Encryption) -> None:
        self._settings = AwsSettings.read(endpoint_url)
        self.encryption = encryption
        self._patience = Patience.of_environment()
        self._buckets: dict[tuple[str, bool], S3Store] = {}
        self._boto_client: Any = None
        self._lock = threading.Lock()

    def _open(self, uri: str, *, retries: bool = True) -> tuple["S3Store", str]:
        bucket, _, key = uri.removeprefix(S3).partition("/")
        with self._lock:
            if (bucket, retries) not in self._buckets:
                self._buckets[bucket, retries] = open_bucket(
                    bucket, self._settings, self.encryption, self._patience, retries=retries
                )
            return self._buckets[bucket, retries], key

    def _persist(self, uri: str, attempt: Callable[[], Result], *, writing: bool = False) -> Result:
        """Makes attempts, within the time for one object, until one ends otherwise than by a passing trouble.

        obstore itself repeats what it holds for safe; here is repeated what it leaves: writes whose answer was
        lost, and errors that S3 reports as if they were ours.
        """
        pauses = self._patience.pauses()
        while True:
            try:
                with storage_errors(uri, writing=writing):
                    return attempt()
            except StorageError as error:
                pause = next(pauses, None) if error.reason in TRANSIENT else None
                if pause is None:
                    raise
            time.sleep(pause)

    def list_tables(self, uri: str) -> "Iterator[pa.Table]":
        bucket, _, prefix = uri.removeprefix(S3).partition("/")
        below = f"{prefix}/" if prefix and not prefix.endswith("/") else prefix
        return list_below(self._boto(uri), bucket, below, lambda ask: self._persist_boto(f"{S3}{bucket}", ask))

    def ask_boto(self, uri: str, attempt: Callable[[Any, dict[str, str]], Result]) -> Result:
        """Makes attempts at one object with boto3's client, which is given together with bucket and key."""
        bucket, _, key = uri.removeprefix(S3).partition("/")
        client = self._boto(uri)
        return self._persist_boto(uri, lambda: attempt(client, {"Bucket": bucket, "Key": key}))

    def _persist_boto(self, uri: str, attempt: Callable[[], Result]) -> Result:
        def translated() -> Result:
            with boto_errors(uri):
                return within(self._patience.attempt_s, uri, attempt)

        return self._persist(uri, translated)

    def _boto(self, uri: str) -> Any:
        self._open(uri)  # finds out whether there are credentials and a server, and says so
        with self._lock:
            if self._boto_client is None:
                self._boto_client = open_client(self._settings, self._patience)
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
        # in one piece: a part of an upload that is repeated after its end is refused
        self._persist(uri, lambda: obstore.put(store, key, data, use_multipart=False), writing=True)

    def create(self, uri: str, data: bytes) -> str:
        return self._put_where(uri, data, "create")

    def replace(self, uri: str, data: bytes, etag: str) -> str:
        return self._put_where(uri, data, {"e_tag": f'"{etag}"'})

    def _put_where(self, uri: str, data: bytes, mode: "PutMode") -> str:
        """A conditional write. After one whose answer was lost the next meets our own object, and knows it again."""
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
            one_by_one, _ = self._open(uri, retries=False)  # not every store knows DeleteObjects as obstore sends it
            self._persist(uri, lambda: remove(one_by_one))
