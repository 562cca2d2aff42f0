"""Parser for the cells of a label CSV: lists of labels in one text column, or yes/no values in one column per label.

A text cell is a list in the notation of Python, JSON, NumPy or PostgreSQL, or labels with a separator between them.

A truth column is a column of yes/no values for one label. This module finds the truth columns of a table, and decides
which values mean yes and which mean no.
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

MAX_LIST_LENGTH = 4_000  # characters; a longer list cannot be read, because a hostile list is costly to parse

# The result of reading one cell or row:
# - a frozenset has its labels, and is empty if there is no label;
# - a str is a text for the report, with the column and the value of a cell that cannot be read;
# - None means that the row says that the poster does not have the label.
Labels = frozenset[str] | str | None


def text_reader(
    cells: Iterable[str], column: str, settings: LabelSettings, *, one_label_a_row: bool
) -> tuple[Callable[[str], Labels], Separator]:
    """Return a function that parses one cell of a text column, and the separator between labels in a cell.

    The function returns the set of the cell's labels. The set is empty for a cell without a label. If the cell cannot
    be parsed, the function returns a text for the report: the column and the cell.

    `cells` are all cells of the column. `settings` may name the separator; if not, the separator is detected from the
    cells. Cells with a bracketed list need no separator. `column` is the column's name, for messages. `one_label_a_row`
    is true if this name, such as `class`, promises a single label in each cell.

    Raises LabelError if `settings` does not name the separator and the cells can be split in two ways.
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
    """Return whether a cell starts with `[` or `{`, or is a list of quoted texts in parentheses.

    A list whose end is missing, such as `['Drama`, is a list too. `(500) Days` is not.
    """
    cell = cell.strip()
    if cell.startswith("("):
        return re.fullmatch(r"""\(\s*(['"].*['"]\s*,?\s*)?\)""", cell, re.DOTALL) is not None
    return cell[:1] in ("[", "{")


def _list_literal(cell: str) -> list[str] | None:
    """Return the texts in a cell that holds a bracketed list, or None if the list cannot be read.

    For a list of objects such as `[{"id": 18, "name": "Drama"}]`, the format of TMDB, return the names. The cell is
    parsed as literals only, so no code in the cell can run.
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
LETTERS = frozenset("tyxfn")  # these count only if the column has nothing but yes/no values, unlike a column of M and F


@dataclass(frozen=True)
class Truth:
    """The values that mean yes and the values that mean no, in lower case (the result of `value_of`)."""

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
    """Join the first `most` texts with commas, and add the number of further texts: `a, b and 3 more`."""
    return ", ".join(texts[:most]) + (f" and {len(texts) - most:,} more" if len(texts) > most else "")


@dataclass(frozen=True)
class TruthColumns:
    """The columns of a table that hold yes/no values: their indices, their names, and how often each value occurs.

    `counts` has the values of all these columns together, in lower case (the result of `value_of`).
    """

    at: list[int]
    names: list[str]
    counts: Counter[str]


def value_of(cell: str) -> str:
    """Return the value of a cell in the form in which yes/no values are compared.

    The form is the cell's text in lower case without outer spaces. `1.0`, `0.0` and `-1.0` become `1`, `0` and `-1`. An
    empty cell, or a word for "no value" from `UNLABELLED` such as `null`, becomes `blank`.
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
    """Return the columns of a table that hold yes/no values.

    At least half of a column's non-blank values must mean yes or no, or be -1. `settings` may name the values that mean
    yes and no; by default they are `YES` and `NO`. The letters t, y, x, f and n count only if all non-blank values of
    the column are yes/no values.

    Columns without a name, columns with blank cells only, and the columns at the indices `others` are left out. Raises
    LabelError if `settings` names a value for both yes and no.
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
    """Return the column at the index `at` as `TruthColumns`. Its values need not mean yes or no."""
    return TruthColumns([at], [table.header[at]], _values_in(table, at))


def _values_in(table: Table, at: int) -> Counter[str]:
    """Return how often each value (the result of `value_of`) occurs in the column at the index `at`."""
    found = Counter[str]()
    for cell, count in Counter(cells[at] for _, cells in table.rows).items():
        found[value_of(cell)] += count
    return found


def _are_truth_values(found: Counter[str], known: frozenset[str]) -> bool:
    """Return whether a column holds yes/no values. `found` maps each value to its number of occurrences.

    `known` has the yes/no values. At least half of the non-blank values must be in `known`. Letters such as y and n
    count only if all non-blank values are in `known`. If all cells are blank, return False.
    """
    values = {value: count for value, count in found.items() if value != BLANK}
    if not values:
        return False
    if values.keys() <= known:
        return True
    return 2 * sum(count for value, count in values.items() if value in known - LETTERS) >= sum(values.values())


def decide_truth(columns: TruthColumns, settings: LabelSettings) -> Truth:
    """Decide which values of the columns mean yes and which mean no.

    `settings` may name these values. By default, they are `YES` and `NO`, and a blank cell means no. If `settings`
    names values for no, a blank cell means no only if `blank` is among them.

    Raises LabelError if a column holds -1 and `settings` names no values, because -1 may mean no or unknown. Raises
    LabelError also if `settings` names a value for both yes and no.
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
    """Return the values for yes and no that `settings` names. By default, return `YES`, and `NO` with `blank`.

    If `settings` names one of the default values, the value has only the meaning that `settings` gives. Raises
    LabelError if `settings` names a value for both yes and no.
    """
    yes, no = _values(settings.true_value), _values(settings.false_value)
    if both := yes & no:
        raise LabelError(f"{few(sorted(both))} cannot mean yes and no: check --true-value and --false-value")
    return Truth(yes or YES - no, no or (NO | {BLANK}) - yes)


def _values(given: Iterable[str]) -> frozenset[str]:
    return frozenset(BLANK if text == BLANK else value_of(text) for text in given)
