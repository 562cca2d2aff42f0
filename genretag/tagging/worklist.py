"""What is left to do: the inventory less what the output already holds for this model version.

This one rule gives incremental nights, resume after a crash, and scoring again when object or model changed.
"""

import json
from dataclasses import dataclass

import duckdb
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet

from genretag.storage import Storage, StorageError, join
from genretag.tagging.schema import LABELS_KEY

KEY = pa.schema([("uri", pa.string()), ("etag", pa.string()), ("model_version", pa.string())])


@dataclass(frozen=True)
class Worklist:
    """The posters to score, and what became of the rest of the inventory."""

    posters: pa.Table  # columns of the inventory
    listed: int  # distinct objects of the inventory
    duplicates: int  # inventory rows that named an object again
    already_scored: int
    already_failed: int


def make_worklist(
    inventory: pa.Table, output: str, model_version: str, storage: Storage, *, retry_failed: bool = False
) -> Worklist:
    """Anti-joins the inventory with the output's predictions and failures on (uri, etag, model_version)."""
    database = duckdb.connect()
    database.register("inventory", inventory)
    database.execute(
        "create temp table objects as select * from inventory "
        "qualify row_number() over (partition by uri, etag order by poster_id) = 1"
    )
    for name in ("predictions", "failures"):
        database.register(f"{name}_files", _keys(join(output, name), storage))
        database.execute(
            f"create temp table {name} as select distinct uri, etag from {name}_files where model_version = ?",  # noqa: S608
            [model_version],
        )
    database.execute(
        "create temp table states as select objects.*, "
        "predictions.uri is not null as scored, failures.uri is not null as failed "
        "from objects left join predictions using (uri, etag) left join failures using (uri, etag)"
    )
    to_do = "not scored" if retry_failed else "not scored and not failed"
    posters = database.sql(f"select * exclude (scored, failed) from states where {to_do} order by uri")  # noqa: S608
    table = posters.to_arrow_table().cast(inventory.schema)
    counted = database.execute(
        f"select count(*), count_if(scored), count_if(not ({to_do}) and not scored) from states"  # noqa: S608
    ).fetchone()
    listed, scored, failed = counted or (0, 0, 0)
    return Worklist(table, listed, len(inventory) - listed, scored, failed)


def held_labels(output: str, storage: Storage) -> tuple[str, ...] | None:
    """The labels of the predictions that the output holds, by its first part file; none where there is none.

    Raises `StorageError` and `OSError` where the output cannot be read.
    """
    try:
        pages = storage.list(join(output, "predictions"))
        first = next((info.uri for page in pages for info in page if info.uri.endswith(".parquet")), None)
    except StorageError as error:
        if error.reason == "not_found":
            return None
        raise
    if first is None:
        return None
    filesystem, path = storage.filesystem(first)
    with filesystem.open(path, "rb") as file:
        metadata = pyarrow.parquet.read_schema(file).metadata or {}
    return tuple(json.loads(metadata.get(LABELS_KEY, b"[]")))


def _keys(location: str, storage: Storage) -> pyarrow.dataset.Dataset:
    """The key columns of all part files below a location; empty where there is none."""
    filesystem, path = storage.filesystem(location)
    if not filesystem.exists(path):
        return pyarrow.dataset.dataset(KEY.empty_table())
    return pyarrow.dataset.dataset(path, KEY, format="parquet", filesystem=filesystem)
