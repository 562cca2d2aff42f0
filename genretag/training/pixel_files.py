"""Pixel files: decoded posters in Parquet files, one file per block, which later epochs and later runs read.

The name of a file is a hash. The hash covers everything that decides the pixels: each poster's URI and etag, the input
size, the way of resizing, and the version of the decoder. If one of these changes, the file gets another name, so a
file never has outdated pixels. genretag does not delete the files of posters that no longer exist.
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

FORMAT = "1"  # version of the files' format; it is part of the hash
FACTS = b"genretag"  # the key of genretag's facts in a file's metadata


@dataclass(frozen=True)
class Contents:
    """Result of decoding a block (group) of posters: which posters have pixels, and why the others have none.

    `readable`, int64 (n,), has the posters with pixels, as indices in the block. `failures` has a text "stage: reason"
    for each poster without pixels. `lasting` is False if a poster could not be fetched, or has changed since the
    posters were listed. Then a later run decodes the block again.
    """

    readable: np.ndarray
    failures: tuple[str, ...]
    lasting: bool


def file_of(cache: str, rule: ImageRule, uris: Sequence[str], etags: Sequence[str]) -> str:
    """Return the URI of the Parquet file with a block's decoded posters, below the folder or prefix `cache`.

    The name is a hash of `rule` (the image size and the way of resizing), the posters' URIs and etags, and the
    decoder's version.
    """
    decided_by = [
        FORMAT,
        PIL.__version__,
        repr(rule),
        *(f"{uri}\t{etag}" for uri, etag in zip(uris, etags, strict=True)),
    ]
    digest = hashlib.sha256("\n".join(decided_by).encode(errors="surrogatepass")).hexdigest()
    return join(cache, f"{rule.height}x{rule.width}", f"{digest[:32]}.parquet")


def write_pixels(file: str, pixels: np.ndarray, contents: Contents, storage: Storage) -> None:
    """Write a block of decoded posters to the Parquet file `file` (a URI). A reader sees the complete file or none.

    `pixels` are uint8 (n, height, width, 3), one image for each poster in `contents.readable`. Raises `StorageError` if
    the file cannot be written.
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
    # Compression and a dictionary do not help with pixels. Statistics would put two complete posters into the metadata.
    pyarrow.parquet.write_table(table, buffer, compression="none", use_dictionary=False, write_statistics=False)
    storage.put(file, buffer.getvalue().to_pybytes())


def contents_of(file: str, storage: Storage) -> Contents | None:
    """Return a block's `Contents` (which posters have pixels). Only the footer of its Parquet file is read.

    `file` is a URI. Return None if there is no such file. Raises `StorageError` if the file cannot be read.
    """
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

    The array is read-only. Raises `StorageError` if the file cannot be read.
    """
    table = pyarrow.parquet.read_table(pa.BufferReader(pa.py_buffer(storage.get(file).data)))
    column, shape = table["pixels"].combine_chunks(), _facts(table.schema)["shape"]
    if not len(column):
        return np.empty((0, *shape), dtype=np.uint8)
    pixels = np.frombuffer(column.buffers()[1], dtype=np.uint8)
    size = int(np.prod(shape))
    return pixels[column.offset * size : (column.offset + len(column)) * size].reshape(-1, *shape)


def _facts(schema: pa.Schema) -> dict[str, Any]:
    """Return genretag's metadata of a pixel file: the shape of an image, and the fields of `Contents`."""
    return json.loads(schema.metadata[FACTS])
