"""Reader of a label CSV. It returns the multi-hot matrix, and a report that counts every row that was left out."""

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

# Names of id columns, in lower case without spaces and punctuation. If a file has several, the first one here wins.
ID_COLUMNS = (
    "id", "posterid", "imageid", "movieid", "filmid", "imdbid", "filename", "file", "image", "imagename",
    "imageindex", "imagepath", "img", "filepath", "path", "tconst",
)  # fmt: skip
LABEL_COLUMNS = ("labels", "genres", "genre", "tags", "label")
# Columns with these names often hold something else than labels. So they are read only if the file has fewer than two
# truth columns.
OTHER_LABEL_COLUMNS = (
    "findinglabels", "tagstring", "attributeids", "classes", "categories",
    "labelname", "class", "classname", "category", "categoryname",
)  # fmt: skip
ONE_LABEL_A_ROW = ("label", "labelname", "class", "classname", "category", "categoryname")
CONFIDENCE_COLUMNS = ("confidence", "present", "presence")  # with one label a row: 0 means that the label is absent
MAX_LABELS = 10_000  # a file with more labels is refused: free text was probably read as labels


def read_labels(
    content: str | bytes, source: str, settings: LabelSettings | None = None, *, min_positives: int = 20
) -> tuple[LabelledSet, LabelReport]:
    """Read the labels of posters from a CSV. Return the posters with their labels, and a report on what was left out.

    `content` is the text of the CSV, or its bytes in UTF-8. The CSV has a header, and each row has the id of a poster.
    `read_table` lists the delimiters. Messages call the file `source`. The labels have one of three layouts:
    - Truth columns: one column per label. At least half of the non-blank values of each column are 0, 1, true, false,
      yes, no and the like, or values that `settings` names. If `settings` names no values, -1 is refused, because -1
      means no in some files and unknown in others.
    - Lists in one text column. The column's name is in LABEL_COLUMNS or OTHER_LABEL_COLUMNS, or `settings` names the
      column. A cell is a list in the notation of Python, JSON, NumPy or PostgreSQL, or labels with a separator between
      them. If `settings` names no separator, it is detected from the cells.
    - One label a row in one text column. A poster has a row for each of its labels. Columns named in ONE_LABEL_A_ROW
      have this layout. Another text column has this layout under two conditions. No cell has several labels, and more
      than a tenth of the rows give another label to the poster of an earlier row. If the file also has a column in
      CONFIDENCE_COLUMNS, a row with 0 in that column does not give its label to the poster.

    A file may have truth columns and a text column. If the labels in the text include the name of a truth column, the
    truth columns are read. Otherwise, or if `settings` names the text column, the text column is read.

    Posters are in the order of the CSV. Labels of truth columns are in the order of the columns. Labels of a text
    column are in alphabetical order.

    The report lists what is left out:
    - later rows of a poster (with one label a row, the labels of a poster's rows are joined instead);
    - rows without an id, rows without a label, and rows with a value that cannot be read;
    - rare labels (with fewer than `min_positives` posters), and posters with rare labels only.

    Raises LabelError if the file cannot be used, or if it can be read in two ways. Raises LabelError also in these
    cases, unless `settings.allow_left_out` is true:
    - Over 10 % of the rows have no id, cannot be read or contradict an earlier row. Or over half of the rows have no
      label, or over half of the posters have rare labels only. One or two such rows or posters are always allowed.
    - More columns are ignored than are read as truth columns, and there is no text column of labels.
    - A row has more or fewer cells than the header. Its values may be under the wrong labels, or the file was cut off.
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

    `content` is the text of the CSV, or its bytes in UTF-8. Messages call the file `source`. If a poster has several
    rows, the first row counts. Raises LabelError if the file is no table, or if it lacks the column or a column of ids.
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
    labels: list[Labels]  # one entry for each row
    vocabulary: list[str]  # all labels, in the order of the multi-hot matrix
    columns: list[int]  # the indices of the columns that were read
    details: list[str]  # how the labels were read, for the report
    one_label_a_row: bool = False
    by_truth_alone: bool = False  # the file has truth columns and no text column of labels


def _id_column(table: Table, asked: str | None) -> int:
    """Return the index of the column called `asked`. If `asked` is None, find a column named in ID_COLUMNS.

    If the table has several columns named in ID_COLUMNS, the first name wins. Raises LabelError if no column is found.
    """
    at = _named_column(table, asked) if asked else _known_column(table, ID_COLUMNS)
    if at is None:
        raise LabelError(f"no column of ids among {few(table.header)}: rename one to id, or name it with --id-column")
    return at


def _named_column(table: Table, name: str) -> int:
    """Return the index of the column with exactly this name. Raises LabelError if the table has no such column."""
    if name not in table.header:
        raise LabelError(f"no column is called {quoted(name)}: there are {few(table.header)}")
    return table.header.index(name)


def _known_column(table: Table, known: tuple[str, ...]) -> int | None:
    """Return the index of the table's column whose name is in `known`, or None if there is no such column.

    Names are compared in lower case, without spaces and punctuation. If the table has several of these columns, the
    first name in `known` wins.
    """
    names = list(map(_plain, table.header))
    return next((names.index(name) for name in known if name in names), None)


def _plain(name: str) -> str:
    """Return a column name in lower case, reduced to its letters a-z and its digits."""
    return re.sub("[^a-z0-9]", "", name.lower())


def _read_layout(table: Table, id_at: int, settings: LabelSettings, report: LabelReport) -> _Found:
    """Detect the layout of the labels (see `read_labels`), and return the labels of each row.

    A file may have a text column of labels and, for some of these labels, columns of yes/no values. If the text
    and these columns disagree on a line, the line's number goes into `report`, unless `settings` names the text column.

    Raises LabelError if there are no labels, or if ids and labels would be in the same column.
    """
    asked = settings.labels_column
    text_at = _named_column(table, asked) if asked else _known_column(table, LABEL_COLUMNS)
    truth = find_truth_columns(table, {id_at, text_at}, settings)
    if text_at is None and len(truth.at) < 2:
        text_at = _known_column(table, OTHER_LABEL_COLUMNS)
    if text_at == id_at:
        raise LabelError(
            f"column {quoted(table.header[id_at])} cannot hold ids and labels: name the column of ids with --id-column"
        )
    if text_at is None:
        if not truth.at:
            raise LabelError(
                f"no labels among {few(table.header)}: add 0/1 columns, or name a text column with --labels-column"
            )
        return replace(_from_truth(table, truth, settings), by_truth_alone=True)
    text = _from_text(table, id_at, text_at, settings)
    if asked or set(text.vocabulary).isdisjoint(truth.names):
        return text
    found = _from_truth(table, truth, settings)
    pairs = zip(table.rows, found.labels, text.labels, strict=True)
    report.disagreements = [line for (line, _), flags, words in pairs if flags != words]
    return replace(found, columns=[*found.columns, text_at])


def _from_truth(table: Table, columns: TruthColumns, settings: LabelSettings) -> _Found:
    """Return the labels of each row, read from columns of yes/no values.

    If a value means neither yes nor no, its row gets a text with the column and the value instead of labels.
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
    """Return the labels of each row, read from the text column at the index `text_at`.

    The column has the layout with lists, or the layout with one label a row (see `read_labels`).
    """
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
    """Return `labels`, one entry for each row, with None for rows that say that their label is absent.

    The column at the index `at` says whether the row's label is present. If its cell means no, the row gets None.
    If its cell means neither yes nor no, the row gets a text with the column and the cell.
    """
    truth = decide_truth(truth_column(table, at), settings)
    name, cells = table.header[at], [cells[at] for _, cells in table.rows]
    said = [f"{name} {quoted(cell)}" if truth.of(cell) is None else truth.of(cell) for cell in cells]
    return [found if is_there is True else is_there or None for found, is_there in zip(labels, said, strict=True)]


