"""Measure how many rows `genretag retag` rewrites per second: part files of the default model in a local folder.

    python tests/benchmarks/retag.py [--rows 3000000] [--rounds 3]

Each round applies a profile that the rows do not have. Prints seconds, rows per second and CPU seconds. The null, which
is printed too, is to read and write the same files by pyarrow with its default settings, in the same number of threads.
"""

import argparse
import io
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from worklist import ROWS_PER_FILE, _keys

from genretag.commands.retag import retag
from genretag.model.bundle import DEFAULT_BUNDLE, load_bundle
from genretag.output.schema import Run, predictions_table, writer_options
from genretag.runtime.session import Session
from genretag.scoring.inventory import with_all_columns
from genretag.settings import RetagSettings
from genretag.storage import Storage

PROFILES = ("top-3", "balanced")


def main() -> None:
    """Write rows, apply profiles in turn, and print rates."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=3_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="genretag-retag-") as folder:
        _fill(Path(folder), options.rows)
        for number in range(options.rounds):
            profile = PROFILES[number % 2]
            _timed(f"retag --profile {profile}", _retagged, folder, profile)
            _timed("null, read and written as it is", _rewritten, folder)


def _timed(name, function, *arguments):
    began, cpu = time.monotonic(), time.process_time()
    rows = function(*arguments)
    seconds, cpu = time.monotonic() - began, time.process_time() - cpu
    print(f"{name}: {rows:,} rows, {seconds:.1f} s, {rows / seconds:,.0f} rows/s, {cpu:.1f} s of CPU", flush=True)


def _retagged(folder: str, profile: str) -> int:
    return retag(folder, RetagSettings(profile=profile), Session(quiet=True)).rows


def _rewritten(folder: str) -> int:
    def write(file: Path) -> int:
        table = pyarrow.parquet.read_table(io.BytesIO(file.read_bytes()), use_threads=False)
        pyarrow.parquet.write_table(table, io.BytesIO(), compression="zstd")
        return len(table)

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return sum(threads.map(write, Path(folder).rglob("*.parquet")))


def _fill(folder: Path, rows: int) -> None:
    bundle = load_bundle(str(DEFAULT_BUNDLE), Storage())
    night = Run("run", date(2026, 11, 1), bundle.model_version, bundle.labels, "balanced", bundle.profile().thresholds)
    (folder / "predictions" / "dt=2026-11-01").mkdir(parents=True)
    random = np.random.default_rng(1)
    for number, start in enumerate(range(0, rows, ROWS_PER_FILE)):
        keys = with_all_columns(_keys(start, min(start + ROWS_PER_FILE, rows)))
        p = random.beta(0.3, 2.5, (len(keys), len(bundle.labels))).astype(np.float32)
        scored = pa.table(
            {
                **{name: keys[name] for name in ("poster_id", "uri", "etag")},
                "width": pa.array(np.full(len(keys), 300, np.int32)),
                "height": pa.array(np.full(len(keys), 450, np.int32)),
                "probabilities": pa.FixedSizeListArray.from_arrays(p.ravel(), len(bundle.labels)),
                "at": pa.repeat(pa.scalar(datetime.now(UTC), pa.timestamp("us", "UTC")), len(keys)),
            }
        )
        table = predictions_table(scored, night)
        file = folder / "predictions" / "dt=2026-11-01" / f"part-run-{number:05d}.parquet"
        pyarrow.parquet.write_table(table, file, **writer_options(table.schema))


if __name__ == "__main__":
    main()
