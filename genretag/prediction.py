"""The most probable labels of a few posters, in this process, without Ray."""

import logging

from genretag.bundle import DEFAULT_BUNDLE, load_bundle
from genretag.engines import open_engine
from genretag.errors import Failure
from genretag.fetching import Poster, PosterReader
from genretag.storage import Storage, resolve

THREADS = 4

logger = logging.getLogger(__name__)


def predict(
    posters: list[str], storage: Storage, *, model: str | None = None, top: int = 3
) -> list[list[tuple[str, float]] | str]:
    """Returns for each poster its `top` labels with their probabilities, or what is wrong with it."""
    import numpy as np

    bundle = load_bundle(model or str(DEFAULT_BUNDLE), storage)
    results = PosterReader(storage, bundle.rule, THREADS).read_many([resolve(poster) for poster in posters])
    images = [result.image.pixels for result in results if isinstance(result, Poster)]
    if not images:
        return [result.message for result in results if isinstance(result, Failure)]
    engine = open_engine("openvino", bundle, batch_size=1, threads=THREADS)
    if engine.caution:
        logger.warning(engine.caution)
    rows = iter(engine.predict(np.stack(images)))

    def best(row: np.ndarray) -> list[tuple[str, float]]:
        return [(bundle.labels[i], float(row[i])) for i in np.argsort(-row, kind="stable")[:top]]

    return [result.message if isinstance(result, Failure) else best(next(rows)) for result in results]
