"""`genretag bench`: measure the speed of `tag`, then of plain loops without Ray, then of each stage alone.

The plain loops do the work of `tag` on the same posters: one in threads, and one in a process for each CPU. The rate of
the faster loop is called the ceiling.
"""

import logging
import multiprocessing
import os
import secrets
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from genretag.commands.tag import tag
from genretag.demo.posters import draw_posters
from genretag.errors import UsageError
from genretag.model.bundle import DEFAULT_BUNDLE, load_bundle
from genretag.reports.bench_table import Benchmark, JobRun
from genretag.runtime.cpus import cpus_here
from genretag.runtime.display import QUIET, Display
from genretag.runtime.ending import ray_until_the_end
from genretag.runtime.logs import quieten_libraries, start_logging
from genretag.runtime.ray_session import ray_session
from genretag.runtime.session import Session
from genretag.runtime.stopping import end_on_sigterm, ignoring_ctrl_c, limit_exit, losing_no_signal
from genretag.scoring.ceiling import PlainLoops, Rate, measure, steady_rate
from genretag.scoring.inventory import take_inventory
from genretag.scoring.settings import TagSettings
from genretag.settings import BenchSettings
from genretag.storage import Storage, join, resolve

logger = logging.getLogger(__name__)

DRAWN = 160  # different posters among those that `bench` draws
PHASES = ("loop in threads", "loop in processes", "fetch", "decode", "infer", "write")  # after `tag`, in this order
Result = TypeVar("Result")


def bench(
    images: str | None,
    output: str | None,
    settings: BenchSettings,
    tag_settings: TagSettings,
    session: Session,
    model: str | None = None,
) -> Benchmark:
    """Measure the speed of `tag`, of plain loops without Ray (the ceiling), and of each stage alone.

    If `images` is None, `bench` draws posters. `tag` writes to a new folder below `output`, which is deleted at the
    end. If `output` is None, the folder is local and temporary. If `model` is None, `bench` uses the default bundle.
    `tag_settings` are the settings of `tag`.

    Raises `UsageError` on a cluster without both `images` and `output`, or if no poster can be read. Also raises the
    exceptions of `tag`.
    """
    on_cluster = bool(session.address or os.environ.get("RAY_ADDRESS"))
    if on_cluster and not (images and output):
        raise UsageError("on a cluster all nodes must reach the posters: name IMAGES, and --output s3://BUCKET/PREFIX")
    with tempfile.TemporaryDirectory(prefix="genretag-bench-") as name:
        folder, storage = Path(name), session.storage
        manifest = str(folder / "manifest.parquet")
        with Display(session) as display:
            display.phase("listing" if images else "drawing")
            source = resolve(images) if images else str(drawn_folder(folder / "posters", settings.posters))
            uris = _write_manifest(manifest, source, settings.posters, storage)
        place = join(resolve(output or str(folder)), f"bench-{secrets.token_hex(4)}")
        try:
            jobs: list[JobRun] = []
            loops: dict[str, list[float]] = {}
            for number in range(settings.rounds):
                logger.info("round %d of %d: 1/%d job", number + 1, settings.rounds, len(PHASES) + 1)
                jobs.append(run_job(manifest, join(place, str(number)), tag_settings, session, model))
                plan = jobs[-1].record.actors
                if plan is None:
                    raise UsageError(f"no poster of {source} could be read")
                arguments = (uris, model, plan, tag_settings, storage, join(place, str(number)))
                measured, nodes = _apart(session, _on_a_node if on_cluster else _here, session, arguments)
                for kind, rate in measured.loops.items():
                    loops.setdefault(kind, []).append(nodes * rate)
        finally:
            storage.delete_below(place)
    return Benchmark(len(uris), measured.cpus, nodes, measured.stages, loops, jobs)


@dataclass(frozen=True)
class BareMetalRun:
    """Rates that one machine reached without Ray.

    `loops` has the rates of all stages together, in posters per second, by kind of loop: `threads` and `processes`.
    With an engine on a GPU, there is only `threads`. A rate is NaN if there are too few posters. `stages` has the rate
    of each stage alone.
    """

    cpus: int  # CPUs that a process may use
    loops: dict[str, float]
    stages: dict[str, Rate]


def measure_bare_metal(
    uris: list[str],
    model: str | None,
    plan: dict[str, Any],
    settings: TagSettings,
    storage: Storage,
    scored: str,
    *,
    display: Display = QUIET,
) -> BareMetalRun:
    """Measure the plain loops and the rate of each stage alone on this machine, with the engine and decoder of `tag`.

    `plan` is the actor plan in the run record of `tag`. `scored` is the location of the output of `tag`. The stage
    `write` writes rows of that output again.
    """

    def begin(phase: str, posters: int | None = None) -> None:
        display.phase(f"{PHASES.index(phase) + 2}/{len(PHASES) + 1} {phase}", posters)

    plain = PlainLoops(load_bundle(model or str(DEFAULT_BUNDLE), storage), storage, plan, settings.fetch_threads)
    loops = {"threads": plain.in_threads}
    if not plan["predict_gpus"]:  # one GPU does not hold an engine for each CPU
        loops["processes"] = plain.in_processes
    rates = {}
    for kind, loop in loops.items():
        begin(f"loop in {kind}", len(uris))
        rates[kind] = steady_rate(loop(uris, display.advance))
    stages = plain.stages(uris, begin)
    begin("write")
    stages["write"] = _write_rate(scored, storage)
    return BareMetalRun(cpus_here(), rates, stages)


