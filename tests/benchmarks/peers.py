"""Compare genretag with common ways to write this job: same posters, bucket, network and image size for all.

    python tests/benchmarks/peers.py --images posters --posters 2000 --rounds 3
    python tests/benchmarks/peers.py --posters 200 --rounds 1 --only ray,threads --json peers.json

The peers are the scripts `peer_*.py` next to this file. `pip install -e '.[dev,bench]'` installs what they need. All
read JPEG posters from one SeaweedFS on this machine and write Parquet to it. Each program runs alone in its own
processes, in another order each round. genretag is always included. --images is a folder or an s3:// prefix; without it
posters are drawn. --python NAME=INTERPRETER runs a peer in another environment.

There are two rates. The first is posters divided by the seconds of the whole command. The steady rate counts the
posters between the first and the last tenth, divided by the seconds in which they were scored. The exit code is 1 if a
program failed, left out a poster, or gave fewer than 90 % of the posters the same first label as genretag.
"""

import argparse
import json
import math
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from pathlib import Path
from random import Random
from statistics import median

import numpy as np
import pyarrow as pa
import pyarrow.dataset
from peer_contestants import GENRETAG, PEERS, Contestant, run_alone

from genretag.demo.posters import SIZES, draw_poster
from genretag.demo.s3_server import S3Server, running_s3_server
from genretag.storage import Storage, join

BUCKET = "s3://peers"
POSTERS = f"{BUCKET}/posters"
DRAWN = 160  # different posters, whose bytes are repeated under other keys
SAME_LABELS = 0.9  # not all, because resize filters and precisions differ


@dataclass(frozen=True)
class Rows:
    """The rows that a program wrote: URIs, index of the most probable label, and time of scoring."""

    uris: list[str]
    first_labels: list[int]
    scored_at: np.ndarray  # Unix time in seconds


NOTHING = Rows([], [], np.empty(0))


@dataclass(frozen=True)
class Run:
    """One run of one program."""

    name: str
    round: int
    seconds: float
    rate: float  # posters/s of the whole command
    steady_rate: float
    missing: int
    twice: int
    same_label: float  # the share of posters with genretag's first label
    error: str

    @property
    def right(self) -> bool:
        return not (self.error or self.missing or self.twice) and self.same_label >= SAME_LABELS


def main() -> int:
    options = _options()
    pythons = dict.fromkeys((GENRETAG.name, *options.only), sys.executable) | options.python
    versions, absent = {}, {}
    for contestant in (GENRETAG, *PEERS):
        if contestant.name in pythons:
            try:
                versions[contestant] = contestant.versions(pythons[contestant.name])
            except LookupError as reason:
                absent[contestant] = str(reason)
    data = _poster_bytes(options.images, options.posters)
    runs: list[Run] = []
    with tempfile.TemporaryDirectory(prefix="peers-") as name, running_s3_server(Path(name) / "store") as server:
        os.environ.update(server.environment())
        expected, model = _fill_bucket(server, data, options.posters), Path(name) / "model"
        subprocess.run(
            [sys.executable, Path(__file__).with_name("peer_model.py"), model], check=True, capture_output=True
        )
        for number in range(options.rounds):
            order = Random(number).sample(list(versions), len(versions))
            runs += _round(number, order, pythons, model, expected)
    print("\n".join(_table(runs, list(versions), absent)))
    print(f"\n{_machine()}; {options.posters} posters, {len(data)} of them different; {options.rounds} rounds")
    for contestant, found in versions.items():
        print(f"- {contestant.name}: {', '.join(f'{package} {version}' for package, version in found.items())}")
    if options.json:
        named = {contestant.name: found for contestant, found in versions.items()}
        facts = {"machine": _machine(), "posters": options.posters, "versions": named}
        options.json.write_text(json.dumps({**facts, "runs": [asdict(run) for run in runs]}, indent=1))
    return 0 if all(run.right for run in runs) else 1


def _options() -> argparse.Namespace:
    names = [peer.name for peer in PEERS]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", help="a folder or an s3:// prefix with JPEG posters; without it they are drawn")
    parser.add_argument("--posters", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default=",".join(names), help=f"which peers to run beside genretag, of {names}")
    parser.add_argument("--python", action="append", default=[], metavar="NAME=INTERPRETER")
    parser.add_argument("--json", type=Path, help="write all numbers to this file too")
    options = parser.parse_args()
    options.only = options.only.split(",")
    options.python = dict(pair.split("=", 1) for pair in options.python)
    if unknown := {*options.only, *options.python} - {*names, GENRETAG.name}:
        parser.error(f"there is no {', '.join(sorted(unknown))}: choose from {', '.join(names)}")
    return options


def _poster_bytes(images: str | None, posters: int) -> list[bytes]:
    """Return JPEG files, at most as many as there are posters to tag."""
    if images is None:
        return [draw_poster(seed, (), *SIZES[seed % len(SIZES)]) for seed in range(min(DRAWN, posters))]
    storage = Storage()
    found = (info.uri for page in storage.list(images) for info in page)
    jpegs = (uri for uri in found if uri.lower().endswith((".jpg", ".jpeg")))
    return [bytes(storage.get(uri).data) for uri in islice(jpegs, posters)]


