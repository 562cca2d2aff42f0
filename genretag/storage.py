"""Local paths and object stores behind one small door: list, stat, get, put.

A URI is `s3://bucket/key` or an absolute local path; both are kept exactly as they are, never encoded.
Objects go through obstore; `filesystem` opens the same places, through fsspec, for pyarrow and DuckDB.
"""

import fcntl
import os
import re
import stat
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from genretag.errors import UsageError, one_line

if TYPE_CHECKING:
    from obstore.store import S3Store

S3 = "s3://"
HTTP_STATUS = re.compile(r"status code: (\d{3})")
PAGE = 1000  # objects in one page of a listing: what S3 gives at a time


class StorageError(Exception):
    """An object or a place could not be reached. `reason` is a stable name for failure rows."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class ObjectInfo:
    """One object of a listing. The etag changes when the content does."""

    uri: str
    etag: str
    size_bytes: int
    last_modified: datetime


@dataclass(frozen=True)
class Fetched:
    """An object's bytes (or a buffer of them) and the etag of the version that they are."""

    data: Any
    etag: str


class _Store(Protocol):
    def list(self, uri: str) -> Iterator[list[ObjectInfo]]: ...
    def stat(self, uri: str) -> ObjectInfo: ...
    def get(self, uri: str, max_bytes: int | None) -> Fetched: ...
    def put(self, uri: str, data: bytes) -> None: ...
    def create(self, uri: str, data: bytes) -> str: ...
    def replace(self, uri: str, data: bytes, etag: str) -> str: ...
    def delete(self, uri: str) -> None: ...


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

    def __init__(self, endpoint_url: str | None = None) -> None:
        self.endpoint_url = endpoint_url
        self._s3: _S3 | None = None

    def __reduce__(self) -> tuple[type["Storage"], tuple[str | None]]:
        return Storage, (self.endpoint_url,)

    def _store(self, uri: str) -> _Store:
        if not uri.startswith(S3):
            return _Local()
        if self._s3 is None:
            self._s3 = _S3(self.endpoint_url)
        return self._s3

    def list(self, uri: str) -> Iterator[list[ObjectInfo]]:
        """Yields pages of the objects under a prefix or folder, in no promised order. Folder marks are left out.

        Raises `StorageError`: `not_found` (no such folder or bucket), `access_denied`, `unavailable`.
        """
        return self._store(uri).list(uri)

    def stat(self, uri: str) -> ObjectInfo:
        """Returns one object's etag and size without its bytes. Raises `StorageError`."""
        return self._store(uri).stat(uri)

    def get(self, uri: str, max_bytes: int | None = None) -> Fetched:
        """Returns one object; with `max_bytes` a larger one is refused (`too_many_bytes`) before it is read.

        Raises `StorageError`.
        """
        return self._store(uri).get(uri, max_bytes)

    def put(self, uri: str, data: bytes) -> None:
        """Writes one object so that a reader sees all of it or nothing. Raises `StorageError`."""
        self._store(uri).put(uri, data)

    def create(self, uri: str, data: bytes) -> str:
        """Writes an object that must not be there yet, and returns its etag; one of several writers wins.

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

    def filesystem(self, uri: str) -> tuple[Any, str]:
        """Returns the fsspec filesystem of a URI and the path in it, for pyarrow datasets and small files."""
        import fsspec

        if not uri.startswith(S3):
            return fsspec.filesystem("file"), uri
        client = {"region_name": _region(), "endpoint_url": _endpoint(self.endpoint_url)}
        filesystem = fsspec.filesystem("s3", client_kwargs=client, skip_instance_cache=True)  # or it keeps credentials
        return filesystem, uri.removeprefix(S3)


class _Local:
    """Plain files. The etag is made of modification time and size, as nothing cheaper tells a change."""

    def list(self, uri: str) -> Iterator[list[ObjectInfo]]:
        if not os.path.isdir(uri):  # noqa: PTH112 - Path drops what the user may have meant, such as a last slash
            raise StorageError("not_found", f"{uri} is not a folder")
        page: list[ObjectInfo] = []
        for folder, subfolders, names in os.walk(uri, onerror=_raise_as_storage_error):
            subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
            for name in sorted(names):
                info = None if name.startswith(".") else self._stat_listed(f"{folder}/{name}")
                if info is not None:
                    page.append(info)
                if len(page) == PAGE:
                    yield page
                    page = []
        if page:
            yield page

    def _stat_listed(self, path: str) -> ObjectInfo | None:
        try:
            return self.stat(path)
        except StorageError as error:  # deleted since, or a dangling link: not there any more
            if error.reason == "not_found":
                return None
            raise

    def stat(self, uri: str) -> ObjectInfo:
        try:
            found = os.stat(uri)  # noqa: PTH116
        except OSError as error:
            raise _storage_error(error) from error
        if not stat.S_ISREG(found.st_mode):
            raise StorageError("not_found", f"{uri} is not a file")
        modified = datetime.fromtimestamp(found.st_mtime_ns // 1000 / 1e6, UTC)
        return ObjectInfo(uri, f"{found.st_mtime_ns:x}-{found.st_size:x}", found.st_size, modified)

    def get(self, uri: str, max_bytes: int | None) -> Fetched:
        info = self.stat(uri)
        _refuse_large(info.size_bytes, max_bytes)
        try:
            return Fetched(Path(uri).read_bytes(), info.etag)
        except OSError as error:
            raise _storage_error(error) from error

    def put(self, uri: str, data: bytes) -> None:
        with _written_aside(uri, data) as temporary:
            temporary.replace(uri)

    def create(self, uri: str, data: bytes) -> str:
        with _written_aside(uri, data) as temporary:
            try:
                os.link(temporary, uri)  # unlike a rename, it fails where the name is taken
            except FileExistsError as error:
                raise StorageError("exists", f"{uri} exists already") from error
            return self.stat(str(temporary)).etag  # the same file

    def replace(self, uri: str, data: bytes, etag: str) -> str:
        with _written_aside(uri, data) as temporary, _folder_locked(Path(uri).parent):
            if not Path(uri).exists() or self.stat(uri).etag != etag:
                raise StorageError("changed", f"{uri} was changed by another writer")
            temporary.replace(uri)
            return self.stat(uri).etag

    def delete(self, uri: str) -> None:
        try:
            Path(uri).unlink(missing_ok=True)
        except OSError as error:
            raise _storage_error(error) from error


class _S3:
    """S3 and what speaks its protocol. Credentials come from boto3's chain: environment, profile, SSO, role."""

    def __init__(self, endpoint_url: str | None) -> None:
        self._endpoint_url = endpoint_url
        self._buckets: dict[str, S3Store] = {}
        self._lock = threading.Lock()

    def _open(self, uri: str) -> tuple["S3Store", str]:
        bucket, _, key = uri.removeprefix(S3).partition("/")
        with self._lock:
            if bucket not in self._buckets:
                self._buckets[bucket] = _open_bucket(bucket, _endpoint(self._endpoint_url))
            return self._buckets[bucket], key

    def list(self, uri: str) -> Iterator[list[ObjectInfo]]:
        import obstore

        store, prefix = self._open(uri)
        root = uri.removesuffix(prefix).rstrip("/")
        with _storage_errors(root):
            for page in obstore.list(store, prefix or None, chunk_size=PAGE):
                yield [
                    ObjectInfo(f"{root}/{o['path']}", _plain(o["e_tag"]), o["size"], o["last_modified"])
                    for o in page
                    if not (o["size"] == 0 and o["path"].endswith("/"))
                ]

    def stat(self, uri: str) -> ObjectInfo:
        import obstore

        store, key = self._open(uri)
        with _storage_errors(uri):
            found = obstore.head(store, key)
        return ObjectInfo(uri, _plain(found["e_tag"]), found["size"], found["last_modified"])

    def get(self, uri: str, max_bytes: int | None) -> Fetched:
        import obstore

        store, key = self._open(uri)
        with _storage_errors(uri):
            result = obstore.get(store, key)
            _refuse_large(result.meta["size"], max_bytes)
            return Fetched(memoryview(result.bytes()), _plain(result.meta["e_tag"]))

    def put(self, uri: str, data: bytes) -> None:
        import obstore

        store, key = self._open(uri)
        with _storage_errors(uri):
            obstore.put(store, key, data)

    def create(self, uri: str, data: bytes) -> str:
        import obstore

        store, key = self._open(uri)
        with _storage_errors(uri):
            return _plain(obstore.put(store, key, data, mode="create")["e_tag"])

    def replace(self, uri: str, data: bytes, etag: str) -> str:
        import obstore

        store, key = self._open(uri)
        with _storage_errors(uri):
            return _plain(obstore.put(store, key, data, mode={"e_tag": f'"{etag}"'})["e_tag"])

    def delete(self, uri: str) -> None:
        import obstore

        store, key = self._open(uri)
        with _storage_errors(uri):
            obstore.delete(store, key)


