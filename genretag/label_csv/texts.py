"""Labels in one column of text: lists in the notations of Python, JSON, NumPy and PostgreSQL, or with a separator."""

import ast
import csv
import re
from collections.abc import Callable, Iterable
from functools import cache

from genretag.errors import quoted
from genretag.label_csv.separators import Separator, find_separator, given_separator
from genretag.label_csv.settings import LabelSettings
from genretag.label_csv.words import clean, unlabelled_words

BRACKETS = {"[": "]", "{": "}", "(": ")"}
MAX_LIST_LENGTH = 4_000  # characters; bounds what a hostile list costs to parse

# Of one cell or row; a str says which value cannot be read, None that the label is said to be absent.
Labels = frozenset[str] | str | None


def text_reader(
    cells: Iterable[str], column: str, settings: LabelSettings, *, one_label_a_row: bool
) -> tuple[Callable[[str], Labels], Separator]:
    """A function that reads one cell of a column, and the separator that it uses where the cell is no list.

    Raises LabelError where the cells can be split in two ways and `settings` does not say in which.
    """
    nothing = unlabelled_words(settings.unlabelled_word)

    def is_nothing(text: str) -> bool:
        return text.strip().lower() in nothing or not text.strip()

    if settings.label_separator:
        separator = given_separator(settings.label_separator)
    else:
        plain = (cell for cell in cells if not is_nothing(cell) and not _looks_like_list(cell))
        separator = find_separator(plain, column, one_label_a_row=one_label_a_row)

    @cache  # a million posters share some thousands of combinations
    def read(cell: str) -> Labels:
        if is_nothing(cell):
            return frozenset()
        labels = _list_literal(cell.strip()) if _looks_like_list(cell) else separator.split(cell)
        if labels is None:
            return f"{column} {quoted(cell)}"
        return frozenset(clean(label) for label in labels if not is_nothing(label)) - {""}

    return read, separator


def _looks_like_list(cell: str) -> bool:
    """Whether a cell is in brackets. (500) Days is not; a list that was cut off is, and cannot be read."""
    cell = cell.strip()
    if cell.startswith("("):
        return re.fullmatch(r"""\(\s*(['"].*['"]\s*,?\s*)?\)""", cell, re.DOTALL) is not None
    return cell[:1] in ("[", "{")


def _list_literal(cell: str) -> list[str] | None:
    """The strings of a list, or None: a literal that is parsed, never evaluated.

    Of a list of objects such as `[{"id": 18, "name": "Drama"}]` (TMDB's), the names.
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
    """The texts of `{Drama,"Film Noir"}`."""
    if not cell.endswith("}") or len(cell) > MAX_LIST_LENGTH:
        return None
    try:
        [texts] = csv.reader([cell[1:-1]], escapechar="\\", doublequote=False, strict=True)
    except (csv.Error, ValueError):
        return None
    return texts if not any(mark in text for text in texts for mark in "{}:") else None
