"""Manifests: lists of objects that others made, as a CSV or Parquet file with a `uri` column, or as an S3 Inventory.

Their files are first copied to this machine's disk. From there DuckDB reads a few thousand rows at a time.

In the column `uri`, an `s3://` URI and an absolute path stay exactly as they are. Any other value is relative to the
manifest. A URI that the command line would refuse, such as `gs://`, is refused here too, before anything is scored.
As a relative path, it would only fail later, as not found.
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
from genretag.scoring.database import open_database
from genretag.scoring.manifest_files import column_of, copied, ending_of, open_manifest, read_parquet
from genretag.storage import S3, Storage, join
from genretag.storage.paths import glob_pattern, sql_name, sql_text

_SCHEME = r"^([A-Za-z][A-Za-z0-9+.-]*:)(/|\\|image/)"  # gs://, file:/, C:\, data:image/
_REFUSED = (  # SQL that is true for a value that names no object, and the message; the first match counts
    ("coalesce(trim({0}), '') in ('', '.', './')", "names no object"),
    ("contains({0}, chr(0))", "has a zero byte"),
    (rf"regexp_matches({{0}}, '^{S3}(/|[^/]*/*$)')", "names no object: write s3://BUCKET/KEY"),
    (rf"not starts_with({{0}}, '{S3}') and regexp_matches({{0}}, '{_SCHEME}')", "{hint}"),
    (r"starts_with({0}, '\\')", "is a Windows path: only local paths and s3:// can be read"),
)
_HINTS = {
    "s3a:": "write s3:// instead of s3a://",
    "s3n:": "write s3:// instead of s3n://",
    "s3:": "write s3:// in small letters",
    "file:": "write the path alone, without file://",
}
_SPACES = "regexp_matches({0}, '^\\s|\\s$')"


def require_uris(rows: duckdb.DuckDBPyRelation, column: str, source: str, *, exact: bool) -> None:
    """Raise `UsageError` for the first row whose URI cannot name an object, such as an empty one or `gs://`.

    `column` is SQL for the column of URIs, and `source` names the manifest. In a CSV (`exact` is false), spaces at the
    ends of a relative path or a key are an error too. Nobody can tell whether such spaces are meant.
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
    """Return SQL for the full URIs of a manifest's column. `column` is SQL for that column.

    Relative values are below `folder`, an SQL text.
    """
    value = _without_spaces_before(column)
    relative = rf"regexp_replace({value}, '^(\./+)+', '')"
    is_whole = f"starts_with({value}, '{S3}') or starts_with({value}, '/')"
    return f"case when {is_whole} then {value} else {folder} || {relative} end"


def _without_spaces_before(column: str) -> str:
    """Return SQL for `column` without spaces before an `s3://` URI or an absolute path."""
    return rf"regexp_replace({column}, '^\s+({S3}|/)', '\1')"


def _hint(uri: str | None) -> str:
    """Return why a URI's scheme is refused, and what to write instead if that is known."""
    scheme = (uri or "").strip().split(":")[0]
    hint = _HINTS.get(f"{scheme.lower()}:", "")
    return f"has the scheme {scheme}:, and only local paths and s3:// can be read" + (f": {hint}" if hint else "")


S3_INVENTORY = "/manifest.json"
OURS = ("uri", "poster_id", "etag")  # the columns that we read; all others are for the manifest's owner
BATCH_ROWS = 16_384
BUCKET_ARN = re.compile(r"arn:aws[a-z-]*:s3:::([^/:]+)")  # in any partition: aws, aws-cn, aws-us-gov, ...
CSV: dict[str, Any] = {  # given here, because DuckDB would guess
    "sep": ",",
    "quotechar": '"',
    "escapechar": '"',
    "all_varchar": True,
    "hive_partitioning": False,
}
CAN_BE_CARRIED = "a number, a text, a truth value, a date or a time"


def is_manifest(source: str) -> bool:
    """Return whether a location's name says that it is a manifest."""
    return ending_of(source) is not None


def is_s3_inventory(source: str) -> bool:
    """Return whether a location's name says that it is the `manifest.json` of an S3 Inventory."""
    return source.endswith(S3_INVENTORY)


def read_manifest(source: str, storage: Storage, folder: Path, carry: Sequence[str]) -> Iterator[pa.Table]:
    """Yield the rows of a manifest in tables of `uri`, and `poster_id` and `etag` if the manifest has them.

    If `carry` names columns, they are fields of a struct `carried`. A manifest may also be a folder of part files with
    such a name. Relative URIs are relative to the manifest. Its files are copied into `folder`. Raises `UsageError` if
    the manifest cannot be read or a URI names no object, and `StorageError` if its files cannot be fetched.
    """
    database = open_database(folder)
    try:
        rows = open_manifest(source, storage, folder, database)
        _check_columns(rows, source, carry)
        _check_values(rows, source)
        found = rows.select(", ".join(_selected(rows, source, carry)))
        yield from _tables(found)
    except duckdb.Error as error:
        raise UsageError(f"the manifest {source} cannot be read: {_first_line(error)}") from error


def read_s3_inventory(source: str, storage: Storage, folder: Path) -> Iterator[pa.Table]:
    """Yield tables of `uri`, `etag`, `size` and `last_modified` of the current versions that an S3 Inventory lists.

    `source` is its `manifest.json`. The listed data files (Parquet or CSV) are checked by their MD5 sums, as AWS
    documents. Each is copied into `folder`. Raises `UsageError` if a file is wrong, and `StorageError` if it cannot be
    fetched.
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
        except duckdb.Error as error:
            raise UsageError(f"{uri} cannot be read: {_first_line(error)}") from error
        finally:
            file.unlink()


def _md5(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _s3_manifest(source: str, storage: Storage) -> dict[str, Any]:
    """Return format, columns, bucket and data files from the `manifest.json` of an S3 Inventory.

    Raises `UsageError` if the file is something else, or the inventory is neither Parquet nor CSV.
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
    """Return the bucket that `named` is the ARN of, or `named` itself: stores other than AWS give the bare name.

    Raises `ValueError` for any other text with a colon.
    """
    arn = BUCKET_ARN.fullmatch(named)
    if not arn and ":" in named:
        raise ValueError(f"destinationBucket is {named}, not the ARN of a bucket")
    return arn[1] if arn else named


def _s3_objects(
    file: Path, manifest: dict[str, Any], database: duckdb.DuckDBPyConnection, source: str
) -> duckdb.DuckDBPyRelation:
    """Return the current objects in one data file, as `uri`, `etag`, `size` and `last_modified`.

    Empty objects whose key ends in a slash mark folders and are left out. In CSV, AWS writes no header and URL-encodes
    the keys. Raises `UsageError` if a column is missing.
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
    """Raise `UsageError` if there is no text column `uri`, or a column of `carry` is missing or cannot be carried."""
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
    """Raise `UsageError` if a manifest has no rows, an empty `uri` or `poster_id`, or a URI that cannot name an object.

    An etag may be missing.
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
    """Return SQL for the columns to read: `uri`, `poster_id` and `etag` if there, and `carried` if `carry` is set."""
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
    """Return SQL for a carried column, whose type must not depend on the run or on the writer of the manifest.

    Times are in microseconds; times with a zone are in UTC.
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
    return one_line(str(error).split("\n", maxsplit=1)[0], 200)
