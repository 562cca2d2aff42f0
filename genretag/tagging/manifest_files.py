"""Open a manifest as rows that DuckDB reads: one CSV or Parquet file, or a folder of part files as Spark writes it.

Nothing is guessed: DuckDB's own detection would skip lines that it does not understand. If a file can be read in more
than one way, it is refused in words.
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
from genretag.path_syntax import glob_pattern, sql_name
from genretag.storage import ObjectInfo, Storage, StorageError

ENDINGS = (".parquet", ".csv", ".csv.gz")
SEPARATORS = (",", ";", "\t", "|")
HEADER_BYTES = 1 << 20  # a header is looked for in this much of a CSV
COPY_BYTES = 1 << 20
COPIES_AT_ONCE = 16
NO_PART = re.compile(r"(?:^|/)[_.]")  # `_SUCCESS`, `.part-00000.crc`, `_temporary/`: Spark itself does not read these
TABLE_FORMATS = {  # folders whose files include rows that were deleted: only their own log says which ones
    "a Delta table": re.compile(r"(?:^|/)_delta_log/"),
    "an Iceberg table": re.compile(r"(?:^|/)metadata/[^/]*\.metadata\.json$"),
    "a Hudi table": re.compile(r"(?:^|/)\.hoodie/"),
}


def ending_of(source: str) -> str | None:
    """Return the ending that says that a location is a manifest, and of what kind; none if it is no manifest."""
    return next((ending for ending in ENDINGS if source.lower().endswith(ending)), None)


def open_manifest(
    source: str, storage: Storage, folder: Path, database: duckdb.DuckDBPyConnection
) -> duckdb.DuckDBPyRelation:
    """Return the rows of a manifest, copied into `folder`. The columns of a CSV are text.

    Raises `UsageError`, `StorageError`.
    """
    parts = _parts_of(source, storage)
    with ThreadPoolExecutor(COPIES_AT_ONCE) as threads:
        numbered = (folder / f"manifest-{n:05d}{ending_of(uri) or ''}" for n, uri in enumerate(parts))
        files = list(threads.map(lambda uri, file: copied(uri, storage, file), parts, numbered))
    if ending_of(parts[0]) == ".parquet":
        return read_parquet(files, database)
    return _read_csv(parts, files, source, database)


def copied(uri: str, storage: Storage, file: Path) -> Path:
    """Copy an object's bytes to a name of ours: DuckDB would take `*` in a foreign one for a pattern."""
    storage.stat(uri)  # says what is wrong in our words
    filesystem, path = storage.filesystem(uri)
    with filesystem.open(path, "rb") as remote, file.open("wb") as local:
        shutil.copyfileobj(remote, local, COPY_BYTES)
    return file


def read_parquet(files: Sequence[Path], database: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyRelation:
    """Return the rows of Parquet files. A column of bytes without a mark is text: older writers leave the mark out."""
    return database.read_parquet(
        [glob_pattern(file) for file in files],
        hive_partitioning=False,
        binary_as_string=True,
        union_by_name=len(files) > 1,
    )


def _parts_of(source: str, storage: Storage) -> list[str]:
    """The manifest itself, or in their order the part files of a folder that has its name."""
    try:
        if storage.stat(source).size_bytes:
            return [source]
    except StorageError as error:
        if error.reason != "not_found":
            raise
        missing: StorageError | None = error
    else:
        missing = None  # an object without bytes: it may mark a folder
    parts = sorted(_listed_parts(source, storage))
    if parts:
        return parts
    if missing:
        raise missing
    return [source]


def _listed_parts(source: str, storage: Storage) -> Iterator[str]:
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
    try:
        yield from storage.list(source)
    except StorageError as error:
        if error.reason != "not_found":
            raise


@dataclass(frozen=True)
class _Header:
    """How a CSV begins: names of its columns, their separator, and how many lines stand before them."""

    names: tuple[str, ...]
    separator: str
    lines_before: int


def _read_csv(
    parts: Sequence[str], files: Sequence[Path], source: str, database: duckdb.DuckDBPyConnection
) -> duckdb.DuckDBPyRelation:
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
    """Find the first line that is not empty, and the one separator that makes a column `uri` of it; none if empty."""
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
    """The names in the first row; one that comes again gets a number, as SQL tells no upper case from lower."""
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
    """Return the column of this name, else the only one that has it in other letters, as `URI`; else none."""
    if wanted in names:
        return wanted
    alike = [name for name in names if name.strip().lower() == wanted]
    return alike[0] if len(alike) == 1 else None
