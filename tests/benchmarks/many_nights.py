"""Tag 500 new posters each night for 400 nights into one output, and time what works on the whole output.

    python tests/benchmarks/many_nights.py FOLDER --nights 10 --look
    python tests/benchmarks/many_nights.py FOLDER --nights 400 --look

The first command records times after 10 nights, the second after 400, and the table that it prints compares them.

Each night is a run of `tag --date` from a local folder, on one Ray that runs all the time. 500 different posters are
linked under many names. FOLDER keeps posters and output: another run goes on with the next night. With --look, these
commands are timed at the end, each as a process of its own: the next night; a night without new posters; `report` of
the last run; `gallery`; the views of `warehouse --dialect duckdb` with a query of them (`queries.py` times the other
queries); and for a copy of the output, `compact` and a night after it. FOLDER/looks.json keeps the times.
"""

import argparse
import json
import os
import shutil
from datetime import date, timedelta
from pathlib import Path

from queries import genretag, views_and_query

from genretag.demo.posters import draw_posters
from genretag.runtime.ray_session import ray_session
from genretag.runtime.session import Session

FIRST = date(2025, 10, 1)
DRAWN = 500  # different posters


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--nights", type=int, default=400)
    parser.add_argument("--posters", type=int, default=500)
    parser.add_argument("--look", action="store_true")
    options = parser.parse_args()
    posters = _Posters(options.folder.resolve(), options.posters)
    with ray_session(Session(quiet=True)):
        import ray

        os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
        while posters.nights < options.nights:
            seconds = _night(posters)
            print(f"night {posters.nights}: {seconds:.1f} s", flush=True)
        if options.look:
            _look(posters)


class _Posters:
    """A folder that gets links to posters under new names each night."""

    def __init__(self, folder: Path, a_night: int) -> None:
        self.folder, self.output, self._a_night = folder / "posters", folder / "genres", a_night
        self.folder.mkdir(parents=True, exist_ok=True)
        (folder / "drawn").mkdir(exist_ok=True)
        self._drawn = []
        for number, poster in enumerate(draw_posters(DRAWN, seed=1)):
            file = folder / "drawn" / f"{number}.{poster.key.rpartition('.')[2]}"
            if not file.exists():  # a new date would make all its links new posters
                file.write_bytes(poster.data)
            self._drawn.append(file)

    @property
    def nights(self) -> int:
        """Number of nights that are in the output."""
        return len(list(self.output.glob("predictions/dt=*")))

    def add(self) -> None:
        """Link the posters of the next night, unless an interrupted run has done it."""
        first = self.nights * self._a_night
        for number in range(first, first + self._a_night):
            file = self._drawn[number % DRAWN]
            link = self.folder / f"{number:07d}{file.suffix}"
            if not link.exists():
                link.hardlink_to(file)


def _night(posters: _Posters) -> float:
    posters.add()
    day = FIRST + timedelta(days=posters.nights)
    return genretag("tag", posters.folder, posters.output, "--date", day)


def _look(posters: _Posters) -> None:
    """Time everything that works on the whole output, and print the times with those of earlier looks."""
    nights, output, copy = posters.nights, posters.output, posters.output.with_name("copy")
    found = {"the next night": _night(posters), "a night without new posters": genretag("tag", posters.folder, output)}
    found["report"] = genretag("report", output)
    found["gallery"] = genretag("gallery", output, "--html", output.with_name("gallery.html"))
    found["warehouse views and a query"] = views_and_query(output)
    shutil.rmtree(copy, ignore_errors=True)  # of a look that was interrupted
    shutil.copytree(output, copy)
    found["compact"] = genretag("compact", copy)
    found["a night after compact"] = genretag("tag", posters.folder, copy)
    shutil.rmtree(copy)
    file = posters.output.with_name("looks.json")
    looks = (json.loads(file.read_text()) if file.exists() else {}) | {str(nights): found}
    file.write_text(json.dumps(looks, indent=1) + "\n")
    print("| what | " + " | ".join(f"after {number} nights, s" for number in looks) + " | last / first |")
    print("|---|" + "---|" * (len(looks) + 1))
    for what in found:
        times = [look[what] for look in looks.values()]
        print(f"| {what} | " + " | ".join(f"{one:.1f}" for one in times) + f" | {times[-1] / times[0]:.1f} |")


if __name__ == "__main__":
    main()
