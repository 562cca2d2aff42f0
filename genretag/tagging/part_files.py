"""Writes scored and failed rows as part files: each whole or not there, under a name that a retry writes again."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet
from ray.data import Datasink

from genretag.storage import Storage, join
from genretag.tagging.schema import Night, failures_table, predictions_table
from genretag.tagging.stages import failure_counts


@dataclass(frozen=True)
class Part:
    """What one write task wrote."""

    scored: int
    failed: int
    reasons: dict[str, int]  # failures by "stage: reason"
    files: tuple[str, ...]


class PartFiles(Datasink[Part]):
    """`predictions/dt=…/part-<run>-00000.parquet`, and `failures/` likewise where there are any."""

    def __init__(self, output: str, storage: Storage, night: Night, rows_per_file: int) -> None:
        self._output = output
        self._storage = storage
        self._night = night
        self._rows_per_file = rows_per_file
        self.parts: list[Part] = []

    @property
    def min_rows_per_write(self) -> int:
        return self._rows_per_file

    def write(self, blocks: Iterable[Any], ctx: Any) -> Part:
        """Writes one part; the number is the write task's, which Ray gives to a retry again."""
        rows = pa.concat_tables(list(blocks))
        scored = rows.filter(pc.is_null(rows["reason"]))
        failed = rows.filter(pc.is_valid(rows["reason"]))
        files = []
        if len(scored):
            files.append(self._put("predictions", ctx.task_idx, predictions_table(scored, self._night)))
        if len(failed):
            files.append(self._put("failures", ctx.task_idx, failures_table(failed, self._night)))
        return Part(len(scored), len(failed), failure_counts(failed), tuple(files))

    def on_write_complete(self, write_result: Any) -> None:
        self.parts = list(write_result.write_returns)

    def _put(self, kind: str, number: int, table: pa.Table) -> str:
        night = self._night
        name = join(kind, f"dt={night.dt.isoformat()}", f"part-{night.run_id}-{number:05d}.parquet")
        buffer = pa.BufferOutputStream()
        pyarrow.parquet.write_table(table, buffer, compression="zstd")
        self._storage.put(join(self._output, name), buffer.getvalue().to_pybytes())
        return name
