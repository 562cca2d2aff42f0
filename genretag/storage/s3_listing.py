"""List a bucket of S3 or Google Cloud Storage into Arrow tables with exact keys.

If the store lists keys in order, several threads list a prefix in parallel. An Arrow table takes about a quarter of
the memory of Python objects. For short listings, `to_objects` turns a table into Python objects.

A listing by obstore would be less code, but obstore parses keys as paths. A key with an empty segment, a dot segment
or a control character breaks obstore's listing. The keys `a/` and `/a` would both arrive as `a`. boto3 lists every key
correctly, but its XML parser needs 110 ms of CPU time for a page of 1,000 objects. So regular expressions first take
key, etag, size and time of each object out of the XML. With these expressions, a page takes 6 ms.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import unescape
from itertools import compress
from typing import Any
from urllib.parse import unquote_plus

import pyarrow as pa
import pyarrow.compute as pc

from genretag.storage.key_ranges import OutOfOrderError, list_ranges
from genretag.storage.objects import PAGE, ObjectInfo, StorageError

LISTING = pa.schema(
    [
        pa.field("uri", pa.string()),
        pa.field("etag", pa.string()),  # empty if an object was listed but its properties could not be read
        pa.field("size", pa.int64()),
        pa.field("last_modified", pa.timestamp("us", "UTC")),
    ]
)


def to_table(objects: Sequence[ObjectInfo]) -> pa.Table:
    """Return objects as a table with the columns of `LISTING`. If an object has no etag, its size and time are null."""
    columns: list[Sequence[Any]] = [
        [info.uri for info in objects],
        [info.etag for info in objects],
        [info.size_bytes if info.etag else None for info in objects],
        [info.last_modified if info.etag else None for info in objects],
    ]
    return of_columns(columns)


def of_columns(columns: Sequence[Sequence[Any]]) -> pa.Table:
    """Return a table of the columns of `LISTING`, in their order. Times are datetimes, or microseconds since 1970."""
    return pa.table([pa.array(column, field.type) for column, field in zip(columns, LISTING, strict=True)], LISTING)


def to_objects(table: pa.Table) -> list[ObjectInfo]:
    """Return the rows of a `LISTING` table as objects. A row without an etag becomes `ObjectInfo.unknown`."""
    return [
        ObjectInfo(uri, etag, size, modified) if etag else ObjectInfo.unknown(uri)
        for uri, etag, size, modified in zip(*(column.to_pylist() for column in table.columns), strict=True)
    ]


LISTERS = 16  # threads; one process cannot read answers faster, and S3 allows 5,500 requests per second and prefix
ORDERED_SERVERS = ("AmazonS3", "MinIO", "UploadServer")
"""`Server` headers of stores that list keys in the order of their UTF-8 bytes; Google's is UploadServer. SeaweedFS does
not: it lists a folder `a/` before `a-b`, and omits the folder if a listing starts after `a`. A parallel listing would
lose objects there."""
UNORDERED_BUCKETS = "--x-s3"  # suffix of S3 Express directory buckets, which have no key order and no start-after

COLUMNS = {
    "keys": re.compile(rb"<Key>([^<]+)</Key>"),
    "etags": re.compile(rb"<ETag>([^<]*)</ETag>"),
    "sizes": re.compile(rb"<Size>(\d+)</Size>"),
    "modified": re.compile(rb"<LastModified>([\d-]+T[\d:]+(?:\.\d{1,6})?)\d*Z</LastModified>"),
}
QUOTES = '&quot;|&#34;|"'


@dataclass(frozen=True)
class Page:
    """One page of a listing. Keys are decoded. Etags, sizes and times are bytes, as in the store's answer."""

    root: str  # s3://bucket/
    keys: list[str]
    etags: list[bytes]
    sizes: list[bytes]
    modified: list[bytes]
    token: str | None  # for the request of the next page; None if this is the last page
    server: str  # the `Server` header of the answer, or empty

    def rows(self, count: int) -> pa.Table:
        """Return the page's first `count` objects as a table with the columns of `LISTING`, without folder marks.

        A folder mark is an object without bytes whose key ends with `/`. The table has fewer than `count` rows if there
        are folder marks.
        """
        kept = [not (size == b"0" and key.endswith("/")) for key, size in zip(self.keys, self.sizes, strict=True)]
        kept[count:] = [False] * (len(kept) - count)
        etags, sizes, modified = (
            pa.array(list(compress(column, kept)), pa.binary()).cast(pa.string())
            for column in (self.etags, self.sizes, self.modified)
        )
        uris = pa.array([self.root + key for key in compress(self.keys, kept)], pa.string())
        times = modified.cast(pa.timestamp("us")).cast(pa.timestamp("us", "UTC"))
        etags = pc.replace_substring_regex(etags, QUOTES, "")
        return pa.table([uris, etags, sizes.cast(pa.int64()), times], LISTING)


