"""What a benchmark found, for people: a table, what bounds the job, and what to do about it."""

import json
import platform
from dataclasses import asdict
from math import isnan
from typing import Any

from genretag.bench.job import Benchmark

GOOD_RATIO = 0.9  # of the ceiling: what is left goes to Ray
NEEDS_POSTERS = 2_000  # for a steady state


def figures(found: Benchmark) -> dict[str, Any]:
    """Everything, for a JSON file."""
    return {
        "posters": found.posters,
        "nodes": found.nodes,
        "cpus_of_a_node": found.cpus,
        "machine": platform.machine(),
        "processor": processor(),
        "plan": found.plan,
        "stages": {name: asdict(rate) for name, rate in found.stages.items()},
        "ceiling_per_s": [_known(rate) for rate in found.ceilings],
        "job_per_s": [_known(run.steady_per_s) for run in found.jobs],
        "job_with_start_up_per_s": [run.whole_per_s for run in found.jobs],
        "first_poster_s": [run.first_poster_s for run in found.jobs],
        "ratio": _known(found.ratio),
        "peak_memory_bytes": [run.record.peak_memory_bytes for run in found.jobs],
        "advice": advice(found),
    }


def _known(number: float) -> float | None:
    """JSON has no word for what is not a number."""
    return None if isnan(number) else number


def rows(found: Benchmark) -> list[tuple[str, str, str]]:
    """The table: what, posters per second, CPU milliseconds of one poster."""
    last = found.jobs[-1]
    stages = [
        (f"{name} alone", f"{rate.posters_per_s:,.0f}", f"{rate.cpu_ms:.2f}") for name, rate in found.stages.items()
    ]
    return [
        *stages,
        ("ceiling: all in plain threads", f"{found.ceiling:,.0f}", ""),
        ("job under way", f"{found.job:,.0f}", ""),
        ("job with start-up", f"{last.whole_per_s:,.0f}", ""),
    ]


def advice(found: Benchmark) -> list[str]:
    """One sentence for each thing that is worth knowing or doing."""
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
        lines.append(f"the store bounds it: {fetch:,.0f} GETs/s are all that come; try --fetch-threads, or move closer")
    if found.plan.get("predict_gpus"):
        lines += _advice_for_gpus(found, cost)
    else:
        most = max(cost, key=lambda name: cost[name])
        lines.append(f"{most} bounds it: {cost[most] / sum(cost.values()):.0%} of the CPU time of a poster")
        if most == "infer" and found.plan.get("engine") == "tensorflow":
            lines.append("on CPU --engine openvino is several times faster")
    return lines


def _advice_for_gpus(found: Benchmark, cost: dict[str, float]) -> list[str]:
    """How many CPUs one GPU can be fed by."""
    needed = found.stages["infer"].posters_per_s * (cost["fetch"] + cost["decode"]) / 1000
    there = found.cpus * found.nodes / max(1, found.plan["predict_actors"])
    line = f"one GPU needs {needed:.0f} CPUs that fetch and decode; there are {there:.0f} for each"
    return [line if there >= needed else f"{line}: the CPUs bound it, add CPUs rather than GPUs"]


def processor() -> str:
    """The processor's name, where the system tells."""
    try:
        with open("/proc/cpuinfo") as file:  # noqa: PTH123
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def print_report(found: Benchmark) -> None:
    """Prints machine, table and advice."""
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
    """`figures` as text."""
    return json.dumps(figures(found), indent=1) + "\n"
