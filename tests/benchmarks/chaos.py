"""Run nights with faults on unreliable stores, and check that each poster still becomes one row.

    python tests/benchmarks/chaos.py --rounds 20 --seed 1 [--stores s3,local,azure,google] [--posters 600]
        [--record docs/chaos-rounds.csv]

Needs Linux and root: the head and the two worker nodes of the Ray cluster are hosts in network namespaces, and some
disks are small. Each round tags a bucket or a folder into a new output. The seed chooses the store, whether fetching
and predicting have their own actors, and one to three moments with a fault. Some have two faults at once:

- SIGKILL of the driver, an actor or a worker node, or of the driver when only the run record is left to write;
- SIGSTOP of one of them, and SIGCONT 2 to 25 s later;
- a worker node without network for two minutes;
- a full disk for 5 to 20 s, at the temporary folder of the nodes or at a local output;
- a worker node whose workers Ray's memory monitor kills for 10 to 30 s;
- a clock that jumps an hour ahead, the driver's or (for 10 to 30 s) a worker node's; this needs a C compiler;
- a store that answers 30 % of the requests of a minute with 503.

Besides, a proxy in front of the store injects faults into a few percent of all requests. The same command is run again
until it succeeds. A round is right if the last run ends with 0, the Parquet files alone have each poster once, the run
record's counts come out, no other run ends with a wrong exit code, and no process of a job is left.

With --record, each round is appended to a CSV, and the rounds that the file has already are left out. The exit code is
1 if a round is wrong.
"""

import argparse
import csv
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parents[1]))

from chaos_faults import planned, possible
from chaos_run import Run, World, calm, missing, world
from outputs import rows
from ray_cluster_faults import titled, until

from genretag.storage import Storage, join

STORES = ("s3", "local", "azure", "google")
RUNS_AT_MOST = 6
FAILED, USAGE = 1, 2  # exit codes of a run that said why it failed: a retry may help; a person must act
# fault -> word of the message with exit code 2
FOR_PEOPLE = {"driver's clock": "clock", "node's clock": "clock", "full output": "space"}
LEFT_WITHIN_S = 60.0
# Ray's own: idle workers, a node's agents, and Ray Data's helpers, which serve all jobs of a cluster and never end
IDLE = tuple(
    f"ray::{name}"
    for name in (
        "IDLE",
        "DashboardAgent",
        "RuntimeEnvAgent",
        "ActorLocationTracker",
        "_AutoscalingCoordinatorActor",
        "_StatsActor",
        "_UsageCollectionActor",
    )
)


@dataclass
class Round:
    """A round, as a row of the record. Lists are joined by spaces or semicolons."""

    seed: str
    build: str
    store: str
    stages: str
    faults: str
    posters: int
    exit_codes: str = ""
    store_faults: int = 0
    scored: int = 0
    failed: int = 0
    lost: int = 0
    twice: int = 0
    counts_come_out: bool = False
    processes_left: int = 0
    seconds: int = 0
    right: bool = False
    wrong_because: str = ""
    not_happened: str = ""  # planned faults whose moment did not come, because a run was done before


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="number of the first round")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--posters", type=int, default=600)
    parser.add_argument("--stores", default=",".join(STORES))
    parser.add_argument("--record", type=Path, help="a CSV that each round is appended to")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # end the cluster and the servers
    names = []
    for name in options.stores.split(","):
        if why := missing(name):
            print(f"{name} is left out: {why}", file=sys.stderr)
        else:
            names.append(name)
    numbers = range(options.first, options.first + options.rounds)
    seeds = [seed for number in numbers if (seed := f"{options.seed}/{number}") not in _recorded(options.record)]
    done = []
    with world(names, options.posters) as everything:
        for seed in seeds:
            done.append(_round(seed, everything))
            print(" | ".join(str(value) for value in asdict(done[-1]).values()), flush=True)
            if options.record:
                _append(options.record, done[-1])
    wrong = sum(not one.right for one in done)
    print(f"{len(done)} rounds, {wrong} wrong")
    return 1 if wrong else 0


def _recorded(record: Path | None) -> set[str]:
    if record is None or not record.exists():
        return set()
    with record.open(newline="") as file:
        return {row["seed"] for row in csv.DictReader(file)}


