"""Pipeline: the lazy Ray dataset from posters to scored rows, for tagging, training and evaluation.

`train` and `evaluate` score labelled posters with the pipeline of `tag`, so they use the same decoder and engine.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from genretag.model.bundle import Bundle
from genretag.runtime.cluster import WAIT_FOR_NODES_S, require_room
from genretag.runtime.compat import blocks_of, ending_without_nodes, explaining_lost_nodes
from genretag.runtime.display import QUIET, Display
from genretag.runtime.progress import read_board
from genretag.runtime.ray_session import Cluster
from genretag.scoring.actor_plan import ActorPlan, plan_actors
from genretag.scoring.actors import FetchOptions, Predict, Score
from genretag.scoring.inventory import inventory_of
from genretag.scoring.labelled_posters import LabelledPosters
from genretag.scoring.settings import TagSettings
from genretag.scoring.shards import steps
from genretag.scoring.step_ledger import running_ledger
from genretag.storage import Storage

logger = logging.getLogger(__name__)


CALLS_AT_ONCE = 4  # per actor: while one call waits for a slow object or predicts, the other calls continue


@dataclass(frozen=True)
class Scoring:
    """Inputs of the scoring of a job, besides the posters. `ledger` is the handle that `open_ledger` returned.

    During the execution, the cluster may lack room for the actors for `wait_for_nodes_s` seconds. If no poster is done
    by then, the execution raises an exception. Otherwise it logs a warning and waits for nodes.
    """

    bundle: Bundle
    plan: ActorPlan
    options: FetchOptions
    storage: Storage
    ledger: Any
    wait_for_nodes_s: float = WAIT_FOR_NODES_S


@contextmanager
def scored_dataset(blocks: list[pa.Table], scoring: Scoring) -> Iterator[Any]:
    """Yield a lazy Ray dataset that scores posters. It has one row per poster, as `Score` yields them.

    One Ray task scores each of the `blocks`. A block has rows of the inventory, or the URI of a file of posters
    (`write_shards`). Execute the dataset in the block, and within `explaining_lost_nodes`, which turns the exception
    about lacking room into a `UsageError`. After the block, the actors that predict end.
    """
    import ray

    plan, ledger = scoring.plan, scoring.ledger
    bundle = ray.put(scoring.bundle)
    posters = ray.data.from_blocks(blocks)  # `from_arrow` would start tasks just to look at the blocks
    callback = ending_without_nodes(plan.asks(), scoring.wait_for_nodes_s, partial(_begun, ledger))
    posters.context.custom_execution_callback_classes = [callback]
    posters.context.target_max_block_size = None  # one block per task: rows without pixels are small
    fetch = (scoring.storage, scoring.bundle.rule, scoring.options, ledger)
    with _engines(plan, bundle, ledger, len(blocks)) as engines:
        yield posters.map_batches(
            Score,
            fn_constructor_args=(fetch, plan, bundle, engines),
            compute=ray.data.ActorPoolStrategy(
                size=min(plan.fetch_actors or plan.predict_actors, len(blocks)),
                max_concurrent_calls_per_actor=CALLS_AT_ONCE,
                enable_true_multi_threading=True,
            ),
            num_cpus=plan.cpus_asked,
            batch_size=None,
            batch_format="pyarrow",
        )


@contextmanager
def _engines(plan: ActorPlan, bundle: Any, ledger: Any, blocks: int) -> Iterator[list[Any]]:
    """Start the `Predict` actors of a job, and end them after the block. If the plan has none, yield an empty list.

    `bundle` is a Ray object reference to a `Bundle`. There is at most one actor per block of posters.
    """
    import ray

    count = min(plan.predict_actors, blocks) if plan.fetch_actors else 0
    options: dict[str, Any] = {"num_cpus": plan.predict_cpus_asked, "num_gpus": plan.predict_gpus}
    actor: Any = ray.remote(**options, max_restarts=-1, scheduling_strategy="SPREAD")(Predict)
    engines = [actor.remote(plan, bundle, ledger) for _ in range(count)]
    try:
        yield engines
    finally:
        for engine in engines:
            with suppress(ray.exceptions.RayError):  # the cluster may be gone
                ray.kill(engine)


def show_scored(values: dict[str, Any], display: Display, before: int = 0) -> None:
    """Show the number of finished posters and of failed posters on `display`.

    `values` are those that `Ledger.read` returned. `before` is the number of posters that the display's current phase
    had counted before this job. It is added to the number of finished posters.
    """
    scored, failed, others = (values.get(name, 0) for name in ("scored", "failed", "other_files"))
    done = scored + values.get("already", 0) + failed + others
    note = f"{failed:,} failed" + (f", {others:,} other files" if others else "")
    display.count(before + done, note)


def score_labelled(
    posters: LabelledPosters, bundle: Bundle, cluster: Cluster, storage: Storage, display: Display = QUIET
) -> tuple[np.ndarray, np.ndarray]:
    """Score labelled posters. Return the true labels, uint8 (N, labels), and the probabilities, float32 (N, labels).

    Posters that could not be scored are left out of both arrays. Arguments and errors are those of `score_posters`.
    """
    kept, probabilities = score_posters(posters, bundle, cluster, storage, display)
    return posters.labelled.multi_hot[kept], probabilities[kept]


def score_posters(
    posters: LabelledPosters, bundle: Bundle, cluster: Cluster, storage: Storage, display: Display = QUIET
) -> tuple[np.ndarray, np.ndarray]:
    """Score N posters. Return a mask of the scored posters, bool (N,), and the probabilities, float32 (N, labels).

    The probabilities of posters that could not be scored are NaN. Scoring uses OpenVINO on CPUs. `display` adds these
    posters to the count of its current phase. Raises `UsageError` if the cluster cannot fit the actors.
    """
    settings = TagSettings(engine="openvino")
    plan = plan_actors(cluster, settings, bundle)
    if not cluster.is_local:
        require_room(plan.asks())
    with running_ledger(allowed_failures=len(posters)) as ledger:
        kept, probabilities = _score(posters, bundle, plan, ledger, storage, display)
    if not kept.all():
        logger.warning("%d of %d labelled posters cannot be read", len(posters) - kept.sum(), len(posters))
    return kept, probabilities


def _score(
    posters: LabelledPosters, bundle: Bundle, plan: ActorPlan, ledger: Any, storage: Storage, display: Display
) -> tuple[np.ndarray, np.ndarray]:
    """Score posters with the actors of `plan`. Return the mask and the probabilities that `score_posters` returns."""
    scoring = Scoring(bundle, plan, FetchOptions.of(TagSettings(), one_bucket=False), storage, ledger)
    blocks, before = list(steps(inventory_of(posters.uris))), display.done
    row_of = {uri: row for row, uri in enumerate(posters.uris)}
    kept = np.zeros(len(posters), dtype=bool)
    probabilities = np.full((len(posters), len(bundle.labels)), np.nan, dtype=np.float32)
    with (
        scored_dataset(blocks, scoring) as dataset,
        explaining_lost_nodes(),
        display.following(ledger, lambda values: show_scored(values, display, before)),
        blocks_of(dataset) as scored,
    ):
        for batch in scored:
            readable = batch.filter(batch["probabilities"].is_valid())
            rows = [row_of[uri] for uri in readable["uri"].to_pylist()]
            kept[rows] = True
            said = readable["probabilities"].combine_chunks().flatten().to_numpy()
            probabilities[rows] = said.reshape(len(rows), len(bundle.labels))
    return kept, probabilities


def _begun(ledger: Any) -> bool:
    """Return whether the job has finished its first step.

    If the ledger (the job's progress actor) does not answer, return True, because a missing answer must not end a job.
    """
    answer = read_board(ledger)
    return answer is None or "scored" in answer[0]
