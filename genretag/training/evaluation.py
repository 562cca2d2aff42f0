"""What a bundle says of labelled posters, by the pipeline that tags: no second decoder, no second engine."""

import logging

import numpy as np

from genretag.bundle import Bundle
from genretag.cluster_checks import require_room
from genretag.display import QUIET, Display
from genretag.ray_session import Cluster
from genretag.storage import Storage
from genretag.tagging.inventory import inventory_of
from genretag.tagging.ledger import open_ledger
from genretag.tagging.lost_room import waiting_explained
from genretag.tagging.pipeline import scored_dataset, show_scored
from genretag.tagging.resources import plan_actors
from genretag.tagging.settings import TagSettings
from genretag.tagging.shards import steps
from genretag.training.labelled_posters import LabelledPosters

logger = logging.getLogger(__name__)


def score_labelled(
    posters: LabelledPosters, bundle: Bundle, cluster: Cluster, storage: Storage, display: Display = QUIET
) -> tuple[np.ndarray, np.ndarray]:
    """Returns truth uint8 (N, L) and probabilities float32 (N, L) of the posters that could be scored."""
    kept, probabilities = score_posters(posters, bundle, cluster, storage, display)
    return posters.labelled.multi_hot[kept], probabilities[kept]


def score_posters(
    posters: LabelledPosters, bundle: Bundle, cluster: Cluster, storage: Storage, display: Display = QUIET
) -> tuple[np.ndarray, np.ndarray]:
    """Returns which posters could be scored, bool (N,), and the probabilities, float32 (N, L), of others NaN.

    `display` counts on in its phase.
    """
    settings = TagSettings(engine="openvino")
    plan = plan_actors(cluster, settings, bundle)
    require_room(plan.asks())
    blocks = list(steps(inventory_of(posters.uris)))
    ledger, before = open_ledger(allowed_failures=len(posters)), display.done
    dataset = scored_dataset(blocks, bundle, plan, settings, storage, ledger)
    row_of = {uri: row for row, uri in enumerate(posters.uris)}
    kept = np.zeros(len(posters), dtype=bool)
    probabilities = np.full((len(posters), len(bundle.labels)), np.nan, dtype=np.float32)
    with waiting_explained(), display.following(ledger, lambda values: show_scored(values, display, before)):
        for batch in dataset.iter_batches(batch_format="pyarrow", batch_size=None):
            readable = batch.filter(batch["probabilities"].is_valid())
            rows = [row_of[uri] for uri in readable["uri"].to_pylist()]
            kept[rows] = True
            said = readable["probabilities"].combine_chunks().flatten().to_numpy()
            probabilities[rows] = said.reshape(len(rows), len(bundle.labels))
    if not kept.all():
        logger.warning("%d of %d labelled posters cannot be read", len(posters) - kept.sum(), len(posters))
    return kept, probabilities