def _here(session: Session, arguments: tuple[Any, ...]) -> tuple[BareMetalRun, int]:
    """Call `measure_bare_metal` with `arguments` on this machine. Return its rates, and 1 as the number of nodes."""
    with Display(session) as display:
        return measure_bare_metal(*arguments, display=display), 1


def _on_a_node(session: Session, arguments: tuple[Any, ...]) -> tuple[BareMetalRun, int]:
    """Measure one node of the cluster. Return its rates, and the number of nodes, which are assumed to be equally fast.

    `arguments` are those of `measure_bare_metal`.
    """
    import ray

    with Display(session) as display, ray_session(session) as cluster:
        display.phase("loops and stages of a node")
        plan = arguments[2]
        task = ray.remote(num_cpus=1, num_gpus=plan["predict_gpus"])(measure_bare_metal)
        return ray.get(task.remote(*arguments)), cluster.nodes


def run_job(images: str, output: str, settings: TagSettings, session: Session, model: str | None = None) -> JobRun:
    """Run `tag` in a separate process. Return its rates and its run record.

    The rates come from the timestamps of the rows in `output`, so `output` must be empty at the start. The steady rate
    leaves out the first and the last tenth of the posters. It is NaN if there are too few posters.
    """
    started = time.time()
    record = _apart(session, tag, images, output, settings, session, model)
    seconds = time.time() - started
    finished = _finished(output, session.storage)
    first = min((at for at, _ in finished), default=started)
    return JobRun(steady_rate(finished), record.listed / seconds, first - started, record)


def _finished(output: str, storage: Storage) -> list[tuple[float, int]]:
    """Return pairs (time, number of posters that were finished at that time), with the time in seconds since 1970.

    The times are the timestamps of the rows in `output`, in predictions and in failures.
    """
    times = []
    for kind, column in (("predictions", "scored_at"), ("failures", "failed_at")):
        filesystem, path = storage.filesystem(join(output, kind))
        if filesystem.exists(path):
            table = pyarrow.parquet.read_table(path, columns=[column], filesystem=filesystem, partitioning=None)
            times.append(table[column])
    counts = pc.value_counts(pa.chunked_array([chunk for column in times for chunk in column.chunks]))
    stamps: list[datetime] = counts.field("values").to_pylist()
    return [(at.timestamp(), count) for at, count in zip(stamps, counts.field("counts").to_pylist(), strict=True)]


def _write_rate(output: str, storage: Storage) -> Rate:
    """Measure the rate of writing: encode and store the rows of one part file of `output` repeatedly."""
    part = next(info for page in storage.list(join(output, "predictions")) for info in page)
    with storage.open(part) as file:
        table = pyarrow.parquet.read_table(file)

    def write() -> int:
        buffer = pa.BufferOutputStream()
        pyarrow.parquet.write_table(table, buffer, compression="zstd")
        storage.put(join(output, "written-again.parquet"), buffer.getvalue().to_pybytes())
        return len(table)

    return measure(write)


def _write_manifest(manifest: str, source: str, posters: int, storage: Storage) -> list[str]:
    """List the posters at `source`, and write the first `posters` of them to the file `manifest`. Return their URIs."""
    inventory = take_inventory(source, storage, Path(manifest).parent)
    with pyarrow.parquet.ParquetFile(inventory.file) as file:
        first = next(file.iter_batches(posters, columns=["uri", "poster_id", "etag"]))
    pyarrow.parquet.write_table(pa.Table.from_batches([first]), manifest)
    return first["uri"].to_pylist()


def drawn_folder(folder: Path, posters: int) -> Path:
    """Create `folder` with `posters` synthetic posters, and return it.

    There are at most `DRAWN` different images. The other files are hard links to them.
    """
    folder.mkdir()
    drawn = []
    for number, poster in enumerate(draw_posters(min(DRAWN, posters), seed=1)):
        drawn.append(folder / f"{number:06d}.jpg")
        drawn[-1].write_bytes(poster.data)
    for number in range(len(drawn), posters):
        (folder / f"{number:06d}.jpg").hardlink_to(drawn[number % len(drawn)])
    return folder


def _apart(session: Session, work: Callable[..., Result], *arguments: Any) -> Result:
    """Run `work(*arguments)` in a new process and return its result, so that one measurement does not affect the next.

    The new process ignores Ctrl-C. On Ctrl-C or SIGTERM, this process terminates it.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=_begin, initargs=(session,)) as process:
        with ignoring_ctrl_c():  # the new process inherits this
            result = process.submit(_work, work, *arguments)
        try:
            return result.result()
        except KeyboardInterrupt:
            for child in multiprocessing.active_children():
                child.terminate()
            raise


def _work(work: Callable[..., Result], *arguments: Any) -> Result:
    """Return `work(*arguments)`. Neither Ctrl-C nor SIGTERM gets lost meanwhile."""
    with ray_until_the_end(), losing_no_signal():
        return work(*arguments)


def _begin(session: Session) -> None:
    """Set up signal handling and logging in a new process, as the command does in its own process."""
    limit_exit()
    end_on_sigterm()
    start_logging(session.quiet, session.log_format)
    if not session.verbose:
        quieten_libraries()
