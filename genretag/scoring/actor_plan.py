"""Actor plan: chooses the number of actors that fetch and decode, and of actors that predict.

It also chooses the CPUs and GPUs that each actor reserves in Ray.
"""

from dataclasses import dataclass

from genretag.model.bundle import Bundle
from genretag.model.engines import INT8, engine_for, has_keras, precision_for
from genretag.runtime.cluster import Ask
from genretag.runtime.ray_session import Cluster
from genretag.scoring.settings import TagSettings

THREADS_PER_CPU_ENGINE = 4
FETCH_ACTORS_PER_GPU = 16  # one decodes 1,600 posters/s if it has four CPUs; an H100 predicts 20,000 posters/s
CPUS_ASKED = 0.5  # reserved by each actor: at most half of its use, so that all actors fit on half of the nodes
SCORERS_PER_WRITE = 8  # actors that fetch and decode, for each task that writes: it encodes 50,000 rows/s
WRITE_CPU = 0.25  # reserved by each task that writes part files
CPU_BATCH, GPU_BATCH = 8, 64  # posters per call of an engine
ACTOR_BYTES = 2**30  # memory of one actor with usual posters; docs/guarantees.md states the memory with hostile posters


@dataclass(frozen=True)
class ActorPlan:
    """Numbers of actors, and the CPUs and GPUs that each actor reserves in Ray.

    All actors without a GPU reserve the same share of a CPU, `cpus_asked`. If some actors reserved more, the free CPUs
    could be scattered: enough in total, but too few on each node. The run would then wait for ever.
    """

    engine: str
    precision: str
    batch_size: int
    fetch_actors: int  # 0 if the predict actors fetch and decode too
    predict_actors: int
    predict_gpus: float
    engine_threads: int
    cpus_asked: float

    @property
    def predict_cpus_asked(self) -> float:
        """CPUs that a predict actor reserves. With a GPU, it reserves 0, so that busy CPUs never keep a GPU idle."""
        return 0.0 if self.predict_gpus else self.cpus_asked

    @property
    def write_tasks(self) -> int:
        """Number of tasks that write part files at the same time. Each one costs a process."""
        return -(-(self.fetch_actors or self.predict_actors) // SCORERS_PER_WRITE)

    def asks(self) -> list[Ask]:
        """Return the fewest resources with which a job makes progress: one actor of each stage, and one write task."""
        predict = Ask("an actor that predicts", self.predict_cpus_asked, self.predict_gpus)
        fetch = [Ask("an actor that fetches and decodes", self.cpus_asked)] if self.fetch_actors else []
        return [*fetch, predict, Ask("a task that writes", WRITE_CPU)]


def plan_actors(cluster: Cluster, settings: TagSettings, bundle: Bundle) -> ActorPlan:
    """Plan as many actors as the cluster's CPUs, GPUs and memory (1 GiB per actor) allow.

    With GPUs, each GPU gets one actor that predicts, and the CPUs get actors that fetch and decode. Without GPUs, with
    the openvino engine, or if the bundle has no Keras model, each actor fetches, decodes and predicts, unless
    `settings.fetch_actors` is set. If it is set, that many actors fetch and decode, and the others only predict.
    Counts, engine, precision and batch size that are set in `settings` replace the planned values.
    """
    device = "gpu" if cluster.gpus and settings.precision != INT8 and has_keras(bundle) else "cpu"
    engine = settings.engine or engine_for(device)
    on_gpu = engine != "openvino" and cluster.gpus >= 1
    threads = settings.engine_threads or max(1, min(THREADS_PER_CPU_ENGINE, int(cluster.cpus_of_a_node)))
    fit_in_memory = cluster.memory_bytes / ACTOR_BYTES
    if on_gpu:
        predict = settings.predict_actors or int(cluster.gpus)
        fetch = min(cluster.cpus - predict, FETCH_ACTORS_PER_GPU * predict, fit_in_memory - predict)
        fetch = settings.fetch_actors or max(1, int(fetch))
    else:
        fetch = settings.fetch_actors or 0
        predict = settings.predict_actors or max(1, int(min(round(cluster.cpus / threads), fit_in_memory - fetch)))
    fits = (cluster.cpus_of_a_node - WRITE_CPU) / (fetch + predict)  # CPUs for each actor if all actors run on one node
    return ActorPlan(
        engine=engine,
        precision=settings.precision or precision_for(engine, bundle),
        batch_size=settings.batch_size or (GPU_BATCH if on_gpu else CPU_BATCH),
        fetch_actors=fetch,
        predict_actors=predict,
        predict_gpus=1.0 if on_gpu else 0.0,
        engine_threads=threads,
        cpus_asked=_floor(CPUS_ASKED if cluster.nodes > 1 else min(CPUS_ASKED, fits)),
    )


def _floor(cpus: float) -> float:
    """Return `cpus` rounded down to a multiple of 0.0001, the smallest share of a CPU that Ray counts."""
    return int(cpus * 10_000) / 10_000
