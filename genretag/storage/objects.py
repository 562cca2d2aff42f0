"""What every store speaks of: objects, their versions, and why one could not be reached."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import IO, TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import pyarrow as pa

PAGE = 1000  # objects in one page of a listing: what S3 gives at a time


class StorageError(Exception):
    """An object or a place could not be reached. `reason` is a stable name for failure rows."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(reason, message)  # both in args, or the error would not survive pickling
        self.reason = reason
        self.message = message

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True)
class ObjectInfo:
    """One object of a listing. The etag changes when the content does."""

    uri: str
    etag: str
    size_bytes: int
    last_modified: datetime

    @staticmethod
    def unknown(uri: str) -> "ObjectInfo":
        """An object that could not be looked up: it has no etag, and its other values say nothing."""
        return ObjectInfo(uri, "", 0, datetime.fromtimestamp(0, UTC))


@dataclass(frozen=True)
class Fetched:
    """An object's bytes (or a buffer of them) and the etag of the version that they are."""

    data: Any
    etag: str


class Store(Protocol):
    """What a kind of place can do; `Storage` says what each call means."""

    def list_tables(self, uri: str) -> "Iterator[pa.Table]": ...
    def stat(self, uri: str) -> ObjectInfo: ...
    def get(self, uri: str, max_bytes: int | None) -> Fetched: ...
    def open(self, uri: str, size_bytes: int) -> IO[bytes]: ...
    def put(self, uri: str, data: bytes) -> None: ...
    def create(self, uri: str, data: bytes) -> str: ...
    def replace(self, uri: str, data: bytes, etag: str) -> str: ...
    def delete(self, uri: str) -> None: ...
    def delete_below(self, uri: str) -> None: ...


def refuse_large(size_bytes: int, max_bytes: int | None) -> None:
    """Raises `StorageError`, `too_many_bytes`, for an object that is larger than the limit."""
    if max_bytes is not None and size_bytes > max_bytes:
        raise StorageError("too_many_bytes", f"{size_bytes} bytes, more than the limit of {max_bytes}")
