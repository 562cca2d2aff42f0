"""The Parquet files that an output holds."""

from collections.abc import Iterator

from genretag.storage import ObjectInfo, Storage, StorageError


def held_files(location: str, storage: Storage) -> Iterator[ObjectInfo]:
    """All Parquet files below a location; none where there is no such folder. Raises `StorageError`."""
    try:
        yield from (info for page in storage.list(location) for info in page if info.uri.endswith(".parquet"))
    except StorageError as error:
        if error.reason != "not_found":
            raise
