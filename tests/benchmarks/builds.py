"""Compare checkouts of genretag: the same `tag` run with each, in turn, in every round.

    python tests/benchmarks/builds.py --build old=CHECKOUT --build new=CHECKOUT --images FOLDER [--posters 2000]
        [--rounds 3] [--from-folder] [--json FILE] [further options of tag]

The posters of the folder are put into a bucket of a SeaweedFS on this machine, repeated under other keys if there are
too few. With --from-folder, `tag` reads and writes local folders instead. All checkouts run in the Python environment
of this script, so their dependencies must be the same.

Prints for each run: posters/s with start-up, seconds until the first poster was scored, posters/s between the first and
the last tenth of the posters, and the CPU time per poster and the peak memory of all processes of the run together.
These are found by a variable in their environment, and sampled. Memory is the proportional set size, in which a page
that several processes share counts once. The processes of the store do not count. Then prints medians, and their ratios
to those of the first build.
"""

import argparse
import json
import os
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from statistics import median

import psutil
import pyarrow as pa
import pyarrow.dataset
from peer_posters import fill_bucket

from genretag.demo.s3_server import running_s3_server
from genretag.scoring.ceiling import steady_rate
from genretag.storage import Storage, join

MARK = "GENRETAG_BENCHMARK_RUN"
EVERY_S = 0.5
FIGURES = {
    "whole_per_s": "posters/s with start-up",
    "first_poster_s": "first poster, s",
    "steady_per_s": "posters/s, steady",
    "cpu_ms": "CPU ms a poster",
    "memory_gib": "peak memory, GiB",
}


class Sampler(threading.Thread):
    """Sample CPU seconds and memory of all processes that have `MARK=token` in their environment."""

    def __init__(self, token: str) -> None:
        super().__init__(daemon=True)
        self._marked = f"{MARK}={token}".encode()
        self._processes: dict[int, psutil.Process | None] = {}  # None for processes of others
        self._cpu_s: dict[int, float] = {}
        self._ended = threading.Event()
        self.peak_bytes = 0

    def run(self) -> None:
        samples = 0
        while not self._ended.wait(EVERY_S):
            samples += 1
            self.sample(memory=samples % 4 == 0)

    def end(self) -> float:
        """Stop, and return the CPU seconds of all processes together."""
        self._ended.set()
        self.join()
        return sum(self._cpu_s.values())

    def sample(self, *, memory: bool) -> None:
        together = 0
        for pid in psutil.pids():
            with suppress(psutil.Error, OSError):
                if pid not in self._processes:
                    marked = self._marked in Path(f"/proc/{pid}/environ").read_bytes()
                    self._processes[pid] = psutil.Process(pid) if marked else None
                if process := self._processes[pid]:
                    times = process.cpu_times()
                    self._cpu_s[pid] = times.user + times.system
                    together += _pss_bytes(pid) if memory else 0
        self.peak_bytes = max(self.peak_bytes, together)


def _pss_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def tag(checkout: Path, images: str, output: str, further: list[str]) -> dict[str, float]:
    """Run `tag` with a checkout, and return the figures of the run."""
    token = secrets.token_hex(8)
    sampler = Sampler(token)
    sampler.start()
    began = time.time()
    command = [sys.executable, "-m", "genretag.cli", "tag", images, output, "--no-report", "--quiet", *further]
    with tempfile.TemporaryDirectory() as folder:  # `python -m` looks for modules in the working directory first
        environment = {**os.environ, "PYTHONPATH": str(checkout.resolve()), MARK: token}
        subprocess.run(command, cwd=folder, env=environment, check=True)
    seconds = time.time() - began
    cpu_s = sampler.end()
    filesystem, path = Storage().filesystem(join(output, "predictions"))
    table = pyarrow.dataset.dataset(path, filesystem=filesystem, format="parquet").to_table(columns=["scored_at"])
    scored_at = sorted(micros / 1e6 for micros in table["scored_at"].cast(pa.int64()).to_pylist())
    return {
        "posters": len(scored_at),
        "whole_per_s": len(scored_at) / seconds,
        "first_poster_s": scored_at[0] - began,
        "steady_per_s": steady_rate((at, 1) for at in scored_at),
        "cpu_ms": 1000 * cpu_s / len(scored_at),
        "memory_gib": sampler.peak_bytes / 2**30,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", action="append", required=True, metavar="NAME=CHECKOUT")
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--posters", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--from-folder", action="store_true")
    parser.add_argument("--json", type=Path)
    options, further = parser.parse_known_args()
    builds = {name: Path(checkout) for name, checkout in (build.split("=", 1) for build in options.build)}
    sources = sorted(options.images.rglob("*.jpg"))[: options.posters]
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in builds}
    print(f"| round | build | {' | '.join(FIGURES.values())} |\n|---|---{'|---' * len(FIGURES)}|")
    with ExitStack() as stack:
        place = stack.enter_context(tempfile.TemporaryDirectory(prefix="builds-"))
        if not options.from_folder:
            server = stack.enter_context(running_s3_server(Path(place) / "store"))
            os.environ.update(server.environment())
            server.create_bucket("builds")
            place = "s3://builds"
        images = join(place, "posters")
        fill_bucket(images, (file.read_bytes() for file in sources), options.posters)
        for number in range(options.rounds):
            for name in builds if number % 2 == 0 else reversed(builds):
                run = tag(builds[name], images, join(place, f"{number}-{name}"), further)
                runs[name].append(run)
                print(f"| {number + 1} | {name} | {_cells(run)} |", flush=True)
    medians = {name: {figure: median(run[figure] for run in runs[name]) for figure in FIGURES} for name in builds}
    first = medians[next(iter(builds))]
    for name, figures in medians.items():
        print(f"| median | {name} | {_cells(figures)} |")
        print(f"| ratio | {name} | {_cells({figure: figures[figure] / first[figure] for figure in FIGURES})} |")
    if options.json:
        options.json.write_text(json.dumps(runs, indent=1))


def _cells(run: dict[str, float]) -> str:
    return " | ".join(f"{run[figure]:.3g}" for figure in FIGURES)


if __name__ == "__main__":
    main()
