"""The columns that land in the output, and the tables made from scored and failed rows."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from genretag.errors import UsageError, one_line
from genretag.labels import column_names
from genretag.profiles import Profile
from genretag.tagging.inventory import CARRIED
from genretag.tagging.versions import LISTED

LABELS_KEY = b"genretag.labels"  # in the key-value metadata of a part file
MODEL_KEY = b"genretag.model_version"
PROFILE_KEY = b"genretag.profile"  # the name of the thresholds
PROFILE_KEYS = (b"genretag.thresholds", PROFILE_KEY, b"genretag.at_most")

FAILURES = pa.schema(
    [
        pa.field("poster_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("etag", pa.string(), nullable=False),
        pa.field("size", pa.int64()),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("message", pa.string(), nullable=False),
        pa.field("model_version", pa.string(), nullable=False),
        pa.field("run_id", pa.string(), nullable=False),
        pa.field("failed_at", pa.timestamp("us", "UTC"), nullable=False),
    ]
)

VERSIONS = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("listed_etag", pa.string(), nullable=False),
        pa.field("etag", pa.string(), nullable=False),
        pa.field("model_version", pa.string(), nullable=False),
        pa.field("run_id", pa.string(), nullable=False),
        pa.field("read_at", pa.timestamp("us", "UTC"), nullable=False),
    ]
)


@dataclass(frozen=True)
class Night:
    """Who says so: the run, the night that it belongs to, and the model with its labels and thresholds."""

    run_id: str
    dt: date
    model_version: str
    labels: tuple[str, ...]
    profile: str
    thresholds: tuple[float, ...]
    carried: tuple[pa.Field, ...] = ()  # columns of the manifest that both tables have too
    at_most: int | None = None  # labels of one poster, where the profile says so


def predictions_schema(night: Night) -> pa.Schema:
    """One row per poster and model version; labels, thresholds and version also in the key-value metadata."""
    names = column_names(night.labels)
    metadata = {
        LABELS_KEY: json.dumps(night.labels).encode(),
        MODEL_KEY: night.model_version.encode(),
        **profile_metadata(night.profile, Profile(night.thresholds, night.at_most)),
    }
    return pa.schema(
        [
            pa.field("poster_id", pa.string(), nullable=False),
            pa.field("uri", pa.string(), nullable=False),
            pa.field("etag", pa.string(), nullable=False),
            pa.field("genres", pa.list_(pa.string()), nullable=False),
            *[pa.field(f"is_{name}", pa.bool_(), nullable=False) for name in names],
            *[pa.field(f"p_{name}", pa.float32(), nullable=False) for name in names],
            pa.field("width", pa.int32(), nullable=False),
            pa.field("height", pa.int32(), nullable=False),
            pa.field("model_version", pa.string(), nullable=False),
            pa.field("run_id", pa.string(), nullable=False),
            pa.field("scored_at", pa.timestamp("us", "UTC"), nullable=False),
            *night.carried,
        ],
        metadata=metadata,
    )


def profile_metadata(name: str, profile: Profile) -> dict[bytes, bytes]:
    """Return the key-value metadata that says which thresholds decided the genres of a part file."""
    metadata = {b"genretag.thresholds": json.dumps(profile.thresholds).encode(), PROFILE_KEY: name.encode()}
    if profile.at_most is not None:
        metadata[b"genretag.at_most"] = str(profile.at_most).encode()
    return metadata


def profile_held(schema: pa.Schema) -> dict[bytes, bytes]:
    """Return the `profile_metadata` that a part file of predictions was written with."""
    metadata = schema.metadata or {}
    return {key: metadata[key] for key in PROFILE_KEYS if key in metadata}


def is_of_model(schema: pa.Schema, model_version: str) -> bool:
    """Return whether the rows of a part file are of this model."""
    return (schema.metadata or {}).get(MODEL_KEY) == model_version.encode()


def writer_options(schema: pa.Schema) -> dict[str, Any]:
    """Return how part files are encoded, as arguments of pyarrow's Parquet writer.

    Only columns that repeat their values have a dictionary: for the others pyarrow builds one and drops it again when
    it is full, which takes three times as long. Probabilities are not compressed, as that would save 7 % of them.
    """
    distinct = {"poster_id", "uri", "etag", "scored_at", "failed_at"}
    names = {f.name: f"{f.name}.list.element" if pa.types.is_list(f.type) else f.name for f in schema}
    return {
        "compression": {path: "none" if name.startswith("p_") else "zstd" for name, path in names.items()},
        "use_dictionary": [
            path for name, path in names.items() if name not in distinct and not name.startswith(("p_", "is_"))
        ],
    }


def failures_schema(night: Night) -> pa.Schema:
    """One row per poster that failed, and per night that it was tried."""
    return pa.schema([*FAILURES, *night.carried])


def require_columns_free(carried: Sequence[str], night: Night) -> None:
    """Raises `UsageError` for a carried column whose name the output needs itself (SQL knows no upper case)."""
    ours = {name.lower() for name in (*predictions_schema(replace(night, carried=())).names, *FAILURES.names, "dt")}
    for name in carried:
        if name.lower() in ours:
            raise UsageError(f"column {one_line(name)!r} cannot be carried: the output has a column of that name")


def predictions_table(rows: pa.Table, night: Night) -> pa.Table:
    """Makes the output's rows of scored ones (`probabilities`: fixed-size lists of float32)."""
    schema = predictions_schema(night)
    column = rows["probabilities"].combine_chunks()
    probabilities = column.flatten().to_numpy().reshape(len(rows), len(night.labels))
    values = {
        **tag_columns(night.labels, probabilities, Profile(night.thresholds, night.at_most)),
        "model_version": pa.repeat(night.model_version, len(rows)),
        "run_id": pa.repeat(night.run_id, len(rows)),
        "scored_at": rows["at"],
        **{name: rows[name] for name in ("poster_id", "uri", "etag", "width", "height")},
        **_carried(rows, night),
    }
    for index, name in enumerate(column_names(night.labels)):
        values[f"p_{name}"] = pa.array(np.ascontiguousarray(probabilities[:, index]))
    return pa.table([values[field.name] for field in schema], schema=schema)


