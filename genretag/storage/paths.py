"""Paths with special characters: quoting for other syntaxes.

DuckDB's SQL, glob patterns and catalogue URIs give some characters a special meaning. Code that puts a path or a user's
text into SQL, a pattern or a URI calls a function of this file. So the result means exactly that path or text. The
SQL dialects of data warehouses have other rules (`output/warehouse.py`).
"""

import re
from pathlib import Path

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
