"""Tag a million posters of a bucket in one night, and record rate, memory and disk at every 100,000.

    python tests/benchmarks/million.py FOLDER [--posters 1000000] [--different 100000]

100,000 different posters are drawn, 200 x 300 pixels, and put under ten keys each. A night is a run of `tag`. After the
first night follow a night without new posters, `report`, `gallery`, a night with 10,000 new posters, `compact`, a night
after it, and queries in DuckDB of the views of `warehouse`. All but the queries run as processes of their own, and have
their seconds and their peak memory.

Memory is in MB: the unique set size (USS) of the driver and of the largest actor, the shared memory of the object
store, and the proportional set size (PSS) of all processes together. The size of the output is in MB too. FOLDER keeps
the store (a SeaweedFS on this machine, 15 GB) and the figures (million.json). If a run is interrupted between two steps
or while it draws, the same command continues it.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import IO, Any

import psutil
from botocore.exceptions import ClientError

from genretag.demo.posters import draw_poster
from genretag.demo.s3_server import running_s3_server
from genretag.storage import Storage, join

BUCKET = "s3://million"
WIDTH, HEIGHT = 200, 300
NEW = 10_000
BEGUN = "begun"
AT_ONCE = 500  # posters that one task draws and puts
SCORING = re.compile(r"scoring: ([\d,]+)/")
QUERIES = (
    "select count(*), count(distinct uri) from genretag.predictions",
    "select genre, count(*) from (select unnest(genres) as genre from genretag.predictions) group by 1 order by 2 desc",
    "select uri, p_western from genretag.predictions order by p_western desc limit 10",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--posters", type=int, default=1_000_000)
    parser.add_argument("--different", type=int, default=100_000)
    parser.add_argument("--every", type=int, default=100_000, help="posters between two rows of the table")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    record = _Record(options.folder / "million.json", options.every)
    with running_s3_server(options.folder / "store") as server:
        os.environ.update(server.environment())
        if not record.has("posters"):
            with suppress(ClientError):  # the bucket is there: an earlier run was interrupted while it drew
                server.create_bucket(BUCKET.removeprefix("s3://"))
            record.keep("posters", _fill(range(options.different), options.posters // options.different))
        posters, output = join(BUCKET, "posters"), join(BUCKET, "genres")
        night = ("--date", str(datetime.now(UTC).date() - timedelta(days=1)))  # `compact` leaves today's files alone
        gallery = ("gallery", output, "--html", str(options.folder / "gallery.html"))
        record.once("the night", "tag", posters, output, *night)
        record.once("a night without new posters", "tag", posters, output)
        record.once("report", "report", output)
        record.once("gallery", *gallery)
        if not record.has("new posters"):
            new = range(options.different, options.different + NEW)
            record.keep("new posters", _fill(new, 1))
        record.once("a night with 10,000 new posters", "tag", posters, output, *night)
        record.once("compact", "compact", output)
        record.once("a night after compact", "tag", posters, output)
        if not record.has("queries"):
            record.keep("queries", _queries(output))
    record.show()


class _Record:
    """What was measured so far, in a JSON file."""

    def __init__(self, file: Path, every: int) -> None:
        self._file, self._every = file, every
        self._found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}

    def has(self, name: str) -> bool:
        return name in self._found

    def keep(self, name: str, value: Any) -> None:
        self._found[name] = value
        self._file.write_text(json.dumps(self._found, indent=1) + "\n")
        print(f"{name}: {json.dumps(value)}", flush=True)

    def once(self, name: str, *command: str) -> None:
        """Run a command of genretag, unless it was measured before."""
        if self.has(name):
            return
        if self._found.get(BEGUN) == name:
            raise SystemExit(f"{name} was interrupted, so its figures would be wrong: start with another FOLDER")
        self.keep(BEGUN, name)
        self.keep(name, _measured(command, self._every))

    def show(self) -> None:
        """Print the tables."""
        print("| posters | seconds | posters/s lately | driver, MB | actor, MB | object store, MB | output, MB |")
        print("|---|---|---|---|---|---|---|")
        before = {"posters": 0, "seconds": 0.0}
        for row in self._found["the night"]["rows"]:
            rate = (row["posters"] - before["posters"]) / max(0.1, row["seconds"] - before["seconds"])
            memory = " | ".join(f"{row[name]:,.0f}" for name in ("driver_mb", "actor_mb", "store_mb", "output_mb"))
            print(f"| {row['posters']:,} | {row['seconds']:,.0f} | {rate:,.0f} | {memory} |")
            before = row
        print("\n| what | seconds | peak memory of its processes, MB |\n|---|---|---|")
        for name, value in self._found.items():
            if isinstance(value, dict) and "peak_mb" in value:
                print(f"| {name} | {value['seconds']:,.1f} | {value['peak_mb']:,.0f} |")


def _fill(numbers: range, keys_each: int) -> float:
    """Draw posters and put each under several keys. Return the seconds."""
    started = time.monotonic()
    parts = [numbers[at : at + AT_ONCE] for at in range(0, len(numbers), AT_ONCE)]
    with ProcessPoolExecutor(os.cpu_count()) as processes:
        for done, _ in enumerate(processes.map(partial(_draw_and_put, keys_each=keys_each), parts), 1):
            if done % 20 == 0:
                print(f"{done * AT_ONCE:,} posters drawn", flush=True)
    return time.monotonic() - started


def _draw_and_put(numbers: range, keys_each: int) -> None:
    storage = Storage()
    with ThreadPoolExecutor(4) as threads:
        for number in numbers:
            data = draw_poster(number, (), WIDTH, HEIGHT)
            uris = [f"{BUCKET}/posters/{key}/{number:07d}.jpg" for key in range(keys_each)]
            list(threads.map(lambda uri, data=data: storage.put(uri, data), uris))


def _measured(command: tuple[str, ...], every: int) -> dict[str, Any]:
    """Run a command of genretag and sample its memory. For `tag`, return a row at each `every` posters too."""
    started, rows, peak = time.monotonic(), [], 0.0
    words = [sys.executable, "-m", "genretag.cli", *command]
    job = subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with ThreadPoolExecutor(1) as reader:
        lines: list[str] = []
        reader.submit(_read, job.stderr, lines)
        seen = 0
        while job.poll() is None:
            memory = _memory(job.pid)
            peak = max(peak, memory["all_mb"])
            done = max((_number(line) for line in lines[seen:]), default=0)
            seen = len(lines)
            if done >= every * (len(rows) + 1):
                output = command[2]
                sizes = (info.size_bytes for page in Storage().list(output) for info in page)
                rows.append(
                    {"posters": done, "seconds": time.monotonic() - started, **memory, "output_mb": sum(sizes) / 1e6}
                )
                print(json.dumps(rows[-1]), flush=True)
            time.sleep(1)
    if job.returncode:
        raise SystemExit(f"{command} ended with {job.returncode}: {''.join(lines[-20:])}")
    said = job.stdout.read() if job.stdout else ""
    return {"seconds": time.monotonic() - started, "peak_mb": peak, "said": said.strip()[:300], "rows": rows}


def _read(stream: IO[str] | None, lines: list[str]) -> None:
    for line in stream or ():
        lines.append(line)


def _number(line: str) -> int:
    found = SCORING.search(line)
    return int(found[1].replace(",", "")) if found else 0


def _memory(pid: int) -> dict[str, float]:
    """Return the memory of a job's processes in MB: driver, largest actor, object store, and all together."""
    found = {"driver_mb": 0.0, "actor_mb": 0.0, "store_mb": 0.0, "all_mb": 0.0}
    with suppress(psutil.Error):
        driver = psutil.Process(pid)
        for process in (driver, *driver.children(recursive=True)):
            with suppress(psutil.Error):
                memory = process.memory_full_info()
                found["all_mb"] += memory.pss / 1e6
                name = "".join(process.cmdline()[:1])
                if process.pid == pid:
                    found["driver_mb"] = memory.uss / 1e6
                elif "raylet" in name:
                    found["store_mb"] = memory.shared / 1e6
                elif name.startswith("ray::Map") or "Score" in name:
                    found["actor_mb"] = max(found["actor_mb"], memory.uss / 1e6)
    return found


def _queries(output: str) -> dict[str, float]:
    """Return the seconds of each query in DuckDB, on the views of `warehouse`."""
    import duckdb

    made = [sys.executable, "-m", "genretag.cli", "warehouse", "--location", output, "--dialect", "duckdb"]
    views = subprocess.run(made, capture_output=True, text=True, check=True).stdout
    filesystem, _ = Storage().filesystem(output)
    connection = duckdb.connect()
    connection.register_filesystem(filesystem)
    connection.execute(views)
    seconds = {}
    for query in QUERIES:
        started = time.monotonic()
        connection.execute(query).fetchall()
        seconds[query] = time.monotonic() - started
    return seconds


if __name__ == "__main__":
    main()
