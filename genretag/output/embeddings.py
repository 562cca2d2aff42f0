"""Embeddings in the predictions of an output: read them, of the newest model, in batches."""

from collections.abc import Container, Iterator
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from genretag.errors import UsageError, unreadable_output
from genretag.output import parquet_files
from genretag.output.schema import EMBEDDING, MODEL_KEY, require_known_format
from genretag.storage import ObjectInfo, Storage, StorageError, join

COLUMNS = ("poster_id", "uri", "genres", "scored_at")
BATCH_ROWS = 8_192


@dataclass(frozen=True)
class EmbeddingFiles:
    """The part files of one output that have embeddings, of the model version of the newest file.

    `length` is the number of values of an embedding.
    """

    output: str
    files: tuple[ObjectInfo, ...]
    model_version: str
    length: int

    def batches(self, storage: Storage) -> Iterator[pa.Table]:
        """Yield the rows in batches, with the columns `COLUMNS` and `embedding`, a list of float32 of fixed length.

        A poster that was tagged several times may have several rows. Raises `UsageError` if a file cannot be read.
        """
        try:
            columns = [*COLUMNS, EMBEDDING]
            for info in self.files:
                with storage.open(info) as file:
                    for batch in pyarrow.parquet.ParquetFile(file).iter_batches(BATCH_ROWS, columns=columns):
                        yield self._as_float32(pa.Table.from_batches([batch]))
        except (StorageError, OSError, pa.ArrowException) as error:
            raise unreadable_output(self.output, error) from error

    def newest(self, storage: Storage, among: Container[str] | None = None) -> tuple[list[str], np.ndarray]:
        """Return the URIs in order, and the embedding of each in its newest row, float16 (N, length).

        Only URIs in `among` count; None means all. Raises `UsageError` if a file cannot be read.
        """
        found: dict[str, tuple[datetime, np.ndarray]] = {}
        for rows in self.batches(storage):
            vectors = rows[EMBEDDING].combine_chunks().flatten().to_numpy().reshape(len(rows), self.length)
            for uri, at, vector in zip(rows["uri"].to_pylist(), rows["scored_at"].to_pylist(), vectors, strict=True):
                if (among is None or uri in among) and (uri not in found or found[uri][0] < at):
                    found[uri] = at, vector.astype(np.float16)
        uris = sorted(found)
        none = np.empty((0, self.length), dtype=np.float16)
        return uris, np.concatenate([none, *(found[uri][1][np.newaxis] for uri in uris)])

    def _as_float32(self, rows: pa.Table) -> pa.Table:
        """Return the rows with the embeddings as float32, because DuckDB has no float16."""
        values = pc.cast(rows[EMBEDDING].combine_chunks().flatten(), pa.float32())
        column = pa.FixedSizeListArray.from_arrays(values, self.length)
        return rows.set_column(rows.column_names.index(EMBEDDING), EMBEDDING, column)


def embedding_files(output: str, storage: Storage) -> EmbeddingFiles:
    """Return the part files with embeddings. Raises `UsageError` if there are none, or if they cannot be read."""
    try:
        found = sorted(
            parquet_files(join(output, "predictions"), storage), key=lambda info: info.uri.rsplit("/", 2)[1:]
        )
        if not found:
            raise UsageError(f"there are no predictions in {output}: name what `genretag tag` wrote to")
        schemas = []
        for info in found:
            with storage.open(info) as file:
                schemas.append(pyarrow.parquet.read_schema(file))
            require_known_format(schemas[-1], info.uri)
    except (StorageError, OSError, pa.ArrowException) as error:
        raise unreadable_output(output, error) from error
    newest = schemas[-1]
    if EMBEDDING not in newest.names:
        raise UsageError(f"the predictions in {output} have no embeddings: tag with --embeddings to another output")
    version = (newest.metadata or {}).get(MODEL_KEY, b"")
    files = [info for info, schema in zip(found, schemas, strict=True) if (schema.metadata or {})[MODEL_KEY] == version]
    return EmbeddingFiles(output, tuple(files), version.decode(), newest.field(EMBEDDING).type.list_size)


def unit_vectors(vectors: np.ndarray) -> np.ndarray:
    """Return the rows of `vectors`, float (N, length), with the length 1, float32. A row of zeros stays as it is."""
    exact = vectors.astype(np.float32)
    return exact / np.maximum(np.linalg.norm(exact, axis=1, keepdims=True), 1e-12)
