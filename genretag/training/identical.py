"""Posters that are the same picture under several ids: found by their bytes, so that they stay in one split.

A picture that a network has learnt from tells nothing when it is measured on, whatever its id.
"""

import hashlib
import logging
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from genretag.images import ImageLimits
from genretag.storage import S3, Storage, StorageError

MD5_ETAG = re.compile(r"[0-9a-f]{32}")  # of an S3 object that was put in one piece
READS_AT_ONCE = 32

logger = logging.getLogger(__name__)


class StoredImage(NamedTuple):
    """Where a poster's image is, and what the listing knows of it."""

    uri: str
    etag: str
    size_bytes: int | None


def leaders(images: Mapping[str, StoredImage], storage: Storage) -> dict[str, str]:
    """For each poster whose picture others have too, the smallest id among them all: by id, and only for those.

    Objects of a size that no other has are not read, and on S3 neither are those whose etag is the MD5 of their
    bytes. (Where a bucket encrypts with KMS the etag is none, so identical pictures are not found there.) What cannot
    be read is identical to nothing: scoring will say what is wrong with it. The log says how many groups there are.
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
    """Return whether some images are the same picture, byte for byte; images of different sizes are not read."""
    if len({image.size_bytes for image in images}) > 1:
        return False
    digests = {content_md5(image, storage) for image in images}
    return len(digests) == 1 and None not in digests


def content_md5(image: StoredImage, storage: Storage) -> str | None:
    """Return the MD5 of an object's bytes, from the listing where that knows it; None where it cannot be read."""
    if image.uri.startswith(S3) and MD5_ETAG.fullmatch(image.etag.strip('"')):
        return image.etag.strip('"')
    try:
        data = storage.get(image.uri, ImageLimits().max_bytes).data
    except StorageError:
        return None
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
