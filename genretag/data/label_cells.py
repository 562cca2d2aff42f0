"""Labels in the cells of a CSV: lists in one text column, or truth values in one column per label.

A text cell is a list in the notation of Python, JSON, NumPy or PostgreSQL, or labels with a separator between them.

For truth columns, this file finds the columns that hold truth values, and decides which values mean yes and no.
"""

import ast
import csv
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache

from genretag.data.label_report import clean, few, unlabelled_words
from genretag.data.label_separators import Separator, find_separator, given_separator
from genretag.data.label_table import Table
from genretag.data.labels import LabelError
from genretag.errors import quoted
from genretag.settings import LabelSettings

MAX_LIST_LENGTH = 4_000  # characters; limits the cost of parsing a hostile list

# The labels of one cell or row; an empty set if there is no label. A str names a value that cannot be read. None means
# that the row marks its label as absent.
Labels = frozenset[str] | str | None


def text_reader(
    cells: Iterable[str], column: str, settings: LabelSettings, *, one_label_a_row: bool
) -> tuple[Callable[[str], Labels], Separator]:
    """Return a function that reads one cell of a text column, and the separator for cells that are no bracketed lists.

    `cells` are all cells of the column, in which the separator is found unless `settings` names it. `column` is the
    column's name, for messages. `one_label_a_row` says whether that name promises a single label in each cell.

    The function returns the cell's labels, an empty set if there are none, or a text if the cell cannot be read.
    Raises LabelError if the cells can be split in two ways and `settings` does not name the separator.
    """
    nothing = unlabelled_words(settings.unlabelled_word)

    def is_nothing(text: str) -> bool:
        return text.strip().lower() in nothing or not text.strip()

    if settings.label_separator:
        separator = given_separator(settings.label_separator)
    else:
        plain = (cell for cell in cells if not is_nothing(cell) and not _looks_like_list(cell))
        separator = find_separator(plain, column, one_label_a_row=one_label_a_row)

    @cache  # a million posters share a few thousand combinations
    def read(cell: str) -> Labels:
        if is_nothing(cell):
            return frozenset()
        labels = _list_literal(cell.strip()) if _looks_like_list(cell) else separator.split(cell)
        if labels is None:
            return f"{column} {quoted(cell)}"
        return frozenset(clean(label) for label in labels if not is_nothing(label)) - {""}

    return read, separator


def _looks_like_list(cell: str) -> bool:
    """Return whether a cell looks like a bracketed list. `(500) Days` does not; a list that was cut off does."""
    cell = cell.strip()
    if cell.startswith("("):
        return re.fullmatch(r"""\(\s*(['"].*['"]\s*,?\s*)?\)""", cell, re.DOTALL) is not None
    return cell[:1] in ("[", "{")


def _list_literal(cell: str) -> list[str] | None:
    """Return the texts in a cell that holds a bracketed list, or None if the list cannot be read.

    For a list of objects such as `[{"id": 18, "name": "Drama"}]` (TMDB's), return the names. The cell is parsed, never
    evaluated.
    """
    with_commas = re.sub(r"""(['"])\s+(?=['"])""", r"\1, ", cell)  # NumPy prints ['Comedy' 'Drama']
    try:
        items = ast.literal_eval(with_commas) if len(cell) <= MAX_LIST_LENGTH else None
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return _postgresql_array(cell) if cell.startswith("{") else None
    if isinstance(items, dict):
        return None if items else []
    if not isinstance(items, list | tuple | set):
        return None
    names = [item.get("name") if isinstance(item, dict) else item for item in items]
    texts = [name for name in names if isinstance(name, str)]
    return texts if len(texts) == len(names) else None


def _postgresql_array(cell: str) -> list[str] | None:
    """Return the texts in a cell that holds an array like `{Drama,"Film Noir"}`, or None if it cannot be read."""
    if not cell.endswith("}") or len(cell) > MAX_LIST_LENGTH:
        return None
    try:
        [texts] = csv.reader([cell[1:-1]], escapechar="\\", doublequote=False, strict=True)
    except (csv.Error, ValueError):
        return None
    return texts if not any(mark in text for text in texts for mark in "{}:") else None


YES = frozenset(("1", "true", "yes", "t", "y", "x"))
NO = frozenset(("0", "false", "no", "f", "n"))
BLANK, MINUS_ONE = "blank", "-1"
LETTERS = frozenset("tyxfn")  # these count only in a column with nothing else: M and F are no truth values


