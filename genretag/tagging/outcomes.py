"""What became of posters: how many were scored, how many failed and why, and whether that is too many."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from genretag.other_files import OTHER_FILE


@dataclass(frozen=True)
class Outcome:
    """How many posters of a step, a part file or a night were scored, and how many failed, by `stage: reason`."""

    scored: int = 0
    failures: Mapping[str, int] = field(default_factory=dict)

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
    """Count rows that have `stage` and `reason`; a null reason is a poster that was scored."""
    pairs = zip(rows["stage"].to_pylist(), rows["reason"].to_pylist(), strict=True)
    failures = Counter(f"{stage}: {reason}" for stage, reason in pairs if reason is not None)
    return Outcome(len(rows) - failures.total(), dict(failures.most_common()))


def sum_outcomes(outcomes: Iterable[Outcome]) -> Outcome:
    """Return the outcome of all of them together, the commonest failure first."""
    scored, failures = 0, Counter[str]()
    for outcome in outcomes:
        scored += outcome.scored
        failures.update(outcome.failures)
    return Outcome(scored, dict(failures.most_common()))
