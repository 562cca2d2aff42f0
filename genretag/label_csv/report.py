"""What is said about a CSV of labels: how it was read, what was left out, and when that is too much."""

from collections.abc import Collection
from dataclasses import dataclass, field

from genretag.errors import one_line
from genretag.label_csv.words import few
from genretag.labels import LabelError

MOST_WRONG = 0.1  # share of rows that may be wrong: without an id, unreadable, contradicting another, of another width
MOST_UNUSED = 0.5  # share of rows that may have no label, and of posters that may have rare labels only
LEAST = 3  # rows or posters; fewer never stop a run


@dataclass
class LabelReport:
    """How a CSV was read and what was left out; numbers in lists are lines of the file, where a row starts."""

    source: str
    layout: str = ""  # how the file writes labels
    id_column: str = ""
    details: list[str] = field(default_factory=list)  # the columns, the separator, the truth values
    rows: int = 0
    distinct: int = 0  # posters with a label, be it a rare one
    posters: int = 0  # posters kept
    labels: dict[str, int] = field(default_factory=dict)  # labels kept, with their posters
    joined: int = 0  # rows with one label each that add it to an earlier row's poster
    absent: list[int] = field(default_factory=list)  # rows that say that a poster does not have a label
    ragged: list[int] = field(default_factory=list)
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
        """The report for the log: a summary, how the file was read, and one line for each finding."""
        read = f"{self.rows:,} rows ({self.layout}) of {self.distinct:,} posters with labels"
        kept = f"kept {self.posters:,} posters with {len(self.labels):,} labels"
        how = [f"ids: column {self.id_column}", *self.details, f"posters by label: {self._counts()}"]
        indented = [f"  {one_line(line, 1_000)}" for line in [*how, *self.findings()]]
        return [one_line(f"{self.source}: {read}; {kept}", 1_000), *indented]

    def _counts(self) -> str:
        """The three most frequent labels and the rarest one that is kept."""
        ranked = sorted(self.labels.items(), key=lambda item: -item[1])
        shown = ranked if len(ranked) < 5 else [*ranked[:3], ranked[-1]]
        texts = [f"{label} {count:,}" for label, count in shown]
        return ", ".join(texts if shown is ranked else [*texts[:3], "…", texts[3]])

    def findings(self) -> list[str]:
        """What was left out or looks odd, one line each."""
        findings: list[tuple[str, Collection[object]]] = [
            ("rows that say that a poster lacks a label: {} (lines {})", self.absent),
            ("rows left out, more or fewer cells than the header: {} (lines {})", self.ragged),
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
        return [one_line(what.format(f"{len(found):,}", few(found)), 1_000) for what, found in findings if found]

    def require_few_rows_left_out(self) -> None:
        """Raise LabelError where so many rows are left out that the file probably means something else."""
        wrong = sum(map(len, (self.conflicting, self.without_id, self.unreadable)))
        self._require(wrong, self.rows, MOST_WRONG, "rows cannot be used")
        self._require(len(self.unlabelled), self.rows, MOST_UNUSED, "rows have no label")

    def require_few_posters_left_out(self) -> None:
        """Raise LabelError where most posters have rare labels only, as with the wrong separator."""
        self._require(len(self.only_rare_labels), self.distinct, MOST_UNUSED, "posters have rare labels only")

    def _require(self, count: int, of: int, most: float, what: str) -> None:
        if count >= LEAST and count > most * of:
            raise LabelError(
                f"{count:,} of {of:,} {what}, more than {most:.0%}. {'; '.join(self.findings())}. Correct the CSV "
                "or say how to read it (--label-separator, --true-value, --false-value, --unlabelled-word); "
                "--allow-left-out goes on without them"
            )