@dataclass(frozen=True)
class Truth:
    """The values that mean yes and the values that mean no, in the form that `value_of` returns."""

    yes: frozenset[str]
    no: frozenset[str]
    counts: Counter[str] = field(default_factory=Counter)  # how often each value is in the columns

    def of(self, cell: str) -> bool | None:
        """Return True if a cell means yes, False if it means no, and None for any other value."""
        value = value_of(cell)
        return True if value in self.yes else False if value in self.no else None

    def __str__(self) -> str:
        seen = {value: f"{quoted(value)} {count:,}" for value, count in self.counts.most_common()}
        meanings = [("yes", self.yes), ("no", self.no), ("neither", seen.keys() - self.yes - self.no)]
        found = [(what, [text for value, text in seen.items() if value in values]) for what, values in meanings]
        return "; ".join(f"{what}: {few_texts(texts)}" for what, texts in found if texts)


def few_texts(texts: list[str], most: int = 5) -> str:
    """Return the first `most` texts as one text with commas, and the number of further texts: `a, b and 3 more`."""
    return ", ".join(texts[:most]) + (f" and {len(texts) - most:,} more" if len(texts) > most else "")


@dataclass(frozen=True)
class TruthColumns:
    """The columns that hold truth values: their indices in the table, their names, and how often each value occurs."""

    at: list[int]
    names: list[str]
    counts: Counter[str]


def value_of(cell: str) -> str:
    """Return the value of a cell in the form in which truth values are compared.

    The form is lower case without outer spaces. `1.0`, `0.0` and `-1.0` become `1`, `0` and `-1`. An empty cell or a
    usual word for nothing, such as `null`, becomes `blank`.
    """
    text = cell.strip().lower()
    if text in unlabelled_words(()) or not text:
        return BLANK
    try:
        number = float(text)
    except ValueError:
        return text
    return str(int(number)) if number in (-1, 0, 1) else text


def find_truth_columns(table: Table, others: set[int | None], settings: LabelSettings) -> TruthColumns:
    """Return the columns of a table in which at least half of the non-blank values are truth values.

    Columns without a name, columns with blank cells only, and the columns at the indices `others` are left out. The
    letters t, y, x, f and n count only in a column that has nothing but truth values. `settings` may name the values.
    """
    words = _default_truth(settings)
    known = words.yes | words.no | {MINUS_ONE}
    columns, counts = [], Counter[str]()
    for at, name in enumerate(table.header):
        if not name or at in others:
            continue
        found = _values_in(table, at)
        if _are_truth_values(found, known):
            columns.append(at)
            counts.update(found)
    return TruthColumns(columns, [table.header[at] for at in columns], counts)


def truth_column(table: Table, at: int) -> TruthColumns:
    """Return the column at the index `at` as `TruthColumns`, without a check of its values."""
    return TruthColumns([at], [table.header[at]], _values_in(table, at))


def _values_in(table: Table, at: int) -> Counter[str]:
    """Return how often each value, in the form of `value_of`, occurs in the column at the index `at`."""
    found = Counter[str]()
    for cell, count in Counter(cells[at] for _, cells in table.rows).items():
        found[value_of(cell)] += count
    return found


def _are_truth_values(found: Counter[str], known: frozenset[str]) -> bool:
    """Return whether a column with these counts of values holds truth values, which are the values `known`."""
    values = {value: count for value, count in found.items() if value != BLANK}
    if not values:
        return False
    if values.keys() <= known:
        return True
    return 2 * sum(count for value, count in values.items() if value in known - LETTERS) >= sum(values.values())


def decide_truth(columns: TruthColumns, settings: LabelSettings) -> Truth:
    """Return which values of the columns mean yes and no: the values that the settings name, or the usual ones.

    Raises LabelError if a column holds -1 and the settings name no values, because -1 may mean no or unknown. Raises
    LabelError also if the settings name a value for both yes and no.
    """
    words = _default_truth(settings)
    if MINUS_ONE in columns.counts and not (settings.true_value or settings.false_value):
        others = " ".join(f"--false-value {value}" for value in columns.counts if value in words.no)
        unknown = f"; if it means unknown, pass {others}, and rows with -1 are left out" if others else ""
        raise LabelError(
            f"columns hold -1, such as {few(columns.names, 2)}, which may mean no or unknown: if it means no, pass "
            f"--false-value -1{' ' if others else ''}{others}{unknown}"
        )
    return Truth(words.yes, words.no, columns.counts)


def _default_truth(settings: LabelSettings) -> Truth:
    """Return the values for yes and no that the settings name, or the usual values.

    A value that is given for one side is removed from the usual values of the other side. Raises LabelError if a value
    is given for both sides.
    """
    yes, no = _values(settings.true_value), _values(settings.false_value)
    if both := yes & no:
        raise LabelError(f"{few(sorted(both))} cannot mean yes and no: check --true-value and --false-value")
    return Truth(yes or YES - no, no or (NO | {BLANK}) - yes)


def _values(given: Iterable[str]) -> frozenset[str]:
    return frozenset(BLANK if text == BLANK else value_of(text) for text in given)
