"""Labelled posters: ids of a CSV matched with the images of a folder, bucket or manifest, then divided into splits.

An image belongs to the poster whose id is the image's file name without extension. Ids are compared in Unicode's
composed form (NFC). If a poster has several different images, it is left out, because its labels may describe any of
them.
"""

import hashlib
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from genretag.data.label_csv import read_labels
from genretag.data.label_report import LEAST, MOST_WRONG, few
from genretag.data.labels import IMAGE_EXTENSIONS, LabelledSet, composed, keep_existing
from genretag.data.splits import NO_LEADERS, SplitRule, Splits, StoredImage, all_identical, leaders, split
from genretag.errors import UsageError, one_line, quoted
from genretag.scoring.inventory import read_inventory
from genretag.settings import LabelSettings
from genretag.storage import Storage, StorageError, resolve

logger = logging.getLogger(__name__)


FEW_MATCHES = 0.1  # least share of the ids, or of the images if these are fewer, that must match


@dataclass(frozen=True)
class Matched:
    """Result of matching the ids of a CSV with images: posters with one image, and ids and images without a match."""

    labelled: LabelledSet
    images: Mapping[str, StoredImage]
    missing: list[str]  # ids without an image
    ambiguous: Mapping[str, list[StoredImage]]  # ids with several different images
    without_labels: int  # ids of images that are not in the CSV

    def lines(self) -> list[str]:
        """Return log lines: the number of posters with an image, and for each reason, the posters that are left out."""
        posters = len(self.labelled) + len(self.missing) + len(self.ambiguous)
        lines = [f"images: found for {len(self.labelled):,} of {posters:,} posters"]
        if self.missing:
            lines.append(f"posters left out, no image: {len(self.missing):,} ({few(self.missing)})")
        if self.ambiguous:
            lines.append(f"posters left out, several images: {len(self.ambiguous):,} ({self._example()})")
        if self.without_labels:
            lines.append(f"images without labels: {self.without_labels:,}")
        return [f"  {one_line(line, 1_000)}" for line in lines]

    def _example(self) -> str:
        """Return the id of one poster with several images, and up to three of these images, as text for a message."""
        first, images = next(iter(self.ambiguous.items()))
        return f"{quoted(first)}: {', '.join(one_line(image.uri, 200) for image in images[:3])}"

    def require_posters(self, csv: str, *, allow_left_out: bool) -> None:
        """Raise `UsageError` if no poster could be matched with one image, or if too many posters are left out.

        There are two such cases. First, over 10 % of the posters with images, and at least 3, have several different
        images. Second, under 10 % of the ids have an image (under 10 % of the images have an id, if there are fewer
        images than ids). If `allow_left_out` is true, the two cases raise no error. `csv` is the location of the file,
        for messages.
        """
        found, ambiguous, missing = len(self.labelled), len(self.ambiguous), len(self.missing)
        many = ambiguous >= LEAST and ambiguous > MOST_WRONG * (found + ambiguous)
        if ambiguous and (not found or (many and not allow_left_out)):
            raise UsageError(
                f"{ambiguous:,} of {found + ambiguous:,} posters have several images, such as {self._example()}: name "
                "the folder with the right ones, or a manifest with one of each; --allow-left-out leaves such posters "
                "out"
            )
        if not found:
            raise UsageError(
                f"no id in {csv} is the name of an image, such as {quoted(self.missing[0])}: an id is a file's name "
                "less .jpg; if the ids are in another column, name it with --id-column"
            )
        if found < FEW_MATCHES * min(found + missing, found + self.without_labels) and not allow_left_out:
            raise UsageError(
                f"only {found:,} of the {found + missing:,} ids in {csv} are names of the "
                f"{found + self.without_labels:,} images: check that they belong together, name the --id-column, or "
                "pass --allow-left-out to go on with these few"
            )


def images_by_id(images: Iterable[tuple[str, StoredImage]]) -> dict[str, list[StoredImage]]:
    """Group objects by their id in composed form (NFC). The objects of an id are sorted by URI, each URI once.

    `images` are pairs of an id and an object. If some objects of an id have the extension of an image format, the
    other objects of this id are dropped.
    """
    found: defaultdict[str, dict[str, StoredImage]] = defaultdict(dict)
    for id, image in images:
        found[composed(id)][image.uri] = image
    return {id: _images_first([by_uri[uri] for uri in sorted(by_uri)]) for id, by_uri in found.items()}


def _images_first(objects: list[StoredImage]) -> list[StoredImage]:
    """Return the objects whose file names end like an image; if there is none, return all objects."""
    if len(objects) == 1:
        return objects
    images = [one for one in objects if one.uri.rpartition(".")[2].lower() in IMAGE_EXTENSIONS]
    return images or objects


