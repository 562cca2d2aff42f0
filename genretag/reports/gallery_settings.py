"""The settings of a gallery."""

from dataclasses import dataclass

from genretag.errors import UsageError
from genretag.label_csv.settings import LabelSettings

MOST = 50_000  # posters of one page: some 250 MB


@dataclass(frozen=True)
class GallerySettings(LabelSettings):
    """Which posters, and where the page goes."""

    day: str | None = None
    """The posters of one night, YYYY-MM-DD; of all nights when not set."""
    genre: str | None = None
    """Only posters that were given this genre."""
    where: str | None = None
    """A condition in DuckDB's SQL on the columns of the predictions, such as `p_drama > .9 and width < 300`."""
    labels: str | None = None
    """A CSV of true labels, as for `train`: the page can then sort by how far predictions are from them."""
    limit: int = 5_000
    """Posters in the page; of more, so many are drawn at random, the same ones each time. 5,000 take some 20 MB."""
    html: str | None = None
    """Where the page goes: a file or an s3:// object; `gallery.html` in the output when not set."""

    def __post_init__(self) -> None:
        from datetime import date

        if not 1 <= self.limit <= MOST:
            raise UsageError(f"limit must be between 1 and {MOST:,}, not {self.limit:,}")
        if self.day is not None:
            try:
                date.fromisoformat(self.day)
            except ValueError as error:
                raise UsageError(f"day must be YYYY-MM-DD, not {self.day!r}") from error
