"""The settings of an evaluation."""

from dataclasses import dataclass
from pathlib import Path

from genretag.errors import UsageError
from genretag.label_csv.settings import LabelSettings

SPLITS = ("test", "validation", "all")
LEAST_RESAMPLES = 20  # fewer have no 2.5 % to cut off


@dataclass(frozen=True)
class EvaluateSettings(LabelSettings):
    """On which posters, and what to compute of them."""

    split: str = "test"
    """Which posters: test or validation, as the bundle's own training split them by the id, or all of the CSV."""
    slice: tuple[str, ...] = ()
    """Columns of the CSV by whose values the posters are measured apart too; many numbers are cut into quartiles."""
    profile: str = "balanced"
    """The threshold profile of the table of labels and of the slices."""
    bootstrap: int = 1_000
    """Draws of posters behind each interval. More cost time and steady the intervals' ends."""
    seed: int = 0
    """Seed of these draws."""
    include_training: bool = False
    """Evaluate on posters that the bundle was trained on as well. Its figures are then better than it is."""
    json: Path | None = None
    """A file for all figures."""
    html: str | None = None
    """A file or an s3:// object for the model card: a page with figures, curves, and the best and worst posters."""
    posters: bool = True
    """Show these posters in the card. Without them it holds no pictures, and may go where they may not."""

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise UsageError(f"there is no split {self.split!r}: choose from {', '.join(SPLITS)}")
        if self.bootstrap < LEAST_RESAMPLES:
            raise UsageError(f"bootstrap must be at least {LEAST_RESAMPLES}, not {self.bootstrap}")
        if self.seed < 0:
            raise UsageError(f"seed must not be negative, as it is in {self.seed}")
        if self.json is not None and not self.json.absolute().parent.is_dir():
            raise UsageError(f"there is no folder for {self.json}: make it first")
