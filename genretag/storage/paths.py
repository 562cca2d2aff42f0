"""Paths with special characters: quoting for other syntaxes, and S3 keys that obstore cannot handle.

DuckDB's SQL, glob patterns and catalogue URIs give some characters a special meaning. Code that puts a path or a user's
text into SQL, a pattern or a URI calls a function of this file. So the result means exactly that path or text. The
SQL dialects of data warehouses have other rules (`output/warehouse.py`).

Odd keys have empty or dot segments, a `/` at either end, or control characters. obstore's library object_store reads a
key as a path. So it drops a `/` at the beginning and at the end (`a/` would become `a`), and refuses the other odd
keys. For S3, odd keys are valid keys, and boto3 does not change them. So `OddKeys` uses boto3.
"""

import re
from pathlib import Path
from typing import Any

from genretag.storage.objects import Fetched, ObjectInfo, bare_etag, refuse_large
from genretag.storage.s3 import S3, S3Client

IN_A_GLOB = re.compile(r"[*?\[]")
NOT_FOR_DUCKDB = "?\\"  # not allowed in the path of a database: DuckDB cuts the path at `?`, and reads `\` as `/`


def sql_text(text: object) -> str:
    """Return a text as a quoted string literal of DuckDB's SQL."""
    return "'" + str(text).replace("'", "''") + "'"


def sql_name(name: str) -> str:
    """Return the name of a column in quotes, as DuckDB's SQL needs it."""
    return '"' + name.replace('"', '""') + '"'


def glob_pattern(path: object) -> str:
    """Return a glob pattern that matches exactly this path, for DuckDB, fsspec and Python's glob."""
    return IN_A_GLOB.sub(lambda found: f"[{found[0]}]", str(path))


def parquet_rows(file: Path) -> str:
    """Return a `read_parquet(...)` call in DuckDB's SQL that reads the rows of one Parquet file.

    Folders named `name=value` above the file add no columns. If the path has a backslash, it must not have the wildcard
    characters `*`, `?` and `[`.
    """
    return f"read_parquet({sql_text(glob_pattern(file))}, hive_partitioning = false)"


def sqlite_uri(file: str) -> str:
    """Return the URI with which SQLAlchemy, and so pyiceberg, opens the SQLite file at the path `file`."""
    from sqlalchemy import URL

    return URL.create("sqlite", database=file).render_as_string()


def sqlite_file(uri: str) -> Path | None:
    """Return the path of the file that SQLAlchemy opens for a SQLite URI.

    Return None if the URI is of another kind of database or of a database in memory.
    """
    from sqlalchemy import make_url

    url = make_url(uri)
    if url.get_backend_name() != "sqlite" or not url.database or url.database == ":memory:":
        return None
    return Path(url.database)


ODD = re.compile(r"[\x00-\x1f\x7f]|(?:^|/)\.{0,2}(?:/|\Z)")


def is_odd(uri: str) -> bool:
    """Return whether the key of an `s3://` URI is odd, so that its requests must go through boto3.

    A key is odd if it has an empty segment, a dot segment, a `/` at either end, or a control character.
    """
    return ODD.search(uri.removeprefix(S3).partition("/")[2]) is not None


class OddKeys:
    """Stat, get and put for S3 objects with odd keys (`is_odd`). A call takes four times the CPU time of `S3Client`."""

    def __init__(self, s3: S3Client) -> None:
        self._s3 = s3

    def stat(self, uri: str) -> ObjectInfo:
        found = self._call(uri, "head_object")
        return ObjectInfo(uri, bare_etag(found["ETag"]), found["ContentLength"], found["LastModified"])

    def get(self, uri: str, max_bytes: int | None) -> Fetched:
        def attempt(client: Any, place: dict[str, str]) -> Fetched:
            found = client.get_object(**place)
            with found["Body"] as body:
                refuse_large(found["ContentLength"], max_bytes)
                return Fetched(memoryview(body.read()), bare_etag(found["ETag"]))

        return self._s3.ask_boto(uri, attempt)

    def put(self, uri: str, data: bytes) -> None:
        self._call(uri, "put_object", Body=data, **self._s3.encryption.boto_arguments())

    def _call(self, uri: str, name: str, **arguments: Any) -> Any:
        """Call the method `name` of the boto3 client for one object, with retries, and return its answer."""
        return self._s3.ask_boto(uri, lambda client, place: getattr(client, name)(**place, **arguments))
