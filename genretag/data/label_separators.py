"""Separators: the mark between the labels of one cell, given by the user or found in the cells.

`find_separator` refuses cells that can be read in two ways. If the parts between marks are labels of other cells too,
that is evidence that the mark separates labels. `|`, `;` and `,` are hardly ever inside a label, so they separate
unless there is evidence against it. Spaces, slashes, tabs and line breaks do occur inside labels (Film Noir,
Sci-Fi/Fantasy), so they separate only if the evidence is strong.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from genretag.data.labels import LabelError
from genretag.errors import quoted

STRONG = ("|", ";", ",")
WEAK = ("\n", "\t", "/", " ")
NAMES = {"space": " ", "tab": "\t", "newline": "\n", "none": ""}
SURE, POSSIBLE = 0.9, 0.5  # shares of parts that are labels of other cells
FEW_CELLS = 10  # distinct cells; fewer give no evidence against a strong mark


@dataclass(frozen=True)
class Separator:
    """A mark between labels. An empty mark never separates, and a space stands for any white space."""

    mark: str
    why: str = "given"  # how the mark was found, in words

    def split(self, cell: str) -> list[str]:
        """Return the texts between the marks of a cell, without outer spaces. Empty texts are left out."""
        parts = [cell] if not self.mark else cell.split() if self.mark == " " else cell.split(self.mark)
        return [part.strip() for part in parts if part.strip()]

    def __str__(self) -> str:
        return f"{_named(self.mark)} ({self.why})"


def given_separator(name: str) -> Separator:
    """Return the separator that a user names by a word of `NAMES`, such as `tab`, or by the mark itself."""
    return Separator(NAMES.get(name.lower(), name))


def find_separator(cells: Iterable[str], column: str, *, one_label_a_row: bool) -> Separator:
    """Return the separator of the labels in a column, found in its cells that are neither lists nor blank.

    `column` is the column's name, for messages. If each cell is one label, the separator has an empty mark. That is
    so if `one_label_a_row`, which means that the column's name promises one label in each cell.
    Raises LabelError if the cells can be read in two ways.
    """
    counts = Counter(cell.strip() for cell in cells)
    if not counts:
        return Separator("", "cells are lists in brackets or blank")
    if one_label_a_row:
        if likely := [mark for mark in STRONG if _share(mark, counts) > POSSIBLE]:
            raise _ambiguous(column, f"its cells look like lists with {quoted(likely[0])}, its name says one label")
        return Separator("", "one label a row, by the name of the column")
    held = {mark: sum(count for cell, count in counts.items() if mark in cell) for mark in STRONG}
    best = max(STRONG, key=held.__getitem__)
    if not held[best]:
        return _weak_separator(counts, column)
    _require_one_reading(best, counts, column)
    return Separator(best, "most cells hold it" if 2 * held[best] > counts.total() else f"{held[best]:,} cells hold it")


def _weak_separator(counts: Counter[str], column: str) -> Separator:
    """Return the separator of cells (with their counts) that hold no strong mark. Raises LabelError in doubt."""
    for mark in WEAK:
        share = _share(mark, counts)
        if share >= SURE and _looks_like_lists(mark, counts):
            return Separator(mark, "what stands between is a label in other cells too")
        if share > POSSIBLE:
            example = max((cell for cell in counts if mark in cell), key=counts.__getitem__)
            raise _ambiguous(column, f"{quoted(example)} may be one label or several")
    return Separator("", "one label in each cell")


def _looks_like_lists(mark: str, counts: Iterable[str]) -> bool:
    """Return whether the parts between marks make the distinct cells look like lists.

    Then the cells with several parts outnumber the distinct parts, and the cells have different numbers of parts.
    """
    split = Separator(mark).split
    several = [parts for cell in counts if len(parts := set(split(cell))) > 1]
    lengths = {len(set(split(cell))) for cell in counts}
    return len(set().union(*several)) < len(several) and len(lengths) > 1


def _require_one_reading(best: str, counts: Counter[str], column: str) -> None:
    """Raise LabelError if another mark than `best` may separate the labels too.

    `counts` are the cells with their counts. The function looks for other marks in the pieces between the best marks.
    If the evidence for `best` is weak, it also looks for spaces and slashes in whole cells.
    """
    pieces = Counter(piece for cell in counts for piece in Separator(best).split(cell))
    for rival in STRONG:
        if rival != best and _share(rival, pieces, least=1) > POSSIBLE:
            raise _ambiguous(column, f"both {quoted(best)} and {quoted(rival)} stand between labels")
    doubtful = len(counts) >= FEW_CELLS and _share(best, counts) <= POSSIBLE
    for weak in WEAK:
        pieces_are_lists = _share(weak, pieces) >= SURE and _looks_like_lists(weak, pieces)
        if pieces_are_lists or (doubtful and _share(weak, counts) > POSSIBLE):
            raise _ambiguous(column, f"{quoted(best)} or {_named(weak)} may stand between labels")


def _share(mark: str, counts: Mapping[str, int], least: int = 2) -> float:
    """Return the share (0 to 1) of the parts between marks that other cells have too.

    The share is the mean over the distinct cells with several parts. If fewer than `least` cells have several parts,
    return 0.
    """
    split = Separator(mark).split
    parts = {cell: set(split(cell)) for cell in counts}
    cells_with = Counter(part for found in parts.values() for part in found)
    several = [found for found in parts.values() if len(found) > 1]
    if len(several) < least:
        return 0.0
    return sum(sum(cells_with[part] > 1 for part in found) / len(found) for found in several) / len(several)


def _named(mark: str) -> str:
    """Return the name of a mark in `NAMES`, or the mark in quotes if it has no name."""
    return next((name for name, value in NAMES.items() if value == mark), quoted(mark))


def _ambiguous(column: str, why: str) -> LabelError:
    """Return the error to raise if the cells of a column can be read in two ways. `why` says how."""
    words = ", ".join(NAMES)
    return LabelError(
        f"column {quoted(column)}: {why}; say what separates labels by --label-separator ({words}, or a text)"
    )
