"""The types that all stores share: objects, their etags, and the error if an object cannot be read or written.

Stores, proxies, inventories and manifests write the same etag in several forms. HTTP puts an etag in quotes, and a
compressing proxy puts `W/` before the quotes (RFC 9110, 8.8.3). boto3 keeps the quotes, S3 Inventory has none, and XML
has `&quot;`. S3 writes MD5 sums in lower case, and some people's tables have them in upper case. Etags of other kinds
(some stores use base64) are case-sensitive. `etag_key` turns all these forms into one form.

`RangeFile` lets a library read parts of an object as a file. Parquet is read this way: the footer first, then the
wanted columns.
"""

import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import IO, Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

PAGE = 1000  # objects in one page of a listing, which is the most that S3 returns for a request


class StorageError(Exception):
    """Error if an object, a folder or a bucket cannot be read or written.

    `reason` is a stable name, such as `not_found`, for code and for the output table `failures`. `message` is a
    line for people.
    """

    def __init__(self, reason: str, message: str, retry_after_s: float | None = None) -> None:
        """`retry_after_s` is how long the server asks us to wait before the next attempt. None: it does not say."""
        super().__init__(reason, message, retry_after_s)  # all in args, or the error would not survive pickling
        self.reason = reason
        self.message = message
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True)
class ObjectInfo:
    """The properties of one object. If the content changes, the etag changes.

    If the properties could not be read, the etag is empty, and size and time mean nothing (see `unknown`).
    """

    uri: str
    etag: str
    size_bytes: int
    last_modified: datetime

    @staticmethod
    def unknown(uri: str) -> "ObjectInfo":
        """Return the `ObjectInfo` of an object whose properties could not be read. The etag is empty."""
        return ObjectInfo(uri, "", 0, datetime.fromtimestamp(0, UTC))


@dataclass(frozen=True)
class Fetched:
    """The content of an object (`data`, bytes or a memoryview), and the etag of the version that was read."""

    data: Any
    etag: str


class Store(Protocol):
    """The methods that local files and S3 both implement. `Storage` documents each method."""

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
    """Raise `StorageError` with the reason `too_many_bytes` if `size_bytes` exceeds `max_bytes`.

    If `max_bytes` is None, there is no limit.
    """
    if max_bytes is not None and size_bytes > max_bytes:
        raise StorageError("too_many_bytes", f"{size_bytes} bytes, more than the limit of {max_bytes}")


MARK = r'[ \t\r\n"]|&quot;|&#34;'
BARE = rf"(?s)^(?:{MARK}|[Ww]/)*(.*?)(?:{MARK})*$"
MD5 = r"^[0-9A-Fa-f]{32}(?:-[0-9]+)?$"  # with a number if the object was uploaded in several parts
UNUSUAL = r'^[ \t\r\n"&Ww]|[ \t\r\n";]$|[A-F]'  # an etag that does not match is already as `etag_key` returns it

_BARE, _MD5 = re.compile(BARE), re.compile(MD5)


def bare_etag(etag: str | None) -> str:
    """Return an etag without quotes and `W/`, with its case unchanged. Return an empty text for None."""
    found = _BARE.match(etag or "")
    return found[1] if found else ""


def etag_key(etag: str | None) -> str:
    """Return an etag in the one form in which etags are compared and stored. Return an empty text for None.

    The form has no quotes and no `W/` (see `bare_etag`). MD5 sums are in lower case.
    """
    bare = bare_etag(etag)
    return bare.lower() if _MD5.match(bare) else bare


def etag_keys(etags: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return each etag in the form of `etag_key`. Null becomes an empty text."""
    etags = pc.fill_null(etags, "")
    if not pc.any(pc.match_substring_regex(etags, UNUSUAL)).as_py():
        return etags
    bare = pc.replace_substring_regex(etags, BARE, r"\1")
    return pc.if_else(pc.match_substring_regex(bare, MD5), pc.utf8_lower(bare), bare)


class RangeFile(io.RawIOBase):
    """A seekable, read-only file whose bytes come from an object of `size_bytes`. Each `read` calls `read_range` once.

    `read_range` takes the index of the first byte and the number of bytes, and returns these bytes.
    """

    def __init__(self, size_bytes: int, read_range: Callable[[int, int], bytes]) -> None:
        self._size_bytes = size_bytes
        self._read_range = read_range
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size_bytes}[whence]
        self._position = max(0, start + offset)
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        left = max(0, self._size_bytes - self._position)
        length = left if size is None or size < 0 else min(size, left)
        data = self._read_range(self._position, length) if length else b""
        self._position += len(data)
        return data
