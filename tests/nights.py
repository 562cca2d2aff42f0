"""Write part files as `tag` does night by night, with random rows and without scoring."""

import io
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from genretag.output.schema import Run, failures_table, predictions_schema, predictions_table
from genretag.storage import Storage, join

LABELS = ("Drama", "Comedy", "Sci-Fi")
FIRST = date(2026, 11, 1)


def a_run(day=0, run="ab12", model="model1"):
    """Return a run on the day that is `day` days after 1 November 2026. Its `run_id` has the real form."""
    dt = FIRST + timedelta(days=day)
    return Run(f"{dt:%Y%m%d}T010203Z-{run}", dt, model, LABELS, "balanced", (0.3, 0.5, 0.5))


def columns():
    """Return the schema of these runs' predictions."""
    return predictions_schema(a_run())


def write_night(output, night, files=3, rows=4, failed=0):
    """Write `files` part files for a run, and return their URIs.

    Each has `rows` predictions. If `failed` is not 0, also write `files` part files of `failed` failures each.
    """
    written = []
    for number in range(files):
        if rows:
            written.append(
                _put(output, "predictions", night, number, predictions_table(_scored(night, number, rows), night))
            )
        if failed:
            written.append(
                _put(output, "failures", night, number, failures_table(_failed(night, number, failed), night))
            )
    return written


def _put(output, kind, night, number, table):
    uri = join(str(output), kind, f"dt={night.dt}", f"part-{night.run_id}-{number:05d}.parquet")
    file = io.BytesIO()
    pyarrow.parquet.write_table(table, file, compression="zstd")
    Storage().put(uri, file.getvalue())
    return uri


def _posters(night, number, rows, kind):
    names = [f"{kind}-{night.dt}-{night.run_id}-{number}-{row}" for row in range(rows)]
    return {
        "poster_id": names,
        "uri": [f"s3://posters/{name}.jpg" for name in names],
        "etag": [f"etag of {name}" for name in names],
        "at": pa.array([datetime(2026, 11, 1, 1, 2, 3, tzinfo=UTC)] * rows, pa.timestamp("us", "UTC")),
    }


def _scored(night, number, rows):
    values = np.random.default_rng(number).random((rows, len(LABELS)), dtype=np.float32)
    return pa.table(
        {
            **_posters(night, number, rows, "scored"),
            "probabilities": pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), len(LABELS)),
            "width": pa.array([100] * rows, pa.int32()),
            "height": pa.array([150] * rows, pa.int32()),
        }
    )


def _failed(night, number, rows):
    words = {"stage": "decode", "reason": "empty", "message": "no bytes"}
    return pa.table(
        {
            **_posters(night, number, rows, "failed"),
            "size": pa.array([0] * rows, pa.int64()),
            **{name: [value] * rows for name, value in words.items()},
        }
    )
