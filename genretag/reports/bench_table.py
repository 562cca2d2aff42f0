"""Show the results of `genretag bench`: a table, the bottleneck of the tagging job, and what to do about it."""

import json
import platform
from dataclasses import asdict, dataclass
from math import isnan
from statistics import median
from typing import Any

from genretag.output.run_record import RunRecord
from genretag.scoring.ceiling import Rate

GOOD_RATIO = 0.9  # share of the ceiling that a healthy job reaches; Ray costs the rest
NEEDS_POSTERS = 2_000  # fewest posters for a steady state
LOOPS = {"threads": "plain loop in threads", "processes": "plain loop, one process per CPU"}


@dataclass(frozen=True)
class JobRun:
    """One run of the tagging job: its rates in posters per second, and its run record.

    `steady_per_s` leaves out the start and the end of the run. It is NaN if there are too few posters. `whole_per_s`
    divides the posters by the seconds of the whole command.
    """

    steady_per_s: float
    whole_per_s: float
    first_poster_s: float  # seconds from the command to the first scored poster
    record: RunRecord


@dataclass(frozen=True)
class Benchmark:
    """Results of a benchmark: the rate of each stage alone, and, for each round, the rates of plain loops and the job.

    `loops` has the rates by kind of loop: `threads`, and `processes` (one for each CPU). A loop does the job's work
    without Ray. The rate of the faster kind is the ceiling. Rates are in posters per second. The rates in `stages` are
    those of one node. All other rates are those of all nodes together.
    """

    posters: int
    cpus: float  # of one node
    nodes: int
    stages: dict[str, Rate]  # of one node
    loops: dict[str, list[float]]
    jobs: list[JobRun]

    @property
    def fastest_loop(self) -> str:
        """Return the kind of loop with the highest median rate: `threads` or `processes`."""
        medians = {kind: median(rates) for kind, rates in self.loops.items()}
        return max(medians, key=lambda kind: 0.0 if isnan(medians[kind]) else medians[kind])

    @property
    def ceilings(self) -> list[float]:
        """Return the rate of the faster kind of loop in each round."""
        return self.loops[self.fastest_loop]

    @property
    def ceiling(self) -> float:
        """Return the median, over the rounds, of the ceiling: posters per second of the faster kind of loop."""
        return median(self.ceilings)

    @property
    def job(self) -> float:
        """Return the median, over the rounds, of the job's posters per second. The job's start and end are left out."""
        return median(run.steady_per_s for run in self.jobs)

    @property
    def ratio(self) -> float:
        """Return the median, over the rounds, of the job's rate divided by the ceiling (rate without Ray)."""
        return median(run.steady_per_s / ceiling for run, ceiling in zip(self.jobs, self.ceilings, strict=True))

    @property
    def plan(self) -> dict[str, Any]:
        """Return the actor plan (numbers of Ray actors) in the last job's record. Empty if the record has no plan."""
        return self.jobs[-1].record.actors or {}


def figures(found: Benchmark) -> dict[str, Any]:
    """Return all results of a benchmark, for JSON. A rate or ratio that is NaN becomes None.

    Lists have one item for each round. `loops_per_s` has the rates of both kinds of plain loops, and `ceiling_per_s`
    repeats those of the kind that `ceiling_loop` names.
    """
    return {
        "posters": found.posters,
        "nodes": found.nodes,
        "cpus_of_a_node": found.cpus,
        "machine": platform.machine(),
        "processor": processor(),
        "plan": found.plan,
        "stages": {name: asdict(rate) for name, rate in found.stages.items()},
        "loops_per_s": {kind: [_known(rate) for rate in rates] for kind, rates in found.loops.items()},
        "ceiling_loop": found.fastest_loop,
        "ceiling_per_s": [_known(rate) for rate in found.ceilings],
        "job_per_s": [_known(run.steady_per_s) for run in found.jobs],
        "job_with_start_up_per_s": [run.whole_per_s for run in found.jobs],
        "first_poster_s": [run.first_poster_s for run in found.jobs],
        "ratio": _known(found.ratio),
        "peak_memory_bytes": [run.record.peak_memory_bytes for run in found.jobs],
        "advice": advice(found),
    }


