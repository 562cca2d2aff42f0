"""The lazy Ray Data pipeline from posters to scored rows; tagging and evaluation both run it."""

from typing import Any

import pyarrow as pa

from genretag.bundle import Bundle
from genretag.images import ImageRule
from genretag.storage import Storage
from genretag.tagging.ledger import open_ledger
from genretag.tagging.resources import ActorPlan
from genretag.tagging.settings import TagSettings
from genretag.tagging.shards import POSTERS_PER_STEP
from genretag.tagging.stages import FetchDecode, FetchOptions, Predict

FETCHES_AT_ONCE = 4  # calls of one fetch actor: while one waits for a slow object, the others go on


def scored_dataset(
    blocks: list[pa.Table],
    bundle: Bundle,
    plan: ActorPlan,
    settings: TagSettings,
    storage: Storage,
    board: Any,
    allowed_failures: int,
    *,
    one_bucket: bool = False,
) -> Any:
    """Makes the dataset of `Predict`'s rows, one for each poster.

    `blocks` are what one task each scores: rows of the inventory, or the name of a shard (`write_shards`).
    """
    import ray

    options = FetchOptions(settings.fetch_threads, settings.decode_timeout_s, one_bucket)
    ledger = open_ledger()
    posters = ray.data.from_arrow(blocks)
    posters.context.target_max_block_size = _one_block_per_step(bundle.rule)
    return posters.map_batches(
        FetchDecode,
        fn_constructor_args=(storage, bundle.rule, options, board, ledger),
        compute=ray.data.ActorPoolStrategy(
            size=min(plan.fetch_actors, len(blocks)),
            max_concurrent_calls_per_actor=FETCHES_AT_ONCE,
            enable_true_multi_threading=True,
        ),
        num_cpus=plan.cpus_asked,
        batch_size=None,
        batch_format="pyarrow",
    ).map_batches(
        Predict,
        fn_constructor_args=(
            plan.engine,
            ray.put(bundle),
            settings.batch_size,
            plan.engine_threads,
            board,
            ledger,
            allowed_failures,
        ),
        compute=ray.data.ActorPoolStrategy(size=min(plan.predict_actors, len(blocks))),
        num_cpus=plan.cpus_asked,
        num_gpus=plan.predict_gpus,
        batch_size=None,
        batch_format="pyarrow",
    )


def _one_block_per_step(rule: ImageRule) -> int:
    """The block size at which Ray Data passes on each step of `FetchDecode` as one block, whole.

    It gathers and cuts what a task yields by bytes, and a task that is retried yields other bytes where a poster
    failed the second time: a cut that moved would lose rows or double them. A full step has more bytes than this, and
    less than 1.5 times as many, where Ray begins to cut.
    """
    return POSTERS_PER_STEP * rule.height * rule.width * 3 - 1
