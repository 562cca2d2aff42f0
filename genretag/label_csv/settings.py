"""How to read a CSV of labels, for what the file does not make plain."""

from dataclasses import dataclass


@dataclass(frozen=True)
class LabelSettings:
    """Settings for reading the CSV of labels. Without them everything is found in the file, or refused."""

    id_column: str | None = None
    """Column of the CSV that holds the ids. Default: found by its name, such as id, image_id or filename."""
    labels_column: str | None = None
    """Column of the CSV that holds the labels as text. Default: found by its name, such as labels, genres or tags."""
    label_separator: str | None = None
    """What stands between two labels of a cell: a text such as `|`, or one of the words space, tab, newline and none.
    Default: found in the cells."""
    true_value: tuple[str, ...] = ()
    """In columns of one label each, a value that means yes. May be given several times. Default: 1, true, yes."""
    false_value: tuple[str, ...] = ()
    """The same for no. `blank` stands for an empty cell. Default: 0, false, no, blank; a table with -1 is refused."""
    unlabelled_word: tuple[str, ...] = ()
    """A text that means that a poster has no label. May be given several times. Default: nan, NULL, None, \\N and
    other words of databases and spreadsheets, but not N/A."""
    allow_left_out: bool = False
    """Go on although many rows, columns or posters of the CSV are left out."""
