"""Rows of an output's part files, as the pages show them: whose model said them, which posters, how certain."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet

from genretag.labels import column_names
from genretag.storage import ObjectInfo, Storage
from genretag.tagging.schema import LABELS_KEY

BATCH_ROWS = 16_384
DATABASE: dict[str, str | bool | int | float | list[str]] = {
    "memory_limit": "1GB",
    "enable_external_access": "false",  # so that a condition, or anything else, can open no file
}


@dataclass(frozen=True)
class Model:
    """Who says so, by a part file's metadata."""

    version: str
    labels: tuple[str, ...]
    thresholds: tuple[float, ...]
    profile: str

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the probabilities."""
        return tuple(f"p_{name}" for name in column_names(self.labels))

    @property
    def certainty(self) -> str:
        """SQL for the highest probability of a row."""
        return f"greatest({', '.join(self.columns)})" if len(self.columns) > 1 else self.columns[0]


@dataclass(frozen=True)
class Tagged:
    """One scored poster. `genres` are numbers of labels, most probable first; `probabilities` those of all labels."""

    id: str
    uri: str
    etag: str
    genres: tuple[int, ...]
    probabilities: tuple[float, ...]
    width: int
    height: int
    scored_at: datetime


def model_of(schema: pa.Schema) -> Model:
    """The model of a part file. Raises `ValueError` for a file that is not one of ours."""
    import json

    metadata = schema.metadata or {}
    if LABELS_KEY not in metadata:
        raise ValueError("a Parquet file among the predictions that genretag did not write")
    return Model(
        version=metadata[b"genretag.model_version"].decode(),
        labels=tuple(json.loads(metadata[LABELS_KEY])),
        thresholds=tuple(json.loads(metadata[b"genretag.thresholds"])),
        profile=metadata[b"genretag.profile"].decode(),
    )


def read_model(info: ObjectInfo, storage: Storage) -> Model:
    """The model of a part file, by its footer."""
    with storage.open(info) as file:
        return model_of(pyarrow.parquet.read_schema(file))


def read_rows(info: ObjectInfo, storage: Storage, at_most: int | None = None) -> Iterator[pa.Table]:
    """A part file's rows, some thousands at a time, up to `at_most` of them."""
    left = at_most
    with storage.open(info) as file:
        for batch in pyarrow.parquet.ParquetFile(file).iter_batches(BATCH_ROWS):
            table = pa.Table.from_batches([batch])
            if left is not None:
                table = table.slice(0, left)
                left -= len(table)
            yield table
            if left == 0:
                return


def open_sandbox() -> duckdb.DuckDBPyConnection:
    """A database in memory that opens nothing outside itself, whatever it is asked."""
    database = duckdb.connect(config=DATABASE)
    database.execute("set enable_progress_bar = false")
    database.execute("set lock_configuration = true")
    return database


def shown(rows: Sequence[dict[str, Any]], model: Model) -> list[Tagged]:
    """Rows of predictions, as dictionaries, in the form that pages use."""
    number = {label: at for at, label in enumerate(model.labels)}
    return [
        Tagged(
            row["poster_id"],
            row["uri"],
            row["etag"],
            tuple(number[genre] for genre in row["genres"] if genre in number),
            tuple(round(float(row[column]), 3) for column in model.columns),
            row["width"],
            row["height"],
            row["scored_at"],
        )
        for row in rows
    ]
