"""Format of an output on disk: part files, the lock, run records, compaction, Iceberg and Delta tables.

OUTPUT is the folder or the prefix of a bucket that `genretag tag` writes to:

OUTPUT/predictions/dt=.../part-<run>-00000.parquet   scored posters
OUTPUT/failures/dt=.../part-<run>-00000.parquet      posters that could not be scored
OUTPUT/versions/dt=.../part-<run>-00000.parquet      listed etags that differ from the etag that was read
OUTPUT/runs/<run_id>/run.json                        counts of the run, written last
OUTPUT/keys/<model version>/*.arrow                  index of the predictions' keys (genretag.scoring.key_index)
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from genretag.storage import ObjectInfo, Storage, StorageError, join

KINDS = ("predictions", "failures", "versions")


@dataclass(frozen=True)
class OutputFiles:
    """Part files found by one listing of an output.

    `output` is the location of the output. `by_kind` maps `predictions`, `failures` and `versions` to the part files in
    these folders.
    """

    output: str
    by_kind: Mapping[str, tuple[ObjectInfo, ...]]

    @property
    def uris(self) -> frozenset[str]:
        """URIs of the part files of all kinds."""
        return frozenset(info.uri for files in self.by_kind.values() for info in files)


def list_output(output: str, storage: Storage) -> OutputFiles:
    """List the part files of an output by kind: predictions, failures and versions.

    If the output does not exist, no kind has files. Raises `StorageError` if the listing fails.
    """
    return OutputFiles(output, {kind: tuple(parquet_files(join(output, kind), storage)) for kind in KINDS})


def parquet_files(location: str, storage: Storage) -> Iterator[ObjectInfo]:
    """Yield the Parquet files below a location. If there is no such folder, yield nothing.

    Files in folders whose names begin with `_`, such as the log of a Delta table, are left out.

    Raises `StorageError` if the listing fails.
    """
    try:
        for page in storage.list(location):
            yield from (info for info in page if _is_part(info.uri.removeprefix(location)))
    except StorageError as error:
        if error.reason != "not_found":
            raise


def _is_part(below: str) -> bool:
    """Return whether a path below a folder of part files is one of them."""
    return below.endswith(".parquet") and "/_" not in below
