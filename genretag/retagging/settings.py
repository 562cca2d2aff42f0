"""The settings of `genretag retag`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class RetagSettings:
    """Which thresholds."""

    profile: str = "balanced"
    """Which of the bundle's threshold profiles decides the genres from now on, as for `tag`."""
    dry_run: bool = False
    """Say what would change, and change nothing."""
    break_lock: bool = False
    """Take the output over from the run that holds it. Only when you know that it is dead."""
