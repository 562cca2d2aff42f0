"""Report on a label CSV, logged before training starts: how the file was read, and what was left out.

If too much was left out, an error is raised. This module also has the words that mean "no label", and the function that
cleans a label.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from itertools import islice

from genretag.data.labels import MAX_LABEL_LENGTH, LabelError, composed
from genretag.errors import one_line, quoted

# Texts of databases, spreadsheets and data frames for "no value". `N/A` is not here: some films have it as a genre.
UNLABELLED = (
    "nan", "null", "none", "nil", "\\n", "na", "<na>", "#n/a", "#null!", "nat", "undefined", "-", "--", "–", "—", "?",
    "(no genres listed)", "no genres listed", "(none)", "(null)", "(blank)", "(empty)",
)  # fmt: skip


def unlabelled_words(given: Iterable[str]) -> frozenset[str]:
    """Return the words `given` in lower case, or `UNLABELLED` if `given` is empty.

    A cell with one of these words has no label.
    """
    return frozenset(word.strip().lower() for word in given) or frozenset(UNLABELLED)


def clean(label: str) -> str:
    """Return a label with composed accents (NFC) and single spaces, without characters that do not print.

    A label longer than `MAX_LABEL_LENGTH` is cut to one character more than this limit. So `column_name` refuses it.
    """
    return one_line(composed(label), MAX_LABEL_LENGTH + 1)


def few(found: Collection[object], most: int = 5) -> str:
    """Join the first `most` items for a message, and add the number of further items: `'a', 'b' and 3 more`.

    For a dictionary, show each key with its value.
    """
    first = list(islice(found, most))
    items = [f"{quoted(key)}: {found[key]}" for key in first] if isinstance(found, dict) else map(quoted, first)
    return ", ".join(items) + (f" and {len(found) - most:,} more" if len(found) > most else "")


MOST_WRONG = 0.1  # largest share of rows that may have no id, be unreadable, or contradict an earlier row


MOST_UNUSED = 0.5  # largest share of rows that may have no label, and of posters that may have rare labels only


LEAST = 3  # rows or posters; fewer than 3 with the same problem never raise an error


@dataclass
class LabelReport:
    """The way a CSV was read, and the rows, labels, posters and columns that were left out.

    Each `list[int]` holds the line numbers in the file where rows of one kind start.
    """

    source: str
    layout: str = ""  # how the file writes labels
    id_column: str = ""
    details: list[str] = field(default_factory=list)  # the columns, the separator, the truth values
    rows: int = 0
    distinct: int = 0  # posters with any label, rare ones included
    posters: int = 0  # posters in the multi-hot matrix
    labels: dict[str, int] = field(default_factory=dict)  # labels in the matrix, with their number of posters
    joined: int = 0  # with one label a row: rows that add their label to the poster of an earlier row
    absent: list[int] = field(default_factory=list)  # rows that say that a poster does not have a label
    ragged: list[int] = field(default_factory=list)  # rows with more or fewer cells than the header
    duplicates: list[int] = field(default_factory=list)  # rows with the poster and the labels of an earlier row
    conflicting: list[int] = field(default_factory=list)  # rows with the poster of an earlier row and other labels
    without_id: list[int] = field(default_factory=list)
    unlabelled: list[int] = field(default_factory=list)  # rows without any label
    unreadable: dict[int, str] = field(default_factory=dict)  # by line: the column and its value
    rare_labels: dict[str, int] = field(default_factory=dict)  # with their number of posters
    only_rare_labels: list[int] = field(default_factory=list)  # rows of posters that have only rare labels
    disagreements: list[int] = field(default_factory=list)  # rows whose text and truth columns differ
    ignored_columns: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Return the report as lines for the log: a summary, how the file was read, and one line for each finding."""
        read = f"{self.rows:,} rows ({self.layout}) of {self.distinct:,} posters with labels"
        kept = f"kept {self.posters:,} posters with {len(self.labels):,} labels"
        how = [f"ids: column {self.id_column}", *self.details, f"posters by label: {self._counts()}"]
        indented = [f"  {one_line(line, 1_000)}" for line in [*how, *self.findings()]]
        return [one_line(f"{self.source}: {read}; {kept}", 1_000), *indented]

    def _counts(self) -> str:
        """Return a text with the number of posters of the three most frequent labels and of the rarest label.

        If there are fewer than five labels, the text has the numbers of all labels.
        """
        ranked = sorted(self.labels.items(), key=lambda item: -item[1])
        shown = ranked if len(ranked) < 5 else [*ranked[:3], ranked[-1]]
        texts = [f"{label} {count:,}" for label, count in shown]
        return ", ".join(texts if shown is ranked else [*texts[:3], "…", texts[3]])

    def findings(self) -> list[str]:
        """Return one line for each finding: rows, labels, posters or columns that were left out or look odd.

        Return an empty list if there is no finding.
        """
        findings: list[tuple[str, Collection[object]]] = [
            ("rows that say that a poster lacks a label: {} (lines {})", self.absent),
            ("rows left out, more or fewer cells than the header: {} (lines {})", self.ragged),
            ("rows left out, same poster and labels as an earlier row: {} (lines {})", self.duplicates),
            ("rows left out, same poster as an earlier row, other labels: {} (lines {})", self.conflicting),
            ("rows left out, no id: {} (lines {})", self.without_id),
            ("rows left out, no label at all: {} (lines {})", self.unlabelled),
            ("rows left out, value cannot be read: {} (lines {})", self.unreadable),
            ("labels left out, too few posters: {} ({})", self.rare_labels),
            ("posters left out, rare labels only: {} (lines {})", self.only_rare_labels),
            ("rows whose text and 0/1 columns differ, the columns count: {} (lines {})", self.disagreements),
            ("columns ignored: {} ({})", self.ignored_columns),
        ]
        return [one_line(what.format(f"{len(found):,}", few(found)), 1_000) for what, found in findings if found]

    def require_few_rows_left_out(self) -> None:
        """Raise LabelError if more than 10 % of the rows cannot be used, or more than half of them have no label.

        In such a case, the file was probably read in a wrong way. Rows cannot be used if they have no id or an
        unreadable value, or if they contradict an earlier row. Fewer than `LEAST` such rows never raise the error.
        """
        wrong = sum(map(len, (self.conflicting, self.without_id, self.unreadable)))
        self._require(wrong, self.rows, MOST_WRONG, "rows cannot be used")
        self._require(len(self.unlabelled), self.rows, MOST_UNUSED, "rows have no label")

    def require_few_posters_left_out(self) -> None:
        """Raise LabelError if more than half of the posters have rare labels only. A wrong separator is a likely cause.

        Fewer than `LEAST` such posters never raise the error.
        """
        self._require(len(self.only_rare_labels), self.distinct, MOST_UNUSED, "posters have rare labels only")

    def _require(self, count: int, of: int, most: float, what: str) -> None:
        """Raise LabelError if too many rows or posters cannot be used.

        `count` is the number that cannot be used, and `of` is the number of all. Too many means that `count` is at
        least `LEAST`, and `count` / `of` is above `most`. `what` says in the message what was counted, such as "rows
        have no label".
        """
        if count >= LEAST and count > most * of:
            raise LabelError(
                f"{count:,} of {of:,} {what}, more than {most:.0%}. {'; '.join(self.findings())}. Correct the CSV "
                "or say how to read it (--label-separator, --true-value, --false-value, --unlabelled-word); "
                "--allow-left-out goes on without them"
            )
