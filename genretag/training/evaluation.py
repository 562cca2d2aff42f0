"""What a bundle says of labelled posters, by the pipeline that tags: no second decoder, no second engine."""

import logging
from typing import Any

import numpy as np

from genretag.bundle import Bundle
from genretag.progress import open_board
from genretag.ray_session import Cluster
from genretag.storage import Storage
from genretag.tagging.inventory import inventory_of
from genretag.tagging.pipeline import scored_dataset
from genretag.tagging.resources import plan_actors
from genretag.tagging.settings import TagSettings
from genretag.tagging.shards import steps
from genretag.training.labelled_posters import LabelledPosters

logger = logging.getLogger(__name__)


def score_labelled(
    posters: LabelledPosters, bundle: Bundle, cluster: Cluster, storage: Storage
) -> tuple[np.ndarray, np.ndarray]:
    """Returns truth uint8 (N, L) and probabilities float32 (N, L) of the posters that could be scored."""
    settings = TagSettings(engine="openvino")
    plan = plan_actors(cluster, settings, bundle)
    blocks = list(steps(inventory_of(posters.uris)))
    dataset = scored_dataset(blocks, bundle, plan, settings, storage, open_board(), allowed_failures=len(posters))
    scored: dict[str, Any] = {}
    for batch in dataset.iter_batches(batch_format="pyarrow", batch_size=None):
        scored.update(zip(batch["uri"].to_pylist(), batch["probabilities"].to_pylist(), strict=True))
    kept = [i for i, uri in enumerate(posters.uris) if scored.get(uri) is not None]
    if len(kept) < len(posters):
        logger.warning("%d of %d labelled posters cannot be read", len(posters) - len(kept), len(posters))
    probabilities = np.array([scored[posters.uris[i]] for i in kept], dtype=np.float32)
    return posters.labelled.multi_hot[kept], probabilities
