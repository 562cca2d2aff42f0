"""One form for an etag: stores, proxies, inventories and manifests write the same one in several.

HTTP has it in quotes, and a proxy that compresses puts `W/` before them (RFC 9110, 8.8.3). boto3 keeps the quotes, S3
Inventory has none, XML has `&quot;`. The MD5 sums of S3 are lower case there and upper case in some people's tables;
etags of other kinds (base64, as some stores have) mean something else in the other case.
"""

import re

import pyarrow as pa
import pyarrow.compute as pc

MARK = r'[ \t\r\n"]|&quot;|&#34;'
BARE = rf"(?s)^(?:{MARK}|[Ww]/)*(.*?)(?:{MARK})*$"
MD5 = r"^[0-9A-Fa-f]{32}(?:-[0-9]+)?$"  # of the bytes, or of an upload in so many parts
UNUSUAL = r'^[ \t\r\n"&Ww]|[ \t\r\n";]$|[A-F]'  # an etag that has none of these is in its one form already

_BARE, _MD5 = re.compile(BARE), re.compile(MD5)


def bare_etag(etag: str | None) -> str:
    """Return an etag without quotes and `W/`, in the case that the store gave; empty where there is none."""
    found = _BARE.match(etag or "")
    return found[1] if found else ""


def etag_key(etag: str | None) -> str:
    """Return the one form in which etags are compared and stored: bare, an MD5 sum in lower case; empty for none."""
    bare = bare_etag(etag)
    return bare.lower() if _MD5.match(bare) else bare


def etag_keys(etags: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return `etag_key` of each; null becomes empty."""
    etags = pc.fill_null(etags, "")
    if not pc.any(pc.match_substring_regex(etags, UNUSUAL)).as_py():
        return etags
    bare = pc.replace_substring_regex(etags, BARE, r"\1")
    return pc.if_else(pc.match_substring_regex(bare, MD5), pc.utf8_lower(bare), bare)
