"""DuckDB with this project's settings: bounded memory, spilling next to the run's other files, no progress bar."""

from pathlib import Path

import duckdb

from genretag.errors import UsageError
from genretag.storage.paths import NOT_FOR_DUCKDB

MEMORY_LIMIT = "2GB"  # the rest goes to disk


def open_database(folder: Path) -> duckdb.DuckDBPyConnection:
    """Open the DuckDB database of a run, in the run's temporary folder. Tables from earlier calls are still there.

    Its sessions are in UTC, whatever the machine's time zone is. Raises `UsageError` for a folder that DuckDB cannot
    use.
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
