"""Measures the real job, then what plain threads reach with the same posters, and each stage alone."""

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
from statistics import median
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from genretag.bench.ceiling import BareMetal
from genretag.bench.rates import Rate, measure, steady_rate
from genretag.bench.settings import BenchSettings
from genretag.bundle import DEFAULT_BUNDLE, load_bundle
from genretag.cpus import cpus_here
from genretag.demo.posters import draw_posters
from genretag.display import QUIET, Display
from genretag.errors import UsageError
from genretag.logs import start_logging
from genretag.ray_session import ray_session
from genretag.session import Session
from genretag.stopping import end_on_sigterm, ignoring_ctrl_c
from genretag.storage import Storage, join, resolve
from genretag.tagging.inventory import take_inventory
from genretag.tagging.night import tag
from genretag.tagging.run_record import RunRecord
from genretag.tagging.settings import TagSettings

DRAWN = 160  # different posters, where the user names none
STAGES = ("ceiling", "fetch", "decode", "infer", "write")  # after the job, in this order
Result = TypeVar("Result")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class JobRun:
    """One run of the job: rates with and without start-up, and its record."""

    steady_per_s: float
    whole_per_s: float
    first_poster_s: float  # from the command to the first poster that was scored
    record: RunRecord


@dataclass(frozen=True)
class Benchmark:
    """All figures. Rates are posters per second of all nodes."""

    posters: int
    cpus: float  # of a node
    nodes: int
    stages: dict[str, Rate]  # one node
    ceilings: list[float]
    jobs: list[JobRun]

    @property
    def ceiling(self) -> float:
        """Median over the rounds."""
        return median(self.ceilings)

    @property
    def job(self) -> float:
        """Median over the rounds, in the steady state."""
        return median(run.steady_per_s for run in self.jobs)

    @property
    def ratio(self) -> float:
        """The job's rate by the ceiling's: the median over the rounds, each of which measured both in turn."""
        return median(run.steady_per_s / ceiling for run, ceiling in zip(self.jobs, self.ceilings, strict=True))

    @property
    def plan(self) -> dict[str, Any]:
        """The actors of the job."""
        return self.jobs[-1].record.actors or {}


def bench(
    images: str | None,
    output: str | None,
    settings: BenchSettings,
    tag_settings: TagSettings,
    session: Session,
    model: str | None = None,
) -> Benchmark:
    """Tags posters of `images`, or drawn ones, into a folder of its own below `output`, and removes that again.

    Raises `UsageError` and `JobError` as `tag` does.
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
            jobs, ceilings = [], []
            for number in range(settings.rounds):
                logger.info("round %d of %d: 1/%d job", number + 1, settings.rounds, len(STAGES) + 1)
                jobs.append(run_job(manifest, join(place, str(number)), tag_settings, session, model))
                plan = jobs[-1].record.actors
                if plan is None:
                    raise UsageError(f"no poster of {source} could be read")
                arguments = (uris, model, plan, tag_settings, storage, join(place, str(number)))
                measured, nodes = _apart(session, _on_a_node if on_cluster else _here, session, arguments)
                ceilings.append(nodes * measured.steady_per_s)
        finally:
            storage.delete_below(place)
    return Benchmark(len(uris), measured.cpus, nodes, measured.stages, ceilings, jobs)


@dataclass(frozen=True)
class BareMetalRun:
    """What one process reached."""

    cpus: int
    steady_per_s: float
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
    """Measures the ceiling, and each stage alone; `scored` is an output that the job wrote, to be written again."""

    def begin(stage: str, posters: int | None = None) -> None:
        display.phase(f"{STAGES.index(stage) + 2}/{len(STAGES) + 1} {stage}", posters)

    begin("ceiling", len(uris))
    bundle = load_bundle(model or str(DEFAULT_BUNDLE), storage)
    metal = BareMetal(bundle, storage, plan, settings)
    ceiling = steady_rate(metal.together(uris, display.advance))
    stages = metal.stages(uris, begin)
    begin("write")
    stages["write"] = _write_rate(scored, storage)
    return BareMetalRun(cpus_here(), ceiling, stages)


def _here(session: Session, arguments: tuple[Any, ...]) -> tuple[BareMetalRun, int]:
    with Display(session) as display:
        return measure_bare_metal(*arguments, display=display), 1


def _on_a_node(session: Session, arguments: tuple[Any, ...]) -> tuple[BareMetalRun, int]:
    """Measures one node of the cluster, and says how many there are; they are taken to be alike."""
    import ray

    with Display(session) as display, ray_session(session) as cluster:
        display.phase("ceiling and stages of a node")
        plan = arguments[2]
        task = ray.remote(num_cpus=1, num_gpus=plan["predict_gpus"])(measure_bare_metal)
        return ray.get(task.remote(*arguments)), cluster.nodes


def run_job(images: str, output: str, settings: TagSettings, session: Session, model: str | None = None) -> JobRun:
    """Tags into an output that is new, in a process of its own, and reads from the rows when they were made."""
    started = time.time()
    record = _apart(session, tag, images, output, settings, session, model)
    seconds = time.time() - started
    finished = _finished(output, session.storage)
    first = min((at for at, _ in finished), default=started)
    return JobRun(steady_rate(finished), record.listed / seconds, first - started, record)


def _finished(output: str, storage: Storage) -> list[tuple[float, int]]:
    """When how many posters were done with, as the rows of the output say."""
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
    """Encodes and writes the rows of a part file again and again."""
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
    """Writes a manifest of the first posters of a source, and returns their URIs."""
    inventory = take_inventory(source, storage, Path(manifest).parent)
    with pyarrow.parquet.ParquetFile(inventory.file) as file:
        first = next(file.iter_batches(posters, columns=["uri", "poster_id", "etag"]))
    pyarrow.parquet.write_table(pa.Table.from_batches([first]), manifest)
    return first["uri"].to_pylist()


def drawn_folder(folder: Path, posters: int) -> Path:
    """A folder of drawn posters: a few different ones under many names."""
    folder.mkdir()
    drawn = []
    for number, poster in enumerate(draw_posters(min(DRAWN, posters), seed=1)):
        drawn.append(folder / f"{number:06d}.jpg")
        drawn[-1].write_bytes(poster.data)
    for number in range(len(drawn), posters):
        (folder / f"{number:06d}.jpg").hardlink_to(drawn[number % len(drawn)])
    return folder


def _apart(session: Session, work: Callable[..., Result], *arguments: Any) -> Result:
    """Does it in a new process, so that nothing of one measurement is left over in the next.

    Of Ctrl-C that process hears from this one, which may be told to end by SIGTERM too.
    """
    context, logging_like = multiprocessing.get_context("spawn"), (session.quiet, session.log_format)
    with ProcessPoolExecutor(1, mp_context=context, initializer=_begin, initargs=logging_like) as process:
        with ignoring_ctrl_c():  # as the new process then does
            result = process.submit(work, *arguments)
        try:
            return result.result()
        except KeyboardInterrupt:
            for child in multiprocessing.active_children():
                child.terminate()
            raise


def _begin(quiet: bool, log_format: str) -> None:
    end_on_sigterm()
    start_logging(quiet, log_format)
