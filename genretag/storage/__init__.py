"""Local paths and object stores behind one small door: list, stat, get, put.

A URI is `s3://bucket/key` or an absolute local path; both are kept exactly as they are, never encoded.
Objects go through obstore, or through boto3 where their keys are odd; `filesystem` opens the same places, through
s3fs, for libraries that want one: Ray Train, pyiceberg and DuckDB.
"""

import os
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any

from genretag.errors import UsageError
from genretag.storage.aws_settings import AwsSettings, Encryption
from genretag.storage.listing_tables import to_objects
from genretag.storage.local import LocalStore
from genretag.storage.objects import Fetched, ObjectInfo, StorageError, Store
from genretag.storage.odd_keys import OddKeys, is_odd
from genretag.storage.s3 import S3, S3Client
from genretag.storage.s3_buckets import CONNECT_S, Patience

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["S3", "Fetched", "ObjectInfo", "Storage", "StorageError", "join", "resolve"]

FILESYSTEM_ATTEMPTS = 5


def resolve(location: str) -> str:
    """Makes what a user typed a URI: `s3://` stays (less a last slash), anything else is a local path."""
    if location.startswith(S3):
        if not location.removeprefix(S3).strip("/"):
            raise UsageError(f"{location!r} names no bucket: write s3://BUCKET/PREFIX")
        return location.rstrip("/")
    if "://" in location:
        raise UsageError(f"{location!r}: only local paths and s3:// can be read and written")
    return os.path.abspath(os.path.expanduser(location))  # noqa: PTH100, PTH111 - drops `..` and a last slash


def join(base: str, *parts: str) -> str:
    """Appends path parts to a URI."""
    return "/".join([base.rstrip("/"), *parts])


class Storage:
    """All places by their URIs. Cheap to pickle: clients are opened where and when they are first used."""

    def __init__(self, endpoint_url: str | None = None, encryption: Encryption | None = None) -> None:
        """`encryption` is that of the environment when not given; it travels, so that all workers write alike."""
        self.endpoint_url = endpoint_url
        self.encryption = encryption or Encryption.of_environment()
        self._s3: S3Client | None = None

    def __reduce__(self) -> tuple[type["Storage"], tuple[str | None, Encryption]]:
        return Storage, (self.endpoint_url, self.encryption)

    def _store(self, uri: str) -> Store:
        if not uri.startswith(S3):
            return LocalStore()
        if self._s3 is None:
            self._s3 = S3Client(self.endpoint_url, self.encryption)
        return self._s3

    def _object_store(self, uri: str) -> Store | OddKeys:
        store = self._store(uri)
        return OddKeys(store) if isinstance(store, S3Client) and is_odd(uri) else store

    def list(self, uri: str) -> Iterator[list[ObjectInfo]]:
        """Yields pages of the objects under a prefix or folder: `list_tables` for those who know that they are few."""
        for table in self.list_tables(uri):
            yield to_objects(table)

    def list_tables(self, uri: str) -> Iterator["pa.Table"]:
        """Yields the objects under a prefix or folder, each once, in no promised order, without folder marks.

        Tables with `uri: string`, `etag: string`, `size: int64`, `last_modified: timestamp[us, UTC]`; etag empty
        and the others null where an object is there but may not be looked at. A large prefix is listed by several
        threads until all is taken or the iterator is closed. Raises `StorageError`: `not_found` (no such folder),
        `bucket_missing`, `access_denied`, `unavailable`.
        """
        return self._store(uri).list_tables(uri)

    def stat(self, uri: str) -> ObjectInfo:
        """Returns one object's etag and size without its bytes. Raises `StorageError`."""
        return self._object_store(uri).stat(uri)

    def get(self, uri: str, max_bytes: int | None = None) -> Fetched:
        """Returns one object; with `max_bytes` a larger one is refused (`too_many_bytes`) before it is read.

        Raises `StorageError`.
        """
        return self._object_store(uri).get(uri, max_bytes)

    def open(self, info: ObjectInfo) -> IO[bytes]:
        """Opens a listed object to read pieces of it, as of a Parquet file. Each read may raise `StorageError`."""
        return self._store(info.uri).open(info.uri, info.size_bytes)

    def put(self, uri: str, data: bytes) -> None:
        """Writes one object so that a reader sees all of it or nothing. Raises `StorageError`."""
        self._object_store(uri).put(uri, data)

    def create(self, uri: str, data: bytes) -> str:
        """Writes an object that must not be there yet, and returns its etag; one of several writers wins.

        An object with the very same bytes counts as this one, as an answer of the store may have been lost: a writer
        that must be the only one puts something into it that is his alone.
        Raises `StorageError`, `exists` where it is there already.
        """
        return self._store(uri).create(uri, data)

    def replace(self, uri: str, data: bytes, etag: str) -> str:
        """Replaces just this version of an object, and returns the new etag; one of several writers wins.

        Raises `StorageError`, `changed` where the object is of another version or gone.
        """
        return self._store(uri).replace(uri, data, etag)

    def delete(self, uri: str) -> None:
        """Removes an object; none there is no error. Raises `StorageError`."""
        self._store(uri).delete(uri)

    def delete_below(self, uri: str) -> None:
        """Removes a folder or prefix of our own with all that is in it; none there is no error.

        Raises `StorageError`.
        """
        self._store(uri).delete_below(uri)

    def filesystem(self, uri: str) -> tuple[Any, str]:
        """Returns the fsspec filesystem of a URI and the path in it, for pyarrow datasets and small files."""
        import fsspec

        if not uri.startswith(S3):
            return fsspec.filesystem("file"), uri
        patience, settings = Patience.of_environment(), AwsSettings.read(self.endpoint_url)
        filesystem = fsspec.filesystem(
            "s3",
            client_kwargs=settings.client_arguments(),
            s3_additional_kwargs=self.encryption.boto_arguments(),
            requester_pays=settings.requester_pays,
            config_kwargs={
                **settings.config_arguments(),
                "connect_timeout": min(CONNECT_S, patience.attempt_s),
                "read_timeout": patience.attempt_s,
                "retries": {"mode": "standard", "total_max_attempts": FILESYSTEM_ATTEMPTS},
            },
            skip_instance_cache=True,  # or it would keep credentials
        )
        return filesystem, uri.removeprefix(S3)
