"""Measure time and memory of making a worklist: ten million objects, and an output with ten million rows.

    python tests/benchmarks/worklist.py [--rows 10000000] [--new 1000] [--output FOLDER-or-s3://PREFIX]

Writes an inventory and part files of 50,000 rows with all columns of a real output (23 labels), unless they exist. Then
makes the worklist twice, each time in its own process: without a key index, and with the index that the first time has
left. Prints new posters, seconds, CPU seconds and the peak memory of the process. The null, which is printed too, is
the time to read only the three key columns.
"""

import argparse
import hashlib
import multiprocessing
import resource
import tempfile
import time
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
import pyarrow.parquet

from genretag.model.bundle import DEFAULT_BUNDLE, load_bundle
from genretag.output import list_output
from genretag.output.schema import Run, predictions_table
from genretag.scoring.inventory import Inventory, with_all_columns
from genretag.scoring.key_index import FOLDER
from genretag.scoring.worklist import make_worklist
from genretag.storage import Storage, join, resolve

ROWS_PER_FILE = 50_000


def main() -> None:
    """Write the files, measure, and print figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--new", type=int, default=1_000, help="objects that the output does not hold")
    parser.add_argument("--output", help="where the scored rows are, or go; a temporary folder when not given")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="genretag-worklist-") as folder:
        output = resolve(options.output or f"{folder}/output")
        _fill(output, options.rows)
        file = _inventory(Path(folder), options.rows, options.new)
        Storage().delete_below(join(output, FOLDER))
        null_s, _ = _in_a_process(_read_keys, output)
        print(f"null, reading the scored keys alone: {null_s:.1f} s")
        for what in ("without a key index", "with the key index"):
            seconds, cpu_s, peak_bytes, worklist = _in_a_process(_measured, (file, options.rows, output))
            print(
                f"{what}: worklist of {worklist:,} of {options.rows:,} objects in {seconds:.1f} s, CPU {cpu_s:.1f} s, "
                f"peak memory {peak_bytes / 2**30:.2f} GiB"
            )


def _keys(start: int, stop: int) -> pa.Table:
    """Return the keys of objects `start` to `stop`: URIs of 44 characters in 256 folders, and MD5 sums as etags."""
    numbers = range(start, stop)
    digests = [hashlib.md5(str(number).encode()).hexdigest() for number in numbers]
    uris = [f"s3://films/posters/{d[:2]}/tt{n:08d}.jpg" for n, d in zip(numbers, digests, strict=True)]
    return pa.table({"uri": uris, "etag": digests})


def _fill(output: str, rows: int) -> None:
    storage, bundle = Storage(), load_bundle(str(DEFAULT_BUNDLE), Storage())
    night = Run("run", date(2026, 11, 23), "m1", bundle.labels, "balanced", bundle.profile().thresholds)
    random = np.random.default_rng(1)
    with tempfile.NamedTemporaryFile() as temporary:
        for number, start in enumerate(range(0, rows, ROWS_PER_FILE)):
            keys = with_all_columns(_keys(start, min(start + ROWS_PER_FILE, rows)))
            p = random.random((len(keys), len(bundle.labels)), dtype=np.float32) / 2
            scored = pa.table(
                {
                    **{name: keys[name] for name in ("poster_id", "uri", "etag")},
                    "width": pa.array(np.full(len(keys), 1000, np.int32)),
                    "height": pa.array(np.full(len(keys), 1500, np.int32)),
                    "probabilities": pa.FixedSizeListArray.from_arrays(p.ravel(), len(bundle.labels)),
                    "at": pa.repeat(pa.scalar(datetime.now(UTC), pa.timestamp("us", "UTC")), len(keys)),
                }
            )
            pyarrow.parquet.write_table(predictions_table(scored, night), temporary.name, compression="zstd")
            name = join(output, "predictions", "dt=2026-11-23", f"part-run-{number:05d}.parquet")
            storage.put(name, Path(temporary.name).read_bytes())


def _inventory(folder: Path, rows: int, new: int) -> Path:
    file = folder / "inventory.parquet"
    writer = None
    for start in range(new, rows + new, ROWS_PER_FILE):
        table = with_all_columns(_keys(start, min(start + ROWS_PER_FILE, rows + new)))
        writer = writer or pyarrow.parquet.ParquetWriter(file, table.schema, compression="lz4")
        writer.write_table(table)
    writer.close()
    return file


def _measured(job: tuple[Path, int, str]) -> tuple[float, float, int, int]:
    file, rows, output = job
    file.with_name("night.duckdb").unlink(missing_ok=True)
    started = time.monotonic()
    worklist = make_worklist(Inventory(file, rows, may_repeat=False), list_output(output, Storage()), "m1", Storage())
    seconds = time.monotonic() - started
    return seconds, time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, worklist.to_score


def _read_keys(output: str) -> tuple[float, int]:
    started = time.monotonic()
    filesystem, path = Storage().filesystem(join(output, "predictions"))
    dataset = pyarrow.dataset.dataset(path, format="parquet", filesystem=filesystem)
    scanner = dataset.scanner(["uri", "etag"], filter=pc.field("model_version") == "m1")
    rows = sum(len(batch) for batch in scanner.to_batches())
    return time.monotonic() - started, rows


def _in_a_process(function, argument):
    """Call a function in a new process, so that its peak memory is measured alone, and return the result."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, (argument,))


if __name__ == "__main__":
    main()
