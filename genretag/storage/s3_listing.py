"""Lists what is below a prefix of a bucket, exactly as the keys are, in parallel where the store keeps them in order.

obstore would be less code, but loses keys: one with an empty or a dot segment or a control character breaks the
listing, and `a/` and `/a` both come as `a` (object_store's path parser). boto3 has them right and needs 110 ms CPU for
a page of 1,000; reading the four columns by regular expressions, before its own XML parser sees them, leaves 6 ms.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html import unescape
from itertools import compress
from typing import Any
from urllib.parse import unquote_plus

import pyarrow as pa
import pyarrow.compute as pc

from genretag.storage.key_ranges import OutOfOrderError, list_ranges
from genretag.storage.listing_tables import LISTING
from genretag.storage.objects import PAGE, StorageError

LISTERS = 16  # S3 allows 5,500 requests a second per prefix; so many answers are as much as one process can read
ORDERED_SERVERS = ("AmazonS3", "MinIO")
"""Stores that list in the order of UTF-8 bytes, by their `Server` header. SeaweedFS lists a folder `a/` before its
neighbour `a-b`, and leaves the folder out of what comes after `a`: ranges of keys would lose objects there."""
UNORDERED_BUCKETS = "--x-s3"  # the ending of S3 Express directory buckets: no order, no start-after

COLUMNS = {
    "keys": re.compile(rb"<Key>([^<]+)</Key>"),
    "etags": re.compile(rb"<ETag>([^<]*)</ETag>"),
    "sizes": re.compile(rb"<Size>(\d+)</Size>"),
    "modified": re.compile(rb"<LastModified>([\d-]+T[\d:]+(?:\.\d{1,6})?)\d*Z</LastModified>"),
}
QUOTES = '&quot;|&#34;|"'


@dataclass(frozen=True)
class Page:
    """One page of a listing: the columns as they stand in the answer, but for the keys, which are decoded."""

    root: str  # s3://bucket/
    keys: list[str]
    etags: list[bytes]
    sizes: list[bytes]
    modified: list[bytes]
    token: str | None
    server: str

    def rows(self, count: int) -> pa.Table:
        """The first `count` objects as a table of `LISTING`, without folder marks: no bytes, and a name ending in /."""
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
    client: Any, bucket: str, prefix: str, persist: Callable[[Callable[[], Page]], Page]
) -> Iterator[pa.Table]:
    """Yields the objects below a prefix in tables of `LISTING`, each once, in no promised order.

    `persist` makes one request, again where that may help. Raises `StorageError`.
    """

    def list_page(after: str, token: str | None) -> Page:
        return persist(lambda: request_page(client, bucket, prefix, after, token))

    page = list_page("", None)
    yield page.rows(len(page.keys))
    if page.server.startswith(ORDERED_SERVERS) and not bucket.endswith(UNORDERED_BUCKETS):
        try:
            yield from list_ranges(list_page, page, prefix, LISTERS)
        except OutOfOrderError as error:
            raise StorageError("refused", f"s3://{bucket}: the store does not list keys in order ({error})") from None
        return
    while page.token is not None:
        page = list_page("", page.token)
        yield page.rows(len(page.keys))


def take_columns(operation_model: Any, response_dict: Any, customized_response_dict: Any, **_event: Any) -> None:
    """botocore's event `before-parse`: keeps a listing's columns, undecoded, as `Columns` in place of `Contents`."""
    if operation_model.name != "ListObjectsV2" or response_dict["status_code"] != 200:
        return
    body: bytes = response_dict["body"]
    head, _, rest = body.partition(b"<Contents>")
    contents, _, tail = rest.rpartition(b"</Contents>")
    if b"<EncodingType>url</EncodingType>" not in head + tail:
        return
    columns = {name: column.findall(contents) for name, column in COLUMNS.items()}
    if {len(column) for column in columns.values()} == {contents.count(b"</Contents>") + 1}:
        customized_response_dict["Columns"] = columns
        response_dict["body"] = head + tail


def request_page(client: Any, bucket: str, prefix: str, after: str, token: str | None) -> Page:
    """Asks for the page behind the key `after`, or for the one that a token stands for."""
    start = {"ContinuationToken": token} if token else {"StartAfter": after} if after else {}
    answer = client.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=PAGE, **start)
    if columns := answer.get("Columns"):
        columns["keys"] = _decoded(columns["keys"])
    else:
        columns = _columns_of(answer.get("Contents", []))
    server = answer["ResponseMetadata"]["HTTPHeaders"].get("server", "")
    token = answer["NextContinuationToken"] if answer.get("IsTruncated") else None
    return Page(f"s3://{bucket}/", token=token, server=server, **columns)


def _decoded(keys: list[bytes]) -> list[str]:
    """Keys out of XML and URL encoding, all at once where no key holds the line feed that joins them."""
    joined = b"\n".join(keys).decode()
    if any(line_feed in joined for line_feed in ("%0A", "%0a", "&#")):
        return [unquote_plus(unescape(key)) for key in joined.split("\n")]
    return unquote_plus(unescape(joined)).split("\n")


def _columns_of(contents: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """The columns of a page that botocore parsed, because its form was another than S3's."""
    return {
        "keys": [found["Key"] for found in contents],
        "etags": [found.get("ETag", "").encode() for found in contents],
        "sizes": [str(found["Size"]).encode() for found in contents],
        "modified": [f"{found['LastModified']:%Y-%m-%dT%H:%M:%S.%f}".encode() for found in contents],
    }
