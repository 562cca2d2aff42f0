"""A CSV of labels -> a multi-hot matrix; every row that is left out is counted and reported."""

import re
from collections import Counter
from dataclasses import dataclass, replace
from functools import cache
from itertools import compress

import numpy as np

from genretag.errors import one_line, quoted
from genretag.label_csv.report import LEAST, MOST_WRONG, LabelReport
from genretag.label_csv.settings import LabelSettings
from genretag.label_csv.table import Row, Table, read_table
from genretag.label_csv.texts import Labels, text_reader
from genretag.label_csv.truth import TruthColumns, decide_truth, find_truth_columns, truth_column
from genretag.label_csv.words import few
from genretag.labels import LabelError, LabelledSet, column_names, poster_id

# Names of columns, without case, spaces and punctuation. Where several are there, the first in the list wins.
ID_COLUMNS = (
    "id", "posterid", "imageid", "movieid", "filmid", "imdbid", "filename", "file", "image", "imagename",
    "imageindex", "imagepath", "img", "filepath", "path", "tconst",
)  # fmt: skip
LABEL_COLUMNS = ("labels", "genres", "genre", "tags", "label")
# These may as well be a property of the poster, so they count only where at most one column has truth values.
OTHER_LABEL_COLUMNS = (
    "findinglabels", "tagstring", "attributeids", "classes", "categories",
    "labelname", "class", "classname", "category", "categoryname",
)  # fmt: skip
ONE_LABEL_A_ROW = ("label", "labelname", "class", "classname", "category", "categoryname")
CONFIDENCE_COLUMNS = ("confidence", "present", "presence")  # beside one label a row: 0 means that it is not there
MAX_LABELS = 10_000  # no taxonomy is larger: free text was taken for labels


def read_labels(
    content: str | bytes, source: str, settings: LabelSettings | None = None, *, min_positives: int = 20
) -> tuple[LabelledSet, LabelReport]:
    """Read a CSV (comma, semicolon or tab; UTF-8), called `source` in messages; return it with a report.

    The labels stand in one of three ways:
    - truth columns, one per label: at least half of their values that are not blank are 0, 1, true, false, yes, no,
      or values that the settings name; -1 is refused unless they do, because it means no here and unknown there;
    - a text column from LABEL_COLUMNS, or the one that is asked for: a list in the notation of Python, JSON or
      PostgreSQL, or labels with a separator between them, which is found unless it is given;
    - a text column with one label a row, as many rows as the poster has labels: one from ONE_LABEL_A_ROW, or one of
      single labels in which more than a tenth of the rows give a poster another label. With a column of confidence
      beside it, rows that say 0 there do not count.
    In a file with truth columns and text, the columns count if the text names at least one of them; otherwise, or
    where the text column is asked for, the text. Labels stand in the order of their columns or else of the alphabet,
    posters in the order of the CSV.

    Left out and reported: later rows of a poster; rows with no id, with no label (nobody labelled those) or
    with a value that cannot be read; labels with fewer than `min_positives` posters; posters with only such.

    Raises LabelError for a file that cannot be used, that can be read in two ways, or of which too much would be left
    out (`LabelReport`'s bounds, and more columns that are no labels than columns that are), unless the
    settings say how to read it or allow it. One row with more or fewer cells than the header is too much: its values
    may stand under the wrong labels, or the file was cut off.
    """
    settings, report = settings or LabelSettings(), LabelReport(source)
    try:
        table = read_table(content, allow_ragged=settings.allow_left_out)
        id_at = _id_column(table, settings.id_column)
        found = _read_layout(table, id_at, settings, report)
        report.layout, report.rows, report.ragged = found.layout, len(table.rows), table.ragged
        report.id_column = table.header[id_at]
        report.details += found.details
        used = {id_at, *found.columns}
        report.ignored_columns = [name for at, name in enumerate(table.header) if name and at not in used]
        posters = _gather(table.rows, id_at, found, report)
        if not settings.allow_left_out:
            _require_few_ignored(found, report)
            report.require_few_rows_left_out()
        labelled = _encode(posters, found.vocabulary, min_positives, report)
        if not settings.allow_left_out:
            report.require_few_posters_left_out()
    except LabelError as error:
        raise LabelError(one_line(f"{source}: {error}", 1_500)) from None
    return labelled, report


