"""A CSV of labels -> a multi-hot matrix. Every row that is left out is counted and reported."""

import re
from collections import Counter
from dataclasses import dataclass, replace
from functools import cache
from itertools import compress

import numpy as np

from genretag.data.label_cells import Labels, TruthColumns, decide_truth, find_truth_columns, text_reader, truth_column
from genretag.data.label_report import LEAST, MOST_WRONG, LabelReport, few
from genretag.data.label_table import Row, Table, read_table
from genretag.data.labels import LabelError, LabelledSet, column_names, poster_id
from genretag.errors import one_line, quoted
from genretag.settings import LabelSettings

# Column names, without case, spaces and punctuation. If a file has several, the first in this list wins.
ID_COLUMNS = (
    "id", "posterid", "imageid", "movieid", "filmid", "imdbid", "filename", "file", "image", "imagename",
    "imageindex", "imagepath", "img", "filepath", "path", "tconst",
)  # fmt: skip
LABEL_COLUMNS = ("labels", "genres", "genre", "tags", "label")
# These may also be a property of the poster, so they count only if at most one column has truth values.
OTHER_LABEL_COLUMNS = (
    "findinglabels", "tagstring", "attributeids", "classes", "categories",
    "labelname", "class", "classname", "category", "categoryname",
)  # fmt: skip
ONE_LABEL_A_ROW = ("label", "labelname", "class", "classname", "category", "categoryname")
CONFIDENCE_COLUMNS = ("confidence", "present", "presence")  # next to one label a row: 0 means that the label is absent
MAX_LABELS = 10_000  # no taxonomy is larger, so free text was read as labels