def _append(record: Path, done: Round) -> None:
    is_new = not record.exists()
    with record.open("a", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Round)], lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerow(asdict(done))


def _build() -> str:
    asked = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()


def _round(seed: str, everything: World) -> Round:
    random = Random(seed)
    everything.store = store = everything.stores[random.choice(sorted(everything.stores))]
    everything.replace_ended_nodes()
    stages = random.choice(("together", "apart"))
    faults = planned(random, possible(store.name, stages, clock=everything.clock.works))
    words = "; ".join(map(str, faults))
    done = Round(seed, _build(), store.name, stages, words, len(store.posters))
    output = join(store.outputs, f"out-{seed.replace('/', '-')}")
    if store.proxy:
        store.proxy.faults = calm(random)
        store.proxy.counts.clear()
    started, codes, wrong = time.monotonic(), [], []
    odd_clock = "driver's clock" in words
    while len(codes) < RUNS_AT_MOST and 0 not in codes[-1:]:
        run = Run(everything, output, random, apart=stages == "apart", odd_clock=odd_clock)
        code, errors = run.through(faults)
        codes.append(code)
        wrong += _wrong_end(code, errors, words, killed=run.killed)
        everything.replace_ended_nodes()
    done.not_happened = "; ".join(map(str, faults))
    if store.proxy:
        done.store_faults = store.proxy.counts.total()
    done.exit_codes = " ".join("hung" if code is None else str(code) for code in codes)
    left = _left(everything)
    done.processes_left = len(left)
    _check(done, output, store.posters)
    done.seconds = round(time.monotonic() - started)
    wrong += [] if codes[-1] == 0 else [f"no run succeeded: {errors[-1:]}"]
    wrong += [f"processes left: {', '.join(left)}"] if left else []
    wrong += [] if done.counts_come_out else ["the counts of the run record do not come out"]
    done.wrong_because = " ".join("; ".join(wrong).split())[:1000]
    done.right = not wrong and not done.lost and not done.twice
    return done


def _wrong_end(code: int | None, errors: list[str], faults: str, *, killed: bool) -> list[str]:
    """Return what is wrong with the end of a run: an exit code that is not documented, or words that do not help.

    Only a person can mend a wrong clock, whose requests a store refuses, and a full disk. The exit code is then 2.
    """
    if code == 0 or (killed and code == -signal.SIGKILL):
        return []
    text = "\n".join(errors)
    print(f"exit code {code}: {text[-3000:]}", file=sys.stderr, flush=True)
    found = []
    for_people = any(fault in faults and word in text for fault, word in FOR_PEOPLE.items())
    if code != (USAGE if for_people else FAILED):
        found.append(f"exit code {code}: {errors[-1:]}")
    elif not errors or not errors[-1].startswith("genretag: "):
        found.append(f"the last line does not say why: {errors[-1:]}")
    return found + (["a traceback"] if "Traceback" in text else [])


def _left(everything: World) -> list[str]:
    """Return the titles of Ray's worker processes that still have work a minute after the last run."""

    def busy() -> list[str]:
        nodes = (everything.cluster.head, *everything.cluster.workers)
        titles = [titled(process) for node in nodes for process in node.processes("ray::")]
        return [title for title in titles if title and not title.startswith(IDLE)]

    try:
        until(lambda: not busy(), LEFT_WITHIN_S)
    except TimeoutError:
        return busy()
    return []


def _check(done: Round, output: str, expected: frozenset[str]) -> None:
    """Count the rows in the Parquet files and read the last run record, without the proxy."""
    scored, failed = rows(output), rows(output, "failures")
    found = Counter(row["uri"] for row in (*scored, *failed))
    done.scored, done.failed = len(scored), len(failed)
    done.lost = len(expected - found.keys())
    done.twice = sum(count - 1 for count in found.values()) + len(found.keys() - expected)
    storage = Storage()
    records = [info.uri for page in storage.list(join(output, "runs")) for info in page if "run.json" in info.uri]
    if records:
        record = json.loads(bytes(storage.get(max(records)).data))
        accounted = sum(record[part] for part in ("already_scored", "already_failed", "scored", "failed"))
        done.counts_come_out = record["listed"] == accounted == len(expected)


if __name__ == "__main__":
    sys.exit(main())
