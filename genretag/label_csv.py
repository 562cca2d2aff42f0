"""A CSV of labels -> a multi-hot matrix; every row that is left out is counted and reported."""

import ast
import csv
import io
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from functools import cache
from itertools import compress, islice

import numpy as np

from genretag.errors import one_line, quoted
from genretag.labels import MAX_LABEL_LENGTH, LabelError, LabelledSet, column_names, poster_id

# Names of columns, without case, spaces and punctuation. Where several are there, the first in the list wins.
ID_COLUMNS = ("id", "posterid", "imageid", "movieid", "filmid", "imdbid", "filename", "file", "image", "imagename")
LABEL_COLUMNS = ("labels", "genres", "genre", "tags", "label")
ONE_LABEL_A_ROW = "label"  # this one holds one label, and a poster has a row for each of its labels
SEPARATORS = ("|", ";", ",")
FLAGS = {"": False, "0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}
MAX_LABELS = 10_000  # no taxonomy is larger: free text was taken for labels
MAX_LIST_LENGTH = 4_000  # characters; bounds what a hostile list costs to parse

Row = tuple[int, list[str]]  # the physical line where it starts, and its cells
Labels = frozenset[str] | str  # of one row; a str says which value cannot be read


@dataclass
class LabelReport:
    """What was read and what was left out; numbers in lists are lines of the file, where a row starts."""

    source: str
    layout: str = ""  # how the file writes labels
    rows: int = 0
    distinct: int = 0  # posters with a label, be it a rare one
    posters: int = 0  # posters kept
    labels: int = 0  # labels kept
    duplicates: list[int] = field(default_factory=list)
    conflicting: list[int] = field(default_factory=list)
    without_id: list[int] = field(default_factory=list)
    unlabelled: list[int] = field(default_factory=list)
    unreadable: dict[int, str] = field(default_factory=dict)  # by line: the column and its value
    rare_labels: dict[str, int] = field(default_factory=dict)  # with their posters
    only_rare_labels: list[int] = field(default_factory=list)
    disagreements: list[int] = field(default_factory=list)
    ignored_columns: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The report for the log: a summary, then one line for each finding."""
        read = f"{self.rows:,} rows ({self.layout}) of {self.distinct:,} posters with labels"
        kept = f"kept {self.posters:,} posters with {self.labels:,} labels"
        return [one_line(f"{self.source}: {read}; {kept}"), *self.findings()]

    def findings(self) -> list[str]:
        """What was left out or looks odd, one line each."""
        findings: list[tuple[str, Collection[object]]] = [
            ("rows left out, same poster and labels as an earlier row: {} (lines {})", self.duplicates),
            ("rows left out, same poster as an earlier row, other labels: {} (lines {})", self.conflicting),
            ("rows left out, no id: {} (lines {})", self.without_id),
            ("rows left out, no label at all: {} (lines {})", self.unlabelled),
            ("rows left out, value cannot be read: {} (lines {})", self.unreadable),
            ("labels left out, too few posters: {} ({})", self.rare_labels),
            ("posters left out, no other label: {} (lines {})", self.only_rare_labels),
            ("rows whose text and 0/1 columns differ, the columns count: {} (lines {})", self.disagreements),
            ("columns ignored: {} ({})", self.ignored_columns),
        ]
        return [one_line(what.format(f"{len(found):,}", _few(found)), 1_000) for what, found in findings if found]


def read_labels(
    content: str | bytes,
    source: str,
    *,
    id_column: str | None = None,
    labels_column: str | None = None,
    separator: str | None = None,
    min_positives: int = 20,
) -> tuple[LabelledSet, LabelReport]:
    """Read a CSV (comma, semicolon or tab; UTF-8), called `source` in messages; return it with a report.

    The labels stand in one of three ways:
    - 0/1 columns, one per label: at least half of their values that are not blank are 0, 1, true or false;
    - a text column from LABEL_COLUMNS, or `labels_column`: a Python or JSON list, or labels with `separator`
      between them, by default that one of `|`, `;` and `,` which most cells hold (in a draw, the first);
    - a text column called `label`: one label a row, as many rows as the poster has labels; a cell is split
      only where `separator` is given.
    In a file with both, the 0/1 columns count if the text names at least one of them; otherwise, or where
    `labels_column` asks for it, the text. Labels stand in the order of their columns or else of the alphabet,
    posters in the order of the CSV.

    Left out and reported: later rows of a poster; rows with no id, with no label (nobody labelled those) or
    with a value that cannot be read; labels with fewer than `min_positives` posters; posters with only such.

    Raises LabelError for a file that cannot be used. One row with more or fewer cells than the header is
    enough: its values may stand under the wrong labels, or the file was cut off.
    """
    report = LabelReport(source)
    try:
        header, rows = _table(content)
        id_at, text_at = _find(header, id_column, ID_COLUMNS), _find(header, labels_column, LABEL_COLUMNS)
        if id_at is None or id_at == text_at:
            raise LabelError(f"no column of ids among {_few(header)}: call one id, or say which by id_column")
        found = _from_flags(header, rows, {id_at, text_at})
        if text_at is not None:
            text = _from_text(header, rows, text_at, separator)
            if labels_column or set(text.vocabulary).isdisjoint(found.vocabulary):
                found = text
            else:
                pairs = zip(rows, found.labels, text.labels, strict=True)
                report.disagreements = [line for (line, _), flags, words in pairs if flags != words]
        elif not found.vocabulary:
            raise LabelError(f"no labels among {_few(header)}: add 0/1 columns, or say which by labels_column")
        report.layout, report.rows = found.layout, len(rows)
        used = {id_at, text_at, *found.columns}
        report.ignored_columns = [name for at, name in enumerate(header) if name and at not in used]
        posters = _gather(rows, id_at, found, report)
        return _encode(posters, found.vocabulary, min_positives, report), report
    except LabelError as error:
        raise LabelError(one_line(f"{source}: {error}", 1_000)) from None


def read_column(content: str | bytes, source: str, column: str, *, id_column: str | None = None) -> dict[str, str]:
    """The cells of one column as they are, by poster; of a poster with several rows, its first. Raises LabelError."""
    try:
        header, rows = _table(content)
        id_at, at = _find(header, id_column, ID_COLUMNS), header.index(column) if column in header else None
        if id_at is None:
            raise LabelError(f"no column of ids among {_few(header)}: call one id, or say which by id_column")
        if at is None:
            raise LabelError(f"no column is called {quoted(column)}: there are {_few(header)}")
    except LabelError as error:
        raise LabelError(one_line(f"{source}: {error}", 1_000)) from None
    return {poster_id(cells[id_at]): cells[at] for _, cells in reversed(rows)}


def _table(content: str | bytes) -> tuple[list[str], list[Row]]:
    """The header's names and the rows that are not blank, each as wide as the header."""
    text = _text(content)
    first_line = re.split(r"[\r\n]", text.lstrip(), maxsplit=1)[0]
    delimiter = max(",;\t", key=first_line.count)
    table = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    rows, line = [], 1
    try:
        for cells in table:
            if any(map(str.strip, cells)):
                rows.append((line, cells))
            line = table.line_num + 1
    except csv.Error as error:
        raise LabelError(f"line {line} is not CSV ({error}): mend its quotes or save it again") from None
    if len(rows) < 2:
        raise LabelError("has a header and no rows" if rows else "is empty: it needs a header and rows")
    header = list(map(_clean, rows.pop(0)[1]))
    if twice := [name for name, count in Counter(header).items() if name and count > 1]:
        raise LabelError(f"has several columns called {_few(twice)}: rename them")
    width = len(header)
    ragged = [line for line, cells in rows if len(cells) != width and _is_ragged(cells, width)]
    if ragged:
        raise LabelError(
            f"rows with more or fewer cells than the header's {width}: {len(ragged):,} (lines {_few(ragged)}); "
            f"put quotes round cells that hold {delimiter!r}, or fetch the file again if it was cut off"
        )
    return header, rows


def _text(content: str | bytes) -> str:
    try:
        text = content.decode() if isinstance(content, bytes) else content
    except UnicodeDecodeError as error:
        raise LabelError(f"byte {error.start:,} is not UTF-8: save the table as CSV in UTF-8") from None
    if "\0" in text:
        raise LabelError("holds NUL characters, so it is no text: save the table as CSV in UTF-8")
    return text.removeprefix("\ufeff")


def _is_ragged(cells: list[str], width: int) -> bool:
    """Too few cells, or more of them than blank ones at the end (which spreadsheets add)."""
    return len(cells) < width or any(map(str.strip, cells[width:]))


def _find(header: list[str], asked: str | None, known: tuple[str, ...]) -> int | None:
    if asked:
        if asked not in header:
            raise LabelError(f"no column is called {quoted(asked)}: there are {_few(header)}")
        return header.index(asked)
    names = [re.sub("[^a-z0-9]", "", name.lower()) for name in header]
    return next((names.index(name) for name in known if name in names), None)


@dataclass(frozen=True)
class _Found:
    """What the rows say, read in one of the layouts."""

    layout: str
    labels: list[Labels]  # of each row
    vocabulary: list[str]
    columns: list[int]
    one_label_a_row: bool = False


def _from_flags(header: list[str], rows: list[Row], others: set[int | None]) -> _Found:
    """Labels in 0/1 columns; a value among them that is neither is for the report."""
    by_column = enumerate(zip(header, *(cells for _, cells in rows), strict=False))
    columns = [at for at, (name, *values) in by_column if name and at not in others and _are_flags(values)]
    names = [header[at] for at in columns]

    @cache  # a million posters share some thousands of combinations
    def read(*cells: str) -> Labels:
        flags = [FLAGS.get(cell.strip().lower()) for cell in cells]
        if None not in flags:
            return frozenset(compress(names, flags))
        bad = flags.index(None)
        return f"{names[bad]} {quoted(cells[bad])}"

    labels = [read(*map(cells.__getitem__, columns)) for _, cells in rows]
    return _Found("0/1 columns", labels, names, columns)


def _are_flags(values: Iterable[str]) -> bool:
    counts = {value.strip().lower(): count for value, count in Counter(values).items() if value.strip()}
    flags = sum(count for value, count in counts.items() if value in FLAGS)
    return flags > 0 and 2 * flags >= sum(counts.values())


def _from_text(header: list[str], rows: list[Row], text_at: int, separator: str | None) -> _Found:
    """Labels in one column of text."""
    name = header[text_at]
    one_label_a_row = name.lower() == ONE_LABEL_A_ROW
    if not (separator or one_label_a_row):
        plain = [cells[text_at] for _, cells in rows if not cells[text_at].lstrip().startswith("[")]
        separator = max(SEPARATORS, key=lambda mark: sum(mark in cell for cell in plain)) if plain else None

    @cache
    def read(cell: str) -> Labels:
        if cell.lstrip().startswith("["):
            labels = _list_literal(cell.strip())
        else:
            labels = cell.split(separator) if separator else [cell]
        return f"{name} {quoted(cell)}" if labels is None else frozenset(map(_clean, labels)) - {""}

    labels = [read(cells[text_at]) for _, cells in rows]
    vocabulary = {label for found in set(labels) if not isinstance(found, str) for label in found}
    layout = f"{'one label a row' if one_label_a_row else 'lists'} in {name}"
    if separator:
        layout += f", separator {separator}"
    return _Found(layout, labels, sorted(vocabulary), [text_at], one_label_a_row)


def _list_literal(cell: str) -> list[str] | None:
    """The strings of a Python, JSON or NumPy list, or None: a literal that is parsed, never evaluated."""
    with_commas = re.sub(r"""(['"])\s+(?=['"])""", r"\1, ", cell)  # NumPy prints ['Comedy' 'Drama']
    try:
        items = ast.literal_eval(with_commas) if len(cell) <= MAX_LIST_LENGTH else None
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    return items if isinstance(items, list) and all(isinstance(item, str) for item in items) else None


def _gather(rows: list[Row], id_at: int, found: _Found, report: LabelReport) -> dict[str, tuple[int, frozenset[str]]]:
    """The first line and the labels of each poster; rows that give none go into the report."""
    posters: dict[str, tuple[int, frozenset[str]]] = {}
    for (line, cells), labels in zip(rows, found.labels, strict=True):
        poster = poster_id(cells[id_at])
        first, known = posters.get(poster, (line, None))
        if not poster:
            report.without_id.append(line)
        elif isinstance(labels, str):
            report.unreadable[line] = labels
        elif not labels:
            report.unlabelled.append(line)
        elif known is None or found.one_label_a_row:
            posters[poster] = (first, labels | (known or labels))
        elif known == labels:
            report.duplicates.append(line)
        else:
            report.conflicting.append(line)
    return posters


def _encode(
    posters: dict[str, tuple[int, frozenset[str]]], vocabulary: list[str], min_positives: int, report: LabelReport
) -> LabelledSet:
    """Drop rare labels and the posters that had no other, and write the rest as a matrix."""
    counts = Counter(label for _, found in posters.values() for label in found)
    labels = tuple(label for label in vocabulary if counts[label] >= min_positives)
    if not posters:
        raise LabelError(f"no row can be used: {'; '.join(report.findings())}")
    if len(vocabulary) > MAX_LABELS:
        raise LabelError(f"has {len(vocabulary):,} labels, such as {_few(vocabulary)}: check the separator")
    if not labels:
        most = max(counts.values())
        raise LabelError(f"no label has {min_positives} posters, the most is {most}: lower min_positives")
    column_names(labels)
    columns = {label: at for at, label in enumerate(labels)}
    kept = {poster: found for poster, (_, found) in posters.items() if not columns.keys().isdisjoint(found)}
    report.rare_labels = {label: counts[label] for label in vocabulary if label not in columns}
    report.only_rare_labels = [line for poster, (line, _) in posters.items() if poster not in kept]
    report.distinct, report.posters, report.labels = len(posters), len(kept), len(labels)
    known = enumerate(found & columns.keys() for found in kept.values())
    ones = [(row, columns[label]) for row, found in known for label in found]
    multi_hot = np.zeros((len(kept), len(labels)), dtype=np.uint8)
    multi_hot[tuple(np.transpose(ones))] = 1
    return LabelledSet(tuple(kept), labels, multi_hot)


def _clean(label: str) -> str:
    """A label with composed accents and single spaces, and with nothing in it that does not print."""
    return one_line(unicodedata.normalize("NFC", label), MAX_LABEL_LENGTH + 1)


def _few(found: Collection[object], most: int = 5) -> str:
    """The first things found and how many more there are; of a mapping, each key with its value."""
    first = list(islice(found, most))
    items = [f"{quoted(key)}: {found[key]}" for key in first] if isinstance(found, dict) else map(quoted, first)
    return ", ".join(items) + (f" and {len(found) - most:,} more" if len(found) > most else "")
