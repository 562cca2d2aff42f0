"""Columns of the output: the schemas of the part files, and the tables made from scored and failed rows.

An etag identifies a version of an object. A store returns only the newest version, but the inventory (the list of
objects) may name another. This happens if the object was overwritten after the listing, or if a person wrote other
versions into a manifest. Predictions and failures hold the etag that was read. `versions/` holds the other etags with
which the object was listed, so that later runs do not read the object again because of these etags.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from genretag.data.labels import column_names
from genretag.errors import UsageError, one_line
from genretag.model.thresholds import Profile
from genretag.output.label_lists import FLOATS, LABELS, PROBABILITIES, genre_lists, label_lists, listed_labels

SCORED, FAILED = "scored", "failed"  # outcome of an object version that has a row in the output
HELD = {SCORED: "scored_etags", FAILED: "failed_etags"}  # columns of the worklist: lists of etags, null for none
# In the worklist: all listed etags, null if there is only one. In the rows of a step: the listed etags not read.
LISTED = "listed_etags"
CARRIED = "carried"  # a struct of the manifest's columns that `--carry` copies to the output
ALREADY = "already"  # SCORED or FAILED if the poster was not decoded, because the output has a row of this version
LIST = pa.list_(pa.string())


def held_of(posters: pa.Table) -> Mapping[str, Mapping[str, str]]:
    """Return, for each poster's URI, the etags of its versions that already have a row in the output.

    Each etag maps to `SCORED` or `FAILED`. `posters` are rows of the worklist. Posters without such an etag are left
    out.
    """
    held: dict[str, dict[str, str]] = {}
    for became, column in HELD.items():
        if column in posters.column_names and posters[column].null_count < len(posters):
            for uri, etags in zip(posters["uri"].to_pylist(), posters[column].to_pylist(), strict=True):
                if etags:
                    held[uri] = dict.fromkeys(etags, became) | held.get(uri, {})
    return held


def listed_and_not_read(posters: pa.Table, read: Sequence[str]) -> pa.Array:
    """Return a list for each poster: the etags with which the poster was listed, except the etag that was read.

    Empty lists are null. `read` has one etag for each row of `posters`. An empty etag means that the etag is unknown,
    and is left out.
    """
    ones = posters["etag"].to_pylist()
    lists = posters[LISTED].to_pylist() if LISTED in posters.column_names else [None] * len(ones)
    others = [
        [etag for etag in (several or [one]) if etag not in ("", etag_read)]
        for one, several, etag_read in zip(ones, lists, read, strict=True)
    ]
    return pa.array([other or None for other in others], LIST)


EMBEDDING = "embedding"
LARGEST_HALF = 65504.0  # the largest number of float16

FORMAT_KEY = b"genretag.format"  # a key in the key-value metadata of a part file
FORMAT = b"1"  # the format that this genretag writes and reads; part files without the key have it too
LABELS_KEY = b"genretag.labels"
MODEL_KEY = b"genretag.model_version"
PROFILE_KEY = b"genretag.profile"  # the name of the threshold profile
FLOOR_KEY = b"genretag.floor"  # only in part files of the list form
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
    ],
    metadata={FORMAT_KEY: FORMAT},
)

VERSIONS = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("listed_etag", pa.string(), nullable=False),
        pa.field("etag", pa.string(), nullable=False),
        pa.field("model_version", pa.string(), nullable=False),
        pa.field("run_id", pa.string(), nullable=False),
        pa.field("read_at", pa.timestamp("us", "UTC"), nullable=False),
    ],
    metadata={FORMAT_KEY: FORMAT},
)


def require_known_format(schema: pa.Schema, uri: str) -> None:
    """Raise `UsageError` if a newer genretag wrote the part file `uri`, which has this schema, in another format."""
    found = (schema.metadata or {}).get(FORMAT_KEY, FORMAT)
    if found != FORMAT:
        raise UsageError(
            f"{uri} has the format {one_line(found.decode(errors='replace'), 20)} of a newer genretag, and this one "
            f"reads {FORMAT.decode()}: update genretag, or name another output"
        )


@dataclass(frozen=True)
class Run:
    """Identity of a run for the rows that it writes: run id, date of its `dt` folders, model, labels and thresholds."""

    run_id: str
    dt: date
    model_version: str
    labels: tuple[str, ...]
    profile: str
    thresholds: tuple[float, ...]
    carried: tuple[pa.Field, ...] = ()  # columns that predictions and failures copy from the manifest
    at_most: int | None = None  # most labels of one poster; None if the profile sets no limit
    floor: float | None = None  # least probability of a listed label; None for a column per label (see label_lists.py)
    embedding: int | None = None  # length of the column `embedding`; None for no such column


def predictions_schema(run: Run) -> pa.Schema:
    """Return the schema of predictions: one row per poster and model version.

    Each label has the columns `is_*` and `p_*`. In the list form (`run.floor` is set), there are the columns `labels`
    and `probabilities` instead. With `run.embedding`, there is a column `embedding`. The key-value metadata holds the
    format, the labels, the model version, and the name and thresholds of the threshold profile.
    """
    metadata = {
        FORMAT_KEY: FORMAT,
        LABELS_KEY: json.dumps(run.labels).encode(),
        MODEL_KEY: run.model_version.encode(),
        **profile_metadata(run.profile, Profile(run.thresholds, run.at_most)),
    }
    if run.floor is not None:
        metadata[FLOOR_KEY] = f"{run.floor:g}".encode()
    return pa.schema(
        [
            pa.field("poster_id", pa.string(), nullable=False),
            pa.field("uri", pa.string(), nullable=False),
            pa.field("etag", pa.string(), nullable=False),
            pa.field("genres", pa.list_(pa.string()), nullable=False),
            *_label_fields(run),
            pa.field("width", pa.int32(), nullable=False),
            pa.field("height", pa.int32(), nullable=False),
            pa.field("model_version", pa.string(), nullable=False),
            pa.field("run_id", pa.string(), nullable=False),
            pa.field("scored_at", pa.timestamp("us", "UTC"), nullable=False),
            *([pa.field(EMBEDDING, pa.list_(pa.float16(), run.embedding), nullable=False)] if run.embedding else []),
            *run.carried,
        ],
        metadata=metadata,
    )


def _label_fields(run: Run) -> list[pa.Field]:
    """Return the fields of the schema of predictions that have what the model says of each label."""
    if run.floor is not None:
        return [pa.field(LABELS, LIST, nullable=False), pa.field(PROBABILITIES, FLOATS, nullable=False)]
    names = column_names(run.labels)
    return [
        *[pa.field(f"is_{name}", pa.bool_(), nullable=False) for name in names],
        *[pa.field(f"p_{name}", pa.float32(), nullable=False) for name in names],
    ]


def profile_metadata(name: str, profile: Profile) -> dict[bytes, bytes]:
    """Return the key-value metadata for a threshold profile in a part file: its name, thresholds and label limit."""
    metadata = {b"genretag.thresholds": json.dumps(profile.thresholds).encode(), PROFILE_KEY: name.encode()}
    if profile.at_most is not None:
        metadata[b"genretag.at_most"] = str(profile.at_most).encode()
    return metadata


def profile_held(schema: pa.Schema) -> dict[bytes, bytes]:
    """Return the entries of a schema's key-value metadata that record a threshold profile; empty if there are none."""
    metadata = schema.metadata or {}
    return {key: metadata[key] for key in PROFILE_KEYS if key in metadata}


