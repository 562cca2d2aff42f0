"""Part sink: write the rows of a Ray dataset as part files, in this process or in Ray tasks.

This module imports Ray Data, which takes a second.
"""

from collections.abc import Iterable
from typing import Any

import pyarrow as pa
from ray.data import Dataset, Datasink

from genretag.output.part_files import PartFiles
from genretag.output.run_record import WrittenPart
from genretag.runtime.compat import blocks_of

WRITTEN_HERE = 10_000  # rows that the driver writes itself, because a task that writes starts a process


class PartSink(Datasink[WrittenPart]):
    """A Ray Data sink for part files. After the write, `parts` has the `WrittenPart` of each write task.

    `rows_per_file` is the least number of rows for one write task.
    """

    def __init__(self, files: PartFiles, rows_per_file: int) -> None:
        self._files = files
        self._rows_per_file = rows_per_file
        self.parts: list[WrittenPart] = []

    @property
    def min_rows_per_write(self) -> int:
        """Least number of rows that Ray gathers for one write task."""
        return self._rows_per_file

    def write_all(self, dataset: Dataset, rows: int, tasks: int, cpus: float) -> None:
        """Write all rows of a dataset: in this process if there are few, else in up to `tasks` tasks at a time.

        `rows` is the number of rows, and `cpus` is what each task reserves. Raises what `PartFiles.write` raises.
        """
        if rows <= WRITTEN_HERE:
            with blocks_of(dataset) as tables:
                self._write_here(tables)
        else:
            dataset.write_datasink(self, ray_remote_args={"num_cpus": cpus}, concurrency=tasks)

    def _write_here(self, tables: Iterable[pa.Table]) -> None:
        """Write rows in this process. A part gets whole tables, until it has enough rows."""
        self.parts, part = [], list[pa.Table]()
        for table in tables:
            part.append(table)
            if sum(map(len, part)) >= self._rows_per_file:
                self.parts.append(self._files.write(part, len(self.parts)))
                part = []
        self.parts.append(self._files.write(part, len(self.parts)))

    def write(self, blocks: Iterable[pa.Table], ctx: Any) -> WrittenPart:
        """Write the rows of one write task (see `PartFiles.write`). A retry of the task has the same number."""
        return self._files.write(blocks, ctx.task_idx)

    def on_write_complete(self, write_result: Any) -> None:
        """Keep the results of the write tasks in `parts`."""
        self.parts = list(write_result.write_returns)
