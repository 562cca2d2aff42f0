"""S3 and what speaks its protocol, through obstore: conditional writes, credentials from boto3's whole chain."""

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from genretag.errors import UsageError, one_line
from genretag.storage.objects import PAGE, Fetched, ObjectInfo, StorageError, refuse_large

if TYPE_CHECKING:
    from obstore.store import S3Store

S3 = "s3://"
HTTP_STATUS = re.compile(r"status code: (\d{3})")


class S3Client:
    """S3 and what speaks its protocol. Credentials come from boto3's chain: environment, profile, SSO, role."""

    def __init__(self, endpoint_url: str | None) -> None:
        self._endpoint_url = endpoint_url
        self._buckets: dict[str, S3Store] = {}
        self._lock = threading.Lock()

    def _open(self, uri: str) -> tuple["S3Store", str]:
        bucket, _, key = uri.removeprefix(S3).partition("/")
        with self._lock:
            if bucket not in self._buckets:
                self._buckets[bucket] = _open_bucket(bucket, endpoint(self._endpoint_url))
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
            refuse_large(result.meta["size"], max_bytes)
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
        region=region(),
        credential_provider=Boto3CredentialProvider(session),
        client_options={
            "allow_http": (endpoint_url or "").startswith("http://"),
            "timeout": timedelta(seconds=60),
            "connect_timeout": timedelta(seconds=5),
        },
        retry_config={"max_retries": 5, "retry_timeout": timedelta(seconds=60)},
    )


def endpoint(endpoint_url: str | None) -> str | None:
    """The endpoint that was given, else that of the environment; none for AWS itself."""
    return endpoint_url or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")


def region() -> str:
    """The region of boto3's chain."""
    import boto3

    return boto3.Session().region_name or "us-east-1"


def _plain(etag: str | None) -> str:
    return (etag or "").strip('"')


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
