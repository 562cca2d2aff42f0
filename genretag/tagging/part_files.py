"""Writes scored and failed rows as part files: each whole or not there, under a name that a retry writes again."""

import logging
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet
from ray.data import Datasink

from genretag.errors import OutputHeldError
from genretag.other_files import OTHER_FILE, UNNAMED, kind_by_name
from genretag.storage import Storage, join
from genretag.tagging.counting import Counts, count_predictions
from genretag.tagging.held_files import held_files
from genretag.tagging.lock import LOCK, SETTLE_S, age_s, require_held
from genretag.tagging.outcomes import Outcome, outcome_of
from genretag.tagging.schema import Night, failures_table, predictions_table, versions_table, writer_options
from genretag.telemetry import timed

KINDS = ("predictions", "failures")
NAME = re.compile(r"/part-[^/]+-\d+\.parquet\Z")  # of a part file, whatever the folders above it are called

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Part:
    """What one write task wrote."""

    outcome: Outcome
    files: tuple[str, ...]
    counts: Counts | None = None  # of the scored ones; none where there are none
    other_files: dict[str, int] = field(default_factory=dict)  # failures that are no posters, by kind


class PartFiles(Datasink[Part]):
    """`predictions/dt=…/part-<run>-00000.parquet`; `failures/` and `versions/` likewise where there are any."""

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
        with timed("write"):
            tables = [block for block in blocks if len(block)]  # a job that stops leaves blocks without rows
            return self._write(pa.concat_tables(tables), ctx.task_idx) if tables else Part(Outcome(), ())

    def _write(self, rows: pa.Table, number: int) -> Part:
        scored = rows.filter(pc.is_valid(rows["probabilities"]))
        failed = rows.filter(pc.is_valid(rows["reason"]))
        versions = versions_table(rows, self._night)
        files, counts = [], None
        if len(scored):
            predictions = predictions_table(scored, self._night)
            counts = count_predictions(predictions, self._night.labels)
            files.append(self._put("predictions", number, predictions))
        if len(failed):
            files.append(self._put("failures", number, failures_table(failed, self._night)))
        if len(versions):  # last: what they say holds only where the other rows stand
            files.append(self._put("versions", number, versions))
        return Part(outcome_of(rows), tuple(files), counts, _other_files(failed))

    def on_write_complete(self, write_result: Any) -> None:
        self.parts = list(write_result.write_returns)

    def _put(self, kind: str, number: int, table: pa.Table) -> str:
        night = self._night
        name = join(kind, f"dt={night.dt.isoformat()}", f"part-{night.run_id}-{number:05d}.parquet")
        buffer = pa.BufferOutputStream()
        pyarrow.parquet.write_table(table, buffer, **writer_options(table.schema))
        require_held(self._output, night.run_id, self._storage)
        self._storage.put(join(self._output, name), buffer.getvalue().to_pybytes())
        self._take_back_if_late(name)
        return name

    def _take_back_if_late(self, name: str) -> None:
        """Removes a file that came after the output was lost, and raises `OutputHeldError`.

        So it is where the run was suspended in the moment of writing. A file that was there before is old by now, and
        whoever took the output over has seen it.
        """
        try:
            require_held(self._output, self._night.run_id, self._storage)
        except OutputHeldError:
            uri = join(self._output, name)
            if age_s(uri, self._storage, join(self._output, f"{LOCK}.{name.rpartition('/')[2]}")) < SETTLE_S:
                self._storage.delete(uri)
            raise


def _other_files(failed: pa.Table) -> dict[str, int]:
    uris = failed.filter(pc.equal(failed["reason"], OTHER_FILE))["uri"].to_pylist()
    return dict(Counter(kind_by_name(uri) or UNNAMED for uri in uris))


def list_parts(output: str, storage: Storage) -> frozenset[str]:
    """The URIs of all part files that the output holds. Raises `StorageError`."""
    return frozenset(info.uri for kind in KINDS for info in held_files(join(output, kind), storage))


def remove_late_parts(output: str, run_id: str, known: frozenset[str], storage: Storage) -> None:
    """Removes what a dead run's last worker wrote after this run had listed the `known` files and scored the same."""
    for uri in list_parts(output, storage) - known:
        if NAME.search(uri) and f"/part-{run_id}-" not in uri:
            require_held(output, run_id, storage)  # or it would be the file of a run that took the output over
            logger.warning("removing %s, which a dead run wrote after this one had taken its place", uri)
            storage.delete(uri)
