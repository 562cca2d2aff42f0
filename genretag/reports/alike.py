"""Posters of a page that look alike, by their embeddings: the gallery's "more like this"."""

from collections.abc import Sequence

import numpy as np

from genretag.output.embeddings import embedding_files, unit_vectors
from genretag.storage import Storage

MOST = 6  # neighbours of each poster
BLOCK = 1_024  # posters that are compared with all others at a time


def alike(uris: Sequence[str], output: str, storage: Storage) -> list[list[int]]:
    """Return the most similar posters of each poster, the most similar first, as indices into `uris`.

    Only posters in `uris` count. Posters without an embedding have no similar posters. Raises `UsageError` if the
    output has no embeddings.
    """
    files = embedding_files(output, storage)
    row_of = {uri: row for row, uri in enumerate(uris)}
    known, found = files.newest(storage, row_of)
    vectors = np.zeros((len(uris), files.length), dtype=np.float32)
    vectors[[row_of[uri] for uri in known]] = found
    return _nearest(vectors)


def _nearest(vectors: np.ndarray) -> list[list[int]]:
    """Return the `MOST` rows with the highest cosine similarity to each row of `vectors`, float32 (N, length)."""
    units = unit_vectors(vectors)
    known = np.asarray(units.any(axis=1))
    found: list[list[int]] = []
    for start in range(0, len(units), BLOCK):
        similarities = units[start : start + BLOCK] @ units.T
        similarities[:, ~known] = -np.inf
        own = np.arange(len(similarities))
        similarities[own, start + own] = -np.inf
        order = np.argsort(-similarities, axis=1, kind="stable")[:, :MOST]
        for row, places in enumerate(order):
            finite = [int(place) for place in places if np.isfinite(similarities[row, place])]
            found.append(finite if known[start + row] else [])
    return found