def _is_long(rows: list[Row], id_at: int, labels: list[Labels]) -> bool:
    """Return whether the rows have the layout with one label a row (long format).

    They have it under two conditions. No row has several labels or an unreadable value. And more than a tenth of the
    rows, at least 3, give a poster another label than the poster's first row does.
    """
    known: dict[str, Labels] = {}
    others = 0
    for (_, cells), found in zip(rows, labels, strict=True):
        if not isinstance(found, frozenset) or len(found) > 1:
            return False
        others += found != known.setdefault(poster_id(cells[id_at]), found)
    return others >= LEAST and others > MOST_WRONG * len(rows)


def _gather(rows: list[Row], id_at: int, found: _Found, report: LabelReport) -> dict[str, tuple[int, frozenset[str]]]:
    """Join the rows of each poster. Return poster id -> (line of the poster's first row, labels).

    Rows that add no labels to a poster are recorded in `report`.
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

    `posters` maps an id to the line of its first row in the CSV and to its labels. `vocabulary` has all labels in the
    order of the result. A label is rare if fewer than `min_positives` posters have it. The numbers of posters and
    labels go into `report`.

    Raises LabelError if no poster or no label is left, or if there are more labels than `MAX_LABELS`. Raises LabelError
    also if a label gives no valid column name, or two labels give the same (see `column_names`).
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
    """Raise LabelError if more columns are ignored than read.

    If the file has a text column of labels, any number of columns may be ignored.
    """
    ignored = report.ignored_columns
    if found.by_truth_alone and len(ignored) > len(found.columns):
        raise LabelError(
            f"{len(ignored):,} columns ({few(ignored)}) are no 0/1 columns, more than the {len(found.columns):,} that "
            f"are ({few(found.vocabulary)}): name the column of labels with --labels-column, or what means yes and no "
            "with --true-value and --false-value; --allow-left-out goes on without these columns"
        )