def read_column(
    content: str | bytes, source: str, column: str, settings: LabelSettings | None = None
) -> dict[str, str]:
    """The cells of one column as they are, by poster; of a poster with several rows, its first. Raises LabelError."""
    settings = settings or LabelSettings()
    try:
        table = read_table(content, allow_ragged=settings.allow_left_out)
        id_at, at = _id_column(table, settings.id_column), _named_column(table, column)
    except LabelError as error:
        raise LabelError(one_line(f"{source}: {error}", 1_000)) from None
    return {poster_id(cells[id_at]): cells[at] for _, cells in reversed(table.rows)}


@dataclass(frozen=True)
class _Found:
    """What the rows say, read in one of the layouts."""

    layout: str
    labels: list[Labels]  # of each row
    vocabulary: list[str]
    columns: list[int]
    details: list[str]  # of how they were read, for the report
    one_label_a_row: bool = False
    by_truth_alone: bool = False  # no text confirms that the truth columns are labels


def _id_column(table: Table, asked: str | None) -> int:
    at = _named_column(table, asked) if asked else _known_column(table, ID_COLUMNS)
    if at is None:
        raise LabelError(f"no column of ids among {few(table.header)}: call one id, or say which by --id-column")
    return at


def _named_column(table: Table, name: str) -> int:
    if name not in table.header:
        raise LabelError(f"no column is called {quoted(name)}: there are {few(table.header)}")
    return table.header.index(name)


def _known_column(table: Table, known: tuple[str, ...]) -> int | None:
    names = list(map(_plain, table.header))
    return next((names.index(name) for name in known if name in names), None)


def _plain(name: str) -> str:
    return re.sub("[^a-z0-9]", "", name.lower())


def _read_layout(table: Table, id_at: int, settings: LabelSettings, report: LabelReport) -> _Found:
    """The labels of each row in the layout that the header and the values show."""
    asked = settings.labels_column
    text_at = _named_column(table, asked) if asked else _known_column(table, LABEL_COLUMNS)
    truth = find_truth_columns(table, {id_at, text_at}, settings)
    if text_at is None and len(truth.at) < 2:
        text_at = _known_column(table, OTHER_LABEL_COLUMNS)
    if text_at == id_at:
        raise LabelError(f"column {quoted(table.header[id_at])} cannot hold ids and labels: say which by --id-column")
    if text_at is None:
        if not truth.at:
            raise LabelError(f"no labels among {few(table.header)}: add 0/1 columns, or say which by --labels-column")
        return replace(_from_truth(table, truth, settings), by_truth_alone=True)
    text = _from_text(table, id_at, text_at, settings)
    if asked or set(text.vocabulary).isdisjoint(truth.names):
        return text
    found = _from_truth(table, truth, settings)
    pairs = zip(table.rows, found.labels, text.labels, strict=True)
    report.disagreements = [line for (line, _), flags, words in pairs if flags != words]
    return replace(found, columns=[*found.columns, text_at])


def _from_truth(table: Table, columns: TruthColumns, settings: LabelSettings) -> _Found:
    """Labels in columns of truth values; a value among them that is neither yes nor no is for the report."""
    truth, names = decide_truth(columns, settings), columns.names

    @cache  # a million posters share some thousands of combinations
    def read(*cells: str) -> Labels:
        flags = [truth.of(cell) for cell in cells]
        if None not in flags:
            return frozenset(compress(names, flags))
        bad = flags.index(None)
        return f"{names[bad]} {quoted(cells[bad])}"

    labels = [read(*map(cells.__getitem__, columns.at)) for _, cells in table.rows]
    details = [f"labels: columns {few(names)}", f"truth values: {truth}"]
    return _Found("0/1 columns", labels, names, columns.at, details)


