"""Lists of objects that others made: a CSV or Parquet file with a `uri` column, or an S3 Inventory.

They are copied to this machine's disk first, and read from there by DuckDB a few thousand rows at a time.
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
from genretag.path_syntax import glob_pattern, sql_name, sql_text
from genretag.storage import S3, Storage, join
from genretag.tagging.database import open_database
from genretag.tagging.manifest_files import column_of, copied, ending_of, open_manifest, read_parquet
from genretag.tagging.manifest_uris import require_uris, resolved

S3_INVENTORY = "/manifest.json"
OURS = ("uri", "poster_id", "etag")  # what we look for in a manifest; all other columns are its owner's
BATCH_ROWS = 16_384
BUCKET_ARN = re.compile(r"arn:aws[a-z-]*:s3:::([^/:]+)")  # in any partition: aws, aws-cn, aws-us-gov, ...
CSV: dict[str, Any] = {  # said, or DuckDB would guess
    "sep": ",",
    "quotechar": '"',
    "escapechar": '"',
    "all_varchar": True,
    "hive_partitioning": False,
}
CAN_BE_CARRIED = "a number, a text, a truth value, a date or a time"


def is_manifest(source: str) -> bool:
    """Whether a location's name says that it is a manifest."""
    return ending_of(source) is not None


def is_s3_inventory(source: str) -> bool:
    """Whether a location's name says that it is the `manifest.json` of an S3 Inventory."""
    return source.endswith(S3_INVENTORY)


def read_manifest(source: str, storage: Storage, folder: Path, carry: Sequence[str]) -> Iterator[pa.Table]:
    """Yields `uri`, `poster_id` and `etag` where the manifest has them, and a struct `carried` if asked for.

    A manifest may also be a folder of part files that has such a name. Relative URIs are relative to the manifest.
    Columns of a CSV are text. Raises `UsageError`, `StorageError`.
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
    """Yields `uri`, `etag`, `size` and `last_modified` of the current versions that an S3 Inventory lists.

    `source` is its `manifest.json`; the listed data files (Parquet or CSV) are checked by their MD5 sums, as AWS
    documents. Raises `UsageError`, `StorageError`.
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
    """The bucket that a manifest names by its ARN, or by its bare name as stores that are not AWS do."""
    arn = BUCKET_ARN.fullmatch(named)
    if not arn and ":" in named:
        raise ValueError(f"destinationBucket is {named}, not the ARN of a bucket")
    return arn[1] if arn else named


def _s3_objects(
    file: Path, manifest: dict[str, Any], database: duckdb.DuckDBPyConnection, source: str
) -> duckdb.DuckDBPyRelation:
    """The current objects of one data file. In CSV, AWS writes no header and URL-encodes the keys."""
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
    """Each row names its object; a `poster_id` that is there at all is there in every row. An etag may be missing."""
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
    """SQL for a carried column: times in microseconds, those with a zone in UTC, whatever wrote the manifest."""
    kind = str(rows.types[rows.columns.index(name)])
    if not kind.startswith("TIMESTAMP"):
        return sql_name(name)
    return f"{sql_name(name)}::timestamp{'tz' if 'TZ' in kind or 'ZONE' in kind else ''}"


def _tables(rows: duckdb.DuckDBPyRelation) -> Iterator[pa.Table]:
    for batch in rows.to_arrow_reader(BATCH_ROWS):
        yield pa.Table.from_batches([batch])


def _first_line(error: Exception) -> str:
    return one_line(str(error).split("\n", maxsplit=1)[0], 200)
