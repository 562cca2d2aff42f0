"""Ids of a CSV and images of a folder, bucket or manifest brought together: each poster has one image, or none.

Ids are compared in Unicode's composed form. A poster with several different images is left out, because nothing says
which of them its labels describe.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from genretag.errors import UsageError, one_line, quoted
from genretag.label_csv.report import LEAST, MOST_WRONG
from genretag.label_csv.words import few
from genretag.labels import IMAGE_EXTENSIONS, LabelledSet, composed, keep_existing
from genretag.storage import Storage
from genretag.training.identical import StoredImage, all_identical

FEW_MATCHES = 0.1  # share of the ids, and of the images, below which the match is taken for chance


@dataclass(frozen=True)
class Matched:
    """The posters that have one image, those images by id, and what did not match."""

    labelled: LabelledSet
    images: Mapping[str, StoredImage]
    missing: list[str]  # ids without an image
    ambiguous: Mapping[str, list[StoredImage]]  # ids with several different images
    without_labels: int  # images that the CSV does not name

    def lines(self) -> list[str]:
        """What matched and what did not, for the log."""
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
        first, images = next(iter(self.ambiguous.items()))
        return f"{quoted(first)}: {', '.join(one_line(image.uri, 200) for image in images[:3])}"

    def require_posters(self, csv: str, *, allow_left_out: bool) -> None:
        """Raise `UsageError` if no poster is left, or if most ids do not match or many match several images."""
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
    """The objects of each id in the order of their uris, each uri once. Files that are no images give way to images."""
    found: defaultdict[str, dict[str, StoredImage]] = defaultdict(dict)
    for id, image in images:
        found[composed(id)][image.uri] = image
    return {id: _images_first([by_uri[uri] for uri in sorted(by_uri)]) for id, by_uri in found.items()}


def _images_first(objects: list[StoredImage]) -> list[StoredImage]:
    if len(objects) == 1:
        return objects
    images = [one for one in objects if one.uri.rpartition(".")[2].lower() in IMAGE_EXTENSIONS]
    return images or objects


def match_images(labelled: LabelledSet, stored: Mapping[str, list[StoredImage]], storage: Storage) -> Matched:
    """The labelled posters that have one image, or several that are the same byte for byte (then the first)."""
    there, missing = keep_existing(labelled, stored)
    several = {id: stored[id] for id in there.ids if len(stored[id]) > 1}
    ambiguous = {id: images for id, images in several.items() if not all_identical(images, storage)}
    known = there.where([id not in ambiguous for id in there.ids])
    images = {id: stored[id][0] for id in known.ids}
    return Matched(known, images, missing, ambiguous, len(stored) - len(there))
