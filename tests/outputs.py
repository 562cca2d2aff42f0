"""What the tests read back of an output."""

import pyarrow.dataset

from genretag.storage import Storage, join


def rows(output, kind="predictions"):
    """All rows of an output, by Parquet files alone, as a warehouse reads them; local or in a bucket."""
    filesystem, path = Storage().filesystem(join(str(output), kind))
    if not filesystem.exists(path):
        return []
    return pyarrow.dataset.dataset(path, filesystem=filesystem).to_table().to_pylist()


ODD = (
    "dt=2001-01-01/uri=x/odd name & 100%20 of what? #1; [a]*'é\""  # below a folder or bucket: for all that reads paths
)
