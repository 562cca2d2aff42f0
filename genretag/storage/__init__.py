"""Read, write and list local files and S3 objects through one small interface, `Storage`.

A URI is `s3://bucket/key` or an absolute local path. URIs are used exactly as they are, without percent-encoding.

S3 objects are read and written through obstore. Listings, and keys that obstore cannot handle (`is_odd`), go through
boto3. For libraries that need a file system (Ray Train, pyiceberg, DuckDB), `filesystem` returns an fsspec file system.
"""

import os
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any

from genretag.errors import UsageError
from genretag.storage.aws_settings import AwsSettings, Encryption
from genretag.storage.local import LocalStore
from genretag.storage.objects import Fetched, ObjectInfo, StorageError, Store
from genretag.storage.paths import OddKeys, is_odd
from genretag.storage.retries import RetryPolicy
from genretag.storage.s3 import S3, S3Client
from genretag.storage.s3_listing import CONNECT_S, to_objects

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["S3", "Fetched", "ObjectInfo", "Storage", "StorageError", "join", "resolve"]

FILESYSTEM_ATTEMPTS = 5


def resolve(location: str) -> str:
    """Turn a location that a user typed into a URI without a trailing slash.

    From an `s3://` URI, only trailing slashes are removed. Text without `://` is a local path. It becomes absolute, and
    may begin with `~`.
    Raises `UsageError` if an `s3://` URI names no bucket, or if the scheme is not `s3`.
    """
    if location.startswith(S3):
        if not location.removeprefix(S3).strip("/"):
            raise UsageError(f"{location!r} names no bucket: write s3://BUCKET/PREFIX")
        return location.rstrip("/")
    if "://" in location:
        raise UsageError(f"{location!r}: only local paths and s3:// can be read and written")
    return os.path.abspath(os.path.expanduser(location))  # noqa: PTH100, PTH111 - drops `..` and a trailing slash


def join(base: str, *parts: str) -> str:
    """Return the URI `base` with the path parts appended, one `/` before each part."""
    return "/".join([base.rstrip("/"), *parts])


