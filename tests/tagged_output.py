"""Write an output as a night does, from real pictures and probabilities that a test chooses, without scoring."""

import io
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from nights import a_run

from genretag.output.run_record import RunRecord, count_predictions, publish
from genretag.output.schema import failures_table, predictions_table
from genretag.storage import Storage, join

LABELS = ("Drama", "Comedy", "Sci-Fi")


def write_tagged(output, posters, *, night=None, labels=LABELS, failed=(), embedding=None):
    """Write the predictions and the run record of a night, and return the record.

    `posters` has a list of probabilities by the path of a picture. `failed` has tuples of URI, stage, reason and
    message. If `night` is None, it is 1 November 2026. With `embedding`, the length of the embeddings, their values
    follow the probabilities.
    """
    night = replace(night or a_run(), labels=tuple(labels), thresholds=(0.5,) * len(labels), embedding=embedding)
    scored = predictions_table(_scored(posters), night)
    _put(output, "predictions", night, scored)
    if failed:
        _put(output, "failures", night, failures_table(_failed(failed), night))
    record = _record(str(output), night, scored, failed)
    publish(record, Storage())
    return record


def random_probabilities(paths, labels=LABELS, seed=0):
    """Return random probabilities for `write_tagged`, by path. The same `seed` gives the same ones."""
    values = np.random.default_rng(seed).random((len(paths), len(labels)))
    return dict(zip(paths, values.tolist(), strict=True))


def _scored(posters):
    paths = [str(path) for path in posters]
    values = np.array(list(posters.values()), dtype=np.float32)
    return pa.table(
        {
            **_keys(paths, [Storage().stat(path).etag for path in paths]),
            "probabilities": pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1]),
            "width": pa.array([300] * len(paths), pa.int32()),
            "height": pa.array([450] * len(paths), pa.int32()),
        }
    )


def _failed(failed):
    uris, *words = zip(*failed, strict=True)
    columns = dict(zip(("stage", "reason", "message"), map(list, words), strict=True))
    size = pa.array([0] * len(uris), pa.int64())
    return pa.table({**_keys(list(uris), ["e"] * len(uris)), "size": size, **columns})


def _keys(uris, etags):
    return {
        "poster_id": [uri.rsplit("/", 1)[-1].rsplit(".", 1)[0] for uri in uris],
        "uri": uris,
        "etag": etags,
        "at": pa.array([datetime(2026, 11, 1, 1, 2, 3, tzinfo=UTC)] * len(uris), pa.timestamp("us", "UTC")),
    }


def _put(output, kind, night, table):
    file = io.BytesIO()
    pyarrow.parquet.write_table(table, file)
    name = join(str(output), kind, f"dt={night.dt}", f"part-{night.run_id}-00000.parquet")
    Storage().put(name, file.getvalue())


def _record(output, night, scored, failed):
    counts = count_predictions(scored, night.labels)
    return RunRecord(
        run_id=night.run_id, dt=night.dt.isoformat(), images="s3://films/posters", output=output,
        model_version=night.model_version, profile=night.profile,
        actors={"engine": "openvino", "precision": "int8", "batch_size": 8, "fetch_actors": 0, "predict_actors": 1},
        started_at="2026-11-01T01:02:03+00:00", finished_at="2026-11-01T01:03:03+00:00",
        seconds={"inventory": 1.0, "worklist": 2.0, "ray": 50.0, "score": 45.0, "total": 60.0},
        listed=len(scored) + len(failed), duplicates=0, already_scored=0, already_failed=0,
        scored=len(scored), failed=len(failed), failures=dict(Counter(f"{f[1]}: {f[2]}" for f in failed)), files=[],
        settings={"fetch_threads": 16}, versions={"genretag": "0.1.0"},
        peak_memory_bytes={"predict": 600_000_000, "driver": 200_000_000},
        genres=dict(zip(night.labels, counts.posters, strict=True)), without_genre=counts.without_label,
        histograms={label: list(bins) for label, bins in zip(night.labels, counts.histograms, strict=True)},
        thresholds=dict(zip(night.labels, night.thresholds, strict=True)),
        busy_s={"fetch": 12.0, "decode": 20.0, "predict": 40.0},
    )  # fmt: skip