def is_of_model(schema: pa.Schema, model_version: str) -> bool:
    """Return whether a part file's metadata names this model version. Without metadata, return False."""
    return (schema.metadata or {}).get(MODEL_KEY) == model_version.encode()


def writer_options(schema: pa.Schema) -> dict[str, Any]:
    """Return the arguments of pyarrow's Parquet writer for part files: compression and dictionaries by column.

    Only columns that repeat their values have a dictionary. For other columns, pyarrow would build a dictionary and
    drop it when it is full, which takes three times as long. Probabilities are not compressed: compression would save
    only 7 %.
    """
    distinct = {"poster_id", "uri", "etag", "scored_at", "failed_at", PROBABILITIES, EMBEDDING}
    names = {f.name: f"{f.name}.list.element" if _is_list(f.type) else f.name for f in schema}
    return {
        "compression": {
            path: "none" if name.startswith("p_") or name in (PROBABILITIES, EMBEDDING) else "zstd"
            for name, path in names.items()
        },
        "use_dictionary": [
            path for name, path in names.items() if name not in distinct and not name.startswith(("p_", "is_"))
        ],
    }


def _is_list(type: pa.DataType) -> bool:
    return pa.types.is_list(type) or pa.types.is_fixed_size_list(type)


def failures_schema(run: Run) -> pa.Schema:
    """Return the schema of failures: one row for each poster that failed and each run that tried it."""
    return pa.schema([*FAILURES, *run.carried], metadata=FAILURES.metadata)


