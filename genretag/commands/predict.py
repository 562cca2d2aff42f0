"""`genretag predict`: the most probable labels of a few posters, in this process, without Ray."""

import logging
import sys
from collections.abc import Sequence

from genretag.errors import Failure
from genretag.model.bundle import DEFAULT_BUNDLE, load_bundle
from genretag.model.engines import open_engine
from genretag.scoring.reader import Poster, PosterReader
from genretag.storage import Storage, resolve

logger = logging.getLogger(__name__)

THREADS = 4


def predict(
    posters: list[str], storage: Storage, *, model: str | None = None, top: int = 3
) -> list[list[tuple[str, float]] | str]:
    """Return the `top` most probable labels of each poster as pairs (label, probability), in the order of `posters`.

    `posters` are local paths or objects of a bucket. If a poster cannot be read, its entry is the error message
    instead. `model` is the location of a bundle (None: the default bundle). Raises `UsageError` if the bundle cannot be
    loaded.
    """
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


def print_genres(posters: Sequence[str], results: Sequence[list[tuple[str, float]] | str]) -> bool:
    """Print a line with the labels of each poster. Messages about unreadable posters go to the error output.

    `results` come from `predict`. Return True if every poster could be read.
    """
    for poster, result in zip(posters, results, strict=True):
        if isinstance(result, str):
            print(f"{poster}: {result}", file=sys.stderr)  # noqa: T201
        else:
            print(f"{poster}: " + ", ".join(f"{genre} {p:.2f}" for genre, p in result))  # noqa: T201
    return not any(isinstance(result, str) for result in results)