def read_labels(
    content: str | bytes, source: str, settings: LabelSettings | None = None, *, min_positives: int = 20
) -> tuple[LabelledSet, LabelReport]:
    """Read the labels of posters from a CSV, in which each row has the id of a poster. Return them and a report.

    `content` is the CSV itself, in UTF-8, with a header (`read_table` says which delimiters). Messages call the file
    `source`. The labels have one of three layouts:
    - truth columns, one per label. At least half of their non-blank values are 0, 1, true, false, yes, no, or values
      that the settings name. If the settings name no values, -1 is refused, because -1 means no in some files and
      unknown in others.
    - a text column with lists, from LABEL_COLUMNS or OTHER_LABEL_COLUMNS, or the column that the settings name. A cell
      is a list in the notation of Python, JSON or PostgreSQL, or labels with a separator. If no separator is given, it
      is found in the cells.
    - a text column with one label a row, and one row for each label of a poster. The column is one of ONE_LABEL_A_ROW,
      or it has single labels and more than a tenth of the rows give a poster another label. If there is a confidence
      column, a row with 0 in that column does not give its label to the poster.

    If a file has truth columns and a text column, the truth columns count if the text names at least one of them.
    Otherwise, or if the settings name the text column, the text counts. Labels of truth columns are in the order of the
    columns. Labels of a text column are in alphabetical order. Posters are in the order of the CSV.

    The report lists what is left out:
    - later rows of a poster, except in the third layout, which joins the labels of all rows of a poster;
    - rows without an id, rows without a label, and rows with a value that cannot be read;
    - labels with fewer than `min_positives` posters, and posters with only such labels.

    Raises LabelError if the file cannot be used, if it can be read in two ways, or if too much would be left out. Too
    much is:
    - more rows or posters than `LabelReport` allows;
    - more ignored columns than truth columns, if no text column confirms that the truth columns are labels;
    - a single row with more or fewer cells than the header. Its values may be under the wrong labels, or the file was
      cut off.

    The settings can say how to read the file. With `allow_left_out`, nothing is too much.
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
    """Return the cell of each poster in one column of a CSV: poster id -> unchanged text.

    `content` is the CSV itself, and messages call the file `source`. If a poster has several rows, the first row
    counts. Raises LabelError if the file is no table, or if it lacks the column or a column of ids.
    """
    settings = settings or LabelSettings()
    try:
        table = read_table(content, allow_ragged=settings.allow_left_out)
        id_at, at = _id_column(table, settings.id_column), _named_column(table, column)
    except LabelError as error:
        raise LabelError(one_line(f"{source}: {error}", 1_000)) from None
    return {poster_id(cells[id_at]): cells[at] for _, cells in reversed(table.rows)}


@dataclass(frozen=True)
class _Found:
    """The labels of all rows, read in one of the layouts of `read_labels`."""

    layout: str  # in words, for the report
    labels: list[Labels]  # for each row
    vocabulary: list[str]  # all labels, in the order that the result has
    columns: list[int]  # the indices of the columns that were read
    details: list[str]  # how the labels were read, for the report
    one_label_a_row: bool = False
    by_truth_alone: bool = False  # no text confirms that the truth columns are labels


def _id_column(table: Table, asked: str | None) -> int:
    """Return the index of the column called `asked`, or by default of a usual column of ids. Raises LabelError."""
    at = _named_column(table, asked) if asked else _known_column(table, ID_COLUMNS)
    if at is None:
        raise LabelError(f"no column of ids among {few(table.header)}: call one id, or say which by --id-column")
    return at


def _named_column(table: Table, name: str) -> int:
    """Return the index of the column with exactly this name. Raises LabelError if the table has no such column."""
    if name not in table.header:
        raise LabelError(f"no column is called {quoted(name)}: there are {few(table.header)}")
    return table.header.index(name)


def _known_column(table: Table, known: tuple[str, ...]) -> int | None:
    """Return the index of the column whose name comes first in `known`, or None if the table has none of them."""
    names = list(map(_plain, table.header))
    return next((names.index(name) for name in known if name in names), None)


def _plain(name: str) -> str:
    """Return a column name in lower case, without anything else than letters a-z and digits."""
    return re.sub("[^a-z0-9]", "", name.lower())


def _read_layout(table: Table, id_at: int, settings: LabelSettings, report: LabelReport) -> _Found:
    """Return the labels of each row, read in the layout that the header and the values show.

    If truth columns and a text column disagree about a row, the line of the row goes into `report`.
    """
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
    """Return the labels of each row, read from columns of truth values.

    A row with a value that is neither yes nor no has a text that names the value instead of labels.
    """
    truth, names = decide_truth(columns, settings), columns.names

    @cache  # a million posters share a few thousand combinations
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
    """Return the labels of each row, read from the text column at the index `text_at`: lists, or one label a row."""
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
    """Return `labels`, with the labels of rows replaced in which the confidence column does not mean yes.

    The confidence column is at the index `at`. If its cell means no, the row gets None. If its value is neither yes
    nor no, the row gets a text that names the value.
    """
    truth = decide_truth(truth_column(table, at), settings)
    name, cells = table.header[at], [cells[at] for _, cells in table.rows]
    said = [f"{name} {quoted(cell)}" if truth.of(cell) is None else truth.of(cell) for cell in cells]
    return [found if is_there is True else is_there or None for found, is_there in zip(labels, said, strict=True)]


def _is_long(rows: list[Row], id_at: int, labels: list[Labels]) -> bool:
    """Return whether the rows are in the layout with one label a row.

    Then no row has several labels, and many rows give another label to a poster of an earlier row. Many means more than
    a tenth of all rows, and at least 3.
    """
    known: dict[str, Labels] = {}
    others = 0
    for (_, cells), found in zip(rows, labels, strict=True):
        if not isinstance(found, frozenset) or len(found) > 1:
            return False
        others += found != known.setdefault(poster_id(cells[id_at]), found)
    return others >= LEAST and others > MOST_WRONG * len(rows)


def _gather(rows: list[Row], id_at: int, found: _Found, report: LabelReport) -> dict[str, tuple[int, frozenset[str]]]:
    """Return, by poster id, the line of the poster's first row and the poster's labels.

    Rows that add no labels to a poster are counted in `report`.
    """
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
    """Return the posters and labels as a multi-hot matrix. Leave out rare labels, and posters with rare labels only.

    `posters` maps an id to the line of its first row in the CSV and to its labels. A label is rare if fewer than
    `min_positives` posters have it. `report` gets the numbers.
    Raises LabelError if no poster or no label is left, or if there are more labels than `MAX_LABELS`.
    """
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
    """Raise LabelError if more columns are ignored than read, and no text column confirms the truth columns as labels.

    With a text column in the file, this function raises nothing.
    """
    ignored = report.ignored_columns
    if found.by_truth_alone and len(ignored) > len(found.columns):
        raise LabelError(
            f"{len(ignored):,} columns ({few(ignored)}) are no 0/1 columns, more than the {len(found.columns):,} that "
            f"are ({few(found.vocabulary)}): name the column of labels with --labels-column, or what means yes and no "
            "with --true-value and --false-value; --allow-left-out goes on without these columns"
        )
