"""Writes a path, or other foreign text, into another syntax: SQL of DuckDB, a glob pattern, the URI of a catalogue.

Each of these gives some characters a meaning of its own. All code that puts a path there calls one of these functions,
so that the result always means that path and no other. The warehouses' dialects quote text by rules of their own
(`warehouse/dialects.py`).
"""

import re
from pathlib import Path

IN_A_GLOB = re.compile(r"[*?\[]")
NOT_FOR_DUCKDB = "?\\"  # in the path of a database: it cuts the name at `?`, and reads `\` as `/`


def sql_text(text: object) -> str:
    """Return a string literal of DuckDB's SQL."""
    return "'" + str(text).replace("'", "''") + "'"


def sql_name(name: str) -> str:
    """Return the quoted name of a column in DuckDB's SQL."""
    return '"' + name.replace('"', '""') + '"'


def glob_pattern(path: object) -> str:
    """Return the pattern that matches one path only, for DuckDB, fsspec and Python's glob."""
    return IN_A_GLOB.sub(lambda found: f"[{found[0]}]", str(path))


def parquet_rows(file: Path) -> str:
    """Return DuckDB's SQL for the rows of one file, without columns made from `name=value` folders above it.

    A path with a backslash works only without wildcards in it.
    """
    return f"read_parquet({sql_text(glob_pattern(file))}, hive_partitioning = false)"


def sqlite_uri(file: str) -> str:
    """Return the URI by which SQLAlchemy, and so pyiceberg, opens a SQLite file."""
    from sqlalchemy import URL

    return URL.create("sqlite", database=file).render_as_string()


def sqlite_file(uri: str) -> Path | None:
    """Return the file that SQLAlchemy opens for a SQLite URI; None for other databases and one in memory."""
    from sqlalchemy import make_url

    url = make_url(uri)
    if url.get_backend_name() != "sqlite" or not url.database or url.database == ":memory:":
        return None
    return Path(url.database)