def _fill_bucket(server: S3Server, data: list[bytes], posters: int) -> set[str]:
    """Put posters into a new bucket and return their URIs."""
    server.create_bucket(BUCKET.removeprefix("s3://"))
    uris, storage = [f"{POSTERS}/{number:06d}.jpg" for number in range(posters)], Storage()
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(storage.put, uris, islice(cycle(data), posters)))
    return set(uris)


def _round(number: int, order: list[Contestant], pythons: dict[str, str], model: Path, expected: set[str]) -> list[Run]:
    """Run each program once, and compare its rows with those of genretag."""
    ended: dict[str, tuple[float, str, Rows]] = {}
    for contestant in order:
        output = f"{BUCKET}/out-{number}-{contestant.name}"
        command = contestant.command(pythons[contestant.name], POSTERS, output, model)
        seconds, error = run_alone(command, model.with_name("log"))
        print(f"round {number + 1}, {contestant.name}: {seconds:.1f} s {error}", file=sys.stderr, flush=True)
        ended[contestant.name] = seconds, error, NOTHING if error else _rows(contestant, output)
    ours = ended[GENRETAG.name][2]
    labels = dict(zip(ours.uris, ours.first_labels, strict=True))
    return [_judged(name, number, *ended[name], expected, labels) for name in ended]


def _rows(contestant: Contestant, output: str) -> Rows:
    """Read the rows of a run. genretag has a column for each label, and the others have a list."""
    filesystem, path = Storage().filesystem(join(output, "predictions") if contestant is GENRETAG else output)
    if not filesystem.exists(path):
        return NOTHING
    table = pyarrow.dataset.dataset(path, filesystem=filesystem, format="parquet").to_table()
    if contestant is GENRETAG:
        columns = [column for name, column in zip(table.column_names, table.columns, strict=True) if name[:2] == "p_"]
        probabilities = np.column_stack(columns)
        scored_at = table["scored_at"].cast(pa.int64()).to_numpy() / 1e6
    else:
        probabilities, scored_at = np.stack(table["probabilities"].to_pylist()), table["scored_at"].to_numpy()
    uris = [f"s3://{uri.removeprefix('s3://')}" for uri in table["uri"].to_pylist()]
    return Rows(uris, probabilities.argmax(axis=1).tolist(), scored_at)


def _judged(
    name: str, number: int, seconds: float, error: str, rows: Rows, expected: set[str], labels: dict[str, int]
) -> Run:
    """Judge the rows of one run. `labels` has genretag's first label by URI."""
    found = set(rows.uris)
    same = sum(labels.get(uri) == label for uri, label in zip(rows.uris, rows.first_labels, strict=True))
    return Run(
        name=name,
        round=number + 1,
        seconds=round(seconds, 2),
        rate=round(len(found) / seconds, 2),
        steady_rate=round(_steady_rate(rows.scored_at), 2),
        missing=len(expected - found),
        twice=len(rows.uris) - len(found & expected),
        same_label=same / max(1, len(rows.uris)),
        error=error,
    )


def _steady_rate(scored_at: np.ndarray) -> float:
    """Return the rate between the moments at which a tenth and nine tenths were scored, in posters/s.

    If these moments are equal, return 0.
    """
    stamps = np.sort(scored_at)
    if not len(stamps):
        return 0.0
    first, last = (stamps[math.ceil(share * len(stamps)) - 1] for share in (0.1, 0.9))
    return float(np.sum((stamps > first) & (stamps <= last)) / (last - first)) if last > first else 0.0


def _table(runs: list[Run], contestants: list[Contestant], absent: dict[Contestant, str]) -> Iterator[str]:
    """Yield the lines of a Markdown table of results."""
    heads = (
        "contestant",
        "posters/s with start-up",
        "x genretag",
        "posters/s steady",
        "x genretag",
        "same first label",
    )
    yield f"| {' | '.join(heads)} |"
    yield "|---|" + "---|" * (len(heads) - 1)
    of = {contestant: [run for run in runs if run.name == contestant.name] for contestant in contestants}
    whole, steady = (
        {contestant: [getattr(run, rate) for run in of[contestant]] for contestant in contestants}
        for rate in ("rate", "steady_rate")
    )
    for contestant in contestants:
        cells = [contestant.title]
        for rates in (whole, steady):
            cells += [_spread(rates[contestant]), _ratio(median(rates[contestant]), median(rates[GENRETAG]))]
        wrong = "" if all(run.right for run in of[contestant]) else ", **wrong**"
        yield f"| {' | '.join(cells)} | {min(run.same_label for run in of[contestant]):.1%}{wrong} |"
    for contestant, reason in absent.items():
        yield f"| {contestant.title} | {reason} |" + " |" * (len(heads) - 2)


def _spread(rates: list[float]) -> str:
    return f"{median(rates):.1f} ({min(rates):.1f}..{max(rates):.1f})" if any(rates) else "–"


def _ratio(rate: float, ours: float) -> str:
    return f"{rate / ours:.2f}" if rate and ours else "–"


def _machine() -> str:
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    processor = found[1] if found else platform.machine()
    return f"{len(os.sched_getaffinity(0))} x {processor}, Python {platform.python_version()}"


if __name__ == "__main__":
    sys.exit(main())
