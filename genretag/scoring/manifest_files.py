"""Manifest files as rows that DuckDB reads: one CSV or Parquet file, or a folder of part files as Spark writes it.

Nothing is guessed, because DuckDB's own detection skips lines that it does not understand. If a file can be read in
more than one way, it is refused with a message.
"""

import csv
import gzip
import re
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import duckdb

from genretag.errors import UsageError, one_line
from genretag.storage import ObjectInfo, Storage, StorageError
from genretag.storage.paths import glob_pattern, sql_name

ENDINGS = (".parquet", ".csv", ".csv.gz")
SEPARATORS = (",", ";", "\t", "|")
HEADER_BYTES = 1 << 20  # the header must be in the first bytes of a CSV, up to this many
COPY_BYTES = 1 << 20
COPIES_AT_ONCE = 16
NO_PART = re.compile(r"(?:^|/)[_.]")  # `_SUCCESS`, `.part-00000.crc`, `_temporary/`: Spark itself does not read these
TABLE_FORMATS = {  # the files of these folders include deleted rows: only the table's own log says which
    "a Delta table": re.compile(r"(?:^|/)_delta_log/"),
    "an Iceberg table": re.compile(r"(?:^|/)metadata/[^/]*\.metadata\.json$"),
    "a Hudi table": re.compile(r"(?:^|/)\.hoodie/"),
}


def ending_of(source: str) -> str | None:
    """Return the ending that makes a location a manifest, such as `.csv`; None if the location is no manifest."""
    return next((ending for ending in ENDINGS if source.lower().endswith(ending)), None)


def open_manifest(
    source: str, storage: Storage, folder: Path, database: duckdb.DuckDBPyConnection
) -> duckdb.DuckDBPyRelation:
    """Return the rows of the manifest at `source`, whose files are copied into `folder`. The columns of a CSV are text.

    `source` is one file, or a folder of part files. Raises `UsageError` if the manifest has a form that cannot be read
    for certain, and `StorageError` if its files cannot be fetched.
    """
    parts = _parts_of(source, storage)
    with ThreadPoolExecutor(COPIES_AT_ONCE) as threads:
        numbered = (folder / f"manifest-{n:05d}{ending_of(uri) or ''}" for n, uri in enumerate(parts))
        files = list(threads.map(lambda uri, file: copied(uri, storage, file), parts, numbered))
    if ending_of(parts[0]) == ".parquet":
        return read_parquet(files, database)
    return _read_csv(parts, files, source, database)


def copied(uri: str, storage: Storage, file: Path) -> Path:
    """Copy the object at `uri` to the local path `file`, and return `file`.

    The name is ours, because DuckDB would take `*` in another program's name for a pattern. Raises `StorageError` if
    the object is missing or cannot be read.
    """
    storage.stat(uri)  # raises `StorageError` if the object cannot be read
    filesystem, path = storage.filesystem(uri)
    with filesystem.open(path, "rb") as remote, file.open("wb") as local:
        shutil.copyfileobj(remote, local, COPY_BYTES)
    return file


