"""Posters and their labels: a multi-hot matrix, ids, and the warehouse columns that labels become."""

import re
import unicodedata
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from genretag.errors import UsageError, quoted

# Endings of image files, whether they can be decoded here or not: an id in a table is the name without its ending.
IMAGE_EXTENSIONS = frozenset((
    "jpg", "jpeg", "jpe", "jif", "jfif", "jfi", "pjpeg", "pjp", "mpo", "png", "apng", "webp", "gif", "bmp", "dib",
    "tif", "tiff", "avif", "avifs", "heic", "heif", "jxl", "jp2", "j2k", "jpf", "jpx", "svg", "ico", "tga", "psd",
))  # fmt: skip
MAX_LABEL_LENGTH = 200  # characters; a label becomes the name of a warehouse column


class LabelError(UsageError, ValueError):
    """Labels that cannot be used; the message is one line that says where, what is wrong and what to do."""


@dataclass(frozen=True, eq=False)
class LabelledSet:
    """Posters and their labels: `multi_hot` is uint8 (posters, labels)."""

    ids: tuple[str, ...]
    labels: tuple[str, ...]
    multi_hot: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.ids)

    def where(self, mask: npt.ArrayLike) -> "LabelledSet":
        """The posters for which `mask`, bool (posters,), is true; the labels stay."""
        return self.at(np.arange(len(self))[np.asarray(mask, dtype=bool)])

    def at(self, rows: npt.NDArray[np.int64]) -> "LabelledSet":
        """The posters in these rows, int (n,), in this order and as often as they come; the labels stay."""
        return LabelledSet(tuple(self.ids[row] for row in rows), self.labels, self.multi_hot[rows])

    def positives(self) -> npt.NDArray[np.int64]:
        """How many posters have each label: int64 (labels,)."""
        return np.asarray(self.multi_hot.sum(axis=0, dtype=np.int64))


def keep_existing(labelled: LabelledSet, existing: Container[str]) -> tuple[LabelledSet, list[str]]:
    """The posters whose id is in `existing` (those with an image), and the ids of the others."""
    found = [poster in existing for poster in labelled.ids]
    return labelled.where(found), [poster for poster, there in zip(labelled.ids, found, strict=True) if not there]


def with_labels(labelled: LabelledSet, labels: Sequence[str]) -> LabelledSet:
    """The same posters with just these labels, in this order; one that `labelled` does not have, none of them has."""
    multi_hot = np.zeros((len(labelled), len(labels)), dtype=np.uint8)
    for column, label in enumerate(labels):
        if label in labelled.labels:
            multi_hot[:, column] = labelled.multi_hot[:, labelled.labels.index(label)]
    return LabelledSet(labelled.ids, tuple(labels), multi_hot)


def poster_id(name: str) -> str:
    """Return the id in a cell or file name: its text ('007'), or the stem of an image ('a/007.jpg').

    Ids are in Unicode's composed form (NFC): macOS and some archives store the names of files decomposed.
    """
    name = composed(name.strip())
    path, _, extension = name.rpartition(".")
    stem = re.split(r"[/\\]", path)[-1] if extension.lower() in IMAGE_EXTENSIONS else ""
    return stem or name


def composed(name: str) -> str:
    """Return a name in Unicode's composed form (NFC), in which an accent and its letter are one character."""
    return unicodedata.normalize("NFC", name)


def column_name(label: str) -> str:
    """A label in a warehouse column: lower case, no accents, `_` for the rest ('Sci-Fi' is sci_fi)."""
    if len(label) > MAX_LABEL_LENGTH:
        raise LabelError(f"label {quoted(label)} has over {MAX_LABEL_LENGTH} characters: check the --label-separator")
    letters = unicodedata.normalize("NFKD", label.casefold())
    name = re.sub("[^a-z0-9]", "_", "".join(letter for letter in letters if not unicodedata.combining(letter)))
    if not name.strip("_"):
        raise LabelError(f"label {quoted(label)} has no letter a-z or digit to name a column after: rename it")
    return name


def column_names(labels: Iterable[str]) -> tuple[str, ...]:
    """The column of each label; raises LabelError where two labels would share one."""
    owners: dict[str, str] = {}
    for label in labels:
        name = column_name(label)
        if name in owners:
            both = f"{quoted(owners[name])} and {quoted(label)}"
            raise LabelError(f"labels {both} would both be the column {name}: rename one of them")
        owners[name] = label
    return tuple(owners)
