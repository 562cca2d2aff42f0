"""Training ids: the posters that a bundle (a trained model) was trained on, so that an evaluation can leave them out.

A file next to the bundle holds sorted hashes of the ids, 8 bytes each. A million posters take 8 MB, and the ids
themselves stay private. Scoring never reads the file.
"""

import hashlib
import logging
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from genretag.data.splits import SplitRule, split_of
from genretag.errors import UsageError
from genretag.model.bundle import Bundle
from genretag.scoring.labelled_posters import LabelledPosters
from genretag.storage import Storage, StorageError, join

logger = logging.getLogger(__name__)


TRAINING_IDS = "training_ids.bin"


HASH = np.dtype(">u8")  # big-endian, so that the bytes sort as the numbers do


def training_ids_file(ids: Iterable[str]) -> bytes:
    """Return the content of `training_ids.bin` for these poster ids: the sorted blake2b hashes, 8 bytes per id."""
    return np.sort(id_hashes(ids)).tobytes()


def training_ids_facts(content: bytes) -> dict[str, Any]:
    """Return what a bundle stores about its `training_ids.bin`: the number of posters and the sha256 of `content`."""
    return {"posters": len(content) // HASH.itemsize, "sha256": hashlib.sha256(content).hexdigest()}


def read_training_ids(location: str, facts: dict[str, Any], storage: Storage) -> np.ndarray:
    """Return the sorted hashes in `training_ids.bin` of the bundle at `location`: big-endian uint64 (posters,).

    `facts` is what `training_ids_facts` returned for the file. Raises `UsageError` if the file cannot be read or has
    another sha256.
    """
    return np.frombuffer(read_next_to(location, TRAINING_IDS, facts, storage), dtype=HASH)


def read_next_to(location: str, name: str, facts: Mapping[str, Any], storage: Storage) -> bytes:
    """Return the content of the file `name` next to the bundle at `location`, which is not part of the bundle.

    `facts` is what the bundle records about the file. Raises `UsageError` if the file cannot be read or has another
    sha256.
    """
    uri = join(location, name)
    try:
        content = bytes(storage.get(uri).data)
    except StorageError as error:
        raise UsageError(f"the bundle's {name} cannot be read: copy it next to bundle.json ({error})") from error
    if hashlib.sha256(content).hexdigest() != facts.get("sha256"):
        raise UsageError(f"{uri} is not the bundle's: copy the file that was written with it")
    return content


def among(ids: Iterable[str], hashes: np.ndarray) -> np.ndarray:
    """Return a mask of the ids whose hash is in `hashes`: bool (ids,).

    `ids` are in Unicode's composed form (NFC). An older bundle may have hashed their decomposed form (NFD), so both
    forms are looked up.
    """
    ids = list(ids)
    decomposed = (unicodedata.normalize("NFD", id) for id in ids)
    return np.isin(id_hashes(ids), hashes) | np.isin(id_hashes(decomposed), hashes)


def id_hashes(ids: Iterable[str]) -> np.ndarray:
    """Return the blake2b hash of each id, in the order of the ids: big-endian uint64 (ids,)."""
    digests = (hashlib.blake2b(id.encode(errors="surrogatepass"), digest_size=8).digest() for id in ids)
    return np.frombuffer(b"".join(digests), dtype=HASH)


class Candidate(NamedTuple):
    """A bundle (trained model) to evaluate or to learn from, and the location that the bundle was read from."""

    location: str
    bundle: Bundle


def split_rule_of(candidate: Candidate) -> SplitRule | None:
    """Return the rule that split the posters when the bundle was trained, or None if the bundle does not record it.

    Older bundles have the rule only among their training settings. Their training did not keep identical pictures in
    one split.
    """
    facts = candidate.bundle.facts
    if "split" in facts:
        return SplitRule(**facts["split"])
    training = facts.get("training", {})
    if not {"seed", "validation_share", "test_share"} <= training.keys():
        return None
    shares = training["validation_share"], training["test_share"]
    return SplitRule(training["seed"], *shares, identical_together=False)


def trained_on(posters: LabelledPosters, candidate: Candidate, storage: Storage) -> np.ndarray:
    """Return a mask of the posters that the candidate was trained on: bool (N,).

    The bundle's list of training ids decides. If the bundle has no list, its split rule is applied to the ids, and a
    warning is logged. Raises `UsageError` if the bundle has neither, or if the list cannot be read.
    """
    facts = candidate.bundle.facts
    if "training_ids" in facts:
        return among(posters.labelled.ids, read_training_ids(candidate.location, facts["training_ids"], storage))
    rule = split_rule_of(candidate)
    if rule is None:
        raise UsageError(
            f"the bundle at {candidate.location} does not say what it was trained on: pass --include-training to "
            "evaluate it all the same"
        )
    logger.warning(
        "%s has no list of its training posters: the posters that its split rule assigns to training count as such",
        candidate.location,
    )
    shares = {"validation": rule.validation_share, "test": rule.test_share}
    return np.array([split_of(poster, seed=rule.seed, **shares) == "train" for poster in posters.labelled.ids])