def _known(number: float) -> float | None:
    """Return the number, or None instead of NaN, because JSON has no NaN."""
    return None if isnan(number) else number


def rows(found: Benchmark) -> list[tuple[str, str, str]]:
    """Return the printed table's rows as texts: name of the rate, posters per second, CPU milliseconds per poster."""
    last = found.jobs[-1]
    stages = [
        (f"{name} alone", f"{rate.posters_per_s:,.0f}", f"{rate.cpu_ms:.2f}") for name, rate in found.stages.items()
    ]
    loops = [
        (f"{LOOPS[kind]}{' = ceiling' if kind == found.fastest_loop else ''}", f"{median(rates):,.0f}", "")
        for kind, rates in found.loops.items()
    ]
    return [
        *stages,
        *loops,
        ("job under way", f"{found.job:,.0f}", ""),
        ("job with start-up", f"{last.whole_per_s:,.0f}", ""),
    ]


def advice(found: Benchmark) -> list[str]:
    """Return sentences that name the bottleneck, and say what would make the job faster."""
    cost = {name: rate.cpu_ms for name, rate in found.stages.items()}
    lines = []
    if isnan(found.job) or found.posters < NEEDS_POSTERS:
        lines.append(f"{found.posters:,} posters are few for a steady state: name more, or raise --posters")
    else:
        lines.append(f"the job reaches {found.ratio:.2f} of the ceiling")
        if found.ratio < GOOD_RATIO:
            lines.append("something waits: try --fetch-threads 32, and look for other work on the machine")
    fetch = found.stages["fetch"].posters_per_s * found.nodes
    if fetch < 1.2 * found.ceiling:
        lines.append(f"the store bounds it: only {fetch:,.0f} GETs/s; try --fetch-threads, or run closer to the store")
    if found.plan.get("predict_gpus"):
        lines += _advice_for_gpus(found, cost)
    else:
        most = max(cost, key=lambda name: cost[name])
        lines.append(f"{most} bounds it: {cost[most] / sum(cost.values()):.0%} of the CPU time of a poster")
        if most == "infer" and found.plan.get("engine") == "tensorflow":
            lines.append("on CPU --engine openvino is several times faster")
    return lines


def _advice_for_gpus(found: Benchmark, cost: dict[str, float]) -> list[str]:
    """Return a sentence with two numbers: the CPUs that one GPU needs, and the CPUs per GPU that the cluster has.

    `cost` has the CPU milliseconds per poster, by stage.
    """
    needed = found.stages["infer"].posters_per_s * (cost["fetch"] + cost["decode"]) / 1000
    there = found.cpus * found.nodes / max(1, found.plan["predict_actors"])
    line = f"one GPU needs {needed:.0f} CPUs that fetch and decode; there are {there:.0f} for each"
    return [line if there >= needed else f"{line}: the CPUs bound it, add CPUs rather than GPUs"]


def processor() -> str:
    """Return the processor's name from /proc/cpuinfo. If it is not there, return Python's `platform.processor()`."""
    try:
        with open("/proc/cpuinfo") as file:  # noqa: PTH123
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def print_report(found: Benchmark) -> None:
    """Print the number of posters, the machine, the table of rates and the advice."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    machines = f"{found.nodes} x " if found.nodes > 1 else ""
    console.print(f"{found.posters:,} posters on {machines}{found.cpus:g} CPUs ({processor()})", highlight=False)
    table = Table("", "posters/s", "CPU ms per poster")
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows(found):
        table.add_row(*row)
    console.print(table)
    first = found.jobs[-1].first_poster_s
    console.print(f"the first poster was scored {first:.1f} s after the command", highlight=False)
    for line in advice(found):
        console.print(f"- {line}", highlight=False)


def to_json(found: Benchmark) -> str:
    """Return all results of a benchmark as JSON text."""
    return json.dumps(figures(found), indent=1) + "\n"
