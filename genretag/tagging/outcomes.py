"""What became of posters: how many were scored, how many failed and why, and whether that is too many."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from genretag.other_files import OTHER_FILE
from genretag.tagging.versions import ALREADY, FAILED, SCORED

COUNTS = ("scored", "already_scored", "already_failed")


@dataclass(frozen=True)
class Outcome:
    """How many posters of a step, a part file or a night were scored, and how many failed, by `stage: reason`.

    Of some the output holds the version that was there, though another was listed: a prediction or a failure.
    """

    scored: int = 0
    failures: Mapping[str, int] = field(default_factory=dict)
    already_scored: int = 0  # posters of which the output holds the version that was there, though not as listed
    already_failed: int = 0

    @property
    def failed(self) -> int:
        """All rows that are failures."""
        return sum(self.failures.values())

    @property
    def other_files(self) -> int:
        """Failures that are no posters: videos, notes and the like."""
        return sum(count for name, count in self.failures.items() if name.endswith(f": {OTHER_FILE}"))

    @property
    def against_budget(self) -> int:
        """Failures that use up the error budget: all but files that are no posters."""
        return self.failed - self.other_files


def outcome_of(rows: pa.Table) -> Outcome:
    """Count rows that have `stage`, `reason` and `already`; a poster for which both are null was scored."""
    pairs = zip(rows["stage"].to_pylist(), rows["reason"].to_pylist(), strict=True)
    failures = Counter(f"{stage}: {reason}" for stage, reason in pairs if reason is not None)
    already = Counter(rows[ALREADY].drop_null().to_pylist() if ALREADY in rows.column_names else ())
    scored = len(rows) - failures.total() - already.total()
    return Outcome(scored, dict(failures.most_common()), already[SCORED], already[FAILED])


def sum_outcomes(outcomes: Iterable[Outcome]) -> Outcome:
    """Return the outcome of all of them together, the commonest failure first."""
    counts, failures = Counter[str](), Counter[str]()
    for outcome in outcomes:
        counts.update({name: getattr(outcome, name) for name in COUNTS})
        failures.update(outcome.failures)
    return Outcome(failures=dict(failures.most_common()), **{name: counts[name] for name in COUNTS})
