"""Manifests: lists of objects to tag that a user supplies, as CSV or Parquet with a column `uri`, or an S3 Inventory.

Manifest files are first copied to this machine's disk. From there DuckDB reads up to 16,384 rows at a time.

In the column `uri`, an absolute path or a URI with a known scheme (`s3://`, `gs://`, `az://`, `abfss://`, `https://`)
is used as it is, except that spaces before it are removed. Any other value is a path relative to the manifest's folder.
A URI with another scheme, such as `ftp://`, is refused before anything is scored. Otherwise the URI would count as a
relative path, and would fail only later, as not found.
"""

import difflib
import hashlib
import json
import posixpath
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from genretag.errors import UsageError, one_line
from genretag.scoring.database import ERRORS, open_database
from genretag.scoring.manifest_files import column_of, copied, ending_of, open_manifest, read_parquet
from genretag.storage import S3, Storage, join
from genretag.storage.azure_settings import ABFSS
from genretag.storage.paths import glob_pattern, sql_name, sql_text
from genretag.storage.uris import BUCKETS, HTTP, SAME

_KNOWN = "|".join((*BUCKETS, *HTTP))  # for a regular expression
_SCHEME = r"^([A-Za-z][A-Za-z0-9+.-]*:)(/|\\|image/)"  # gs://, file:/, C:\, data:image/
_REFUSED = (  # (SQL condition for a wrong value, message); the first true condition counts
    ("coalesce(trim({0}), '') in ('', '.', './')", "names no object"),
    ("contains({0}, chr(0))", "has a zero byte"),
    (rf"regexp_matches({{0}}, '^({_KNOWN})(/|[^/]*/*$)')", "names no object: write SCHEME://BUCKET/KEY"),
    (rf"regexp_matches({{0}}, '^{ABFSS}[^/@]*/')", "names no account: write abfss://CONTAINER@ACCOUNT.dfs.…/NAME"),
    (r"regexp_matches({0}, '^https?://[^/]*@')", "carries a user name or a password: leave it out"),
    (rf"not regexp_matches({{0}}, '^({_KNOWN})') and regexp_matches({{0}}, '{_SCHEME}')", "{hint}"),
    (r"starts_with({0}, '\\')", "is a Windows path: only local paths and the URIs of buckets can be read"),
)
_HINTS = {
    **{f"{scheme.removesuffix('//')}": f"write {right} instead of {scheme}" for scheme, right in SAME.items()},
    **{f"{scheme.removesuffix('//')}": f"write {scheme} in small letters" for scheme in (*BUCKETS, *HTTP)},
    "file:": "write the path alone, without file://",
}
_SPACES = "regexp_matches({0}, '^\\s|\\s$')"


def require_uris(rows: duckdb.DuckDBPyRelation, column: str, source: str, *, exact: bool) -> None:
    """Raise `UsageError` if the URI of a row cannot name an object, such as an empty text or an `ftp://` URI.

    The message quotes the first such row. `column` is the SQL of the URI column, and `source` is the location of the
    manifest, for the message. If `exact` is false, as for a CSV, spaces at either end of a URI are an error too,
    because nobody can tell whether they are meant. Only spaces before a URI or an absolute path are no error.
    """
    value = _without_spaces_before(column)
    checks = [(check.format(value), says) for check, says in _REFUSED]
    if not exact:
        checks.append((_SPACES.format(value), "has spaces at its ends: remove them, or use Parquet if they are meant"))
    cases = " ".join(f"when {check} then {number}" for number, (check, _) in enumerate(checks))
    numbered = rows.select(f"row_number() over () as n, {column} as uri, case {cases} end as wrong")
    found = numbered.filter("wrong is not null").aggregate("count(*), min(n), arg_min(uri, n), arg_min(wrong, n)")
    count, row, uri, wrong = found.fetchall()[0]
    if not count:
        return
    says = checks[wrong][1].format(hint=_hint(uri))
    others = f" ({count - 1:,} other rows are no better)" if count > 1 else ""
    raise UsageError(f"the manifest {source}: row {row}, {repr(uri or '')[:200]}, {says}{others}")