def _open_bucket(bucket: str, endpoint_url: str | None) -> "S3Store":
    import boto3
    from obstore.auth.boto3 import Boto3CredentialProvider
    from obstore.store import S3Store

    session = boto3.Session()
    if session.get_credentials() is None:
        raise UsageError(
            f"no credentials for s3://{bucket}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "or AWS_PROFILE, or run where a role gives them"
        )
    return S3Store(
        bucket,
        endpoint=endpoint_url,
        region=_region(),
        credential_provider=Boto3CredentialProvider(session),
        client_options={
            "allow_http": (endpoint_url or "").startswith("http://"),
            "timeout": timedelta(seconds=60),
            "connect_timeout": timedelta(seconds=5),
        },
        retry_config={"max_retries": 5, "retry_timeout": timedelta(seconds=60)},
    )


def _endpoint(endpoint_url: str | None) -> str | None:
    return endpoint_url or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")


def _region() -> str:
    import boto3

    return boto3.Session().region_name or "us-east-1"


def _plain(etag: str | None) -> str:
    return (etag or "").strip('"')


def _refuse_large(size_bytes: int, max_bytes: int | None) -> None:
    if max_bytes is not None and size_bytes > max_bytes:
        raise StorageError("too_many_bytes", f"{size_bytes} bytes, more than the limit of {max_bytes}")


