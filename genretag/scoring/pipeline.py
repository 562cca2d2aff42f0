"""Pipeline: the lazy Ray Data stages from posters to scored rows, for tagging, training and evaluation.

`train` and `evaluate` score labelled posters with the pipeline of `tag`, so they use the same decoder and engine.
"""

import logging
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from genretag.images import ImageRule
from genretag.model.bundle import Bundle
from genretag.runtime.cluster import WAIT_FOR_NODES_S, require_room
from genretag.runtime.compat import ending_without_nodes, explaining_lost_nodes
from genretag.runtime.display import QUIET, Display
from genretag.runtime.progress import read_board
from genretag.runtime.ray_session import Cluster
from genretag.scoring.actor_plan import ActorPlan, plan_actors
from genretag.scoring.actors import FetchDecode, FetchDecodePredict, FetchOptions, Predict
from genretag.scoring.inventory import inventory_of
from genretag.scoring.labelled_posters import LabelledPosters
from genretag.scoring.settings import TagSettings
from genretag.scoring.step_ledger import running_ledger
from genretag.scoring.worklist import POSTERS_PER_STEP, steps
from genretag.storage import Storage

logger = logging.getLogger(__name__)


CALLS_AT_ONCE = 4  # per actor: while one call waits for a slow object or predicts, the other calls continue


def scored_dataset(
    blocks: list[pa.Table],
    bundle: Bundle,
    plan: ActorPlan,
    options: FetchOptions,
    storage: Storage,
    ledger: Any,
    *,
    wait_for_nodes_s: float = WAIT_FOR_NODES_S,
) -> Any:
    """Return a lazy Ray dataset that scores posters. It has one row per poster, as `Predict` returns them.

    One Ray task scores each of the `blocks`. A block has rows of the inventory, or the URI of a file of posters
    (`write_shards`). `ledger` is the handle that `open_ledger` returned.

    During the execution, the cluster may lack room for the actors for `wait_for_nodes_s` seconds. If no poster is done
    by then, the execution raises an exception. Otherwise it logs a warning and waits for nodes. Execute the dataset
    within `explaining_lost_nodes`, which turns the exception into a `UsageError`.
    """
    import ray

    fetch = (storage, bundle.rule, options, ledger)
    predict = (plan, ray.put(bundle), ledger)
    posters = ray.data.from_blocks(blocks)  # `from_arrow` would start tasks just to look at the blocks
    callback = ending_without_nodes(plan.asks(), wait_for_nodes_s, partial(_begun, ledger))
    posters.context.custom_execution_callback_classes = [callback]
    if not plan.fetch_actors:
        posters.context.target_max_block_size = None  # one block per task: rows without pixels are small
        actors = _actors(plan.predict_actors, len(blocks), CALLS_AT_ONCE)
        return _stage(posters, FetchDecodePredict, (fetch, predict), actors, plan.cpus_asked)
    posters.context.target_max_block_size = _one_block_per_step(bundle.rule)
    fetchers = _actors(plan.fetch_actors, len(blocks), CALLS_AT_ONCE)
    predictors = _actors(plan.predict_actors, len(blocks))
    decoded = _stage(posters, FetchDecode, fetch, fetchers, plan.cpus_asked)
    return _stage(decoded, Predict, predict, predictors, plan.predict_cpus_asked, plan.predict_gpus)


def show_scored(values: dict[str, Any], display: Display, before: int = 0) -> None:
    """Show the number of finished posters and of failed posters on `display`.

    `values` are those that `Ledger.read` returned. `before` is the number of posters that the display's current phase
    had counted before this job. It is added to the number of finished posters.
    """
    scored, failed, others = (values.get(name, 0) for name in ("scored", "failed", "other_files"))
    done = scored + values.get("already", 0) + failed + others
    note = f"{failed:,} failed" + (f", {others:,} other files" if others else "")
    display.count(before + done, note)


def _stage(rows: Any, stage: type, arguments: tuple[Any, ...], actors: Any, cpus: float, gpus: float = 0.0) -> Any:
    """Add a stage to the dataset `rows`, and return the new dataset. Each call of an actor gets one block.

    `stage` is the class of the actors, `arguments` are its constructor arguments, and `actors` is their pool. Each
    actor reserves `cpus` CPUs and `gpus` GPUs. For actors with GPUs, Ray Data requires a batch size. The batch
    size is `POSTERS_PER_STEP`, because each block that comes from `FetchDecode` is one step.
    """
    return rows.map_batches(
        stage,
        fn_constructor_args=arguments,
        compute=actors,
        num_cpus=cpus,
        num_gpus=gpus,
        batch_size=POSTERS_PER_STEP if gpus else None,
        batch_format="pyarrow",
    )


def _actors(count: int, blocks: int, calls_at_once: int | None = None) -> Any:
    """Return a pool of `count` actors, but at most one per block.

    Each actor runs `calls_at_once` calls in separate threads; None means one call at a time.
    """
    import ray

    return ray.data.ActorPoolStrategy(
        size=min(count, blocks),
        max_concurrent_calls_per_actor=calls_at_once,
        enable_true_multi_threading=calls_at_once is not None,
    )


def _one_block_per_step(rule: ImageRule) -> int:
    """Return the block size, in bytes, with which Ray Data keeps each table of `FetchDecode` as one block.

    Ray Data merges and splits the tables of a task by their bytes. A retried task may yield fewer bytes, because a
    poster may fail only the second time. If blocks then began at other rows, rows would be lost or duplicated. A table
    with all 256 posters of a step is larger than this size, so Ray Data does not merge it. It is smaller than 1.5 times
    this size, so Ray Data does not split it.
    """
    return POSTERS_PER_STEP * rule.height * rule.width * 3 - 1


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
    options, before = FetchOptions.of(TagSettings(), one_bucket=False), display.done
    blocks = list(steps(inventory_of(posters.uris)))
    dataset = scored_dataset(blocks, bundle, plan, options, storage, ledger)
    row_of = {uri: row for row, uri in enumerate(posters.uris)}
    kept = np.zeros(len(posters), dtype=bool)
    probabilities = np.full((len(posters), len(bundle.labels)), np.nan, dtype=np.float32)
    with explaining_lost_nodes(), display.following(ledger, lambda values: show_scored(values, display, before)):
        for batch in dataset.iter_batches(batch_format="pyarrow", batch_size=None):
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
