"""DuckDB as this project uses it: bounded memory, spilling beside the run's other temporary files, no progress bar."""

from pathlib import Path

import duckdb

MEMORY_LIMIT = "2GB"  # what is more goes to disk


def open_database(folder: Path) -> duckdb.DuckDBPyConnection:
    """Opens the database of a run in its temporary folder; what was in it before is still there."""
    database = duckdb.connect(
        str(folder / "night.duckdb"), config={"memory_limit": MEMORY_LIMIT, "temp_directory": str(folder / "duckdb")}
    )
    database.execute("set enable_progress_bar = false")
    return database
