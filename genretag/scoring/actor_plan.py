"""Actor plan: how many actors each stage gets, and what each asks Ray for, from the CPUs, GPUs and memory found."""

from dataclasses import dataclass

from genretag.model.bundle import Bundle
from genretag.model.engines import INT8, engine_for, precision_for
from genretag.runtime.cluster import Ask
from genretag.runtime.ray_session import Cluster
from genretag.scoring.settings import TagSettings

THREADS_PER_CPU_ENGINE = 4
FETCH_ACTORS_PER_GPU = 16  # each decodes 1,600 posters/s if it has four CPUs; an H100 predicts 20,000
CPUS_ASKED = 0.5  # by each actor: half of its use, so that all actors fit again if half of the nodes are lost
WRITE_CPU = 0.25
CPU_BATCH, GPU_BATCH = 8, 64
ACTOR_BYTES = 2**30  # with usual posters; docs/guarantees.md states the memory for hostile ones


@dataclass(frozen=True)
class ActorPlan:
    """Actor counts, and the resources that one actor asks Ray for.

    All actors without a GPU ask for `cpus_asked`, the same share of a CPU. If some asked for more, the free CPUs could
    be scattered over the nodes: enough in total, and too few on each node. The run would then wait for ever.
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
        """CPUs that a predict actor asks for; 0 if it has a GPU, because CPUs in use must not keep a GPU idle."""
        return 0.0 if self.predict_gpus else self.cpus_asked

    def asks(self) -> list[Ask]:
        """Return the least room that the job needs to go on: one actor of each stage, and one task that writes."""
        predict = Ask("an actor that predicts", self.predict_cpus_asked, self.predict_gpus)
        fetch = [Ask("an actor that fetches and decodes", self.cpus_asked)] if self.fetch_actors else []
        return [*fetch, predict, Ask("a task that writes", WRITE_CPU)]


def plan_actors(cluster: Cluster, settings: TagSettings, bundle: Bundle) -> ActorPlan:
    """Plan actors that fill the cluster.

    With GPUs, each GPU gets one actor that predicts, and the CPUs get actors that fetch and decode. Without GPUs, each
    actor does all three. If `fetch_actors` is set, the two stages are kept apart on CPUs too. Counts, engine, precision
    and batch size in `settings` replace the planned ones.
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
    fits = (cluster.cpus_of_a_node - WRITE_CPU) / (fetch + predict)  # if all actors are on one node
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
    """Return `cpus` rounded down to ten-thousandths, the unit that Ray counts in."""
    return int(cpus * 10_000) / 10_000
