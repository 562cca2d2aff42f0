"""Labels in columns of their own: which values mean yes and no, and which columns hold such values."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from genretag.errors import quoted
from genretag.label_csv.settings import LabelSettings
from genretag.label_csv.table import Table
from genretag.label_csv.words import few, unlabelled_words
from genretag.labels import LabelError

YES = frozenset(("1", "true", "yes", "t", "y", "x"))
NO = frozenset(("0", "false", "no", "f", "n"))
BLANK, MINUS_ONE = "blank", "-1"
LETTERS = frozenset("tyxfn")  # they count only in a column that holds nothing else: M and F are no truth values


@dataclass(frozen=True)
class Truth:
    """The values that mean yes and those that mean no, as `value_of` writes them."""

    yes: frozenset[str]
    no: frozenset[str]
    counts: Counter[str] = field(default_factory=Counter)  # how often each value stands in the columns

    def of(self, cell: str) -> bool | None:
        """True for yes, False for no, None for anything else."""
        value = value_of(cell)
        return True if value in self.yes else False if value in self.no else None

    def __str__(self) -> str:
        seen = {value: f"{quoted(value)} {count:,}" for value, count in self.counts.most_common()}
        meanings = [("yes", self.yes), ("no", self.no), ("neither", seen.keys() - self.yes - self.no)]
        found = [(what, [text for value, text in seen.items() if value in values]) for what, values in meanings]
        return "; ".join(f"{what}: {few_texts(texts)}" for what, texts in found if texts)


def few_texts(texts: list[str], most: int = 5) -> str:
    """The first few texts, and how many more there are."""
    return ", ".join(texts[:most]) + (f" and {len(texts) - most:,} more" if len(texts) > most else "")


@dataclass(frozen=True)
class TruthColumns:
    """The columns that hold truth values, and how many cells have each value."""

    at: list[int]
    names: list[str]
    counts: Counter[str]


def value_of(cell: str) -> str:
    """A cell as a truth value is compared: without case and spaces, `1.0` as `1`, nothing as `blank`."""
    text = cell.strip().lower()
    if text in unlabelled_words(()) or not text:
        return BLANK
    try:
        number = float(text)
    except ValueError:
        return text
    return str(int(number)) if number in (-1, 0, 1) else text


def find_truth_columns(table: Table, others: set[int | None], settings: LabelSettings) -> TruthColumns:
    """The named columns of which at least half of the values that are not blank are truth values."""
    words = _default_truth(settings)
    known = words.yes | words.no | {MINUS_ONE}
    columns, counts = [], Counter[str]()
    for at, name in enumerate(table.header):
        if not name or at in others:
            continue
        found = _values_in(table, at)
        if _are_truth_values(found, known):
            columns.append(at)
            counts.update(found)
    return TruthColumns(columns, [table.header[at] for at in columns], counts)


def truth_column(table: Table, at: int) -> TruthColumns:
    """One column, whatever its values are."""
    return TruthColumns([at], [table.header[at]], _values_in(table, at))


def _values_in(table: Table, at: int) -> Counter[str]:
    """How many cells of a column have each value."""
    found = Counter[str]()
    for cell, count in Counter(cells[at] for _, cells in table.rows).items():
        found[value_of(cell)] += count
    return found


def _are_truth_values(found: Counter[str], known: frozenset[str]) -> bool:
    values = {value: count for value, count in found.items() if value != BLANK}
    if not values:
        return False
    if values.keys() <= known:
        return True
    return 2 * sum(count for value, count in values.items() if value in known - LETTERS) >= sum(values.values())


def decide_truth(columns: TruthColumns, settings: LabelSettings) -> Truth:
    """What each value means. Raises LabelError for -1, unless the settings name values: it may be no or unknown."""
    words = _default_truth(settings)
    if MINUS_ONE in columns.counts and not (settings.true_value or settings.false_value):
        others = " ".join(f"--false-value {value}" for value in columns.counts if value in words.no)
        unknown = f"; if it means unknown, pass {others}, and rows with -1 are left out" if others else ""
        raise LabelError(
            f"columns hold -1, such as {few(columns.names, 2)}, which may mean no or unknown: if it means no, pass "
            f"--false-value -1{' ' if others else ''}{others}{unknown}"
        )
    return Truth(words.yes, words.no, columns.counts)


def _default_truth(settings: LabelSettings) -> Truth:
    """The values that are given, or else the usual ones; a value that is given for one side leaves the other."""
    yes, no = _values(settings.true_value), _values(settings.false_value)
    if both := yes & no:
        raise LabelError(f"{few(sorted(both))} cannot mean yes and no: check --true-value and --false-value")
    return Truth(yes or YES - no, no or (NO | {BLANK}) - yes)


def _values(given: Iterable[str]) -> frozenset[str]:
    return frozenset(BLANK if text == BLANK else value_of(text) for text in given)
