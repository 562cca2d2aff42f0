"""Decoded posters in Parquet files, one for each block, which later epochs and later runs read in place of the images.

A file's name is a hash of what decides its pixels: each poster's URI and etag, the rule, the decoder's version. So what
has changed has another name, and no file is ever wrong. Files of posters that are gone stay until they are removed.
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
FACTS = b"genretag"  # the key of our own facts in a file's metadata


@dataclass(frozen=True)
class Contents:
    """What a block's file holds: `readable` int64 places of the block whose pixels are there, and why others are not.

    A file that is not `lasting` is for the run that wrote it: a poster could not be fetched, or has changed meanwhile.
    """

    readable: np.ndarray
    failures: tuple[str, ...]
    lasting: bool


def file_of(cache: str, rule: ImageRule, uris: Sequence[str], etags: Sequence[str]) -> str:
    """The URI of a block's file below `cache`."""
    decided_by = [
        FORMAT,
        PIL.__version__,
        repr(rule),
        *(f"{uri}\t{etag}" for uri, etag in zip(uris, etags, strict=True)),
    ]
    digest = hashlib.sha256("\n".join(decided_by).encode(errors="surrogatepass")).hexdigest()
    return join(cache, f"{rule.height}x{rule.width}", f"{digest[:32]}.parquet")


def write_pixels(file: str, pixels: np.ndarray, contents: Contents, storage: Storage) -> None:
    """Writes uint8 (readable, height, width, 3), whole or not at all. Raises `StorageError`."""
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
    # neither helps with pixels; the smallest and the largest poster would stand in the metadata
    pyarrow.parquet.write_table(table, buffer, compression="none", use_dictionary=False, write_statistics=False)
    storage.put(file, buffer.getvalue().to_pybytes())


def contents_of(file: str, storage: Storage) -> Contents | None:
    """What a file holds, by its end alone; None where there is no such file. Raises `StorageError`."""
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
    """All pixels of a file: uint8 (readable, height, width, 3), read-only. Raises `StorageError`."""
    table = pyarrow.parquet.read_table(pa.BufferReader(pa.py_buffer(storage.get(file).data)))
    column, shape = table["pixels"].combine_chunks(), _facts(table.schema)["shape"]
    if not len(column):
        return np.empty((0, *shape), dtype=np.uint8)
    pixels = np.frombuffer(column.buffers()[1], dtype=np.uint8)
    size = int(np.prod(shape))
    return pixels[column.offset * size : (column.offset + len(column)) * size].reshape(-1, *shape)


def _facts(schema: pa.Schema) -> dict[str, Any]:
    return json.loads(schema.metadata[FACTS])
