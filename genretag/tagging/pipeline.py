"""The lazy Ray Data pipeline from posters to scored rows; tagging and evaluation both run it."""

from typing import Any

import pyarrow as pa

from genretag.bundle import Bundle
from genretag.cluster_checks import WAIT_FOR_NODES_S
from genretag.display import Display
from genretag.images import ImageRule
from genretag.storage import Storage
from genretag.tagging.lost_room import ending_without_room
from genretag.tagging.resources import ActorPlan
from genretag.tagging.settings import TagSettings
from genretag.tagging.shards import POSTERS_PER_STEP
from genretag.tagging.stages import FetchDecode, FetchDecodePredict, FetchOptions, Predict

CALLS_AT_ONCE = 4  # of one actor: while one call waits for a slow object or predicts, the others go on


def scored_dataset(
    blocks: list[pa.Table],
    bundle: Bundle,
    plan: ActorPlan,
    settings: TagSettings,
    storage: Storage,
    ledger: Any,
    *,
    one_bucket: bool = False,
    wait_for_nodes_s: float = WAIT_FOR_NODES_S,
) -> Any:
    """Makes the dataset of `Predict`'s rows, one for each poster.

    `blocks` are what one task each scores: rows of the inventory, or the name of a shard (`write_shards`). `ledger` is
    what `open_ledger` returned.
    """
    import ray

    options = FetchOptions(settings.fetch_threads, settings.decode_timeout_s, one_bucket)
    fetch = (storage, bundle.rule, options, ledger)
    predict = (plan, ray.put(bundle), ledger)
    posters = ray.data.from_blocks(blocks)  # `from_arrow` would start tasks only to look at them
    callback = ending_without_room(plan.asks(), wait_for_nodes_s, ledger)
    posters.context.custom_execution_callback_classes = [callback]
    if not plan.fetch_actors:
        posters.context.target_max_block_size = None  # a task's rows are one block: they are small without pixels
        actors = _actors(plan.predict_actors, len(blocks), CALLS_AT_ONCE)
        return _stage(posters, FetchDecodePredict, (fetch, predict), actors, plan.cpus_asked)
    posters.context.target_max_block_size = _one_block_per_step(bundle.rule)
    fetchers = _actors(plan.fetch_actors, len(blocks), CALLS_AT_ONCE)
    predictors = _actors(plan.predict_actors, len(blocks))
    decoded = _stage(posters, FetchDecode, fetch, fetchers, plan.cpus_asked)
    return _stage(decoded, Predict, predict, predictors, plan.predict_cpus_asked, plan.predict_gpus)


def show_scored(values: dict[str, Any], display: Display, before: int = 0) -> None:
    """Shows how many posters of the dataset are done, as its ledger says, and were `before` it in this phase."""
    scored, failed, others = (values.get(name, 0) for name in ("scored", "failed", "other_files"))
    done = scored + values.get("already", 0) + failed + others
    note = f"{failed:,} failed" + (f", {others:,} other files" if others else "")
    display.count(before + done, note)


def _stage(rows: Any, stage: type, arguments: tuple[Any, ...], actors: Any, cpus: float, gpus: float = 0.0) -> Any:
    """Passes whole blocks through the actors of a stage; an actor asks Ray for these shares of CPUs and GPUs.

    Where there are GPUs, Ray wants a number of rows: that of a step, which is what the blocks of that stage have.
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
    """A pool of actors, no more than there are blocks; `calls_at_once` of each run in threads of their own."""
    import ray

    return ray.data.ActorPoolStrategy(
        size=min(count, blocks),
        max_concurrent_calls_per_actor=calls_at_once,
        enable_true_multi_threading=calls_at_once is not None,
    )


def _one_block_per_step(rule: ImageRule) -> int:
    """The block size at which Ray Data passes on each step of `FetchDecode` as one block, whole.

    It gathers and cuts what a task yields by bytes, and a task that is retried yields other bytes where a poster
    failed the second time: a cut that moved would lose rows or double them. A full step has more bytes than this, and
    less than 1.5 times as many, where Ray begins to cut.
    """
    return POSTERS_PER_STEP * rule.height * rule.width * 3 - 1
