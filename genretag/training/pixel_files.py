"""Pixel files: decoded posters in Parquet files, one for each block, which later epochs and later runs read.

A hash names each file. The hash covers everything that decides the pixels: each poster's URI and etag, the image rule,
and the version of the decoder. If one of these changes, the file gets another name, so no file is ever wrong. Files of
posters that are gone stay until somebody removes them.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL
import pyarrow as pa
import pyarrow.parquet

from genretag.images import ImageRule
from genretag.storage import Storage, StorageError, join

FORMAT = "1"
FACTS = b"genretag"  # the key of genretag's facts in a file's metadata


@dataclass(frozen=True)
class Contents:
    """Contents of a block's file: the posters that have pixels, and the failures of the others.

    `readable`, int64 (n,), has the places in the block of the posters with pixels. `failures` has a text "stage:
    reason" for each other poster. `lasting` is False if a poster could not be fetched, or has changed since the
    listing. Then a later run decodes the block again.
    """

    readable: np.ndarray
    failures: tuple[str, ...]
    lasting: bool


def file_of(cache: str, rule: ImageRule, uris: Sequence[str], etags: Sequence[str]) -> str:
    """Return the URI of a block's file below `cache`. The rule and the posters' URIs and etags decide the name."""
    decided_by = [
        FORMAT,
        PIL.__version__,
        repr(rule),
        *(f"{uri}\t{etag}" for uri, etag in zip(uris, etags, strict=True)),
    ]
    digest = hashlib.sha256("\n".join(decided_by).encode(errors="surrogatepass")).hexdigest()
    return join(cache, f"{rule.height}x{rule.width}", f"{digest[:32]}.parquet")


def write_pixels(file: str, pixels: np.ndarray, contents: Contents, storage: Storage) -> None:
    """Write a block to the Parquet file `file` (a URI), so that a reader sees all of it or nothing.

    `pixels` are uint8 (n, height, width, 3), one for each of `contents.readable`. Raises `StorageError`.
    """
    count, size = len(pixels), int(np.prod(pixels.shape[1:]))
    column = pa.Array.from_buffers(pa.binary(size), count, [None, pa.py_buffer(np.ascontiguousarray(pixels))])
    facts = {
        "shape": pixels.shape[1:],
        "readable": contents.readable.tolist(),
        "failures": contents.failures,
        "lasting": contents.lasting,
    }
    table = pa.table({"pixels": column}).replace_schema_metadata({FACTS: json.dumps(facts)})
    buffer = pa.BufferOutputStream()
    # Compression and a dictionary do not help with pixels. Statistics would put two whole posters into the metadata.
    pyarrow.parquet.write_table(table, buffer, compression="none", use_dictionary=False, write_statistics=False)
    storage.put(file, buffer.getvalue().to_pybytes())


def contents_of(file: str, storage: Storage) -> Contents | None:
    """Read the contents from a file's footer alone. Return None if there is no such file. Raises `StorageError`."""
    try:
        info = storage.stat(file)
    except StorageError as error:
        if error.reason == "not_found":
            return None
        raise
    with storage.open(info) as opened:
        facts = _facts(pyarrow.parquet.read_schema(opened))
    return Contents(np.array(facts["readable"], dtype=np.int64), tuple(facts["failures"]), facts["lasting"])


def read_pixels(file: str, storage: Storage) -> np.ndarray:
    """Return the pixels of a block's file, uint8 (n, height, width, 3), one for each readable poster.

    The array is read-only. Raises `StorageError`.
    """
    table = pyarrow.parquet.read_table(pa.BufferReader(pa.py_buffer(storage.get(file).data)))
    column, shape = table["pixels"].combine_chunks(), _facts(table.schema)["shape"]
    if not len(column):
        return np.empty((0, *shape), dtype=np.uint8)
    pixels = np.frombuffer(column.buffers()[1], dtype=np.uint8)
    size = int(np.prod(shape))
    return pixels[column.offset * size : (column.offset + len(column)) * size].reshape(-1, *shape)


def _facts(schema: pa.Schema) -> dict[str, Any]:
    """Return genretag's facts from a file's metadata: shape, readable, failures and lasting."""
    return json.loads(schema.metadata[FACTS])
