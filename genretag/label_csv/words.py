"""Words of a CSV of labels: cleaned, cut for a message, and those that mean that there is no label."""

from collections.abc import Collection, Iterable
from itertools import islice

from genretag.errors import one_line, quoted
from genretag.labels import MAX_LABEL_LENGTH, composed

# What databases, spreadsheets and data frames write for "nothing". `N/A` is missing on purpose: films have that genre.
UNLABELLED = (
    "nan", "null", "none", "nil", "\\n", "na", "<na>", "#n/a", "#null!", "nat", "undefined", "-", "--", "–", "—", "?",
    "(no genres listed)", "no genres listed", "(none)", "(null)", "(blank)", "(empty)",
)  # fmt: skip


def unlabelled_words(given: Iterable[str]) -> frozenset[str]:
    """The texts, in lower case, that mean that there is no label: those that were given, or the usual ones."""
    return frozenset(word.strip().lower() for word in given) or frozenset(UNLABELLED)


def clean(label: str) -> str:
    """A label with composed accents and single spaces, and with nothing in it that does not print."""
    return one_line(composed(label), MAX_LABEL_LENGTH + 1)


def few(found: Collection[object], most: int = 5) -> str:
    """The first things found and how many more there are; of a mapping, each key with its value."""
    first = list(islice(found, most))
    items = [f"{quoted(key)}: {found[key]}" for key in first] if isinstance(found, dict) else map(quoted, first)
    return ", ".join(items) + (f" and {len(found) - most:,} more" if len(found) > most else "")
