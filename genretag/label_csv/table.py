"""The bytes of a CSV -> its header and its rows: encoding, delimiter, quotes, and rows of the wrong width."""

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from genretag.label_csv.words import clean, few
from genretag.labels import LabelError

DELIMITERS = ",;\t"
COMMENTED_DELIMITER = re.compile(r'"?sep=(.)"?')  # Excel's own first line

Row = tuple[int, list[str]]  # the line of the file where it starts, and its cells


@dataclass(frozen=True)
class Table:
    """A CSV: the names in its header, and its rows, each as wide as the header."""

    header: list[str]
    rows: list[Row]
    ragged: list[int] = field(default_factory=list)  # lines of the rows that were left out for their width


def read_table(content: str | bytes, *, allow_ragged: bool = False) -> Table:
    """Read a table with a header. Blank rows do not count. Cells may be of any length.

    Columns are separated by commas, semicolons or tabs; by `|` where the first line has none of these; by spaces
    where it has none of them all and every line has the same number of words (as in CelebA's lists, which have a line
    with the number of rows on top and no name above the ids). In a file with tabs a quote is text like any other if
    the rows have the right width that way (IMDb's files do not quote).

    Raises LabelError for a file that is no table, and for rows with more or fewer cells than the header has, which
    `allow_ragged` leaves out instead.
    """
    text = _text(content)
    first_line = _first_line(text)
    if named := COMMENTED_DELIMITER.fullmatch(first_line):
        text, delimiter = text.replace(first_line, "", 1), named[1]  # the line stays, so that lines keep their numbers
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
    """Parse quoted CSV; rows that are not blank."""
    limit = csv.field_size_limit(len(text) + 1)  # the default refuses cells of over 131,072 characters
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
    """The rows of a file with tabs in which quotes mean nothing; None where that gives rows of several widths."""
    lines = [(number, line.split("\t")) for number, line in enumerate(_lines(text), 1) if line.strip()]
    if len({len(cells) for _, cells in lines}) != 1:
        return None
    return [(number, [_unquoted(cell) for cell in cells]) for number, cells in lines]


def _unquoted(cell: str) -> str:
    cell = cell.strip()
    whole = len(cell) > 1 and cell[0] == cell[-1] == '"' and '"' not in cell[1:-1].replace('""', "")
    return cell[1:-1].replace('""', '"') if whole else cell


def _table_of_words(text: str) -> list[Row] | None:
    """The rows of a file whose columns stand between spaces, or None. A number alone on top is no header."""
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
    """The header and the rows, if the header has distinct names and the rows have its width."""
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
    """Too few cells, or more of them than blank ones at the end (which spreadsheets add)."""
    return len(cells) != width and (len(cells) < width or any(map(str.strip, cells[width:])))
