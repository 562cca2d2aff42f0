"""How many actors of each stage, and what each asks Ray for, from the CPUs and GPUs that are there."""

from dataclasses import dataclass

from genretag.engines import engine_for
from genretag.ray_session import Cluster
from genretag.tagging.settings import TagSettings

THREADS_PER_CPU_ENGINE = 4
FETCH_SHARE = 0.4  # of the CPUs where the network runs on CPU too: fetch and decode cost 2 ms, predicting 4 ms
FETCH_ACTORS_PER_GPU = 12  # what one GPU can use; bounded by the CPUs
SPARE_CPU = 0.5  # left for the write tasks
WRITE_CPU = 0.25


@dataclass(frozen=True)
class ActorPlan:
    """Actor counts, and the CPUs and GPUs that one actor of a stage asks for."""

    engine: str
    fetch_actors: int
    fetch_cpus: float
    predict_actors: int
    predict_cpus: float
    predict_gpus: float
    engine_threads: int


def plan_actors(cluster: Cluster, settings: TagSettings) -> ActorPlan:
    """Fills the cluster: on GPUs one engine each and the CPUs for decoding, else the CPUs shared by both stages."""
    engine = settings.engine or engine_for("gpu" if cluster.gpus else "cpu")
    on_gpu = engine == "tensorflow" and cluster.gpus >= 1
    threads = 1 if on_gpu else max(1, min(THREADS_PER_CPU_ENGINE, int(cluster.cpus)))
    if on_gpu:
        predict = settings.predict_actors or int(cluster.gpus)
        fetch = settings.fetch_actors or max(1, min(int(cluster.cpus) - predict, FETCH_ACTORS_PER_GPU * predict))
    else:
        predict = settings.predict_actors or max(1, round((1 - FETCH_SHARE) * cluster.cpus / threads))
        fetch = settings.fetch_actors or max(1, round(FETCH_SHARE * cluster.cpus))
    wanted = fetch + predict * threads
    scale = min(1.0, (cluster.cpus - SPARE_CPU) / wanted)  # all actors must fit, or the job would wait for ever
    return ActorPlan(
        engine=engine,
        fetch_actors=fetch,
        fetch_cpus=_floor(scale),
        predict_actors=predict,
        predict_cpus=_floor(threads * scale),
        predict_gpus=1.0 if on_gpu else 0.0,
        engine_threads=threads,
    )


def _floor(cpus: float) -> float:
    """Rounds down to what Ray can count: a ten-thousandth below 1, whole CPUs above."""
    return float(int(cpus)) if cpus >= 1 else int(cpus * 10_000) / 10_000
