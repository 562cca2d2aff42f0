"""Manifests (lists of images), read with DuckDB: one CSV or Parquet file, or a folder of part files from Spark.

DuckDB must not detect the format of a CSV, because its detection skips lines that it cannot parse. So this module reads
the header itself. A folder with files of different formats, or with CSV files of different columns, is refused.
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
HEADER_BYTES = 1 << 20  # the header of a CSV must end within this many bytes
COPY_BYTES = 1 << 20
COPIES_AT_ONCE = 16
NO_PART = re.compile(r"(?:^|/)[_.]")  # such as `_SUCCESS`, `.part-00000.crc`, `_temporary/`: Spark does not read them
TABLE_FORMATS = {  # the data files of these tables may have deleted rows: only the table's log says which
    "a Delta table": re.compile(r"(?:^|/)_delta_log/"),
    "an Iceberg table": re.compile(r"(?:^|/)metadata/[^/]*\.metadata\.json$"),
    "a Hudi table": re.compile(r"(?:^|/)\.hoodie/"),
}


def ending_of(source: str) -> str | None:
    """Return the extension of a manifest's location, such as `.csv`. Return None if the location is no manifest."""
    return next((ending for ending in ENDINGS if source.lower().endswith(ending)), None)


def open_manifest(
    source: str, storage: Storage, folder: Path, database: duckdb.DuckDBPyConnection
) -> duckdb.DuckDBPyRelation:
    """Copy the files of the manifest at `source` into the local folder `folder`. Return their rows, lazily.

    `source` is one file, or a folder of part files. All columns of a CSV are text. Raises `UsageError` if a CSV is
    invalid, or if part files differ in format or CSV columns. Raises `StorageError` if a file cannot be fetched.
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

    The caller chooses the name of the copy. The object's own name may contain `*`, which DuckDB would take for a
    pattern. Raises `StorageError` if the object is missing or cannot be read.
    """
    storage.stat(uri)  # raises `StorageError` if the object cannot be read
    filesystem, path = storage.filesystem(uri)
    with filesystem.open(path, "rb") as remote, file.open("wb") as local:
        shutil.copyfileobj(remote, local, COPY_BYTES)
    return file


def read_parquet(files: Sequence[Path], database: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyRelation:
    """Return the rows of local Parquet files. Columns are matched by name; a column that a file lacks is null.

    Binary columns become text, because older writers do not mark text columns.
    """
    return database.read_parquet(
        [glob_pattern(file) for file in files],
        hive_partitioning=False,
        binary_as_string=True,
        union_by_name=len(files) > 1,
    )


def _parts_of(source: str, storage: Storage) -> list[str]:
    """Return the URIs of a manifest's files: `source` itself, or the part files in the folder `source`, sorted.

    An object without bytes at `source` may be a folder marker. It counts as the manifest only if there are no part
    files. Raises `StorageError` if there is no object and no part file, and `UsageError` as `_listed_parts` does.
    """
    try:
        if storage.stat(source).size_bytes:
            return [source]
    except StorageError as error:
        if error.reason != "not_found":
            raise
        missing: StorageError | None = error
    else:
        missing = None  # an object without bytes may be a folder marker
    parts = sorted(_listed_parts(source, storage))
    if parts:
        return parts
    if missing:
        raise missing
    return [source]


def _listed_parts(source: str, storage: Storage) -> Iterator[str]:
    """Yield the URIs of the part files in the folder `source`. Skip empty files and Spark's auxiliary files.

    Raises `UsageError` if the folder is a Delta, Iceberg or Hudi table. Raises `UsageError` also if a file does
    not have the format of the folder's extension, such as a CSV file in `list.parquet`.
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
    """Yield the pages of the listing of the folder `source`. If there is no such folder, yield nothing."""
    try:
        yield from storage.list(source)
    except StorageError as error:
        if error.reason != "not_found":
            raise


@dataclass(frozen=True)
class _Header:
    """Header of a CSV: its column names, its separator, and the number of lines before the line of the names."""

    names: tuple[str, ...]
    separator: str
    lines_before: int


def _read_csv(
    parts: Sequence[str], files: Sequence[Path], source: str, database: duckdb.DuckDBPyConnection
) -> duckdb.DuckDBPyRelation:
    """Return the rows of a manifest's CSV files, without empty lines. All columns are text.

    `parts` are the URIs of the files, and `files` are their local copies in the same order. `source` is the location of
    the manifest, for messages. Raises `UsageError` if the headers of the files differ, or if all files are empty.
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
    """Return the header of the CSV at the local path `file`, or None if the file is empty.

    The header is the first line that is not empty. If that line is `sep=` and a character, as Excel writes it, the
    character is the separator, and the next line is the header. Otherwise the separator is the first of `SEPARATORS`
    that gives a column `uri`, or the comma if none does. `source` is the file's URI, for messages. Raises `UsageError`
    if the file is not UTF-8 or cannot be read.
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
    said = re.fullmatch(r"sep=(.)", lines[before].strip()) if lines[before:] else None  # Excel writes this first line
    separators = (said[1],) if said else SEPARATORS
    before += bool(said)
    if not lines[before:]:
        return None
    found = [(separator, _names("\n".join(lines[before:]), separator)) for separator in separators]
    separator, names = next(((s, names) for s, names in found if column_of(names, "uri")), found[0])
    return _Header(names, separator, before)


def _names(text: str, separator: str) -> tuple[str, ...]:
    """Return the column names in the first row of the CSV text `text`; none if the row cannot be parsed.

    A repeated name gets a number, such as `title_1`. Names that differ only in case count as repeated, because SQL
    ignores case.
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
    """Return the column name in `names` that equals `wanted`, a name in lower case.

    If no name equals `wanted`, ignore case and outer spaces, and return the only name that matches. Return None if no
    name matches or several match.
    """
    if wanted in names:
        return wanted
    alike = [name for name in names if name.strip().lower() == wanted]
    return alike[0] if len(alike) == 1 else None
