"""URIs of objects: which schemes there are, and how a location that a user typed becomes a URI."""

import os

from genretag.errors import UsageError, one_line
from genretag.storage.azure_settings import ABFSS, AZ
from genretag.storage.google import GS
from genretag.storage.s3 import S3

BUCKETS = (S3, GS, AZ, ABFSS)
"""Beginnings of URIs in a bucket (Azure: container): places that can be listed, read and written."""
HTTP = ("https://", "http://")
"""Beginnings of URIs of a web server, which a manifest may list. They can only be read."""
HERE = "a local path, s3://, gs://, az:// or abfss://"
SAME = {  # other spellings of a scheme -> what to write
    "s3a://": S3,
    "s3n://": S3,
    "gcs://": GS,
    "azure://": AZ,
    "abfs://": ABFSS,
    "wasbs://": ABFSS,
}


def in_bucket(uri: str) -> bool:
    """Return whether a URI is a place in a bucket, not a local path and not a URL."""
    return uri.startswith(BUCKETS)


def path_in_files(uri: str) -> str:
    """Return a URI's path in the fsspec file system of `Storage.filesystem`: `BUCKET/KEY`, or the local path itself."""
    return uri.partition("://")[2] if in_bucket(uri) else uri


def resolve(location: str) -> str:
    """Turn a location that a user typed into a URI without a trailing slash.

    From the URI of a bucket, only trailing slashes are removed. Text without a scheme is a local path. It becomes
    absolute, and may begin with `~`.
    Raises `UsageError` if a URI names no bucket, or if its scheme is none of `BUCKETS`.
    """
    for scheme in BUCKETS:
        if location.startswith(scheme):
            return _checked(location.rstrip("/"), scheme, location)
    if "://" in location:
        scheme = location.partition("://")[0] + "://"
        if scheme in HTTP:
            raise UsageError(
                f"{one_line(location, 200)!r}: a web server cannot be listed or written to: list the https:// URLs in "
                "the column uri of a manifest"
            )
        hint = f": write {SAME[scheme]} instead of {scheme}" if scheme in SAME else ""
        raise UsageError(f"{one_line(location, 200)!r} is not {HERE}{hint}")
    return os.path.abspath(os.path.expanduser(location))  # noqa: PTH100, PTH111 - drops `..` and a trailing slash


def _checked(uri: str, scheme: str, location: str) -> str:
    """Return the URI. Raises `UsageError` if it names no bucket or, for `abfss://`, no account."""
    bucket = uri.removeprefix(scheme).partition("/")[0]
    if not uri.startswith(scheme) or not bucket:
        raise UsageError(f"{one_line(location, 200)!r} names no bucket: write {_example(scheme)}")
    container, at, host = bucket.partition("@")
    if scheme == ABFSS and not (container and at and host):
        raise UsageError(f"{one_line(location, 200)!r} names no account: write {_example(scheme)}")
    return uri


def _example(scheme: str) -> str:
    """Return the form of a URI with this scheme."""
    if scheme == ABFSS:
        return "abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/PREFIX"
    return f"{scheme}{'CONTAINER' if scheme == AZ else 'BUCKET'}/PREFIX"


def join(base: str, *parts: str) -> str:
    """Return the URI `base` with the path parts appended, one `/` before each part."""
    return "/".join([base.rstrip("/"), *parts])
