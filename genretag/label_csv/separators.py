"""What stands between the labels of a cell: found in the cells, or refused where they can be read in two ways.

A mark separates labels if the parts it makes are labels elsewhere too. `|`, `;` and `,` hardly ever stand inside a
label, so they separate unless something speaks against it. Spaces, slashes and line breaks do stand inside labels
(Film Noir, Sci-Fi/Fantasy), so they separate only if everything speaks for it.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from genretag.errors import quoted
from genretag.labels import LabelError

STRONG = ("|", ";", ",")
WEAK = ("\n", "\t", "/", " ")
NAMES = {"space": " ", "tab": "\t", "newline": "\n", "none": ""}
SURE, POSSIBLE = 0.9, 0.5  # shares of parts that are labels elsewhere
FEW_CELLS = 10  # distinct cells; among fewer, nothing can be said against a strong mark


@dataclass(frozen=True)
class Separator:
    """A mark between labels, and how it was found; the empty mark separates nothing, a space any white space."""

    mark: str
    why: str = "given"

    def split(self, cell: str) -> list[str]:
        """The texts between the marks, spaces around them and empty ones left out."""
        parts = [cell] if not self.mark else cell.split() if self.mark == " " else cell.split(self.mark)
        return [part.strip() for part in parts if part.strip()]

    def __str__(self) -> str:
        return f"{_named(self.mark)} ({self.why})"


def given_separator(name: str) -> Separator:
    """The separator that a user names: the text itself, or a word of `NAMES`."""
    return Separator(NAMES.get(name.lower(), name))


def find_separator(cells: Iterable[str], column: str, *, one_label_a_row: bool) -> Separator:
    """The separator of cells that are neither lists nor blank. Raises LabelError where two readings are likely.

    In a column whose name says that a cell is one label, nothing separates.
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
    for mark in WEAK:
        share = _share(mark, counts)
        if share >= SURE and _looks_like_lists(mark, counts):
            return Separator(mark, "what stands between is a label in other cells too")
        if share > POSSIBLE:
            example = max((cell for cell in counts if mark in cell), key=counts.__getitem__)
            raise _ambiguous(column, f"{quoted(example)} may be one label or several")
    return Separator("", "one label in each cell")


def _looks_like_lists(mark: str, counts: Iterable[str]) -> bool:
    """Whether few parts make many different cells, with fewer and with more parts."""
    split = Separator(mark).split
    several = [parts for cell in counts if len(parts := set(split(cell))) > 1]
    lengths = {len(set(split(cell))) for cell in counts}
    return len(set().union(*several)) < len(several) and len(lengths) > 1


def _require_one_reading(best: str, counts: Counter[str], column: str) -> None:
    """Raise LabelError if what the best mark separates is itself made of labels, with another mark."""
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
    """Of distinct cells that hold a mark: the mean share of their parts that other cells have; 0 for under `least`."""
    split = Separator(mark).split
    parts = {cell: set(split(cell)) for cell in counts}
    cells_with = Counter(part for found in parts.values() for part in found)
    several = [found for found in parts.values() if len(found) > 1]
    if len(several) < least:
        return 0.0
    return sum(sum(cells_with[part] > 1 for part in found) / len(found) for found in several) / len(several)


def _named(mark: str) -> str:
    return next((name for name, value in NAMES.items() if value == mark), quoted(mark))


def _ambiguous(column: str, why: str) -> LabelError:
    words = ", ".join(NAMES)
    return LabelError(
        f"column {quoted(column)}: {why}; say what separates labels by --label-separator ({words}, or a text)"
    )
