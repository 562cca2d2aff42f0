"""`genretag similar`: the posters of an output that are most like a poster, by the cosine of their embeddings."""

from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from genretag.errors import UsageError, one_line, quoted
from genretag.images import BadImage, decode
from genretag.model.bundle import DEFAULT_BUNDLE, load_bundle
from genretag.model.embeddings import with_embeddings
from genretag.model.engines import open_engine
from genretag.output.embeddings import EmbeddingFiles, embedding_files
from genretag.output.schema import EMBEDDING
from genretag.storage import Storage, StorageError, resolve

THREADS = 4
SPARE = 4  # rows kept for each poster asked for, because a poster that was tagged again has several rows


@dataclass(frozen=True)
class Neighbour:
    """A poster of the output: its cosine similarity, from -1 to 1, and its genres."""

    similarity: float
    poster_id: str
    uri: str
    genres: tuple[str, ...]


def similar(
    poster: str, output: str, storage: Storage, *, count: int = 10, model: str | None = None
) -> list[Neighbour]:
    """Return the `count` posters of `output` that are most like `poster`, the most similar first.

    `poster` is the URI or the id of a poster in the output. Otherwise it is the location of an image, and the bundle at
    `model` (None: the default bundle) computes its embedding. The poster itself is not among the result. Raises
    `UsageError` if the output has no embeddings, or if there is no such poster.
    """
    if count < 1:
        raise UsageError(f"count must be at least 1, not {count}")
    files = embedding_files(resolve(output), storage)
    known = _stored(poster, files, storage)
    uri, vector = known or (resolve(poster), _computed(poster, files, storage, model))
    rows = _nearest(vector, files, storage, SPARE * (count + 1))
    newest: dict[str, Neighbour] = {}
    for row in sorted(rows, key=lambda row: row["scored_at"]):
        genres = tuple(row["genres"])
        newest[row["uri"]] = Neighbour(float(row["similarity"]), row["poster_id"], row["uri"], genres)
    newest.pop(uri, None)
    return sorted(newest.values(), key=lambda one: (-one.similarity, one.uri))[:count]


def _stored(poster: str, files: EmbeddingFiles, storage: Storage) -> tuple[str, np.ndarray] | None:
    """Return URI and embedding, float32 (length,), of a poster of the output by its URI or id; None if there is none.

    Of several rows, the newest counts. Raises `UsageError` if the id belongs to several URIs.
    """
    found: dict[str, dict[str, Any]] = {}
    wanted = pa.array([poster, resolve(poster)])
    for rows in files.batches(storage):
        for row in _matching(rows, wanted):
            if row["uri"] not in found or found[row["uri"]]["scored_at"] < row["scored_at"]:
                found[row["uri"]] = row
    if len(found) > 1:
        some = one_line(", ".join(sorted(found)[:3]), 200)
        raise UsageError(f"{len(found)} posters have the id {quoted(poster)}: name the URI of one, such as {some}")
    for uri, row in found.items():
        return uri, np.array(row[EMBEDDING], dtype=np.float32)
    return None


def _matching(rows: pa.Table, wanted: pa.Array) -> list[dict[str, Any]]:
    """Return the rows whose URI or id is in `wanted`, as dictionaries by column."""
    import pyarrow.compute as pc

    mask = pc.or_(pc.is_in(rows["uri"], wanted), pc.is_in(rows["poster_id"], wanted))
    return list(rows.filter(mask).to_pylist())


def _computed(poster: str, files: EmbeddingFiles, storage: Storage, model: str | None) -> np.ndarray:
    """Return the embedding of an image, float32 (length,). Raises `UsageError` if that cannot be computed."""
    bundle = load_bundle(model or str(DEFAULT_BUNDLE), storage)
    if bundle.model_version != files.model_version:
        raise UsageError(
            f"{quoted(poster)} is no poster of {files.output}, and to compute its embedding takes the model "
            f"{files.model_version}, not {bundle.model_version}: name it with --model"
        )
    try:
        pixels = decode(storage.get(resolve(poster)).data, bundle.rule).pixels
    except StorageError as error:
        raise UsageError(f"{quoted(poster)} is no poster of {files.output}, and cannot be read: {error}") from error
    except BadImage as error:
        raise UsageError(f"{poster} cannot be decoded: {error}") from error
    engine = open_engine("openvino", with_embeddings(bundle, "openvino"), batch_size=1, threads=THREADS)
    return engine.predict(pixels[None])[0, len(bundle.labels) :]


def _nearest(vector: np.ndarray, files: EmbeddingFiles, storage: Storage, count: int) -> list[dict[str, Any]]:
    """Return the `count` rows with the highest cosine similarity to `vector`, as dictionaries by column."""
    database, best = duckdb.connect(), list[dict[str, Any]]()
    query = f"""
        from (
            select poster_id, uri, genres, scored_at,
                   array_cosine_similarity({EMBEDDING}, $vector::float[{files.length}]) as similarity
            from rows
        )
        where isfinite(similarity) order by similarity desc, uri limit $count
    """  # noqa: S608 - the only text put in is a number
    for rows in files.batches(storage):
        database.register("rows", rows)
        top: Any = database.sql(query, params={"vector": vector.tolist(), "count": count}).to_arrow_table()
        best = sorted([*best, *top.to_pylist()], key=lambda row: -row["similarity"])[:count]
    return best
