"""Labels and images brought together: which poster has which labels, where it lies, which split it is in."""

import hashlib
import logging
from dataclasses import dataclass

from genretag.errors import UsageError, one_line
from genretag.label_csv import read_labels
from genretag.labels import LabelledSet, keep_existing
from genretag.splits import split
from genretag.storage import Storage, StorageError, resolve
from genretag.tagging.inventory import read_inventory
from genretag.training.settings import TrainSettings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelledPosters:
    """Labelled posters of one split, where each one's image is, and which version of it."""

    labelled: LabelledSet
    uris: list[str]
    etags: list[str]

    def __len__(self) -> int:
        return len(self.uris)

    @property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits derived from the ids and their labels, in any order."""
        rows = sorted(
            f"{poster}\t{row.tobytes().hex()}"
            for poster, row in zip(self.labelled.ids, self.labelled.multi_hot, strict=True)
        )
        text = "\n".join(["\t".join(self.labelled.labels), *rows])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_labelled_posters(
    labels: str, images: str, settings: TrainSettings, storage: Storage
) -> dict[str, LabelledPosters]:
    """Reads the CSV, finds the images by their stems, and splits by a hash of the id.

    Returns `train`, `validation` and `test`. What is left out is logged with its count. Raises `UsageError`.
    """
    source = resolve(labels)
    try:
        content = bytes(storage.get(source).data)
    except StorageError as error:
        raise UsageError(f"cannot read the labels: {error}") from error
    labelled, report = read_labels(content, source, min_positives=settings.min_positives)
    for line in report.lines():
        logger.info(line)
    inventory = read_inventory(images, storage)
    columns = (inventory[name].to_pylist() for name in ("poster_id", "uri", "etag"))
    image_of = {poster: (uri, etag) for poster, uri, etag in zip(*columns, strict=True)}
    labelled, missing = keep_existing(labelled, image_of)
    if missing:
        logger.warning("%d labelled posters have no image, such as %s", len(missing), one_line(", ".join(missing[:3])))
    if not len(labelled):
        raise UsageError(f"no id in {source} is the name of an image in {images}: an id is a file's name less .jpg")
    return _split(labelled, image_of, settings)


def _split(
    labelled: LabelledSet, image_of: dict[str, tuple[str, str]], settings: TrainSettings
) -> dict[str, LabelledPosters]:
    parts = split(
        labelled, seed=settings.seed, validation=settings.validation_share, test=settings.test_share
    )._asdict()
    for name, part in parts.items():
        if not len(part):
            raise UsageError(f"{len(labelled)} posters leave none for the {name} split: label more of them")
    splits = {
        name: LabelledPosters(part, *([image_of[poster][column] for poster in part.ids] for column in (0, 1)))
        for name, part in parts.items()
    }
    if len(splits["train"]) < settings.batch_size:
        raise UsageError(
            f"{len(splits['train'])} training posters are less than one batch of {settings.batch_size}: "
            "label more of them or lower --batch-size"
        )
    return splits
