"""Draw charts from the JSON results of benchmarks.

    python tests/benchmarks/plot.py bench bench.json docs/figures/bench.svg
    python tests/benchmarks/plot.py growth growth.json docs/figures/growth.svg
    python tests/benchmarks/plot.py million FOLDER/million.json docs/figures/million.svg

The JSON files come from `genretag bench --json` (or job.py), from growth.py and from million.py. Needs the extra
`bench`.
"""

import json
import sys
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot as plt

STAGE, CEILING, JOB = "#8fa8c8", "#c9a25b", "#2f6f4f"
SETTINGS = {"svg.hashsalt": "genretag", "font.size": 10, "axes.spines.top": False, "axes.spines.right": False}


def bench(found: dict[str, Any]) -> plt.Figure:
    """Draw horizontal bars: each stage alone, all stages in the faster plain loop, and the job."""
    bars = [
        (f"{name} alone", rate["posters_per_s"], STAGE) for name, rate in found["stages"].items() if name != "write"
    ]
    bars.append((f"ceiling: plain loop in {found['ceiling_loop']}", median(found["ceiling_per_s"]), CEILING))
    bars.append(("the job", median(found["job_per_s"]), JOB))
    figure, axes = plt.subplots(figsize=(7.5, 2.6), layout="constrained")
    names, rates, colours = zip(*reversed(bars), strict=True)
    drawn = axes.barh(names, rates, color=colours)
    axes.bar_label(drawn, [f"{rate:,.0f}" for rate in rates], padding=3)
    machine = f"{found['cpus_of_a_node']:g} virtual CPUs ({found['processor']})"
    axes.set_title(f"posters/s: {found['posters']:,} posters in a bucket, {machine}", loc="left", fontsize=10)
    axes.tick_params(bottom=False, labelbottom=False, left=False)
    axes.spines[:].set_visible(False)
    axes.margins(x=0.1)
    return figure


def growth(found: list[dict[str, Any]]) -> plt.Figure:
    """Draw rates and memory by the number of posters, and rates by the number of actors."""
    by_posters = [run for run in found if run["actors"] is None]
    by_actors = [run for run in found if run["actors"] is not None]
    figure, (rates, memory, actors) = plt.subplots(1, 3, figsize=(9, 2.8), layout="constrained")
    posters = [run["posters"] for run in by_posters]
    rates.plot(posters, [run["steady_per_s"] for run in by_posters], "o-", color=JOB, label="under way")
    rates.plot(posters, [run["whole_per_s"] for run in by_posters], "o--", color=STAGE, label="with start-up")
    for stage, colour in (("driver", STAGE), ("predict", JOB)):
        sizes = [run["record"]["peak_memory_bytes"][stage] / 1e6 for run in by_posters]
        memory.plot(posters, sizes, "o-", color=colour, label="actor" if stage == "predict" else stage)
    actors.bar([str(run["actors"]) for run in by_actors], [run["steady_per_s"] for run in by_actors], color=JOB)
    for axes, title, label in (
        (rates, "posters/s", "posters"),
        (memory, "peak memory, MB", "posters"),
        (actors, "posters/s", f"actors, at {by_actors[0]['posters']:,} posters" if by_actors else ""),
    ):
        axes.set(title=title, xlabel=label, ylim=(0, None))
    for axes in (rates, memory):
        axes.set_xscale("log")
        axes.legend(frameon=False)
    return figure


def million(found: dict[str, Any]) -> plt.Figure:
    """Draw rate, memory and size of the output by the number of posters that a night has scored."""
    rows = found["the night"]["rows"]
    posters = [row["posters"] / 1e3 for row in rows]
    marks = [(0, 0.0), *((row["posters"], row["seconds"]) for row in rows)]
    figure, (rates, memory, disk) = plt.subplots(1, 3, figsize=(9, 2.8), layout="constrained")
    rates.plot(posters, [(b[0] - a[0]) / (b[1] - a[1]) for a, b in pairwise(marks)], "o-", color=JOB)
    for name, label, colour in (
        ("driver_mb", "driver", STAGE),
        ("actor_mb", "actor", JOB),
        ("store_mb", "object store", CEILING),
    ):
        memory.plot(posters, [row[name] for row in rows], "o-", color=colour, label=label)
    disk.plot(posters, [row["output_mb"] for row in rows], "o-", color=JOB)
    for axes, title in ((rates, "posters/s since the last dot"), (memory, "memory, MB"), (disk, "output, MB")):
        axes.set(title=title, xlabel="thousand posters", xlim=(0, None), ylim=(0, None))
    memory.legend(frameon=False)
    return figure


def main() -> None:
    kind, source, target = sys.argv[1:]
    with mpl.rc_context(SETTINGS):
        figure = {"bench": bench, "growth": growth, "million": million}[kind](json.loads(Path(source).read_text()))
        figure.savefig(target, metadata={"Date": None})


if __name__ == "__main__":
    main()
