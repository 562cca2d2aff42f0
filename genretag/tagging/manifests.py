"""Lists of objects that others made: a CSV or Parquet file with a `uri` column, or an S3 Inventory.

They are copied to this machine's disk first, and read from there by DuckDB a few thousand rows at a time.
"""

import difflib
import hashlib
import json
import posixpath
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from genretag.errors import UsageError, one_line
from genretag.storage import S3, Storage, join
from genretag.tagging.database import open_database

MANIFESTS = (".parquet", ".csv", ".csv.gz")
S3_INVENTORY = "/manifest.json"
OURS = ("uri", "poster_id", "etag")  # what we look for in a manifest; all other columns are its owner's
BATCH_ROWS = 16_384
COPY_BYTES = 1 << 20
CSV: dict[str, Any] = {"sep": ",", "quotechar": '"', "escapechar": '"'}  # said, or DuckDB would guess
CAN_BE_CARRIED = "a number, a text, a truth value, a date or a time"


def is_manifest(source: str) -> bool:
    """Whether a location's name says that it is a manifest."""
    return source.lower().endswith(MANIFESTS)


def is_s3_inventory(source: str) -> bool:
    """Whether a location's name says that it is the `manifest.json` of an S3 Inventory."""
    return source.endswith(S3_INVENTORY)


def read_manifest(source: str, storage: Storage, folder: Path, carry: Sequence[str]) -> Iterator[pa.Table]:
    """Yields `uri`, `poster_id` and `etag` where the manifest has them, and a struct `carried` if asked for.

    Relative URIs are relative to the manifest. Columns of a CSV are text. Raises `UsageError`, `StorageError`.
    """
    file = _copied(source, storage, folder / f"manifest{_ending(source)}")
    database = open_database(folder)
    try:
        rows = _rows_of(file, database)
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
        file = _copied(uri, storage, folder / f"s3-inventory{_ending(uri)}")
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
            "destination": manifest["destinationBucket"].removeprefix("arn:aws:s3:::"),
            "files": [{"key": file["key"], "md5": file["MD5checksum"]} for file in manifest["files"]],
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{source} is not the manifest of an S3 Inventory ({one_line(error)})") from error
    if found["format"] not in ("Parquet", "CSV"):
        raise UsageError(f"{source} is an inventory in {one_line(found['format'])}: Parquet and CSV can be read")
    return found


def _s3_objects(
    file: Path, manifest: dict[str, Any], database: duckdb.DuckDBPyConnection, source: str
) -> duckdb.DuckDBPyRelation:
    """The current objects of one data file. In CSV, AWS writes no header and URL-encodes the keys."""
    if manifest["format"] == "CSV":
        rows = database.read_csv(str(file), header=False, all_varchar=True, names=manifest["columns"], **CSV)
        key, names = "url_decode(replace(key, '+', ' '))", {name.replace("_", "") for name in manifest["columns"]}
    else:
        rows = database.read_parquet(str(file))
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


def _copied(uri: str, storage: Storage, file: Path) -> Path:
    """The object's bytes under a name of ours: DuckDB would take `*` in a foreign one for a pattern."""
    storage.stat(uri)  # says what is wrong in our words
    filesystem, path = storage.filesystem(uri)
    with filesystem.open(path, "rb") as remote, file.open("wb") as local:
        shutil.copyfileobj(remote, local, COPY_BYTES)
    return file


def _ending(source: str) -> str:
    return next((ending for ending in (".parquet", ".csv.gz", ".csv") if source.lower().endswith(ending)), ".csv.gz")


def _rows_of(file: Path, database: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyRelation:
    if file.name.endswith(".parquet"):
        return database.read_parquet(str(file))
    return database.read_csv(str(file), header=True, all_varchar=True, **CSV)


def _check_columns(rows: duckdb.DuckDBPyRelation, source: str, carry: Sequence[str]) -> None:
    names = rows.columns
    if "uri" not in names:
        raise UsageError(f"the manifest {source} has no column `uri`: it has {one_line(', '.join(names))}")
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
    here = [name for name in OURS if name in rows.columns and name != "etag"]
    empty = ", ".join(f"count_if(coalesce({name}::varchar, '') = '')" for name in here)
    counts = rows.aggregate(f"count(*), {empty}").fetchall()[0]
    if not counts[0]:
        raise UsageError(f"the manifest {source} has no rows")
    for name, missing in zip(here, counts[1:], strict=True):
        if missing:
            raise UsageError(f"the manifest {source} has no `{name}` in {missing} of its {counts[0]} rows")


def _selected(rows: duckdb.DuckDBPyRelation, source: str, carry: Sequence[str]) -> list[str]:
    folder = join(posixpath.dirname(source), "").replace("'", "''")
    uri = "uri::varchar"
    is_whole = f"starts_with({uri}, '{S3}') or starts_with({uri}, '/')"
    columns = [f"case when {is_whole} then {uri} else '{folder}' || {uri} end as uri"]
    columns += [f"{name}::varchar as {name}" for name in OURS[1:] if name in rows.columns]
    if carry:
        columns.append("struct_pack(" + ", ".join(f"{_quoted(n)} := {_quoted(n)}" for n in carry) + ") as carried")
    return columns


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _tables(rows: duckdb.DuckDBPyRelation) -> Iterator[pa.Table]:
    for batch in rows.to_arrow_reader(BATCH_ROWS):
        yield pa.Table.from_batches([batch])


def _first_line(error: Exception) -> str:
    return one_line(str(error).split("\n", maxsplit=1)[0], 200)
