"""Part files, the Parquet files of an output: each is complete or absent, and a retry overwrites it.

Ray may run a write task several times. Each attempt writes files with the same names.
"""

import logging
import re
from collections import Counter
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from genretag.errors import OutputHeldError
from genretag.images.file_kinds import OTHER_FILE, UNNAMED, kind_by_name
from genretag.output import list_output
from genretag.output.lock import LOCK, SETTLE_S, age_s, require_held
from genretag.output.run_record import Outcome, WrittenPart, count_predictions, outcome_of
from genretag.output.schema import Run, failures_table, predictions_table, versions_table, writer_options
from genretag.runtime.telemetry import timed
from genretag.storage import Storage, join

logger = logging.getLogger(__name__)

NAME = re.compile(r"/part-[^/]+-\d+\.parquet\Z")  # name of a part file, in any folder


class PartFiles:
    """Writes part files, such as `predictions/dt=…/part-<run>-00000.parquet`.

    The part files below `failures/` and `versions/` are written too. The files in `versions/` hold listed etags that
    differ from the etag that was read.
    """

    def __init__(self, output: str, storage: Storage, run: Run) -> None:
        self._output = output
        self._storage = storage
        self._run = run

    def write(self, blocks: Iterable[pa.Table], number: int) -> WrittenPart:
        """Write the rows of one write task as part files, and return what was written.

        `number` is the number in the file names. A retry with the same number overwrites the files. Without rows, as in
        blocks that a job that stops passes on, write nothing. Raises `OutputHeldError` if this run no longer holds the
        output's lock, and `StorageError`.
        """
        with timed("write"):
            tables = [block for block in blocks if len(block)]
            return self._write(pa.concat_tables(tables), number) if tables else WrittenPart(Outcome(), ())

    def _write(self, rows: pa.Table, number: int) -> WrittenPart:
        """Write up to three part files: predictions, failures, and listed etags that differ from the etag read.

        If there are no rows of one of these kinds, its file is not written. `number` is the number in the file names.
        """
        scored = rows.filter(pc.is_valid(rows["probabilities"]))
        failed = rows.filter(pc.is_valid(rows["reason"]))
        versions = versions_table(rows, self._run)
        files, counts = [], None
        if len(scored):
            predictions = predictions_table(scored, self._run)
            counts = count_predictions(predictions, self._run.labels)
            files.append(self._put("predictions", number, predictions))
        if len(failed):
            files.append(self._put("failures", number, failures_table(failed, self._run)))
        if len(versions):  # last, because these rows refer to the rows of the other files
            files.append(self._put("versions", number, versions))
        return WrittenPart(outcome_of(rows), tuple(files), counts, _other_files(failed))

    def _put(self, kind: str, number: int, table: pa.Table) -> str:
        """Write a table as a part file of the kind `kind`, and return the file's name below the output.

        Raises `OutputHeldError` if this run no longer holds the output's lock.
        """
        run = self._run
        name = join(kind, f"dt={run.dt.isoformat()}", f"part-{run.run_id}-{number:05d}.parquet")
        buffer = pa.BufferOutputStream()
        pyarrow.parquet.write_table(table, buffer, **writer_options(table.schema))
        require_held(self._output, run.run_id, self._storage)
        self._storage.put(join(self._output, name), buffer.getvalue().to_pybytes())
        self._take_back_if_late(name)
        return name

    def _take_back_if_late(self, name: str) -> None:
        """If the lock was lost while the file `name` was written, delete the file and raise `OutputHeldError`.

        A run can lose the lock like this if it is suspended during the write. A file that is older than `SETTLE_S`
        seconds is not deleted, because the run that took the output over has listed it.
        """
        try:
            require_held(self._output, self._run.run_id, self._storage)
        except OutputHeldError:
            uri = join(self._output, name)
            if age_s(uri, self._storage, join(self._output, f"{LOCK}.{name.rpartition('/')[2]}")) < SETTLE_S:
                self._storage.delete(uri)
            raise


def _other_files(failed: pa.Table) -> dict[str, int]:
    """Count the failed rows of files that are not posters, by kind of file, such as video."""
    uris = failed.filter(pc.equal(failed["reason"], OTHER_FILE))["uri"].to_pylist()
    return dict(Counter(kind_by_name(uri) or UNNAMED for uri in uris))


def remove_late_parts(output: str, run_id: str, known: frozenset[str], storage: Storage) -> None:
    """Delete part files that a dead run's last worker wrote after this run had listed the output.

    `known` has the URIs of that listing. This run has scored the same posters again, so the late files would repeat
    their rows. Raises `OutputHeldError` if this run no longer holds the output's lock, and `StorageError` if the store
    fails.
    """
    for uri in list_output(output, storage).uris - known:
        if NAME.search(uri) and f"/part-{run_id}-" not in uri:
            require_held(output, run_id, storage)  # otherwise the file may belong to a run that took the output over
            logger.warning("removing %s, which a dead run wrote after this one had taken its place", uri)
            storage.delete(uri)