def require_columns_free(carried: Sequence[str], run: Run) -> None:
    """Raise `UsageError` if a name in `carried` (manifest columns to copy) is a column of the output, ignoring case."""
    ours = {name.lower() for name in (*predictions_schema(replace(run, carried=())).names, *FAILURES.names, "dt")}
    for name in carried:
        if name.lower() in ours:
            raise UsageError(f"column {one_line(name)!r} cannot be carried: the output has a column of that name")


def predictions_table(rows: pa.Table, run: Run) -> pa.Table:
    """Return the predictions of scored posters, with the columns of `predictions_schema(run)`.

    In `rows`, `probabilities` is a column of fixed-size lists of float32, with a value per label. With `run.embedding`,
    the values of the embedding follow.
    """
    schema = predictions_schema(run)
    column = rows["probabilities"].combine_chunks()
    outputs = column.flatten().to_numpy().reshape(len(rows), len(run.labels) + (run.embedding or 0))
    probabilities = outputs[:, : len(run.labels)]
    profile = Profile(run.thresholds, run.at_most)
    values = {
        **tag_columns(run.labels, probabilities, profile, run.floor),
        "model_version": pa.repeat(run.model_version, len(rows)),
        "run_id": pa.repeat(run.run_id, len(rows)),
        "scored_at": rows["at"],
        **{name: rows[name] for name in ("poster_id", "uri", "etag", "width", "height")},
        **_carried(rows, run),
    }
    if run.embedding:
        halves = np.clip(outputs[:, len(run.labels) :], -LARGEST_HALF, LARGEST_HALF).astype(np.float16)
        values[EMBEDDING] = pa.FixedSizeListArray.from_arrays(pa.array(halves.ravel()), run.embedding)
    if run.floor is None:
        for index, name in enumerate(column_names(run.labels)):
            values[f"p_{name}"] = pa.array(np.ascontiguousarray(probabilities[:, index]))
    return pa.table([values[field.name] for field in schema], schema=schema)


def tag_columns(
    labels: Sequence[str], probabilities: np.ndarray, profile: Profile, floor: float | None = None
) -> dict[str, pa.Array]:
    """Return the columns that depend on the thresholds, by name: `genres` and `is_*`, or in the list form all lists.

    `probabilities` are float32 (posters, labels). The thresholds of `profile` decide which labels a poster gets.
    `floor` is that of `Run`.
    """
    predicted = profile.predicted(probabilities)
    columns: dict[str, pa.Array] = {"genres": genre_lists(labels, probabilities, predicted)}
    if floor is not None:
        return columns | label_lists(labels, probabilities, listed_labels(probabilities, predicted, floor))
    for index, name in enumerate(column_names(labels)):
        columns[f"is_{name}"] = pa.array(np.ascontiguousarray(predicted[:, index]))
    return columns


def failures_table(rows: pa.Table, run: Run) -> pa.Table:
    """Return the failures of failed posters, with the columns of `failures_schema(run)`."""
    values = {
        "model_version": pa.repeat(run.model_version, len(rows)),
        "run_id": pa.repeat(run.run_id, len(rows)),
        "failed_at": rows["at"],
        **{name: rows[name] for name in ("poster_id", "uri", "etag", "size", "stage", "reason", "message")},
        **_carried(rows, run),
    }
    schema = failures_schema(run)
    return pa.table([values[field.name] for field in schema], schema=schema)


def versions_table(rows: pa.Table, run: Run) -> pa.Table:
    """Return the rows of `versions/`: one for each etag that a poster was listed with, except the etag read."""
    listed = rows[LISTED].combine_chunks()
    posters = rows.take(pc.list_parent_indices(listed))
    values = {
        "listed_etag": listed.flatten(),
        "model_version": pa.repeat(run.model_version, len(posters)),
        "run_id": pa.repeat(run.run_id, len(posters)),
        "read_at": posters["at"],
        **{name: posters[name] for name in ("uri", "etag")},
    }
    return pa.table([values[field.name] for field in VERSIONS], schema=VERSIONS)


def _carried(rows: pa.Table, run: Run) -> dict[str, Any]:
    """Return the columns that `--carry` copies from the manifest, by name, cast to the types of the output.

    If `run.carried` is empty, return no columns.
    """
    if not run.carried:
        return {}
    struct = rows[CARRIED].combine_chunks()
    return {field.name: struct.field(field.name).cast(field.type) for field in run.carried}