def resolved(column: str, folder: str) -> str:
    """Return an SQL expression that makes full URIs from the SQL column `column`.

    `folder` is an SQL string literal that ends in `/`. It is put before each relative path.
    """
    value = _without_spaces_before(column)
    relative = rf"regexp_replace({value}, '^(\./+)+', '')"
    is_whole = f"regexp_matches({value}, '^({_KNOWN}|/)')"
    return f"case when {is_whole} then {value} else {folder} || {relative} end"


def _without_spaces_before(column: str) -> str:
    """Return an SQL expression for `column` without the spaces before a URI or an absolute path."""
    return rf"regexp_replace({column}, '^\s+({_KNOWN}|/)', '\1')"


def _hint(uri: str | None) -> str:
    """Return a text that says that the scheme of `uri` is refused, and what to write instead if that is known."""
    scheme = (uri or "").strip().split(":")[0]
    hint = _HINTS.get(f"{scheme.lower()}:", "")
    known = ", ".join(("local paths", *BUCKETS, "https://"))
    return f"has the scheme {scheme}:, and only {known} can be read" + (f": {hint}" if hint else "")


S3_INVENTORY = "/manifest.json"
OURS = ("uri", "poster_id", "etag")  # columns with a meaning here; other columns are read only if `--carry` names them
BATCH_ROWS = 16_384
BUCKET_ARN = re.compile(r"arn:aws[a-z-]*:s3:::([^/:]+)")  # in any partition: aws, aws-cn, aws-us-gov, ...
CSV: dict[str, Any] = {  # if these were not set, DuckDB would guess them
    "sep": ",",
    "quotechar": '"',
    "escapechar": '"',
    "all_varchar": True,
    "hive_partitioning": False,
}
CAN_BE_CARRIED = "a number, a text, a truth value, a date or a time"


def is_manifest(source: str) -> bool:
    """Return whether a location is a manifest: its name ends in `.parquet`, `.csv` or `.csv.gz`."""
    return ending_of(source) is not None


def is_s3_inventory(source: str) -> bool:
    """Return whether a location ends in `/manifest.json`, as the manifest of an S3 Inventory does."""
    return source.endswith(S3_INVENTORY)


def read_manifest(source: str, storage: Storage, folder: Path, carry: Sequence[str]) -> Iterator[pa.Table]:
    """Yield the rows of the manifest at `source`, in tables of at most `BATCH_ROWS` rows.

    The tables have the columns `uri`, a full URI, and `poster_id` and `etag` if the manifest has them. If `carry` names
    columns, the struct column `carried` has them as fields. The manifest is a file, or a folder of part files. Its
    files are copied into the local folder `folder`. Raises `UsageError` if the manifest cannot be read or a URI names
    no object, and `StorageError` if a file cannot be fetched.
    """
    database = open_database(folder)
    try:
        rows = open_manifest(source, storage, folder, database)
        _check_columns(rows, source, carry)
        _check_values(rows, source)
        found = rows.select(", ".join(_selected(rows, source, carry)))
        yield from _tables(found)
    except ERRORS as error:
        raise UsageError(f"the manifest {source} cannot be read: {_first_line(error)}") from error


