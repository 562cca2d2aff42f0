"""DuckDB with this project's settings: at most 2 GB of memory, spill files in a given folder, no progress bar."""

from pathlib import Path

import duckdb

from genretag.errors import UsageError
from genretag.storage.paths import NOT_FOR_DUCKDB

# What DuckDB raises if a file is damaged. It is a RuntimeError if the message would quote bytes that are not UTF-8.
ERRORS = (duckdb.Error, RuntimeError)
MEMORY_LIMIT = "2GB"  # DuckDB moves data beyond this limit to disk


def open_database(folder: Path) -> duckdb.DuckDBPyConnection:
    """Open the DuckDB database in `folder`, the temporary folder of a run. Create the database if there is none.

    Tables from an earlier call are kept. The database's time zone is UTC, not that of the machine. Raises `UsageError`
    if the path of `folder` has a character that DuckDB misreads, such as a question mark.
    """
    if wrong := [letter for letter in NOT_FOR_DUCKDB if letter in str(folder)]:
        raise UsageError(
            f"temporary files cannot be kept in {folder}: it has {wrong[0]} in its path; set another TMPDIR"
        )
    database = duckdb.connect(
        str(folder / "night.duckdb"), config={"memory_limit": MEMORY_LIMIT, "temp_directory": str(folder / "duckdb")}
    )
    database.execute("set enable_progress_bar = false")
    database.execute("set timezone = 'UTC'")
    return database
