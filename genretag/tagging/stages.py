"""The two actor stages of a night: fetch and decode on CPUs, predict on an engine.

Every poster stays one row from worklist to part file, whatever happens to it: `probabilities` is set when it
was scored, `reason` when it failed. Pixels travel as one fixed-size binary column, without a copy.
"""

from collections import Counter
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from genretag.engines import open_engine
from genretag.errors import Failure
from genretag.fetching import Poster, PosterReader
from genretag.images import ImageRule
from genretag.storage import Storage


class TooManyFailures(Exception):
    """The error budget is used up. The job that runs the stages turns this into its own error."""


def failure_counts(rows: pa.Table) -> dict[str, int]:
    """How many rows failed, by `stage: reason`."""
    pairs = zip(rows["stage"].to_pylist(), rows["reason"].to_pylist(), strict=True)
    return dict(Counter(f"{stage}: {reason}" for stage, reason in pairs if reason is not None))


class FetchDecode:
    """Worklist rows -> rows with `image` (height * width * 3 bytes, null where it failed)."""

    def __init__(self, storage: Storage, rule: ImageRule, threads: int) -> None:
        self._reader = PosterReader(storage, rule, threads)
        self._image_type = pa.binary(rule.height * rule.width * 3)

    def __call__(self, rows: pa.Table) -> pa.Table:
        results = self._reader.read_many(rows["uri"].to_pylist())
        posters = [result if isinstance(result, Poster) else None for result in results]
        failures = [result if isinstance(result, Failure) else None for result in results]
        etags = [p.etag if p else listed for p, listed in zip(posters, rows["etag"].to_pylist(), strict=True)]
        return pa.table(
            {
                **{name: rows[name] for name in ("poster_id", "uri", "size")},
                "etag": etags,
                "image": _image_column(posters, self._image_type),
                "width": pa.array([p and p.image.width for p in posters], pa.int32()),
                "height": pa.array([p and p.image.height for p in posters], pa.int32()),
                **{
                    name: pa.array([f and getattr(f, name) for f in failures], pa.string())
                    for name in ("stage", "reason", "message")
                },
            }
        )


def _image_column(posters: list[Poster | None], image_type: pa.DataType) -> pa.Array:
    pixels = np.zeros((len(posters), image_type.byte_width), dtype=np.uint8)
    for row, poster in enumerate(posters):
        if poster is not None:
            pixels[row] = poster.image.pixels.reshape(-1)
    valid = pa.array([poster is not None for poster in posters], pa.bool_())
    return pa.Array.from_buffers(image_type, len(posters), [valid.buffers()[1], pa.py_buffer(pixels)])


class Predict:
    """Rows with `image` -> rows with `probabilities` (float32 list, null where it failed) and `at`."""

    def __init__(
        self, engine: str, bundle: Any, batch_size: int, threads: int, board: Any, allowed_failures: int
    ) -> None:
        import ray

        loaded = ray.get(bundle)  # one copy in the object store of each node, not one in each task
        self._engine = open_engine(engine, loaded, batch_size, threads)
        self._shape = (loaded.rule.height, loaded.rule.width, 3)
        self._labels = len(loaded.labels)
        self._board = board
        self._allowed_failures = allowed_failures

    def __call__(self, rows: pa.Table) -> pa.Table:
        column = rows["image"].combine_chunks()
        decoded = column.is_valid().to_numpy(zero_copy_only=False)
        probabilities = np.zeros((len(rows), self._labels), dtype=np.float32)
        probabilities[decoded] = self._engine.predict(self._images(column, decoded))
        self._report(int(decoded.sum()), failure_counts(rows))
        lists = pa.FixedSizeListArray.from_arrays(probabilities.ravel(), self._labels, mask=pa.array(~decoded))
        at = pa.repeat(pa.scalar(datetime.now(UTC), pa.timestamp("us", "UTC")), len(rows))
        return rows.drop_columns(["image"]).append_column("probabilities", lists).append_column("at", at)

    def _images(self, column: pa.Array, decoded: np.ndarray) -> np.ndarray:
        pixels = np.frombuffer(column.buffers()[1], dtype=np.uint8)
        start = column.offset * column.type.byte_width
        stop = start + len(column) * column.type.byte_width
        images = pixels[start:stop].reshape(len(column), *self._shape)
        return images if decoded.all() else images[decoded]

    def _report(self, scored: int, failures: dict[str, int]) -> None:
        """Tells the board, and ends the job where too many posters failed."""
        import ray

        self._board.add.remote(scored=scored, failed=sum(failures.values()), **failures)
        if failures:
            counts, _ = ray.get(self._board.read.remote(0))
            if counts["failed"] > self._allowed_failures:
                raise TooManyFailures