def read_s3_inventory(source: str, storage: Storage, folder: Path) -> Iterator[pa.Table]:
    """Yield the current objects of an S3 Inventory, in tables of `uri`, `etag`, `size` and `last_modified`.

    `source` is the inventory's `manifest.json`, which names the data files (Parquet or CSV) and their MD5 sums. Each
    data file is copied into the local folder `folder`, checked against its MD5 sum, read and deleted. Raises
    `UsageError` if a file is invalid or its MD5 sum differs, and `StorageError` if a file cannot be fetched.
    """
    manifest = _s3_manifest(source, storage)
    database = open_database(folder)
    for entry in manifest["files"]:
        uri = f"{S3}{manifest['destination']}/{entry['key']}"
        file = copied(uri, storage, folder / f"s3-inventory{ending_of(uri) or '.csv.gz'}")
        if _md5(file) != entry["md5"]:
            raise UsageError(f"{uri} is not the file that {source} names: its MD5 sum differs; wait for the next one")
        try:
            yield from _tables(_s3_objects(file, manifest, database, source))
        except ERRORS as error:
            raise UsageError(f"{uri} cannot be read: {_first_line(error)}") from error
        finally:
            file.unlink()


def _md5(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _s3_manifest(source: str, storage: Storage) -> dict[str, Any]:
    """Read the `manifest.json` of an S3 Inventory. Return its `format`, `columns`, `destination` (bucket) and `files`.

    Raises `UsageError` if the file is not the manifest of an S3 Inventory, or if the format is not Parquet or CSV.
    """
    try:
        manifest = json.loads(bytes(storage.get(source).data))
        found = {
            "format": manifest["fileFormat"],
            "columns": [name.strip().lower() for name in manifest["fileSchema"].split(",")],
            "destination": _bucket(manifest["destinationBucket"]),
            "files": [{"key": file["key"], "md5": file["MD5checksum"]} for file in manifest["files"]],
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{source} is not the manifest of an S3 Inventory ({one_line(error)})") from error
    if found["format"] not in ("Parquet", "CSV"):
        raise UsageError(f"{source} is an inventory in {one_line(found['format'])}: Parquet and CSV can be read")
    return found


def _bucket(named: str) -> str:
    """Return the bucket name in an ARN. Return a bare bucket name, as stores other than AWS write it, unchanged.

    Raises `ValueError` for any other text with a colon.
    """
    arn = BUCKET_ARN.fullmatch(named)
    if not arn and ":" in named:
        raise ValueError(f"destinationBucket is {named}, not the ARN of a bucket")
    return arn[1] if arn else named


def _s3_objects(
    file: Path, manifest: dict[str, Any], database: duckdb.DuckDBPyConnection, source: str
) -> duckdb.DuckDBPyRelation:
    """Return the current objects in one data file of an S3 Inventory: `uri`, `etag`, `size` and `last_modified`.

    Older versions and delete markers are left out. So are folder markers: empty objects with a key that ends in a
    slash. In CSV, AWS writes no header and URL-encodes the keys. `source` is the location of the inventory, for
    messages. Raises `UsageError` if the inventory lacks a column.
    """
    if manifest["format"] == "CSV":
        rows = database.read_csv(glob_pattern(file), header=False, names=manifest["columns"], **CSV)
        key, names = "url_decode(replace(key, '+', ' '))", {name.replace("_", "") for name in manifest["columns"]}
    else:
        rows = read_parquet([file], database)
        key, names = "key", {name.replace("_", "") for name in rows.columns}
    spelled = {name.replace("_", ""): name for name in rows.columns}  # AWS: `ETag` in CSV, `e_tag` in Parquet
    if missing := {"bucket", "key", "size", "etag"} - names:
        raise UsageError(f"the inventory {source} lacks {', '.join(sorted(missing))}: add it to its configuration")
    current = [f"{spelled[name]}::boolean is not {value}" for name, value in _CURRENT if name in names]
    modified = f"{spelled['lastmodifieddate']}::timestamptz" if "lastmodifieddate" in names else "null::timestamptz"
    columns = (
        f"'{S3}' || bucket || '/' || {key} as uri, trim({spelled['etag']}, '\"') as etag, "
        f"size::bigint as size, {modified} as last_modified"
    )
    kept = rows.filter(" and ".join(current)) if current else rows
    return kept.select(columns).filter("not (size = 0 and ends_with(uri, '/'))")


_CURRENT = (("islatest", "false"), ("isdeletemarker", "true"))


def _check_columns(rows: duckdb.DuckDBPyRelation, source: str, carry: Sequence[str]) -> None:
    """Raise `UsageError` if no text column is called `uri`, or a column of `carry` is missing, nested or binary."""
    names = rows.columns
    uri = column_of(names, "uri")
    if uri is None:
        raise UsageError(f"the manifest {source} has no column `uri`: it has {one_line(', '.join(names))}")
    if (of_uri := str(rows.types[names.index(uri)])) != "VARCHAR":
        raise UsageError(f"the column `uri` of the manifest {source} is {one_line(of_uri)}, not text")
    for name in carry:
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {close[0]}?" if close else f"it has {one_line(', '.join(names))}"
            raise UsageError(f"the manifest {source} has no column {one_line(name)!r} to carry: {hint}")
        kind = str(rows.types[names.index(name)])
        if kind.endswith("]") or kind.startswith(("STRUCT", "MAP", "BLOB", "UNION")):
            raise UsageError(f"column {one_line(name)!r} is {one_line(kind)}: only {CAN_BE_CARRIED} can be carried")


def _check_values(rows: duckdb.DuckDBPyRelation, source: str) -> None:
    """Raise `UsageError` if the manifest has no rows, an empty or null `uri` or `poster_id`, or an unusable URI.

    An etag may be null or empty.
    """
    here = {name: sql_name(column) for name in ("uri", "poster_id") if (column := column_of(rows.columns, name))}
    empty = ", ".join(f"count_if(coalesce({column}::varchar, '') = '')" for column in here.values())
    counts = rows.aggregate(f"count(*), {empty}").fetchall()[0]
    if not counts[0]:
        raise UsageError(f"the manifest {source} has no rows")
    for name, missing in zip(here, counts[1:], strict=True):
        if missing:
            raise UsageError(f"the manifest {source} has no `{name}` in {missing} of its {counts[0]} rows")
    require_uris(rows, here["uri"], source, exact=ending_of(source) == ".parquet")


def _selected(rows: duckdb.DuckDBPyRelation, source: str, carry: Sequence[str]) -> list[str]:
    """Return the SQL expressions of the columns to read, each with its name.

    These are `uri` (as a full URI), `poster_id` and `etag` if the manifest has them, and the struct `carried` if
    `carry` names columns.
    """
    folder = sql_text(join(posixpath.dirname(source), ""))
    here = {name: sql_name(column) for name in OURS if (column := column_of(rows.columns, name))}
    columns = [f"{resolved(here['uri'], folder)} as uri"]
    columns += [f"{column}::varchar as {name}" for name, column in here.items() if name != "uri"]
    if carry:
        columns.append(
            "struct_pack(" + ", ".join(f"{sql_name(n)} := {_of_any_night(rows, n)}" for n in carry) + ") as carried"
        )
    return columns


def _of_any_night(rows: duckdb.DuckDBPyRelation, name: str) -> str:
    """Return the SQL expression of the column `name`, which `--carry` copies to the output.

    Timestamps are cast to microseconds, and to UTC if they have a zone. So the type of the column does not depend on
    the program that wrote the manifest.
    """
    kind = str(rows.types[rows.columns.index(name)])
    if not kind.startswith("TIMESTAMP"):
        return sql_name(name)
    return f"{sql_name(name)}::timestamp{'tz' if 'TZ' in kind or 'ZONE' in kind else ''}"


def _tables(rows: duckdb.DuckDBPyRelation) -> Iterator[pa.Table]:
    """Yield the rows in tables of at most `BATCH_ROWS` rows."""
    for batch in rows.to_arrow_reader(BATCH_ROWS):
        yield pa.Table.from_batches([batch])


def _first_line(error: Exception) -> str:
    """Return the first line of an error's message, cut to 200 characters."""
    if isinstance(error, RuntimeError):
        return "it is damaged"
    return one_line(str(error).split("\n", maxsplit=1)[0], 200)