def list_below(
    client: Any, root: str, prefix: str, persist: Callable[[Callable[[], Page]], Page]
) -> Iterator[pa.Table]:
    """Yield the objects below a prefix as tables with the columns of `LISTING`. Each object comes once, in any order.

    `client` is a boto3 client, and `root` the URI of the bucket. `persist` calls its argument, and retries while the
    error is temporary. Raises `StorageError`, with the reason `refused` if a store that should list keys in order
    (`ORDERED_SERVERS`) does not.
    """

    def list_page(after: str, token: str | None) -> Page:
        return persist(lambda: request_page(client, root, prefix, after, token))

    page = list_page("", None)
    yield page.rows(len(page.keys))
    if page.server.startswith(ORDERED_SERVERS) and not root.endswith(UNORDERED_BUCKETS):
        try:
            yield from list_ranges(list_page, page, prefix, LISTERS)
        except OutOfOrderError as error:
            raise StorageError("refused", f"{root}: the store does not list keys in order ({error})") from None
        return
    while page.token is not None:
        page = list_page("", page.token)
        yield page.rows(len(page.keys))


def take_columns(operation_model: Any, response_dict: Any, customized_response_dict: Any, **_event: Any) -> None:
    """Handle botocore's event `before-parse`: read the columns of a listing from the XML before botocore parses it.

    The answer of boto3 then has `Columns` (lists of bytes by name), `KeysAreEncoded` (for URLs), and no `Contents`. If
    the XML is not in the form that S3 writes, change nothing. botocore then parses the whole XML.
    """
    if operation_model.name != "ListObjectsV2" or response_dict["status_code"] != 200:
        return
    body: bytes = response_dict["body"]
    head, _, rest = body.partition(b"<Contents>")
    contents, _, tail = rest.rpartition(b"</Contents>")
    columns = {name: column.findall(contents) for name, column in COLUMNS.items()}
    if {len(column) for column in columns.values()} == {contents.count(b"</Contents>") + 1}:
        customized_response_dict["Columns"] = columns
        customized_response_dict["KeysAreEncoded"] = b"<EncodingType>url</EncodingType>" in head + tail
        response_dict["body"] = head + tail


def request_page(client: Any, root: str, prefix: str, after: str, token: str | None) -> Page:
    """Request one page of a listing with a boto3 client. `root` is the URI of the bucket.

    If `token` is given, the page continues from that token. Otherwise it begins after the key `after`. If `after` is
    empty, it is the first page of the prefix.
    """
    start = {"ContinuationToken": token} if token else {"StartAfter": after} if after else {}
    answer = client.list_objects_v2(Bucket=root.partition("://")[2], Prefix=prefix, MaxKeys=PAGE, **start)
    if columns := answer.get("Columns"):
        columns["keys"] = _decoded(columns["keys"], url_encoded=answer["KeysAreEncoded"])
    else:
        columns = _columns_of(answer.get("Contents", []))
    server = answer["ResponseMetadata"]["HTTPHeaders"].get("server", "")
    token = answer["NextContinuationToken"] if answer.get("IsTruncated") else None
    return Page(f"{root}/", token=token, server=server, **columns)


def _decoded(keys: list[bytes], *, url_encoded: bool) -> list[str]:
    """Return the keys as text, decoded from XML and, if they are `url_encoded`, from URL encoding.

    For speed, all keys are joined by line feeds and decoded in one call. If a key may contain a line feed, each key is
    decoded alone.
    """
    joined = b"\n".join(keys).decode()
    decode = unquote_plus if url_encoded else str
    if any(line_feed in joined for line_feed in ("%0A", "%0a", "&#")):
        return [decode(unescape(key)) for key in joined.split("\n")]
    return decode(unescape(joined)).split("\n")


def _columns_of(contents: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Return the columns of a page by their names in `Page`, from the `Contents` that botocore parsed.

    This function is for pages that `take_columns` did not change, because their XML is not in the form that S3 writes.
    """
    return {
        "keys": [found["Key"] for found in contents],
        "etags": [found.get("ETag", "").encode() for found in contents],
        "sizes": [str(found["Size"]).encode() for found in contents],
        "modified": [f"{found['LastModified']:%Y-%m-%dT%H:%M:%S.%f}".encode() for found in contents],
    }