def match_images(labelled: LabelledSet, stored: Mapping[str, list[StoredImage]], storage: Storage) -> Matched:
    """Match labelled posters with their images. `stored` maps each id to its objects, as `images_by_id` returns them.

    A poster matches if it has one image, or several that are identical byte for byte. Of identical images, the first is
    used.
    """
    there, missing = keep_existing(labelled, stored)
    several = {id: stored[id] for id in there.ids if len(stored[id]) > 1}
    ambiguous = {id: images for id, images in several.items() if not all_identical(images, storage)}
    known = there.where([id not in ambiguous for id in there.ids])
    images = {id: stored[id][0] for id in known.ids}
    return Matched(known, images, missing, ambiguous, len(stored) - len(there))


@dataclass(frozen=True)
class LabelledPosters:
    """Labelled posters of one split, with the URI and the etag of each poster's image.

    `targets`, float32 (posters, labels), are values from 0 to 1 that a network learns instead of the labels, such as
    the probabilities of another network. If None, the network learns the labels.
    """

    labelled: LabelledSet
    uris: list[str]
    etags: list[str]
    targets: npt.NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.uris)

    def where(self, mask: npt.ArrayLike) -> "LabelledPosters":
        """Return the posters for which `mask`, bool (posters,), is true."""
        return self.at(np.arange(len(self))[np.asarray(mask, dtype=bool)])

    def at(self, rows: npt.NDArray[np.int64]) -> "LabelledPosters":
        """Return the posters in `rows`, int (n,), in the order of `rows`. A row number may occur several times."""
        uris, etags = ([of[row] for row in rows] for of in (self.uris, self.etags))
        targets = None if self.targets is None else self.targets[rows]
        return LabelledPosters(self.labelled.at(rows), uris, etags, targets)

    @property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits of a hash of ids and labels. The order of the posters does not matter."""
        rows = sorted(
            f"{poster}\t{row.tobytes().hex()}"
            for poster, row in zip(self.labelled.ids, self.labelled.multi_hot, strict=True)
        )
        text = "\n".join(["\t".join(self.labelled.labels), *rows])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class FoundPosters:
    """The labelled posters that have an image, and their images by poster id."""

    labelled: LabelledSet
    images: Mapping[str, StoredImage]

    def split(self, rule: SplitRule, storage: Storage) -> Splits[LabelledPosters]:
        """Split the posters by `rule` into three parts: training, validation and test. A part may be empty.

        If `rule.identical_together` is true, posters with byte-identical images are in the same part. Images may be
        read from the store to compare them.
        """
        together = leaders(self._images_of_labelled(), storage) if rule.identical_together else NO_LEADERS
        parts = split(self.labelled, rule, together)
        return Splits(self.posters(parts.train), self.posters(parts.validation), self.posters(parts.test))

    def posters(self, labelled: LabelledSet) -> LabelledPosters:
        """Return `labelled` with the URI and the etag of each poster's image.

        Raises `KeyError` if a poster is not in `self.images`.
        """
        images = [self.images[poster] for poster in labelled.ids]
        return LabelledPosters(labelled, [image.uri for image in images], [image.etag for image in images])

    def _images_of_labelled(self) -> dict[str, StoredImage]:
        """Return the images of the labelled posters, by id."""
        return {poster: self.images[poster] for poster in self.labelled.ids}


def known_labels(found: FoundPosters, labels: Sequence[str]) -> set[str]:
    """Return those of a bundle's `labels` that the CSV has. Raises `UsageError` if the CSV has none of them."""
    known = set(labels) & set(found.labelled.labels)
    if not known:
        raise UsageError(
            f"the CSV has none of the bundle's labels ({one_line(', '.join(labels), 100)}): its labels are "
            f"{one_line(', '.join(found.labelled.labels), 100)}"
        )
    return known


def read_label_file(labels: str, storage: Storage) -> bytes:
    """Return the bytes of the CSV at the location `labels`. Raises `UsageError` if it cannot be read."""
    try:
        return bytes(storage.get(resolve(labels)).data)
    except StorageError as error:
        raise UsageError(f"cannot read the labels: {error}") from error


def find_posters(
    content: bytes,
    labels: str,
    images: str,
    storage: Storage,
    settings: LabelSettings | None = None,
    *,
    min_positives: int,
) -> FoundPosters:
    """Read the labels of a CSV, find an image for each poster, and return the posters that have an image.

    The log says how the CSV was read and which posters are left out. `content` is the CSV's bytes, and `labels` is its
    location, for messages. `images` is a location as for `take_inventory`. If `settings` is None, the defaults apply.
    Labels with fewer than `min_positives` posters are left out. Raises `UsageError` if the CSV or the images cannot be
    used, or if too many posters are left out (`Matched.require_posters`).
    """
    source, settings = resolve(labels), settings or LabelSettings()
    labelled, report = read_labels(content, source, settings, min_positives=min_positives)
    for line in report.lines():
        logger.info(line)
    inventory = read_inventory(images, storage)
    columns = (inventory[name].to_pylist() for name in ("poster_id", "uri", "etag", "size"))
    stored = images_by_id((id, StoredImage(*image)) for id, *image in zip(*columns, strict=True))
    matched = match_images(labelled, stored, storage)
    for line in matched.lines():
        logger.info(line)
    matched.require_posters(source, allow_left_out=settings.allow_left_out)
    return FoundPosters(matched.labelled, matched.images)
