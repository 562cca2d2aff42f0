"""Separators, such as `|`, between the labels of one cell. The user names the separator, or the cells show it.

A cell such as `Drama, War` is split into parts at a possible separator. If other cells have the same parts, that is
evidence for the separator. `|`, `;` and `,` are hardly ever inside a label, so they separate unless there is evidence
against them. Spaces, slashes, tabs and line breaks do occur inside labels (Film Noir, Sci-Fi/Fantasy), so they separate
only if the evidence is strong.

If cells can be read in two ways, `find_separator` raises an error.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from genretag.data.labels import LabelError
from genretag.errors import quoted

STRONG = ("|", ";", ",")
WEAK = ("\n", "\t", "/", " ")
NAMES = {"space": " ", "tab": "\t", "newline": "\n", "none": ""}
SURE, POSSIBLE = 0.9, 0.5  # values of `_share`: strong evidence for a separator, and enough to be in doubt
FEW_CELLS = 10  # fewer distinct cells are no evidence against a separator in `STRONG`


@dataclass(frozen=True)
class Separator:
    """A separator of labels. `mark` is the text between two labels, such as `|`.

    If `mark` is empty, each cell is one label. If `mark` is a space, any white space separates.
    """

    mark: str
    why: str = "given"  # how the separator was found, in words, for the report

    def split(self, cell: str) -> list[str]:
        """Split a cell at the separator. Return the parts without outer spaces; empty parts are left out."""
        parts = [cell] if not self.mark else cell.split() if self.mark == " " else cell.split(self.mark)
        return [part.strip() for part in parts if part.strip()]

    def __str__(self) -> str:
        return f"{_named(self.mark)} ({self.why})"


def given_separator(name: str) -> Separator:
    """Return the separator that the user names, by a word of `NAMES` such as `tab`, or by the separator itself."""
    return Separator(NAMES.get(name.lower(), name))


def find_separator(cells: Iterable[str], column: str, *, one_label_a_row: bool) -> Separator:
    """Detect the separator of the labels in a text column.

    `cells` are the column's cells, without blank cells and bracketed lists. `column` is the column's name, for
    messages. `one_label_a_row` is true if this name, such as `class`, promises one label in each cell.

    If each cell is one label, or if there are no cells, the result has an empty `mark`. If `one_label_a_row` is true,
    the `mark` is always empty. Raises LabelError if the cells can be read in two ways.
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
    """Return the separator of cells without `|`, `;` and `,`. Possible are a line break, a tab, a slash and a space.

    If each cell is one label, the separator's `mark` is empty. `counts` maps each cell to its number of occurrences.
    Raises LabelError if there is evidence for a separator, but not enough.
    """
    for mark in WEAK:
        share = _share(mark, counts)
        if share >= SURE and _looks_like_lists(mark, counts):
            return Separator(mark, "the parts between are labels in other cells too")
        if share > POSSIBLE:
            split = Separator(mark).split
            example = max((cell for cell in counts if len(split(cell)) > 1), key=counts.__getitem__)
            raise _ambiguous(column, f"{quoted(example)} may be one label or several")
    return Separator("", "one label in each cell")


def _looks_like_lists(mark: str, counts: Iterable[str]) -> bool:
    """Return whether the cells look like lists of labels if they are split at `mark`. `counts` has the distinct cells.

    They look like lists if two conditions hold. There are more cells with several parts than distinct parts in these
    cells. And the cells do not all have the same number of parts.
    """
    split = Separator(mark).split
    several = [parts for cell in counts if len(parts := set(split(cell))) > 1]
    lengths = {len(set(split(cell))) for cell in counts}
    return len(set().union(*several)) < len(several) and len(lengths) > 1


def _require_one_reading(best: str, counts: Counter[str], column: str) -> None:
    """Raise LabelError if another separator than `best` may separate the labels too.

    `counts` maps each cell to its number of occurrences. The function looks for other separators inside the parts that
    `best` separates. If the evidence for `best` is weak, the function also looks for line breaks, tabs, slashes and
    spaces that separate labels in the whole cells.
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
    """Return the evidence, from 0 to 1, that `mark` separates labels. `counts` has the distinct cells.

    Each cell is split at `mark`. The evidence in a cell is the share of its parts that occur in another cell too. The
    result is the mean share over the cells with several parts. If fewer than `least` cells have several parts,
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
    """Return the name of a separator in `NAMES`, such as `space`, or the separator in quotes if it has no name."""
    return next((name for name, value in NAMES.items() if value == mark), quoted(mark))


def _ambiguous(column: str, why: str) -> LabelError:
    """Return the LabelError for a column whose cells can be read in two ways. `why` says which two ways."""
    words = ", ".join(NAMES)
    return LabelError(f"column {quoted(column)}: {why}; name the separator with --label-separator ({words}, or a text)")
