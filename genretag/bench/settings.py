"""The settings of a benchmark."""

from dataclasses import dataclass
from pathlib import Path

from genretag.errors import UsageError


@dataclass(frozen=True)
class BenchSettings:
    """What to measure."""

    posters: int = 2_000
    """How many posters, if there are so many. Ten thousand give steadier figures."""
    rounds: int = 1
    """How often the ceiling and the job are measured, in turn; medians are printed."""
    json: Path | None = None
    """A file for all figures."""

    def __post_init__(self) -> None:
        for name in ("posters", "rounds"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, not {getattr(self, name)}")
