"""Which posters train, validate and test: a hash of the id decides, so a poster never changes sides."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from genretag.labels import LabelledSet

Part = Literal["train", "validation", "test"]
NO_LEADERS: Mapping[str, str] = {}


@dataclass(frozen=True)
class SplitRule:
    """How posters are split; a bundle keeps it, so that `genretag evaluate` finds the same test posters again."""

    seed: int = 0
    validation_share: float = 0.1
    test_share: float = 0.1
    identical_together: bool = True  # posters with the same picture go where the smallest of their ids belongs


class Splits(NamedTuple):
    """The three parts of a labelled set; no poster is in two of them."""

    train: LabelledSet
    validation: LabelledSet
    test: LabelledSet


def split_of(poster_id: str, *, seed: int = 0, validation: float = 0.1, test: float = 0.1) -> Part:
    """The part that a poster belongs to: the same on every machine, in any order, among any others.

    `validation` and `test` are the expected fractions of posters; raises ValueError if they leave nothing to
    train on. Another `validation` moves no poster into or out of the test part.
    """
    if not (validation >= 0 and test >= 0 and validation + test < 1):
        raise ValueError(f"validation={validation} and test={test} must be 0 or more, and under 1 together")
    key = f"{seed}:{poster_id}".encode(errors="surrogatepass")
    place = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") / 2**64  # uniform in [0, 1]
    if place < test:
        return "test"
    return "validation" if place < test + validation else "train"


def split(labelled: LabelledSet, rule: SplitRule, leaders: Mapping[str, str] = NO_LEADERS) -> Splits:
    """The labelled set in three parts by `split_of`; each keeps the order of the posters.

    `leaders` names for a poster the one that it stays with, where its picture is the same as another's.
    """
    shares = {"validation": rule.validation_share, "test": rule.test_share}
    parts = [split_of(leaders.get(poster, poster), seed=rule.seed, **shares) for poster in labelled.ids]
    train, validating, testing = (
        labelled.where([part == name for part in parts]) for name in ("train", "validation", "test")
    )
    return Splits(train, validating, testing)
