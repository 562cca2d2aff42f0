"""Read, write and list local files and objects of stores through one small interface, `Storage`.

A URI is an absolute local path, or `s3://`, `gs://`, `az://` or `abfss://` with a bucket and a key. `https://` URLs can
be read, but not listed or written. URIs are used exactly as they are, without percent-encoding.

Objects are read and written through obstore. Listings, and keys that obstore cannot handle (`is_odd`), go through other
clients. For libraries that need a file system (Ray Train, pyiceberg, DuckDB), `filesystem` returns an fsspec file
system.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import IO, TYPE_CHECKING, Any, cast

from genretag.storage.access import Access
from genretag.storage.aws_settings import AwsSettings, Encryption
from genretag.storage.azure import AzureBlobs
from genretag.storage.bucket_store import BucketStore
from genretag.storage.clients import CONNECT_S
from genretag.storage.google import GS, GoogleStore
from genretag.storage.local import LocalStore
from genretag.storage.objects import Fetched, ObjectInfo, StorageError, Store
from genretag.storage.retries import RetryPolicy
from genretag.storage.s3 import S3, S3Client
from genretag.storage.s3_listing import to_objects
from genretag.storage.store_errors import Advice
from genretag.storage.uris import HTTP, in_bucket, join, resolve
from genretag.storage.web import WebServers

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["GS", "S3", "Access", "Fetched", "ObjectInfo", "Storage", "StorageError", "in_bucket", "join", "resolve"]

FILESYSTEM_ATTEMPTS = 5


class Storage:
    """Access to local folders and stores by URI. Pickling is cheap: each process opens its clients at their first use.

    If a store does not answer at the first use, an unpickled copy keeps trying for GENRETAG_STORE_TOTAL_S, and other
    objects for `KNOCK_S`. A worker must outlast an outage, but a person should soon read that an address is wrong.

    Each method raises `StorageError` if the store fails or refuses. If credentials or settings are missing or unusable,
    the method raises `UsageError`.
    """

    def __init__(
        self, endpoint_url: str | None = None, encryption: Encryption | None = None, access: Access | None = None
    ) -> None:
        """Set the S3 endpoint, the encryption of writes, and the access to buckets. All workers use the same values.

        If `endpoint_url` is None, the AWS settings give the endpoint. If `encryption` is None, it is read from the
        environment. If `access` is None, all requests carry credentials, and the owner of a bucket pays.
        Raises `UsageError` if the environment's encryption settings are invalid.
        """
        self.endpoint_url = endpoint_url
        self.encryption = encryption or Encryption.of_environment()
        self.access = access or Access()
        self._stores: dict[str, Store] = {}

    def __reduce__(self) -> tuple[type["Storage"], tuple[str | None, Encryption, Access]]:
        return Storage, (self.endpoint_url, self.encryption, replace(self.access, in_worker=True))

    def __eq__(self, other: object) -> bool:
        """Return whether `other` has the same settings, so that one process can share clients between equal ones."""
        return isinstance(other, Storage) and self.__reduce__()[1] == other.__reduce__()[1]

    def __hash__(self) -> int:
        return hash(self.__reduce__()[1])

    def _store(self, uri: str) -> Store:
        """Return the store for a URI: local files, or the client for its scheme, which is opened at its first use."""
        if not in_bucket(uri) and not uri.startswith(HTTP):
            return LocalStore()
        scheme = uri.partition("://")[0]
        if scheme not in self._stores:
            self._stores[scheme] = self._new_store(uri)
        return self._stores[scheme]

    def _new_store(self, uri: str) -> Store:
        if uri.startswith(S3):
            return S3Client(self.endpoint_url, self.encryption, self.access)
        if uri.startswith(GS):
            return GoogleStore(self.access)
        if uri.startswith(HTTP):
            return WebServers(self.access)
        return AzureBlobs(self.access, uri.partition("://")[0] + "://")

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
        object exists but access to its properties is denied, its etag is empty, and its size and time are null. Objects
        without bytes whose keys end with `/` are left out, because they only mark folders.

        A prefix without objects gives no rows. A local folder that does not exist raises `StorageError` with the reason
        `not_found`. If the store lists keys in order and can start after a key, several threads list a large prefix.
        The threads end when everything is listed or the iterator is closed.
        """
        return self._store(uri).list_tables(uri)

    def stat(self, uri: str) -> ObjectInfo:
        """Return the etag, size and modification time of one object, without a download of its bytes.

        Raises `StorageError`, with the reason `not_found` if the object does not exist.
        """
        return self._store(uri).stat(uri)

    def get(self, uri: str, max_bytes: int | None = None) -> Fetched:
        """Return the bytes and the etag of one object. If `max_bytes` is None, there is no limit.

        Raises `StorageError`, with the reason `not_found` if the object does not exist. If the object exceeds
        `max_bytes`, nothing is read, and the error has the reason `too_many_bytes`.
        """
        return self._store(uri).get(uri, max_bytes)

    def open(self, info: ObjectInfo) -> IO[bytes]:
        """Open a listed object to read parts of it, such as columns of Parquet. Its key must not be odd (`is_odd`).

        A store's object of up to 1 MiB is fetched completely. Each read of a larger object is a request, and may raise
        `StorageError`.
        """
        return self._store(info.uri).open(info.uri, info.size_bytes)

    def put(self, uri: str, data: bytes) -> None:
        """Write one object, and overwrite an existing one. A reader sees the old object or the new one, never a part.

        Missing local folders are created. Raises `StorageError` if the object cannot be written.
        """
        self._store(uri).put(uri, data)

    def create(self, uri: str, data: bytes) -> str:
        """Write an object that must not exist yet, and return its etag. If several writers try, only one succeeds.

        In a store, the call also succeeds if the object already holds `data`. An earlier attempt of this call may have
        written the object, although the store's answer was lost. So competing writers must write different bytes.
        Raises `StorageError`, with the reason `exists` if the object exists already.
        """
        return self._store(uri).create(uri, data)

    def replace(self, uri: str, data: bytes, etag: str) -> str:
        """Overwrite an object only if its etag is still `etag`, and return the new etag.

        If several writers try, only one succeeds. In a store, the call also succeeds if the object already holds
        `data`. Raises `StorageError`, with the reason `changed` if the object has another etag or is gone.
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

        if not in_bucket(uri):
            return fsspec.filesystem("file"), uri
        path = uri.partition("://")[2]
        if not uri.startswith(S3):
            from genretag.storage.file_system import BucketFiles

            return BucketFiles(uri.partition("://")[0], self), path
        retry_policy, settings = RetryPolicy.of_environment(), AwsSettings.read(self.endpoint_url)
        filesystem = fsspec.filesystem(
            "s3",
            client_kwargs=settings.client_arguments(),
            s3_additional_kwargs=self.encryption.boto_arguments(),
            requester_pays=settings.requester_pays or self.access.request_payer,
            config_kwargs={
                **settings.config_arguments(),
                "connect_timeout": min(CONNECT_S, retry_policy.attempt_s),
                "read_timeout": retry_policy.attempt_s,
                "retries": {"mode": "standard", "total_max_attempts": FILESYSTEM_ATTEMPTS},
            },
            anon=self.access.is_anonymous(uri),
            skip_instance_cache=True,  # because a cached instance would go on using old credentials
        )
        return filesystem, path

    def delta_options(self, uri: str) -> dict[str, str]:
        """Return the options with which deltalake opens a table at a URI: address and credentials. {} for a folder.

        The credentials are those of this moment. The caller must not keep them.
        """
        store = self._store(uri)
        return store.delta_options(uri) if isinstance(store, BucketStore) else {}

    def advice_on(self, uri: str) -> Advice:
        """Return what the users of the cloud of a bucket's URI can check."""
        return cast(BucketStore, self._store(uri)).advice

    def obstore_of(self, uri: str) -> Any:
        """Return obstore's store for the bucket of a URI, for libraries that take one."""
        store = self._store(uri)
        if not isinstance(store, BucketStore):
            raise TypeError(f"{uri} is not in a bucket")
        return store.obstore_of(uri)
