"""How many actors of each stage, and what each asks Ray for, from the CPUs, GPUs and memory that are there."""

from dataclasses import dataclass

from genretag.bundle import Bundle
from genretag.cluster_checks import Ask
from genretag.engines import INT8, engine_for, precision_for
from genretag.ray_session import Cluster
from genretag.tagging.settings import TagSettings

THREADS_PER_CPU_ENGINE = 4
FETCH_ACTORS_PER_GPU = 16  # each decodes 1,600 posters/s where it has four CPUs; an H100 predicts 20,000
CPUS_ASKED = 0.5  # by each actor: half of what it uses, so that all fit again when half of the nodes are lost
WRITE_CPU = 0.25
CPU_BATCH, GPU_BATCH = 8, 64
ACTOR_BYTES = 2**30  # of usual posters; the README states what hostile ones may take


@dataclass(frozen=True)
class ActorPlan:
    """Actor counts, and what one actor asks Ray for.

    All that have no GPU ask for the same share of a CPU. If some asked for more, those could find the CPUs that are
    left scattered over nodes, enough in all and on none, and the night would wait for them for ever.
    """

    engine: str
    precision: str
    batch_size: int
    fetch_actors: int  # 0 where the predict actors fetch and decode too
    predict_actors: int
    predict_gpus: float
    engine_threads: int
    cpus_asked: float

    @property
    def predict_cpus_asked(self) -> float:
        """None beside a GPU: CPUs that others hold must not keep a GPU idle."""
        return 0.0 if self.predict_gpus else self.cpus_asked

    def asks(self) -> list[Ask]:
        """One actor of each stage, and a write: with these the job goes on, however slowly."""
        predict = Ask("an actor that predicts", self.predict_cpus_asked, self.predict_gpus)
        fetch = [Ask("an actor that fetches and decodes", self.cpus_asked)] if self.fetch_actors else []
        return [*fetch, predict, Ask("a task that writes", WRITE_CPU)]


def plan_actors(cluster: Cluster, settings: TagSettings, bundle: Bundle) -> ActorPlan:
    """Fills the cluster: on GPUs one engine each, and the CPUs for decoding; on CPUs actors that do everything.

    Where `fetch_actors` is set, the two stages are kept apart on CPUs too.
    """
    device = "gpu" if cluster.gpus and settings.precision != INT8 else "cpu"
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
    fits = (cluster.cpus_of_a_node - WRITE_CPU) / (fetch + predict)  # were they all on one node
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
    """Rounds down to the ten-thousandths that Ray counts."""
    return int(cpus * 10_000) / 10_000
