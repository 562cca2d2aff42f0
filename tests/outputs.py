"""Helpers that read the rows of an output."""

import pyarrow.dataset

from genretag.storage import Storage, join


def rows(output, kind="predictions"):
    """Return all rows in the Parquet files of an output, local or in a bucket. `kind` is a folder of the output."""
    filesystem, path = Storage().filesystem(join(str(output), kind))
    if not filesystem.exists(path):
        return []
    return pyarrow.dataset.dataset(path, filesystem=filesystem).to_table().to_pylist()


ODD = (
    # A folder name with all that could be read as syntax of a path, a glob, a URI or SQL.
    "dt=2001-01-01/uri=x/odd name & 100%20 of what? #1; [a]*'é\""
)