def read_parquet(files: Sequence[Path], database: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyRelation:
    """Return the rows of Parquet files. Columns of bytes count as text: older writers do not mark text as text."""
    return database.read_parquet(
        [glob_pattern(file) for file in files],
        hive_partitioning=False,
        binary_as_string=True,
        union_by_name=len(files) > 1,
    )


def _parts_of(source: str, storage: Storage) -> list[str]:
    """Return the URIs of a manifest's files: the manifest itself, or the part files of a folder of that name, sorted.

    Raises `StorageError` if there is neither.
    """
    try:
        if storage.stat(source).size_bytes:
            return [source]
    except StorageError as error:
        if error.reason != "not_found":
            raise
        missing: StorageError | None = error
    else:
        missing = None  # an object without bytes may mark a folder
    parts = sorted(_listed_parts(source, storage))
    if parts:
        return parts
    if missing:
        raise missing
    return [source]


def _listed_parts(source: str, storage: Storage) -> Iterator[str]:
    """Yield the URIs of the part files in the folder `source`. Files without bytes and Spark's own files are left out.

    Raises `UsageError` for the folder of a table format, or a file of another kind.
    """
    for page in _pages(source, storage):
        for info in page:
            name = info.uri.removeprefix(source).lstrip("/")
            for kind, pattern in TABLE_FORMATS.items():
                if pattern.search(name):
                    raise UsageError(
                        f"{source} is {kind}, whose files hold deleted rows too: export a manifest from it"
                    )
            if NO_PART.search(name) or not info.size_bytes:
                continue
            if ending_of(name) is None or (ending_of(name) == ".parquet") != (ending_of(source) == ".parquet"):
                raise UsageError(
                    f"the manifest {source} is a folder that holds {one_line(name, 100)}: all its part files must be "
                    f"{ending_of(source)}"
                )
            yield info.uri


def _pages(source: str, storage: Storage) -> Iterator[list[ObjectInfo]]:
    """Yield the pages of the listing of `source`; none if there is no such folder."""
    try:
        yield from storage.list(source)
    except StorageError as error:
        if error.reason != "not_found":
            raise


@dataclass(frozen=True)
class _Header:
    """Start of a CSV: the names of its columns, their separator, and the number of lines before the names."""

    names: tuple[str, ...]
    separator: str
    lines_before: int


def _read_csv(
    parts: Sequence[str], files: Sequence[Path], source: str, database: duckdb.DuckDBPyConnection
) -> duckdb.DuckDBPyRelation:
    """Return the rows of a manifest's CSV files, without empty lines. `source` names the manifest in messages.

    `files` are the local copies of `parts`. Raises `UsageError` if their headers differ or all files are empty.
    """
    headers = {file: header for file, uri in zip(files, parts, strict=True) if (header := _header_of(file, uri))}
    if not headers:  # Spark writes a part without rows as a file without lines
        raise UsageError(f"the manifest {source} has no column `uri`: it is empty")
    first, *others = headers.values()
    if any(header != first for header in others):
        differ = next(uri for file, uri in zip(files, parts, strict=True) if headers.get(file, first) != first)
        raise UsageError(f"the manifest {source} cannot be read: {differ} has other columns than the parts before it")
    rows = database.read_csv(
        [glob_pattern(file) for file in headers],  # type: ignore[arg-type]  # DuckDB's stubs know one file only
        auto_detect=False,
        header=True,
        columns=dict.fromkeys(first.names, "VARCHAR"),
        sep=first.separator,
        skiprows=first.lines_before,
        quotechar='"',
        escapechar='"',
        hive_partitioning=False,
    )
    return rows.filter(" or ".join(f"{sql_name(name)} is not null" for name in rows.columns))  # no empty lines


def _header_of(file: Path, source: str) -> _Header | None:
    """Return the header of a CSV file; None if the file is empty. `source` names it in messages.

    The header is the first line that is not empty, or the one after a line `sep=`. Its separator is the first that
    gives it a column `uri`. Raises `UsageError` if the file is not UTF-8 or cannot be read.
    """
    opener = gzip.open if file.name.endswith(".gz") else open
    try:
        with opener(file, "rb") as opened:
            start = opened.read(HEADER_BYTES)
        text = start.decode("utf-8-sig", errors="strict" if len(start) < HEADER_BYTES else "ignore")
    except (OSError, EOFError) as error:
        raise UsageError(f"the manifest {source} cannot be read: {one_line(error)}") from error
    except UnicodeDecodeError as error:
        wide = start.startswith((b"\xff\xfe", b"\xfe\xff"))
        what = "UTF-16" if wide else f"not UTF-8 (byte {error.start})"
        raise UsageError(f"the manifest {source} is {what}: save it as UTF-8") from error
    lines = text.splitlines()
    before = next((n for n, line in enumerate(lines) if line.strip()), len(lines))
    said = re.fullmatch(r"sep=(.)", lines[before].strip()) if lines[before:] else None  # Excel's own first line
    separators = (said[1],) if said else SEPARATORS
    before += bool(said)
    if not lines[before:]:
        return None
    found = [(separator, _names("\n".join(lines[before:]), separator)) for separator in separators]
    separator, names = next(((s, names) for s, names in found if column_of(names, "uri")), found[0])
    return _Header(names, separator, before)


def _names(text: str, separator: str) -> tuple[str, ...]:
    """Return the column names in the first row of `text`.

    A repeated name gets a number. Names that differ only in case count as repeated, because SQL ignores case.
    """
    names: list[str] = []
    try:
        row = next(csv.reader(iter(text.splitlines(keepends=True)), delimiter=separator))
    except csv.Error:
        row = []
    for name in (name.strip() for name in row):
        taken = {other.lower() for other in names}
        free = (f"{name}_{n}" if n else name for n in range(len(row)))
        names.append(next(candidate for candidate in free if candidate.lower() not in taken))
    return tuple(names)


def column_of(names: Sequence[str], wanted: str) -> str | None:
    """Return the name in `names` that equals `wanted`, else the only one that differs just in case or spaces.

    Return None if there is no such name, or several.
    """
    if wanted in names:
        return wanted
    alike = [name for name in names if name.strip().lower() == wanted]
    return alike[0] if len(alike) == 1 else None
