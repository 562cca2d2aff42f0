"""Parser that turns the content of a label CSV into a table: a header and rows.

`read_table` detects the encoding, the delimiter and the quotes. It refuses rows with more or fewer cells than the
header, or leaves them out.
"""

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from genretag.data.label_report import clean, few
from genretag.data.labels import LabelError

DELIMITERS = ",;\t"
COMMENTED_DELIMITER = re.compile(r'"?sep=(.)"?')  # the first line of some CSVs from Excel

Row = tuple[int, list[str]]  # the line of the file where the row starts, and its cells


@dataclass(frozen=True)
class Table:
    """A CSV: the names in its header, and its rows, each with at least as many cells as the header."""

    header: list[str]
    rows: list[Row]
    ragged: list[int] = field(default_factory=list)  # lines of rows left out because of their number of cells


def read_table(content: str | bytes, *, allow_ragged: bool = False) -> Table:
    """Parse the content of a CSV with a header: text, or bytes in UTF-8. Blank rows are skipped.

    The delimiter between columns is the comma, semicolon or tab, whichever is most frequent in the first line. If the
    first line has none of these, the delimiter is `|`. If the first line has no `|` either, and every row has the same
    number of words, the delimiter is the space. The CelebA data set has files with spaces: their first line is the
    number of rows, and the ids have no column name. The column of ids gets the name `id`. A first line such as `sep=;`,
    which Excel writes, names the delimiter. In a file with tabs, such as IMDb's, quotes are ordinary text if all rows
    then have the same number of cells.

    Raises LabelError if the file is no table, or if two columns have the same name. Raises LabelError also if rows have
    more or fewer cells than the header. If `allow_ragged`, such rows are left out instead. Blank cells at the end of a
    row do not make it too long.
    """
    text = _text(content)
    first_line = _first_line(text)
    if named := COMMENTED_DELIMITER.fullmatch(first_line):
        text, delimiter = text.replace(first_line, "", 1), named[1]  # the line break stays, to keep the line numbers
    else:
        delimiter = max(DELIMITERS, key=first_line.count)
    if delimiter not in (first_line := _first_line(text)):
        if "|" in first_line:
            delimiter = "|"
        elif words := _table_of_words(text):
            return _checked(words, " ", allow_ragged)
    plain = _without_quotes(text) if delimiter == "\t" else None
    return _checked(plain or list(_parsed(text, delimiter)), delimiter, allow_ragged)


def _text(content: str | bytes) -> str:
    """Return the content as text, without a byte order mark. Raises LabelError if it is not UTF-8 or has NULs."""
    try:
        text = content.decode() if isinstance(content, bytes) else content
    except UnicodeDecodeError as error:
        raise LabelError(f"byte {error.start:,} is not UTF-8: save the table as CSV in UTF-8") from None
    if "\0" in text:
        raise LabelError("holds NUL characters, so it is no text: save the table as CSV in UTF-8")
    return text.removeprefix("\ufeff")


def _first_line(text: str) -> str:
    return re.split(r"[\r\n]", text.lstrip(), maxsplit=1)[0]


def _parsed(text: str, delimiter: str) -> Iterator[Row]:
    """Yield the rows of a CSV with quoted cells, without blank rows. Raises LabelError if the quotes are wrong."""
    limit = csv.field_size_limit(len(text) + 1)  # the default refuses cells of more than 131,072 characters
    table, line = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True), 1
    try:
        for cells in table:
            if any(map(str.strip, cells)):
                yield line, cells
            line = table.line_num + 1
    except csv.Error as error:
        raise LabelError(f"line {line} is not CSV ({error}): correct its quotes or save it again") from None
    finally:
        csv.field_size_limit(limit)


def _without_quotes(text: str) -> list[Row] | None:
    """Split each line of a file at its tabs. Quotes are ordinary text, except quotes around a whole cell.

    Return the rows, or None if they have different numbers of cells. Quotes around a whole cell are removed.
    """
    lines = [(number, line.split("\t")) for number, line in enumerate(_lines(text), 1) if line.strip()]
    if len({len(cells) for _, cells in lines}) != 1:
        return None
    return [(number, [_unquoted(cell) for cell in cells]) for number, cells in lines]


def _unquoted(cell: str) -> str:
    """Return a cell without outer spaces, and without the quotes if they enclose the whole cell."""
    cell = cell.strip()
    whole = len(cell) > 1 and cell[0] == cell[-1] == '"' and '"' not in cell[1:-1].replace('""', "")
    return cell[1:-1].replace('""', '"') if whole else cell


def _table_of_words(text: str) -> list[Row] | None:
    """Return the rows of a file whose columns are separated by spaces, header first. Return None for other files.

    If the first line is only a number, the header is the next line. The file must have at least three columns, and all
    rows the same number of words. If the header has one word less than the rows, the first column gets the name `id`.
    """
    lines = [(number, line.split()) for number, line in enumerate(_lines(text), 1) if line.strip()]
    if lines and len(lines[0][1]) == 1 and lines[0][1][0].isdigit():
        del lines[0]
    (number, header), *rows = lines or [(1, [])]
    widths = {len(cells) for _, cells in rows}
    if len(widths) != 1 or (width := widths.pop()) < 3 or width - len(header) not in (0, 1):
        return None
    return [(number, ["id"] * (width - len(header)) + header), *rows]


def _lines(text: str) -> list[str]:
    return re.split(r"\r\n|\r|\n", text)


def _checked(parsed: list[Row], delimiter: str, allow_ragged: bool) -> Table:
    """Return the table of the parsed rows, the first of which is the header.

    Raises LabelError if there are no rows, or if two columns have the same name. Raises LabelError also for rows with
    more or fewer cells than the header; if `allow_ragged`, these rows are left out instead. `delimiter` is for the
    message.
    """
    if len(parsed) < 2:
        raise LabelError("has a header and no rows" if parsed else "is empty: it needs a header and rows")
    (_, first), *rows = parsed
    header = list(map(clean, first))
    if twice := [name for name, count in Counter(header).items() if name and count > 1]:
        raise LabelError(f"has several columns called {few(twice)}: rename them")
    ragged = [line for line, cells in rows if _is_ragged(cells, len(header))]
    if ragged and not allow_ragged:
        raise LabelError(
            f"rows with more or fewer cells than the header's {len(header)}: {len(ragged):,} (lines {few(ragged)}); "
            f"put quotes round cells that hold {delimiter!r}, fetch the file again if it was cut off, or pass "
            "--allow-left-out to leave these rows out"
        )
    wrong = set(ragged)
    return Table(header, [row for row in rows if row[0] not in wrong], ragged)


def _is_ragged(cells: list[str], width: int) -> bool:
    """Return whether a row has fewer than `width` cells, or further cells that are not blank.

    Spreadsheets add blank cells, so these do not count.
    """
    return len(cells) != width and (len(cells) < width or any(map(str.strip, cells[width:])))
