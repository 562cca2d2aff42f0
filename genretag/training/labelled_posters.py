"""Labels and images brought together: which poster has which labels, where it lies, which split it is in."""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from genretag.errors import UsageError
from genretag.label_csv.reading import read_labels
from genretag.label_csv.settings import LabelSettings
from genretag.labels import LabelledSet
from genretag.splits import NO_LEADERS, SplitRule, split
from genretag.storage import Storage, StorageError, resolve
from genretag.tagging.inventory import read_inventory
from genretag.training.identical import StoredImage, leaders
from genretag.training.matching import images_by_id, match_images
from genretag.training.settings import TrainSettings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelledPosters:
    """Labelled posters of one split, where each one's image is, and which version of it.

    `targets`, float32 (posters, L), is what a network is to learn of them where that is not their labels.
    """

    labelled: LabelledSet
    uris: list[str]
    etags: list[str]
    targets: npt.NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.uris)

    def where(self, mask: npt.ArrayLike) -> "LabelledPosters":
        """The posters for which `mask`, bool (posters,), is true."""
        return self.at(np.arange(len(self))[np.asarray(mask, dtype=bool)])

    def at(self, rows: npt.NDArray[np.int64]) -> "LabelledPosters":
        """The posters in these rows, int (n,), in this order and as often as they come."""
        uris, etags = ([of[row] for row in rows] for of in (self.uris, self.etags))
        targets = None if self.targets is None else self.targets[rows]
        return LabelledPosters(self.labelled.at(rows), uris, etags, targets)

    @property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits derived from the ids and their labels, in any order."""
        rows = sorted(
            f"{poster}\t{row.tobytes().hex()}"
            for poster, row in zip(self.labelled.ids, self.labelled.multi_hot, strict=True)
        )
        text = "\n".join(["\t".join(self.labelled.labels), *rows])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class FoundPosters:
    """Every labelled poster that has an image, and those images by id."""

    labelled: LabelledSet
    images: Mapping[str, StoredImage]

    def split(self, rule: SplitRule, storage: Storage) -> dict[str, LabelledPosters]:
        """`train`, `validation` and `test`, any of which may be empty; identical pictures together if so ruled."""
        together = leaders(self._images_of_labelled(), storage) if rule.identical_together else NO_LEADERS
        return {name: self.posters(part) for name, part in split(self.labelled, rule, together)._asdict().items()}

    def posters(self, labelled: LabelledSet) -> LabelledPosters:
        """Some of the posters with their images."""
        images = [self.images[poster] for poster in labelled.ids]
        return LabelledPosters(labelled, [image.uri for image in images], [image.etag for image in images])

    def _images_of_labelled(self) -> dict[str, StoredImage]:
        return {poster: self.images[poster] for poster in self.labelled.ids}


def split_rule(settings: TrainSettings) -> SplitRule:
    """The rule that a training run splits by."""
    return SplitRule(settings.seed, settings.validation_share, settings.test_share)


def read_labelled_posters(
    labels: str, images: str, settings: TrainSettings, storage: Storage
) -> dict[str, LabelledPosters]:
    """Reads the CSV, finds the images by their stems, and splits by a hash of the id, identical pictures together.

    Returns `train`, `validation` and `test`. What is left out is logged with its count. Raises `UsageError`.
    """
    content = read_label_file(labels, storage)
    found = find_posters(content, labels, images, storage, settings, min_positives=settings.min_positives)
    splits = found.split(split_rule(settings), storage)
    for name, part in splits.items():
        if not len(part):
            raise UsageError(f"{len(found.labelled)} posters leave none for the {name} split: label more of them")
    if len(splits["train"]) < settings.batch_size:
        raise UsageError(
            f"{len(splits['train'])} training posters are less than one batch of {settings.batch_size}: "
            "label more of them or lower --batch-size"
        )
    return splits


def read_label_file(labels: str, storage: Storage) -> bytes:
    """The CSV's bytes. Raises `UsageError`."""
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
    """The posters of a CSV (its bytes, and its name `labels`) whose image is found; the log says how it was read.

    Raises `UsageError`, also where many posters would be left out and the settings do not allow it.
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
