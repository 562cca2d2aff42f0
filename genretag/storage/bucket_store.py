"""The store for objects in a bucket, through obstore: what S3, Google Cloud Storage and Azure have in common.

A URI is `SCHEME://BUCKET/KEY`. A subclass opens buckets and lists them. It also requests objects whose keys obstore
cannot handle (`is_odd`).
"""

import io
import re
import threading
from collections.abc import Callable
from typing import IO, TYPE_CHECKING, Any, ClassVar, TypeVar, cast

from genretag.storage.access import Access
from genretag.storage.clients import KNOCK_S
from genretag.storage.objects import PAGE, Fetched, ObjectInfo, RangeFile, StorageError, bare_etag, refuse_large
from genretag.storage.retries import RetryPolicy, retry
from genretag.storage.store_errors import Advice, storage_errors

if TYPE_CHECKING:
    from obstore import PutMode

FETCHED_WHOLE_BYTES = 1 << 20  # up to this size, the complete object arrives about as fast as a part of it
Result = TypeVar("Result")

ODD = re.compile(r"[\x00-\x1f\x7f]|(?:^|/)\.{0,2}(?:/|\Z)")


def parts_of(uri: str) -> tuple[str, str]:
    """Return the bucket (of Azure: what stands before the first `/`) and the key of an object's URI."""
    bucket, _, key = uri.partition("://")[2].partition("/")
    return bucket, key


def is_odd(uri: str) -> bool:
    """Return whether the key of a bucket's object is odd, so that obstore cannot request the object.

    A key is odd if it has an empty segment, a dot segment, a `/` at either end, or a control character. object_store,
    the library below obstore, reads a key as a path. So it drops a `/` at the beginning and at the end (`a/` would
    become `a`), and refuses the other odd keys. For the stores they are valid keys.
    """
    return ODD.search(parts_of(uri)[1]) is not None


def prefix_of(uri: str) -> tuple[str, str]:
    """Return the bucket of a URI, and the beginning of the keys below it, which is empty or ends with `/`."""
    bucket, key = parts_of(uri)
    return bucket, f"{key}/" if key and not key.endswith("/") else key


class BucketStore:
    """Objects in buckets. `Storage` documents the methods. Buckets are opened at their first use."""

    advice: ClassVar[Advice]

    def __init__(self, access: Access) -> None:
        self._access = access
        self._retry_policy = RetryPolicy.of_environment()
        self._patience_s = self._retry_policy.total_s if access.in_worker else KNOCK_S  # at the first connection
        self._buckets: dict[tuple[str, bool], Any] = {}
        self._lock = threading.Lock()

    def _open_bucket(self, bucket: str, *, retries: bool) -> Any:
        """Return obstore's store for a bucket. If `retries` is false, the store makes only one attempt per request.

        Raises `UsageError` if there are no credentials or if the settings cannot be used, and `StorageError` if no
        server listens.
        """
        raise NotImplementedError

    def _open(self, uri: str, *, retries: bool = False) -> tuple[Any, str]:
        """Return obstore's store for the bucket of a URI, and the key. Open the bucket at its first use.

        Most calls want a store without retries, because `_persist` retries for them.
        """
        bucket, key = parts_of(uri)
        with self._lock:
            if (bucket, retries) not in self._buckets:
                self._buckets[bucket, retries] = self._open_bucket(bucket, retries=retries)
            return self._buckets[bucket, retries], key

    def delta_options(self, uri: str) -> dict[str, str]:
        """Return the options with which deltalake opens a table at a URI: address and credentials of this moment."""
        raise NotImplementedError

    def obstore_of(self, uri: str) -> Any:
        """Return obstore's store for the bucket of a URI, for libraries that take one."""
        return self._open(uri, retries=True)[0]

    def _persist(self, uri: str, attempt: Callable[[], Result], *, writing: bool = False) -> Result:
        """Call `attempt` and return its result. Retry while the error is temporary and time for the object is left.

        obstore would not retry writes whose answer was lost, nor temporary errors with a status of 400 to 499. Set
        `writing` for writes: if access is denied, the message then also gives the cloud's advice on writes.
        """

        def translated() -> Result:
            with storage_errors(uri, self.advice, writing=writing):
                return attempt()

        return retry(translated, self._retry_policy)

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

        store, key = self._open(uri)

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

        store, key = self._open(uri)
        try:
            self._persist(uri, lambda: obstore.delete(store, key), writing=True)
        except StorageError as error:
            if error.reason != "not_found":
                raise

    def delete_below(self, uri: str) -> None:
        import obstore

        store, prefix = self._open(uri, retries=True)

        def remove(by: Any) -> None:
            for page in obstore.list(store, prefix, chunk_size=PAGE):
                obstore.delete(by, [found["path"] for found in page])

        try:
            self._persist(uri, lambda: remove(store))
        except StorageError as error:
            if error.reason != "refused":
                raise
            one_by_one, _ = self._open(uri)  # not every store accepts DeleteObjects as obstore sends it
            self._persist(uri, lambda: remove(one_by_one))
