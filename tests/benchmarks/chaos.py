"""Run nights with crashes behind an unreliable store, and check that each poster still becomes one row.

    python tests/benchmarks/chaos.py --rounds 20 --seed 1 --posters 2000

Each round tags a bucket into a new output on a local Ray cluster of a head and two nodes. A proxy injects faults into a
few percent of all S3 requests. One to three crashes happen at random moments, all chosen by the seed. A crash kills by
SIGKILL the driver, an actor, or a worker node (which is replaced). Or it kills the driver when all part files are
written but not the run record. In half of the rounds, fetching and predicting have their own actors.

Then the same command is run again until it succeeds. The result is checked from the Parquet files alone. The exit code
is 1 if a poster was lost or has two rows.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parents[1]))

from fault_proxy import FaultProxy, Faults, fault_proxy
from outputs import rows
from ray_cluster_faults import RayCluster, ray_cluster, until

from genretag.demo.posters import BROKEN, draw_posters
from genretag.demo.s3_server import running_s3_server
from genretag.storage import Storage, join

BUCKET = "s3://chaos"
DRAWN = 160  # different posters, whose bytes are repeated under other keys
BROKEN_SHARE = 0.02
FAULT_RATE = 0.01  # of each of the nine kinds, so about 7 % of the requests get a fault
LAST = "driver before record"
TOGETHER = ("driver", "actor", "worker node", LAST)
APART = ("driver", "fetch actor", "predict actor", "worker node", LAST)
STAGES = {"actor": "Score", "fetch actor": "Score", "predict actor": "Predict"}
RECORD = r"/runs/[^/]+/run\.json$"
RUNS_AT_MOST = 5
RUN_TIMEOUT_S = 600  # a run that takes longer counts as hanging
IMPATIENT = {"GENRETAG_STORE_ATTEMPT_S": "3"}  # otherwise each hanging request would cost 20 s


@dataclass(frozen=True)
class Crash:
    """A planned crash: what dies, and after which share of a run's GETs."""

    kind: str
    after: float

    def __str__(self) -> str:
        return self.kind if self.kind == LAST else f"{self.kind} at {self.after:.0%}"


@dataclass
class Round:
    """A round: its crashes and runs, and the rows in the output."""

    seed: str
    stages: str
    crashes: list[str]
    exit_codes: list[int | None] = field(default_factory=list)  # of each run; None if the run hung
    last_words: list[str] = field(default_factory=list)  # last lines of runs that failed without a crash
    faults: dict[str, int] = field(default_factory=dict)
    scored: int = 0
    failed: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    lost: int = 0
    twice: int = 0
    counts_come_out: bool = False
    seconds: float = 0.0

    @property
    def right(self) -> bool:
        ended = bool(self.exit_codes) and self.exit_codes[-1] == 0
        return ended and not self.lost and not self.twice and self.counts_come_out


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--posters", type=int, default=2000)
    parser.add_argument("--json", type=Path, help="write what happened to this file too")
    options = parser.parse_args()
    rounds = []
    print("| seed | stages | crashes | runs | exit codes | faults | scored + failed | lost | twice | seconds |")
    print("|---|---|---|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder, running_s3_server(Path(folder)) as server:
        os.environ.update({**server.environment(), **IMPATIENT})
        expected = _fill_bucket(server, options.posters)
        with ray_cluster(workers=2) as cluster:
            for number in range(options.rounds):
                rounds.append(_round(f"{options.seed}/{number}", cluster, server.endpoint_url, expected))
                print(_row(rounds[-1]), flush=True)
    wrong = sum(not done.right for done in rounds)
    print(f"\n{_total(rounds)}; {wrong} of {len(rounds)} rounds are wrong")
    if options.json:
        options.json.write_text(json.dumps([{**asdict(done), "right": done.right} for done in rounds], indent=1))
    return 1 if wrong else 0


def _fill_bucket(server, posters: int) -> set[str]:
    """Put posters into a new bucket, some of them broken, and return their URIs."""
    server.create_bucket(BUCKET.removeprefix("s3://"))
    drawn, random = [poster.data for poster in draw_posters(DRAWN, seed=1)], Random(1)
    broken = [make(drawn[0], random) for make in BROKEN.values()]
    uris = [f"{BUCKET}/posters/{number:06d}.jpg" for number in range(posters)]
    data = [random.choice(broken) if random.random() < BROKEN_SHARE else drawn[n % DRAWN] for n in range(posters)]
    storage = Storage()
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(storage.put, uris, data))
    return set(uris)