def tag_columns(labels: Sequence[str], probabilities: np.ndarray, profile: Profile) -> dict[str, pa.Array]:
    """Return what a profile makes of float32 probabilities (N, L): the columns `genres` and `is_*`."""
    predicted = profile.predicted(probabilities)
    columns: dict[str, pa.Array] = {"genres": genre_lists(labels, probabilities, predicted)}
    for index, name in enumerate(column_names(labels)):
        columns[f"is_{name}"] = pa.array(np.ascontiguousarray(predicted[:, index]))
    return columns


def genre_lists(labels: Sequence[str], probabilities: np.ndarray, predicted: np.ndarray) -> pa.ListArray:
    """Return the predicted labels of each poster, most probable first: float32 (N, L), bool (N, L) -> N lists.

    Probabilities are between 0 and 1. Equally probable labels keep the order of `labels`.
    """
    places = np.flatnonzero(predicted)
    rows, chosen = np.divmod(places, len(labels))
    # one integer sorts by row, falling probability, label: between 0 and 1, floats sort like their 30 low bits
    bits = (np.take(probabilities, places) + np.float32(0)).view(np.uint32)  # + 0 makes -0 a 0
    label_bits = len(labels).bit_length()
    keys = (rows << (30 + label_bits)) | ((0x3FFFFFFF - bits.astype(np.int64)) << label_bits) | chosen
    keys.sort()
    order = keys & ((1 << label_bits) - 1)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(predicted)))]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(list(labels)).take(pa.array(order)))


def failures_table(rows: pa.Table, night: Night) -> pa.Table:
    """Makes the output's rows of failed ones."""
    values = {
        "model_version": pa.repeat(night.model_version, len(rows)),
        "run_id": pa.repeat(night.run_id, len(rows)),
        "failed_at": rows["at"],
        **{name: rows[name] for name in ("poster_id", "uri", "etag", "size", "stage", "reason", "message")},
        **_carried(rows, night),
    }
    schema = failures_schema(night)
    return pa.table([values[field.name] for field in schema], schema=schema)


def versions_table(rows: pa.Table, night: Night) -> pa.Table:
    """Makes a row for each etag under which a poster was listed, if that is not the etag of its row."""
    listed = rows[LISTED].combine_chunks()
    posters = rows.take(pc.list_parent_indices(listed))
    values = {
        "listed_etag": listed.flatten(),
        "model_version": pa.repeat(night.model_version, len(posters)),
        "run_id": pa.repeat(night.run_id, len(posters)),
        "read_at": posters["at"],
        **{name: posters[name] for name in ("uri", "etag")},
    }
    return pa.table([values[field.name] for field in VERSIONS], schema=VERSIONS)


def _carried(rows: pa.Table, night: Night) -> dict[str, Any]:
    if not night.carried:
        return {}
    struct = rows[CARRIED].combine_chunks()
    return {field.name: struct.field(field.name).cast(field.type) for field in night.carried}
