"""The settings of `genretag compact`."""

from dataclasses import dataclass

from genretag.errors import UsageError, quoted


@dataclass(frozen=True)
class CompactSettings:
    """Which nights, and into how large files."""

    before: str | None = None
    """Merge the nights before this date, YYYY-MM-DD; all but today's, in UTC, when not set."""
    target_bytes: int = 128 * 1024 * 1024
    """How large merged files become. Files of half this size and more stay as they are."""
    dry_run: bool = False
    """Say what would be merged, and change nothing."""
    break_lock: bool = False
    """Take the output over from the run that holds it. Only when you know that it is dead."""

    def __post_init__(self) -> None:
        from datetime import UTC, date, datetime

        if self.target_bytes < 1:
            raise UsageError(f"target_bytes must be at least 1, not {self.target_bytes}")
        if self.before is None:
            return
        try:
            before = date.fromisoformat(self.before)
        except ValueError as error:
            raise UsageError(f"before must be YYYY-MM-DD, not {quoted(self.before)}") from error
        if before > datetime.now(UTC).date():
            raise UsageError(f"before must not be later than today, or the current night would be merged: {before}")