def _from_text(table: Table, id_at: int, text_at: int, settings: LabelSettings) -> _Found:
    """Labels in one column of text."""
    name = table.header[text_at]
    one_label_a_row = _plain(name) in ONE_LABEL_A_ROW
    cells = [cells[text_at] for _, cells in table.rows]
    read, separator = text_reader(cells, name, settings, one_label_a_row=one_label_a_row)
    labels = [read(cell) for cell in cells]
    one_label_a_row = one_label_a_row or (not separator.mark and _is_long(table.rows, id_at, labels))
    columns, details = [text_at], [f"labels: column {name}, separator {separator}"]
    confidence_at = _known_column(table, CONFIDENCE_COLUMNS) if one_label_a_row else None
    if confidence_at is not None:
        labels = _where_present(labels, table, confidence_at, settings)
        columns.append(confidence_at)
        details.append(f"present or absent: column {table.header[confidence_at]}")
    if nothing := Counter(cell.strip() for cell, found in zip(cells, labels, strict=True) if found == frozenset()):
        details.append(f"cells without a label: {few(dict(nothing.most_common()))}")
    layout = f"{'one label a row' if one_label_a_row else 'lists'} in {name}"
    vocabulary = {label for found in set(labels) if isinstance(found, frozenset) for label in found}
    return _Found(layout, labels, sorted(vocabulary), columns, details, one_label_a_row)


def _where_present(labels: list[Labels], table: Table, at: int, settings: LabelSettings) -> list[Labels]:
    """The labels of the rows whose cell in column `at` means yes; None for no, and what is wrong for other cells."""
    truth = decide_truth(truth_column(table, at), settings)
    name, cells = table.header[at], [cells[at] for _, cells in table.rows]
    said = [f"{name} {quoted(cell)}" if truth.of(cell) is None else truth.of(cell) for cell in cells]
    return [found if is_there is True else is_there or None for found, is_there in zip(labels, said, strict=True)]


def _is_long(rows: list[Row], id_at: int, labels: list[Labels]) -> bool:
    """Whether rows hold one label each, and more than a tenth of them give a poster of an earlier row another one."""
    known: dict[str, Labels] = {}
    others = 0
    for (_, cells), found in zip(rows, labels, strict=True):
        if not isinstance(found, frozenset) or len(found) > 1:
            return False
        others += found != known.setdefault(poster_id(cells[id_at]), found)
    return others >= LEAST and others > MOST_WRONG * len(rows)


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
        elif labels is None:
            report.absent.append(line)
        elif not labels:
            report.unlabelled.append(line)
        elif known is None:
            posters[poster] = (line, labels)
        elif found.one_label_a_row:
            report.joined += 1
            posters[poster] = (first, labels | known)
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
        raise LabelError(f"has {len(vocabulary):,} labels, such as {few(vocabulary)}: name the --label-separator")
    if not labels:
        most = max(counts.values())
        raise LabelError(
            f"no label has {min_positives} posters, the most is {most}: lower --min-positives, or name the "
            f"--label-separator if these are several labels: {few(vocabulary, 2)}"
        )
    column_names(labels)
    columns = {label: at for at, label in enumerate(labels)}
    kept = {poster: found for poster, (_, found) in posters.items() if not columns.keys().isdisjoint(found)}
    report.rare_labels = {label: counts[label] for label in vocabulary if label not in columns}
    report.only_rare_labels = [line for poster, (line, _) in posters.items() if poster not in kept]
    report.distinct, report.posters = len(posters), len(kept)
    report.labels = {label: counts[label] for label in labels}
    known = enumerate(found & columns.keys() for found in kept.values())
    ones = [(row, columns[label]) for row, found in known for label in found]
    multi_hot = np.zeros((len(kept), len(labels)), dtype=np.uint8)
    multi_hot[tuple(np.transpose(ones))] = 1
    return LabelledSet(tuple(kept), labels, multi_hot)


def _require_few_ignored(found: _Found, report: LabelReport) -> None:
    """Raise LabelError where truth columns were taken for the labels and more columns are none than are."""
    ignored = report.ignored_columns
    if found.by_truth_alone and len(ignored) > len(found.columns):
        raise LabelError(
            f"{len(ignored):,} columns ({few(ignored)}) are no 0/1 columns, more than the {len(found.columns):,} that "
            f"are ({few(found.vocabulary)}): name the column of labels with --labels-column, or what means yes and no "
            "with --true-value and --false-value; --allow-left-out goes on without these columns"
        )