class Storage:
    """Access to local folders and S3 by URI. Pickling is cheap: each process opens its clients at their first use.

    Each method raises `StorageError` if the store fails or refuses. If S3 credentials or settings are missing or
    unusable, the method raises `UsageError`.
    """

    def __init__(self, endpoint_url: str | None = None, encryption: Encryption | None = None) -> None:
        """Set the S3 endpoint and the encryption of writes. Both are pickled, so all workers use the same values.

        If `endpoint_url` is None, the AWS settings give the endpoint. If `encryption` is None, it is read from the
        environment.
        Raises `UsageError` if the environment's encryption settings are invalid.
        """
        self.endpoint_url = endpoint_url
        self.encryption = encryption or Encryption.of_environment()
        self._s3: S3Client | None = None

    def __reduce__(self) -> tuple[type["Storage"], tuple[str | None, Encryption]]:
        return Storage, (self.endpoint_url, self.encryption)

    def _store(self, uri: str) -> Store:
        """Return the store for a URI: local files, or the S3 client, which is opened at its first use."""
        if not uri.startswith(S3):
            return LocalStore()
        if self._s3 is None:
            self._s3 = S3Client(self.endpoint_url, self.encryption)
        return self._s3

    def _object_store(self, uri: str) -> Store | OddKeys:
        """Return the store for the object `uri`: an `OddKeys` for an S3 key that clients may change, such as `a//b`."""
        store = self._store(uri)
        return OddKeys(store) if isinstance(store, S3Client) and is_odd(uri) else store

    def list(self, uri: str) -> Iterator[list[ObjectInfo]]:
        """Yield lists of the objects under a prefix or folder: the rows of `list_tables` as `ObjectInfo`.

        Use this method only for few objects, because the tables of `list_tables` take much less memory and CPU time. It
        raises the errors of `list_tables`.
        """
        for table in self.list_tables(uri):
            yield to_objects(table)

    def list_tables(self, uri: str) -> Iterator["pa.Table"]:
        """Yield tables of the objects under a prefix or folder. Each object comes once. The order is not defined.

        The tables have `uri: string`, `etag: string`, `size: int64` and `last_modified: timestamp[us, UTC]`. If an
        object exists but access to its properties is denied, its etag is empty, and its size and time are null. S3
        objects without bytes whose keys end with `/` are left out, because they only mark folders.

        An S3 prefix without objects gives no rows. A local folder that does not exist raises `StorageError` with the
        reason `not_found`. If the S3 store lists keys in order, several threads list a large prefix. The threads end
        when everything is listed or the iterator is closed.
        """
        return self._store(uri).list_tables(uri)

    def stat(self, uri: str) -> ObjectInfo:
        """Return the etag, size and modification time of one object, without a download of its bytes.

        Raises `StorageError`, with the reason `not_found` if the object does not exist.
        """
        return self._object_store(uri).stat(uri)

    def get(self, uri: str, max_bytes: int | None = None) -> Fetched:
        """Return the bytes and the etag of one object. If `max_bytes` is None, there is no limit.

        Raises `StorageError`, with the reason `not_found` if the object does not exist. If the object exceeds
        `max_bytes`, nothing is read, and the error has the reason `too_many_bytes`.
        """
        return self._object_store(uri).get(uri, max_bytes)

    def open(self, info: ObjectInfo) -> IO[bytes]:
        """Open a listed object to read parts of it, such as columns of Parquet. Its key must not be odd (`is_odd`).

        An S3 object of up to 1 MiB is fetched completely. Each read of a larger object is a request, which may raise
        `StorageError`.
        """
        return self._store(info.uri).open(info.uri, info.size_bytes)

    def put(self, uri: str, data: bytes) -> None:
        """Write one object, and overwrite an existing one. A reader sees the old object or the new one, never a part.

        Missing local folders are created. Raises `StorageError` if the object cannot be written.
        """
        self._object_store(uri).put(uri, data)

    def create(self, uri: str, data: bytes) -> str:
        """Write an object that must not exist yet, and return its etag. If several writers try, only one succeeds.

        On S3, the call also succeeds if the object already holds `data`. An earlier attempt of this call may have
        written the object, although the store's answer was lost. So competing writers must write different bytes.
        Raises `StorageError`, with the reason `exists` if the object exists already.
        """
        return self._store(uri).create(uri, data)

    def replace(self, uri: str, data: bytes, etag: str) -> str:
        """Overwrite an object only if its etag is still `etag`, and return the new etag.

        If several writers try, only one succeeds. On S3, the call also succeeds if the object already holds `data`.
        Raises `StorageError`, with the reason `changed` if the object has another etag or is gone.
        """
        return self._store(uri).replace(uri, data, etag)

    def delete(self, uri: str) -> None:
        """Delete an object. If it does not exist, do nothing. Raises `StorageError` if it cannot be deleted."""
        self._store(uri).delete(uri)

    def delete_below(self, uri: str) -> None:
        """Delete all objects below `uri`, which must belong to genretag alone. If nothing exists there, do nothing.

        Raises `StorageError` if the objects cannot be deleted.
        """
        self._store(uri).delete_below(uri)

    def filesystem(self, uri: str) -> tuple[Any, str]:
        """Return the fsspec filesystem of a URI, and the URI's path in that filesystem (`bucket/key` on S3).

        Use it for pyarrow datasets and small files. Raises `UsageError` if the AWS settings cannot be used.
        """
        import fsspec

        if not uri.startswith(S3):
            return fsspec.filesystem("file"), uri
        retry_policy, settings = RetryPolicy.of_environment(), AwsSettings.read(self.endpoint_url)
        filesystem = fsspec.filesystem(
            "s3",
            client_kwargs=settings.client_arguments(),
            s3_additional_kwargs=self.encryption.boto_arguments(),
            requester_pays=settings.requester_pays,
            config_kwargs={
                **settings.config_arguments(),
                "connect_timeout": min(CONNECT_S, retry_policy.attempt_s),
                "read_timeout": retry_policy.attempt_s,
                "retries": {"mode": "standard", "total_max_attempts": FILESYSTEM_ATTEMPTS},
            },
            skip_instance_cache=True,  # because a cached instance would go on using old credentials
        )
        return filesystem, uri.removeprefix(S3)
