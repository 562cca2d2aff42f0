"""Tag 500 new posters each night for 400 nights into one output, and time what works on the whole output.

    python tests/benchmarks/many_nights.py [--nights 400] [--posters 500] [--look-at 10,100,400] [--json FILE]

Each night is a run of `tag --date` from a local folder, on one Ray that runs all the time. A few different posters are
linked under many names. After the nights of `--look-at`, times these commands, each as a process of its own: the next
night, a night without new posters, `report` of the last run, `gallery`, the views of `warehouse --dialect duckdb` with
a count and a query of them, and `compact` of a copy of the output. Prints a table, and the ratio of each time to that
of the first column.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import date, timedelta
from itertools import islice
from pathlib import Path

from genretag.demo.posters import draw_posters
from genretag.runtime.ray_session import ray_session
from genretag.runtime.session import Session

FIRST = date(2025, 10, 1)
DRAWN = 500  # different posters
QUERY = (
    "select count(*), max(dt) from predictions; select unnest(genres) as genre, count(*) from predictions group by 1"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nights", type=int, default=400)
    parser.add_argument("--posters", type=int, default=500)
    parser.add_argument("--look-at", default="10,100,400")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    looks = [int(number) for number in options.look_at.split(",")]
    found: dict[int, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="nights-") as name, ray_session(Session(quiet=True)):
        import ray

        os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
        folder = Path(name)
        posters = _Posters(folder, options.posters)
        for night in range(1, options.nights + 1):
            seconds = _night(posters, night)
            print(f"night {night}: {seconds:.1f} s", flush=True)
            if night in looks:
                found[night] = _look(posters, night)
                print(json.dumps(found[night]), flush=True)
    _print(found)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


class _Posters:
    """A folder that gets links to posters under new names each night."""

    def __init__(self, folder: Path, a_night: int) -> None:
        self.folder, self.output, self._a_night, self._next = folder / "posters", folder / "genres", a_night, 0
        self.folder.mkdir()
        (folder / "drawn").mkdir()
        self._drawn = []
        for number, poster in enumerate(islice(draw_posters(DRAWN, seed=1), DRAWN)):
            file = folder / "drawn" / f"{number}.{poster.key.rpartition('.')[2]}"
            file.write_bytes(poster.data)
            self._drawn.append(file)

    def add(self) -> None:
        for number in range(self._next, self._next + self._a_night):
            file = self._drawn[number % DRAWN]
            os.link(file, self.folder / f"{number:07d}{file.suffix}")
        self._next += self._a_night


def _genretag(*arguments: object) -> float:
    """Run a command as a process, and return the seconds it took."""
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "genretag.cli", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{arguments} ended with {done.returncode}: {done.stderr[-3000:]}")
    return time.monotonic() - started


def _night(posters: _Posters, night: int) -> float:
    posters.add()
    return _genretag("tag", posters.folder, posters.output, "--date", FIRST + timedelta(days=night))


def _look(posters: _Posters, night: int) -> dict[str, float]:
    """Time everything that works on the whole output."""
    output, copy = posters.output, posters.output.with_name("copy")
    found = {"a night without new posters": _genretag("tag", posters.folder, output)}
    found["report"] = _genretag("report", output)
    found["gallery"] = _genretag("gallery", output, "--html", output.with_name("gallery.html"))
    started = time.monotonic()
    made = [sys.executable, "-m", "genretag.cli", "warehouse", output, "--dialect", "duckdb"]
    views = subprocess.run(made, capture_output=True, text=True, check=True).stdout
    asked = [sys.executable, "-c", "import duckdb, sys; print(duckdb.sql(sys.stdin.read()))"]
    subprocess.run(asked, input=f"{views}\n{QUERY}", capture_output=True, text=True, check=True)
    found["warehouse views and a query"] = time.monotonic() - started
    shutil.copytree(output, copy)
    found["compact"] = _genretag("compact", copy)
    found["a night after compact"] = _genretag("tag", posters.folder, copy)
    shutil.rmtree(copy)
    return found


def _print(found: dict[int, dict[str, float]]) -> None:
    first = next(iter(found.values()))
    print("| what | " + " | ".join(f"after {night} nights, s" for night in found) + " | last / first |")
    print("|---|" + "---|" * (len(found) + 1))
    for what in first:
        times = [times[what] for times in found.values()]
        print(f"| {what} | " + " | ".join(f"{one:.1f}" for one in times) + f" | {times[-1] / times[0]:.1f} |")


if __name__ == "__main__":
    main()