def _round(seed: str, cluster: RayCluster, endpoint_url: str, expected: set[str]) -> Round:
    random = Random(seed)
    kinds = random.choice((TOGETHER, APART))
    crashes = [Crash(random.choice(kinds), random.uniform(0, 1)) for _ in range(random.randint(1, 3))]
    crashes.sort(key=lambda crash: (crash.kind == LAST, crash.after))
    stages = "apart" if kinds is APART else "together"
    done, output, started = Round(seed, stages, [str(c) for c in crashes]), f"{BUCKET}/out-{seed}", time.monotonic()
    with fault_proxy(endpoint_url, Faults(seed=random.getrandbits(32), rate=FAULT_RATE)) as proxy:
        while len(done.exit_codes) < RUNS_AT_MOST and 0 not in done.exit_codes[-1:]:
            run = _Run(output, cluster, proxy, random, len(expected), apart=kinds is APART)
            code, errors = run.through(crashes)
            done.exit_codes.append(code)
            if code not in (0, -signal.SIGKILL):
                done.last_words.append("\n".join(errors)[-3000:] if errors else "no word")
                print(f"{seed}: exit code {code}: {done.last_words[-1]}", file=sys.stderr, flush=True)
    done.faults = dict(proxy.counts)
    _check(done, output, expected)
    done.seconds = round(time.monotonic() - started, 1)
    return done


class _Run:
    """One run of the command, and the crashes that happen to it."""

    def __init__(
        self, output: str, cluster: RayCluster, proxy: FaultProxy, random: Random, posters: int, *, apart: bool
    ) -> None:
        self._cluster, self._proxy, self._random, self._posters = cluster, proxy, random, posters
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - it lives as long as the run
        command = [sys.executable, "-m", "genretag.cli", "tag", f"{BUCKET}/posters", output, "--rows-per-file", "200"]
        command += ["--fetch-actors", "3"] if apart else []
        self._job = subprocess.Popen(
            [*command, "--address", cluster.address, "--endpoint-url", proxy.endpoint_url],
            env={**os.environ, **cluster.environment},
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
        )
        self._gets_before, self._deadline = proxy.requests["GET"], time.monotonic() + RUN_TIMEOUT_S

    def through(self, crashes: list[Crash]) -> tuple[int | None, list[str]]:
        """Run the command until it ends. Crashes that happened are removed from `crashes`.

        Return the exit code (None if the run hung) and the error output.
        """
        while crashes and self._await(crashes[0]):
            self._happen(crashes.pop(0))
        try:
            code = self._job.wait(max(1.0, self._deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            code = None
            self._job.kill()
            self._job.wait()
        self._errors.seek(0)
        return code, self._errors.read().splitlines()

    def _await(self, crash: Crash) -> bool:
        """Wait for the moment of a crash. Return False if the run ended or hung before that."""
        calm = self._proxy.faults
        if crash.kind == LAST:  # the driver asks to write the record, and the proxy holds the request back
            self._proxy.faults = replace(calm, always={RECORD: "hang"})
        try:
            until(
                lambda: self._job.poll() is not None or self._is_time_for(crash),
                max(0.0, self._deadline - time.monotonic()),
            )
        except TimeoutError:
            return False
        finally:
            self._proxy.faults = calm
        return self._job.poll() is None

    def _is_time_for(self, crash: Crash) -> bool:
        if crash.kind == LAST:
            return self._proxy.asked("PUT", RECORD) > 0
        come = self._proxy.requests["GET"] - self._gets_before >= crash.after * self._posters
        return come and (crash.kind not in STAGES or bool(self._cluster.actors(STAGES[crash.kind])))

    def _happen(self, crash: Crash) -> None:
        if crash.kind in STAGES:
            self._cluster.kill_actor(STAGES[crash.kind], self._random.randrange(100))
        elif crash.kind == "worker node":
            self._cluster.kill_worker(self._random.choice(self._cluster.workers))
            self._cluster.add_worker()
        else:
            self._job.kill()
            self._job.wait()


def _check(done: Round, output: str, expected: set[str]) -> None:
    """Count the rows in the Parquet files and read the last run record, without the proxy."""
    scored, failed = rows(output), rows(output, "failures")
    found = Counter(row["uri"] for row in (*scored, *failed))
    done.scored, done.failed = len(scored), len(failed)
    done.reasons = dict(Counter(f"{row['stage']}: {row['reason']}" for row in failed))
    done.lost = len(expected - found.keys())
    done.twice = sum(count - 1 for count in found.values()) + len(found.keys() - expected)
    storage = Storage()
    records = [info.uri for page in storage.list(join(output, "runs")) for info in page]
    if records:
        record = json.loads(bytes(storage.get(max(records)).data))
        accounted = sum(record[part] for part in ("already_scored", "already_failed", "scored", "failed"))
        done.counts_come_out = record["listed"] == accounted == len(expected)


def _row(done: Round) -> str:
    codes = ", ".join("hung" if code is None else str(code) for code in done.exit_codes)
    cells = [done.seed, done.stages, "; ".join(done.crashes), len(done.exit_codes), codes, sum(done.faults.values())]
    cells += [f"{done.scored} + {done.failed}", done.lost, done.twice, f"{done.seconds:.0f}"]
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def _total(rounds: list[Round]) -> str:
    crashes, runs = sum(len(done.crashes) for done in rounds), sum(len(done.exit_codes) for done in rounds)
    faults = sum((Counter(done.faults) for done in rounds), Counter())
    return (
        f"{crashes} crashes in {runs} runs, {faults.total()} faults of the store "
        f"({', '.join(f'{count} {kind}' for kind, count in faults.most_common())}), "
        f"{sum(done.lost for done in rounds)} posters lost, {sum(done.twice for done in rounds)} twice"
    )


if __name__ == "__main__":
    sys.exit(main())