@contextmanager
def _written_aside(uri: str, data: bytes) -> Iterator[Path]:
    """A synced temporary file beside `uri`, to be renamed or linked into place; it is gone afterwards."""
    path = Path(uri)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    except OSError as error:
        raise _storage_error(error) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def _folder_locked(folder: Path) -> Iterator[None]:
    """Holds the folder for this process among those of this machine; the kernel lets go of it with the process."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _raise_as_storage_error(error: OSError) -> None:
    raise _storage_error(error) from error


def _storage_error(error: OSError) -> StorageError:
    kinds: dict[type[OSError], str] = {
        FileNotFoundError: "not_found",
        NotADirectoryError: "not_found",
        PermissionError: "access_denied",
    }
    reason = next((name for kind, name in kinds.items() if isinstance(error, kind)), "unavailable")
    return StorageError(reason, one_line(f"{error.strerror or error}: {error.filename}"))


@contextmanager
def _storage_errors(uri: str) -> Iterator[None]:
    """Turns obstore's exceptions into `StorageError`, naming the URI and leaving out headers and bodies."""
    from obstore.exceptions import BaseError

    try:
        yield
    except (BaseError, OSError) as error:  # what is missing comes as the built-in FileNotFoundError
        raise _s3_error(uri, error) from error


def _s3_error(uri: str, error: Exception) -> StorageError:
    from obstore import exceptions

    found = HTTP_STATUS.search(str(error))  # of a listing, obstore tells it in its text alone
    status = int(found[1]) if found else 0
    if isinstance(error, FileNotFoundError | exceptions.NotFoundError) or status == 404:
        return StorageError("not_found", f"{uri} does not exist")
    if isinstance(error, exceptions.AlreadyExistsError):
        return StorageError("exists", f"{uri} exists already")
    if isinstance(error, exceptions.PreconditionError):
        return StorageError("changed", f"{uri} was changed by another writer")
    denied = (PermissionError, exceptions.PermissionDeniedError, exceptions.UnauthenticatedError)
    if isinstance(error, denied) or status in (401, 403):
        return StorageError("access_denied", f"the store refuses these credentials for {uri}")
    return StorageError("unavailable", f"{uri}: {one_line(str(error).split('Debug source')[0], 200)}")
