"""Measure rate and memory of a night with more posters, and with more actors.

    python tests/benchmarks/growth.py --posters 1000 10000 100000 --actors 1 2 4 [--json FILE]

Tags drawn posters from a local folder into another; a few different posters are linked under many names. Runs with
different actor counts use the second smallest number of posters. Prints a table. Memory is the peak resident set of the
driver and of the largest actor, from the run record.
"""

import argparse
import json
import tempfile
from dataclasses import asdict
from pathlib import Path

from genretag.commands.bench import drawn_folder, run_job
from genretag.runtime.session import Session
from genretag.scoring.settings import TagSettings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--posters", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--actors", type=int, nargs="*", default=[1, 2, 4])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    sizes = sorted(options.posters)
    nights = [(posters, None) for posters in sizes] + [(sizes[min(1, len(sizes) - 1)], n) for n in options.actors]
    found = []
    print("| posters | actors | posters/s, under way | with start-up | first poster, s | driver, MB | actor, MB |")
    print("|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory(prefix="growth-") as folder:
        for number, (posters, actors) in enumerate(nights):
            images = Path(folder) / f"posters-{posters}"
            if not images.exists():
                drawn_folder(images, posters)
            settings = TagSettings(predict_actors=actors)
            run = run_job(str(images), str(Path(folder) / f"out-{number}"), settings, Session(quiet=True))
            memory = run.record.peak_memory_bytes
            cells = [f"{posters:,}", actors or "default", f"{run.steady_per_s:.0f}", f"{run.whole_per_s:.0f}"]
            cells += [f"{run.first_poster_s:.1f}"]
            cells += [f"{memory[stage] / 1e6:,.0f}" for stage in ("driver", "predict")]
            print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)
            found.append({"posters": posters, "actors": actors, **asdict(run)})
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
