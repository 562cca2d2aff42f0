"""`genretag duplicates`: the same picture under several URIs, also in another size or crop.

Embeddings of the same picture are nearly equal. All pairs of posters are compared, in blocks, so the time grows with
the square of the number of posters. The memory holds one embedding per poster.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from genretag.errors import UsageError
from genretag.output.embeddings import embedding_files, unit_vectors
from genretag.runtime.display import Display
from genretag.runtime.session import Session
from genretag.storage import resolve

BLOCK = 2_048  # posters whose similarities to all others are computed at a time


@dataclass(frozen=True)
class Pair:
    """Two posters and the cosine similarity of their embeddings. `first` and `second` are URIs, in order."""

    similarity: float
    first: str
    second: str


def duplicates(output: str, session: Session, least: float) -> list[Pair]:
    """Return the pairs of posters of `output` with a similarity of at least `least`, the most similar pair first.

    Of a poster that was tagged several times, the newest row counts. Raises `UsageError` if the output has no
    embeddings, or if `least` is not above 0 and at most 1.
    """
    if not 0 < least <= 1:
        raise UsageError(f"least must be above 0 and at most 1, not {least:g}")
    files = embedding_files(resolve(output), session.storage)
    with Display(session) as display:
        display.phase("reading")
        uris, vectors = files.newest(session.storage)
        display.phase("comparing", len(uris))
        found = [Pair(similarity, uris[a], uris[b]) for similarity, a, b in _pairs(vectors, least, display.advance)]
    return sorted(found, key=lambda pair: (-pair.similarity, pair.first, pair.second))


def _pairs(vectors: np.ndarray, least: float, progress: Callable[[int], None]) -> Iterator[tuple[float, int, int]]:
    """Yield (similarity, a, b) for all pairs of rows a < b of `vectors`, float16 (N, length), from `least` on."""
    blocks = [unit_vectors(vectors[start : start + BLOCK]) for start in range(0, len(vectors), BLOCK)]
    for number, block in enumerate(blocks):
        for other in range(number, len(blocks)):
            similarities = block @ blocks[other].T
            if other == number:
                similarities = np.triu(similarities, k=1)
            for a, b in np.argwhere(similarities >= least):
                yield min(1.0, float(similarities[a, b])), number * BLOCK + int(a), other * BLOCK + int(b)
        progress(len(block))
