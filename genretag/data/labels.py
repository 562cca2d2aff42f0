"""Posters and their labels: the multi-hot matrix, poster ids, and warehouse column names for labels."""

import re
import unicodedata
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from genretag.errors import UsageError, quoted

# A file with one of these extensions is an image, even if genretag cannot decode the format. The id of a poster is
# the file name without the extension.
IMAGE_EXTENSIONS = frozenset((
    "jpg", "jpeg", "jpe", "jif", "jfif", "jfi", "pjpeg", "pjp", "mpo", "png", "apng", "webp", "gif", "bmp", "dib",
    "tif", "tiff", "avif", "avifs", "heic", "heif", "jxl", "jp2", "j2k", "jpf", "jpx", "svg", "ico", "tga", "psd",
))  # fmt: skip
MAX_LABEL_LENGTH = 200  # characters; a label becomes a column name in a warehouse


class LabelError(UsageError, ValueError):
    """Error for labels that cannot be used.

    The message is one line. It says where the problem is, what is wrong and what to do.
    """


@dataclass(frozen=True, eq=False)
class LabelledSet:
    """Posters and their labels. `multi_hot` is uint8 (posters, labels): 1 if the poster has the label, else 0.

    `ids` and `labels` name the rows and the columns of `multi_hot`.
    """

    ids: tuple[str, ...]
    labels: tuple[str, ...]
    multi_hot: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.ids)

    def where(self, mask: npt.ArrayLike) -> "LabelledSet":
        """Return the posters for which `mask`, bool (posters,), is true, with all labels."""
        return self.at(np.arange(len(self))[np.asarray(mask, dtype=bool)])

    def at(self, rows: npt.NDArray[np.int64]) -> "LabelledSet":
        """Return the posters at the indices `rows`, int (n,), in the order of `rows`, with all labels.

        If an index is repeated, its poster is repeated too.
        """
        return LabelledSet(tuple(self.ids[row] for row in rows), self.labels, self.multi_hot[rows])

    def positives(self) -> npt.NDArray[np.int64]:
        """Return, for each label, the number of posters that have the label, int64 (labels,)."""
        return np.asarray(self.multi_hot.sum(axis=0, dtype=np.int64))


def keep_existing(labelled: LabelledSet, existing: Container[str]) -> tuple[LabelledSet, list[str]]:
    """Return the posters whose id is in `existing` (the ids with an image), and the ids of all other posters."""
    found = [poster in existing for poster in labelled.ids]
    return labelled.where(found), [poster for poster, there in zip(labelled.ids, found, strict=True) if not there]


def with_labels(labelled: LabelledSet, labels: Sequence[str]) -> LabelledSet:
    """Return the same posters with exactly the labels `labels`, in the order of `labels`.

    Other labels of `labelled` are dropped. A label that `labelled` lacks is 0 for all posters.
    """
    multi_hot = np.zeros((len(labelled), len(labels)), dtype=np.uint8)
    for column, label in enumerate(labels):
        if label in labelled.labels:
            multi_hot[:, column] = labelled.multi_hot[:, labelled.labels.index(label)]
    return LabelledSet(labelled.ids, tuple(labels), multi_hot)


def poster_id(name: str) -> str:
    """Return the poster id for a file name, or for a cell of a CSV's column of ids.

    For an image name such as 'a/007.jpg', the id is the stem, '007'. Any other text is the id itself, without outer
    spaces. Ids are in Unicode's composed form (NFC), because macOS and some archives store file names decomposed.
    """
    name = composed(name.strip())
    path, _, extension = name.rpartition(".")
    stem = re.split(r"[/\\]", path)[-1] if extension.lower() in IMAGE_EXTENSIONS else ""
    return stem or name


def composed(name: str) -> str:
    """Return a name in Unicode's composed form (NFC), in which an accent and its letter are one character."""
    return unicodedata.normalize("NFC", name)


def column_name(label: str) -> str:
    """Return the warehouse column of a label: lower case, no accents, `_` for all characters but a-z and 0-9.

    For example, 'Sci-Fi' becomes sci_fi. Raises LabelError if the label has over 200 characters, or has no letter a-z
    and no digit.
    """
    if len(label) > MAX_LABEL_LENGTH:
        raise LabelError(f"label {quoted(label)} has over {MAX_LABEL_LENGTH} characters: check the --label-separator")
    letters = unicodedata.normalize("NFKD", label.casefold())
    name = re.sub("[^a-z0-9]", "_", "".join(letter for letter in letters if not unicodedata.combining(letter)))
    if not name.strip("_"):
        raise LabelError(f"label {quoted(label)} has no letter a-z or digit to name a column after: rename it")
    return name


def column_names(labels: Iterable[str]) -> tuple[str, ...]:
    """Return the warehouse column of each label, in the order of the labels.

    Raises LabelError if two labels would have the same column, or if `column_name` raises it for a label.
    """
    owners: dict[str, str] = {}
    for label in labels:
        name = column_name(label)
        if name in owners:
            both = f"{quoted(owners[name])} and {quoted(label)}"
            raise LabelError(f"labels {both} would both be the column {name}: rename one of them")
        owners[name] = label
    return tuple(owners)
