"""The lazy Ray Data pipeline from a table of posters to scored rows; tagging and evaluation both run it."""

from typing import Any

import pyarrow as pa

from genretag.bundle import Bundle
from genretag.storage import Storage
from genretag.tagging.resources import ActorPlan
from genretag.tagging.settings import TagSettings
from genretag.tagging.stages import FetchDecode, Predict

POSTERS_PER_TASK = 256  # one block of pixels: 42 MB at 288 x 192, a second of work


def scored_dataset(
    posters: pa.Table,
    bundle: Bundle,
    plan: ActorPlan,
    settings: TagSettings,
    storage: Storage,
    board: Any,
) -> Any:
    """Makes the dataset of `Predict`'s rows, one for each row of `posters` (columns of the inventory)."""
    import ray

    blocks = [posters.slice(start, POSTERS_PER_TASK) for start in range(0, len(posters), POSTERS_PER_TASK)]
    allowed_failures = settings.allowed_failures(len(posters))
    return (
        ray.data.from_arrow(blocks)
        .map_batches(
            FetchDecode,
            fn_constructor_args=(storage, bundle.rule, settings.fetch_threads),
            compute=ray.data.ActorPoolStrategy(size=min(plan.fetch_actors, len(blocks))),
            num_cpus=plan.fetch_cpus,
            batch_size=None,
            batch_format="pyarrow",
        )
        .map_batches(
            Predict,
            fn_constructor_args=(
                plan.engine,
                ray.put(bundle),
                settings.batch_size,
                plan.engine_threads,
                board,
                allowed_failures,
            ),
            compute=ray.data.ActorPoolStrategy(size=min(plan.predict_actors, len(blocks))),
            num_cpus=plan.predict_cpus,
            num_gpus=plan.predict_gpus,
            batch_size=None,
            batch_format="pyarrow",
        )
    )
