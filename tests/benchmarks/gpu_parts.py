"""Shared code of gpu.py: run a part within its time limit, watch the GPU, and make a table of rows."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from genretag.errors import one_line

SPAWN = multiprocessing.get_context("spawn")
SMI = ("nvidia-smi", "--format=csv,noheader,nounits")
Row = dict[str, Any]


def card() -> str:
    """Return name, driver and memory (MiB) of the GPUs, or an empty text if there is no GPU."""
    if not shutil.which(SMI[0]):
        return ""
    asked = subprocess.run([*SMI, "--query-gpu=name,driver_version,memory.total"], capture_output=True, text=True)
    return "" if asked.returncode else asked.stdout.strip()


@contextmanager
def gpu_use() -> Iterator[list[tuple[float, float]]]:
    """Yield a list. After the block, it has the GPU's use in percent and its memory in MiB, five times per second."""
    seen: list[tuple[float, float]] = []
    if not shutil.which(SMI[0]):
        yield seen
        return
    query = [*SMI, "--query-gpu=utilization.gpu,memory.used", "-lms", "200"]
    with subprocess.Popen(query, stdout=subprocess.PIPE, text=True) as smi:
        try:
            yield seen
        finally:
            smi.terminate()
        for line in smi.stdout:
            if line.count(",") == 1:
                busy, used = line.split(",")
                seen.append((float(busy), float(used)))


def run_part(part: Callable[[Any], Iterator[Row]], plan: Any, lines: Path, limit_s: float) -> Row:
    """Call `part(plan)` in a new process for at most `limit_s` seconds. Return its rows, its seconds and its error.

    The process writes each row to the file `lines`. It is killed at the limit, and so are the processes that it leaves.
    """
    started = time.monotonic()
    lines.touch()
    process = SPAWN.Process(target=_write_rows, args=(part, plan, lines))
    process.start()
    try:
        process.join(limit_s)
        error = f"stopped after {limit_s:.0f} s" if process.is_alive() else ""
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.join()
    rows = [json.loads(line) for line in lines.read_text().splitlines()]
    if process.exitcode and not error:
        error = rows.pop()["error"] if rows and "error" in rows[-1] else f"ended with status {process.exitcode}"
    return {"rows": rows, "seconds": time.monotonic() - started, "error": error}


def _write_rows(part: Callable[[Any], Iterator[Row]], plan: Any, file: Path) -> None:
    """Run a part in this process, which leads a new process group. Write each row at once as a line of JSON."""
    os.setsid()
    with file.open("a", buffering=1) as lines:
        try:
            for row in part(plan):
                lines.write(json.dumps(row) + "\n")
        except Exception as error:
            lines.write(json.dumps({"error": one_line(error, 300)}) + "\n")
            raise


def table(rows: list[Row]) -> Iterator[str]:
    """Yield the lines of a Markdown table. The keys of the rows are the columns."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    if columns:
        yield f"| {' | '.join(columns)} |"
        yield "|---" * len(columns) + "|"
    for row in rows:
        yield f"| {' | '.join(_cell(row.get(column, '')) for column in columns)} |"


def _cell(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.4g}"
