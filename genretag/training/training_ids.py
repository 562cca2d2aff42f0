"""The file beside a bundle that says which posters it was trained on, so that nobody measures it on those unawares.

Sorted hashes of 8 bytes, of the ids: a million posters take 8 MB, and the ids themselves are not told. Scoring never
reads it.
"""

import hashlib
import unicodedata
from collections.abc import Iterable
from typing import Any

import numpy as np

from genretag.errors import UsageError
from genretag.storage import Storage, StorageError, join

TRAINING_IDS = "training_ids.bin"
HASH = np.dtype(">u8")  # big-endian, so that the bytes sort as the numbers do


def training_ids_file(ids: Iterable[str]) -> bytes:
    """The content of the file: a blake2b hash of each id, 8 bytes each, sorted."""
    return np.sort(_hashes(ids)).tobytes()


def training_ids_facts(content: bytes) -> dict[str, Any]:
    """What the bundle says of its file."""
    return {"posters": len(content) // HASH.itemsize, "sha256": hashlib.sha256(content).hexdigest()}


def read_training_ids(location: str, facts: dict[str, Any], storage: Storage) -> np.ndarray:
    """The hashes in the file beside a bundle, checked against what the bundle says. Raises `UsageError`."""
    uri = join(location, TRAINING_IDS)
    try:
        content = bytes(storage.get(uri).data)
    except StorageError as error:
        raise UsageError(f"the bundle's {TRAINING_IDS} cannot be read: copy it beside bundle.json ({error})") from error
    if hashlib.sha256(content).hexdigest() != facts.get("sha256"):
        raise UsageError(f"{uri} is not the bundle's: copy the file that was written with it")
    return np.frombuffer(content, dtype=HASH)


def among(ids: Iterable[str], hashes: np.ndarray) -> np.ndarray:
    """Return which of the ids are in the file: bool (ids,).

    Ids are composed (NFC); a bundle from before that may have learnt from the same ids decomposed.
    """
    ids = list(ids)
    decomposed = (unicodedata.normalize("NFD", id) for id in ids)
    return np.isin(_hashes(ids), hashes) | np.isin(_hashes(decomposed), hashes)


def _hashes(ids: Iterable[str]) -> np.ndarray:
    digests = (hashlib.blake2b(id.encode(errors="surrogatepass"), digest_size=8).digest() for id in ids)
    return np.frombuffer(b"".join(digests), dtype=HASH)
