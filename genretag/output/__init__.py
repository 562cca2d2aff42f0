"""Format on disk: part files, the lock, run records, compaction, Iceberg tables. Only this folder knows their names.

OUTPUT/predictions/dt=.../part-<run>-00000.parquet   also failures/ and versions/
OUTPUT/runs/<run_id>/run.json                        written last
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from genretag.storage import ObjectInfo, Storage, StorageError, join

KINDS = ("predictions", "failures", "versions")


@dataclass(frozen=True)
class OutputFiles:
    """Part files that an output held when it was listed. `by_kind` has them under each name in `KINDS`."""

    by_kind: Mapping[str, tuple[ObjectInfo, ...]]

    @property
    def uris(self) -> frozenset[str]:
        """URIs of the files of all kinds."""
        return frozenset(info.uri for files in self.by_kind.values() for info in files)


def list_output(output: str, storage: Storage) -> OutputFiles:
    """Return the part files of every kind. If there is no output, each kind is empty. Raises `StorageError`."""
    return OutputFiles({kind: tuple(parquet_files(join(output, kind), storage)) for kind in KINDS})


def parquet_files(location: str, storage: Storage) -> Iterator[ObjectInfo]:
    """Yield the Parquet files below a location. If there is no such folder, yield nothing. Raises `StorageError`."""
    try:
        yield from (info for page in storage.list(location) for info in page if info.uri.endswith(".parquet"))
    except StorageError as error:
        if error.reason != "not_found":
            raise
