"""Compare genretag with common ways to write this job: same posters, bucket, network and image size for all.

    python tests/benchmarks/peers.py --images posters --posters 2000 --rounds 3
    python tests/benchmarks/peers.py --posters 200 --rounds 1 --only ray,ray-int8,threads --json peers.json
    python tests/benchmarks/peers.py --images posters --size 1000x1500 --posters 1000

The peers are the scripts `peer_*.py` next to this file. `pip install -e '.[dev,bench]'` installs what they need. All
read JPEG posters from one SeaweedFS on this machine and write Parquet to it. Each program runs alone in its own
processes, in another order each round. --images is a folder or an s3:// prefix; without it posters are drawn. --size
resizes the posters. --python PROGRAM=INTERPRETER runs a program in another environment.

Each peer runs in two ways: as people write it today, in float32 (`ray`), and with the engine of genretag, OpenVINO in
int8 (`ray-int8`). genretag always runs in both precisions. The first table compares each program with genretag in the
same precision. The second table divides the lead of genretag into a part of the engine and a part of the pipeline.

There are two rates. The steady rate counts the posters between the first and the last tenth, divided by the seconds in
which they were scored. The other rate is posters divided by the seconds of the whole command. The exit code is 1 if a
program failed, left out a poster, or gave fewer than 90 % of the posters the same first label as genretag in the same
precision.
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
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

import numpy as np
import pyarrow as pa
import pyarrow.dataset
from peer_contestants import GENRETAG, PEERS, Contestant, run_alone
from peer_posters import fill_bucket, poster_bytes
from peer_table import Run, lead_table, rates_table

from genretag.demo.s3_server import running_s3_server
from genretag.storage import Storage, join

BUCKET = "s3://peers"
POSTERS = f"{BUCKET}/posters"


@dataclass(frozen=True)
class Rows:
    """The rows that a program wrote: URIs, index of the most probable label, and time of scoring."""

    uris: list[str]
    first_labels: list[int]
    scored_at: np.ndarray  # Unix time in seconds


NOTHING = Rows([], [], np.empty(0))


def main() -> int:
    options = _options()
    versions, absent = {}, {}
    for contestant in (*GENRETAG.values(), *(peer for peer in PEERS if peer.name in options.only)):
        try:
            versions[contestant] = contestant.versions(options.python[contestant.program])
        except LookupError as reason:
            absent[contestant] = str(reason)
    data = poster_bytes(options.images, options.posters, options.size)
    runs: list[Run] = []
    with tempfile.TemporaryDirectory(prefix="peers-") as name, running_s3_server(Path(name) / "store") as server:
        os.environ.update(server.environment())
        server.create_bucket(BUCKET.removeprefix("s3://"))
        expected, model = fill_bucket(POSTERS, data, options.posters), Path(name) / "model"
        subprocess.run(
            [sys.executable, Path(__file__).with_name("peer_model.py"), model], check=True, capture_output=True
        )
        for number in range(options.rounds):
            order = Random(number).sample(list(versions), len(versions))
            runs += _round(number, order, options.python, model, expected)
    print("\n".join([*rates_table(runs, list(versions), absent), "", *lead_table(runs, list(versions))]))
    size = "x".join(map(str, options.size)) if options.size else "as they are"
    counts = f"{options.posters} posters, {len(data)} of them different, size {size}"
    print(f"\n{_machine()}; {counts}; {options.rounds} rounds")
    for contestant, found in versions.items():
        print(f"- {contestant.name}: {', '.join(f'{package} {version}' for package, version in found.items())}")
    if options.json:
        named = {contestant.name: found for contestant, found in versions.items()}
        facts = {"machine": _machine(), "posters": options.posters, "size": size, "versions": named}
        options.json.write_text(json.dumps({**facts, "runs": [asdict(run) for run in runs]}, indent=1))
    return 0 if all(run.right for run in runs) else 1


def _options() -> argparse.Namespace:
    names = [peer.name for peer in PEERS]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", help="a folder or an s3:// prefix with JPEG posters; without it they are drawn")
    parser.add_argument("--posters", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=_size, metavar="WIDTHxHEIGHT", help="in pixels, such as 1000x1500")
    parser.add_argument("--only", default=",".join(names), help=f"the peers to run, of {names}")
    parser.add_argument("--python", action="append", default=[], metavar="PROGRAM=INTERPRETER")
    parser.add_argument("--json", type=Path, help="write all numbers to this file too")
    options = parser.parse_args()
    options.only = options.only.split(",")
    pythons = {contestant.program: sys.executable for contestant in (*GENRETAG.values(), *PEERS)}
    options.python = pythons | dict(pair.split("=", 1) for pair in options.python)
    if unknown := ({*options.only} - {*names}) | ({*options.python} - {*pythons}):
        parser.error(f"there is no {', '.join(sorted(unknown))}: choose from {', '.join([*names, 'genretag'])}")
    return options


def _size(text: str) -> tuple[int, int]:
    """Return (width, height) from a text such as `1000x1500`."""
    width, height = map(int, text.split("x"))
    return width, height


def _round(number: int, order: list[Contestant], pythons: dict[str, str], model: Path, expected: set[str]) -> list[Run]:
    """Run each program once, and compare its rows with those of genretag in the same precision."""
    ended: dict[Contestant, tuple[float, str, Rows]] = {}
    for contestant in order:
        output = f"{BUCKET}/out-{number}-{contestant.name}"
        command = contestant.command(pythons[contestant.program], POSTERS, output, model)
        seconds, error = run_alone(command, model.with_name("log"))
        print(f"round {number + 1}, {contestant.name}: {seconds:.1f} s {error}", file=sys.stderr, flush=True)
        ended[contestant] = seconds, error, NOTHING if error else _rows(contestant, output)
    ours = {precision: ended[genretag][2] for precision, genretag in GENRETAG.items()}
    labels = {precision: dict(zip(rows.uris, rows.first_labels, strict=True)) for precision, rows in ours.items()}
    return [_judged(one.name, number, *ended[one], expected, labels[one.precision]) for one in ended]


def _rows(contestant: Contestant, output: str) -> Rows:
    """Read the rows of a run. genretag has a column for each label, and the others have a list."""
    genretag = contestant.program == "genretag"
    filesystem, path = Storage().filesystem(join(output, "predictions") if genretag else output)
    if not filesystem.exists(path):
        return NOTHING
    table = pyarrow.dataset.dataset(path, filesystem=filesystem, format="parquet").to_table()
    if genretag:
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


def _machine() -> str:
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    processor = found[1] if found else platform.machine()
    return f"{len(os.sched_getaffinity(0))} x {processor}, Python {platform.python_version()}"


if __name__ == "__main__":
    sys.exit(main())
