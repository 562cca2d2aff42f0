"""Split of posters into training, validation and test parts, by a hash of the id.

With the same seed and shares, a poster stays in its part when other posters are added or removed. The exceptions are
ids with byte-identical pictures, which `leaders` finds. All ids of one picture go to the part of the smallest of these
ids. Otherwise a network could be tested on a picture that it was trained on, under another id.
"""

import hashlib
import logging
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, Literal, NamedTuple, TypeVar

from genretag.data.labels import LabelledSet
from genretag.images.decoding import ImageLimits
from genretag.storage import GS, S3, Storage, StorageError

logger = logging.getLogger(__name__)

Part = Literal["train", "validation", "test"]
NO_LEADERS: Mapping[str, str] = {}


@dataclass(frozen=True)
class SplitRule:
    """The rule that assigns posters to training, validation and test.

    A bundle stores the rule, so that `genretag evaluate` finds the same test posters again.
    """

    seed: int = 0
    validation_share: float = 0.1  # expected share of the posters, 0 to 1
    test_share: float = 0.1  # expected share of the posters, 0 to 1
    identical_together: bool = True  # all ids of one picture go to the part of the smallest id


Set = TypeVar("Set")


@dataclass(frozen=True)
class Splits(Generic[Set]):
    """The training, validation and test part of a labelled set. No poster is in two parts.

    `Set` is the type of all three parts, such as `LabelledSet`.
    """

    train: Set
    validation: Set
    test: Set

    def parts(self) -> dict[str, Set]:
        """Return the parts by name: train, validation and test, in this order."""
        return {"train": self.train, "validation": self.validation, "test": self.test}


def split_of(poster_id: str, *, seed: int = 0, validation: float = 0.1, test: float = 0.1) -> Part:
    """Return the part (train, validation or test) of the poster with this id.

    The result depends only on the arguments, not on the machine or on other posters. `validation` and `test` are the
    expected fractions of posters. A change of `validation` moves no poster into or out of the test part. Raises
    ValueError if a fraction is negative, or if the sum of both is 1 or more.
    """
    if not (validation >= 0 and test >= 0 and validation + test < 1):
        raise ValueError(f"validation={validation} and test={test} must be 0 or more, and under 1 together")
    key = f"{seed}:{poster_id}".encode(errors="surrogatepass")
    place = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") / 2**64  # uniform in [0, 1]
    if place < test:
        return "test"
    return "validation" if place < test + validation else "train"


def split(labelled: LabelledSet, rule: SplitRule, leaders: Mapping[str, str] = NO_LEADERS) -> Splits[LabelledSet]:
    """Split a labelled set into three parts by `split_of`. Each part keeps the order of the posters and has all labels.

    If several posters have the same picture, `leaders` maps their ids to the one id that decides the part of all of
    them. If a poster's id is not in `leaders`, its own id decides.
    """
    shares = {"validation": rule.validation_share, "test": rule.test_share}
    parts = [split_of(leaders.get(poster, poster), seed=rule.seed, **shares) for poster in labelled.ids]
    train, validating, testing = (
        labelled.where([part == name for part in parts]) for name in ("train", "validation", "test")
    )
    return Splits(train, validating, testing)


MD5_ETAG = re.compile(r"[0-9a-f]{32}")  # the etag of an S3 object that was uploaded in one piece
READS_AT_ONCE = 32


class StoredImage(NamedTuple):
    """The location of a poster's image, and the image's etag and size from a listing. An unknown size is None."""

    uri: str
    etag: str
    size_bytes: int | None


def leaders(images: Mapping[str, StoredImage], storage: Storage) -> dict[str, str]:
    """Find ids with byte-identical pictures. Return a mapping from each of these ids to the smallest id of its group.

    `images` maps each id to its image. An id whose picture no other id has is not in the result.

    An image is read only if necessary. If all sizes are known, an image with a unique size is not read. An S3 object is
    not read if its etag has the form of an MD5, which S3 uses for objects uploaded in one piece. With KMS encryption
    the etag has this form too but is no MD5, so identical pictures in such a bucket are not found.

    An image that cannot be read counts as different from all others, and scoring reports its error later. The number of
    groups is logged.
    """
    sizes = Counter(image.size_bytes for image in images.values())
    all_known = None not in sizes
    alike = {id: image for id, image in images.items() if not all_known or sizes[image.size_bytes] > 1}
    with ThreadPoolExecutor(READS_AT_ONCE, thread_name_prefix="identical") as threads:
        digests = threads.map(lambda image: content_md5(image, storage), alike.values())
        groups: defaultdict[str, list[str]] = defaultdict(list)
        for id, digest in zip(alike, digests, strict=True):
            if digest:
                groups[digest].append(id)
    same = [ids for ids in groups.values() if len(ids) > 1]
    logger.info(
        "identical pictures under several ids: %d groups, %d posters of %d; each group stays in one split",
        len(same),
        sum(map(len, same)),
        len(images),
    )
    return {id: min(ids) for ids in same for id in ids}


def all_identical(images: Sequence[StoredImage], storage: Storage) -> bool:
    """Return whether all images are the same picture, byte for byte.

    If the sizes differ, return False without reading an image. Return False also if there are no images, or if an image
    cannot be read.
    """
    if len({image.size_bytes for image in images}) > 1:
        return False
    digests = {content_md5(image, storage) for image in images}
    return len(digests) == 1 and None not in digests


def content_md5(image: StoredImage, storage: Storage) -> str | None:
    """Return the MD5 of an image's bytes as hex digits, or None if the image cannot be read or is too large.

    If the etag of an S3 object has 32 hex digits, return the etag without reading the object. Too large means more than
    the default `max_bytes` of `ImageLimits`.
    """
    if image.uri.startswith((S3, GS)) and MD5_ETAG.fullmatch(image.etag.strip('"')):
        return image.etag.strip('"')
    try:
        data = storage.get(image.uri, ImageLimits().max_bytes).data
    except StorageError:
        return None
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
