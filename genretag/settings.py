"""Settings of the commands, except those of `tag` and `train`: frozen dataclasses with one field per option.

Flags, environment variables and the settings file fill the fields. A wrong value raises `UsageError` when the object is
made. Every command imports this module, even for `--help`, so it imports no large library.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from genretag.errors import UsageError, has_credentials, quoted

FORMS = COLUMNS, LISTS = "columns", "lists"  # of the predictions, see genretag/output/label_lists.py

FORMATS = PARQUET, ICEBERG, DELTA = "parquet", "iceberg", "delta"  # that `warehouse` writes SQL for

Location = Annotated[str, "a place that the command reads or writes: a local path or the URI of a bucket"]
"""Type of a setting that holds a local path or the URI of a bucket. `genretag submit` refuses relative local paths in
such settings, because the cluster's nodes cannot see them."""


@dataclass(frozen=True)
class TableSettings:
    """Settings of the table of the predictions, and of its catalogue. Without `table`, nothing is committed."""

    table: str | None = None
    """Iceberg table NAMESPACE.TABLE, or `delta` for a Delta table in OUTPUT/predictions. Every finished run is
    committed to it in one step."""
    catalog: str | None = None
    """Catalogue of the table: a URI (https://, sqlite:///, postgresql://), or a name in pyiceberg's configuration. Keep
    tokens and passwords in that configuration. When not set: OUTPUT/_catalog.db. If OUTPUT is in a bucket, you must set
    a catalogue."""

    @property
    def is_delta(self) -> bool:
        """True if the table is a Delta table."""
        return self.table is not None and self.table.partition(":")[0] == "delta"

    @property
    def name(self) -> str | None:
        """Name of the table in messages and in `OUTPUT/_table.json`: `delta` for any Delta table."""
        return "delta" if self.is_delta else self.table

    def __post_init__(self) -> None:
        if self.is_delta:
            if self.catalog is not None:
                raise UsageError("a Delta table in a folder has no catalogue: leave out --catalog")
            return
        if self.table is not None and not all(self.table.partition(".")):
            raise UsageError(f"table must be NAMESPACE.TABLE, such as films.genres, or delta, not {quoted(self.table)}")
        if self.catalog is not None and self.table is None:
            raise UsageError("a catalogue is of no use without a table: add --table NAMESPACE.TABLE")


NO_TABLE = TableSettings()


@dataclass(frozen=True)
class CompactSettings:
    """Settings of `compact`: the days whose files it merges, and how large the merged files become."""

    before: str | None = None
    """Merge the days (`dt=` folders) before this date, YYYY-MM-DD. When not set: all days before today, in UTC."""
    target_bytes: int = 128 * 1024 * 1024
    """Target size of merged files, in bytes. Files of at least half this size stay as they are."""
    dry_run: bool = False
    """Print what would be merged, and change nothing."""
    break_lock: bool = False
    """Take the output over from the run that holds it. Use this only when you know that the other run is dead."""

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


@dataclass(frozen=True)
class RetagSettings:
    """Settings of `retag`: the threshold profile that decides again which genres each poster gets."""

    profile: str = "balanced"
    """Threshold profile that decides the genres of each poster: balanced, precise, generous, or top-3 (or top-1, top-5,
    ...), as for `tag`."""
    dry_run: bool = False
    """Print what would change, and change nothing."""
    break_lock: bool = False
    """Take the output over from the run that holds it. Use this only when you know that the other run is dead."""


@dataclass(frozen=True)
class LabelSettings:
    """Settings for reading the CSV of labels. Columns and separators without a setting are detected in the file.

    If a file can be read in two ways, it is refused until a setting decides.
    """

    id_column: str | None = None
    """Column of the CSV that holds the ids. Default: found by its name, such as id, image_id or filename."""
    labels_column: str | None = None
    """Column of the CSV that holds the labels as text. Default: found by its name, such as labels, genres or tags."""
    label_separator: str | None = None
    """Separator between two labels in a cell: a text such as `|`, or one of the words space, tab, newline and none.
    `none` means that a cell holds one label. Default: detected from the cells."""
    true_value: tuple[str, ...] = ()
    """A value that means yes, for columns of one label each. May be given several times. Default: 1, true, yes."""
    false_value: tuple[str, ...] = ()
    """A value that means no, for columns of one label each. May be given several times. `blank` stands for an empty
    cell. Default: 0, false, no, blank. A table with -1 is refused by default, because -1 may mean no or unknown."""
    unlabelled_word: tuple[str, ...] = ()
    """A text in place of the labels that means that a poster has no label. May be given several times. Default: nan,
    NULL, None, \\N and other words of databases and spreadsheets, but not N/A."""
    allow_left_out: bool = False
    """Continue even if many rows, columns or posters of the CSV are left out. Otherwise that is an error."""


SPLITS = ("test", "validation", "all")
LEAST_RESAMPLES = 20  # an interval cuts off 2.5 % of the samples at each end, which needs enough samples


@dataclass(frozen=True)
class EvaluateSettings(LabelSettings):
    """Settings of `evaluate`: the posters to measure on, and what to compute."""

    split: str = "test"
    """Posters to measure on: test or validation (the splits that the bundle's training made by the id), or all (every
    poster of the CSV)."""
    slice: tuple[str, ...] = ()
    """Columns of the CSV. The posters are also measured separately for each value of a column. A column with many
    different numbers is cut into quartiles."""
    profile: str = "balanced"
    """Threshold profile for the table of labels and for the slices."""
    bootstrap: int = 1_000
    """Number of bootstrap samples for each interval. More samples take longer and make the ends of the intervals
    steadier."""
    seed: int = 0
    """Seed of the bootstrap samples."""
    include_training: bool = False
    """Evaluate also on posters that the bundle was trained on. The figures then look better than the bundle is."""
    json: Path | None = None
    """File to write all figures to."""
    html: Location | None = None
    """File or object of a bucket for the model card: a page with figures, curves, and the best and worst posters."""
    posters: bool = True
    """Show posters in the model card. Without posters, the card has no pictures and can go to places where posters may
    not go."""

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise UsageError(f"there is no split {self.split!r}: choose from {', '.join(SPLITS)}")
        if self.bootstrap < LEAST_RESAMPLES:
            raise UsageError(f"bootstrap must be at least {LEAST_RESAMPLES}, not {self.bootstrap}")
        if self.seed < 0:
            raise UsageError(f"seed must not be negative, as it is in {self.seed}")
        if self.json is not None and not self.json.absolute().parent.is_dir():
            raise UsageError(f"there is no folder for {self.json}: make it first")


@dataclass(frozen=True)
class CalibrateSettings(LabelSettings):
    """Settings of `calibrate`: how the labelled posters are divided, and what the new bundle gets."""

    test_share: float = 0.5
    """Share of the posters, by a hash of the id, that only measure. The others decide."""
    int8: bool = True
    """Quantize the network to 8-bit integers for CPUs. The bundle keeps the result only if it is nearly as good."""
    seed: int = 0
    """Seed of the division."""
    overwrite: bool = False
    """Replace a bundle that is already at OUTPUT."""

    def __post_init__(self) -> None:
        if not 0 < self.test_share < 1:
            raise UsageError(f"test_share must be above 0 and below 1, not {self.test_share:g}")
        if self.seed < 0:
            raise UsageError(f"seed must not be negative, as it is in {self.seed}")


GALLERY_POSTERS = 50_000  # the most posters in one page; such a page has about 250 MB


@dataclass(frozen=True)
class GallerySettings(LabelSettings):
    """Settings of `gallery`: the posters to show, and where to write the page."""

    day: str | None = None
    """Show the posters of one day (a `dt=` folder), YYYY-MM-DD. When not set: of all days."""
    genre: str | None = None
    """Show only posters that were given this genre."""
    where: str | None = None
    """Condition in DuckDB's SQL on the columns of the predictions, such as `p_drama > .9 and width < 300`."""
    labels: str | None = None
    """CSV of true labels, as for `train`. The page can then sort posters by how far their predictions are from the
    labels."""
    limit: int = 5_000
    """Largest number of posters in the page. If there are more, the page shows a random sample of this size, the same
    sample each time. 5,000 posters take some 20 MB."""
    model: str | None = None
    """The bundle that tagged the posters. With it, the page can show which part of a poster supports a genre, if the
    network allows that, as `genretag explain` does."""
    html: Location | None = None
    """File or object of a bucket to write the page to. When not set: `gallery.html` in the output."""

    def __post_init__(self) -> None:
        from datetime import date

        if not 1 <= self.limit <= GALLERY_POSTERS:
            raise UsageError(f"limit must be between 1 and {GALLERY_POSTERS:,}, not {self.limit:,}")
        if self.day is not None:
            try:
                date.fromisoformat(self.day)
            except ValueError as error:
                raise UsageError(f"day must be YYYY-MM-DD, not {self.day!r}") from error


@dataclass(frozen=True)
class BenchSettings:
    """Settings of `bench`: how many posters to measure, and how often."""

    posters: int = 2_000
    """Largest number of posters to measure on. Ten thousand give steadier figures."""
    rounds: int = 1
    """Number of rounds. A round measures `tag` first, and then plain loops without Ray. The command prints medians over
    the rounds."""
    json: Path | None = None
    """File to write all figures to."""

    def __post_init__(self) -> None:
        for name in ("posters", "rounds"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, not {getattr(self, name)}")


DEFAULT_ADDRESS = "http://127.0.0.1:8265"  # `ray dashboard` and `kubectl port-forward` open the dashboard here
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class SubmitSettings:
    """Settings of `submit`: the cluster to send a command to, and whether to wait for the job."""

    address: str | None = None
    """Address of the cluster's job server. When not set: RAY_API_SERVER_ADDRESS, else RAY_ADDRESS if that is the
    dashboard's URL, else http://127.0.0.1:8265."""
    wait: bool = False
    """Follow the job's log until the job ends, and exit with the job's exit code."""
    dry_run: bool = False
    """Print what would be sent, and send nothing."""
    submission_id: str | None = None
    """Name of the job on the cluster. By default, the same command gets the same name all day (UTC)."""
    env: tuple[str, ...] = ()
    """Names of environment variables of this machine to pass to the job. Anyone who has the cluster's token can read
    their values on the cluster. An IAM role of the nodes is a safer way to give access."""

    def __post_init__(self) -> None:
        if self.submission_id is not None and not NAME.fullmatch(self.submission_id):
            raise UsageError(f"a submission id is of letters, digits, - and _, not {quoted(self.submission_id)}")
        for name in self.env:
            if name not in os.environ:
                raise UsageError(f"--env {quoted(name)} is not set here")

    @property
    def server(self) -> str:
        """Address of the job server, without a slash at its end.

        The first of these that is set counts: `address`, RAY_API_SERVER_ADDRESS, RAY_ADDRESS if it is an HTTP URL,
        `DEFAULT_ADDRESS`. Raises `UsageError` if the address is not an HTTP URL or contains a user name or password.
        """
        of_ray = os.environ.get("RAY_ADDRESS", "")  # `ray job submit` reads it too, but only as a URL of the dashboard
        dashboard = of_ray if of_ray.startswith(("http://", "https://")) else ""
        address = self.address or os.environ.get("RAY_API_SERVER_ADDRESS") or dashboard or DEFAULT_ADDRESS
        if has_credentials(address):
            raise UsageError("the job server's address carries a user name or password: set RAY_AUTH_TOKEN instead")
        if not address.startswith(("http://", "https://")):
            raise UsageError(
                f"{quoted(address)} is no job server: write http://HEAD:8265, the address of the dashboard"
            )
        return address.rstrip("/")


SCHEMA = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,99}(\.[A-Za-z_][A-Za-z0-9_-]{0,99}){0,2}")
ACCESS = re.compile(r"[A-Za-z0-9_.:/@+=,-]{1,2048}")


@dataclass(frozen=True)
class WarehouseSettings:
    """Settings of `warehouse`: where the tables and views go, and how the warehouse reaches the bucket."""

    schema: str | None = None
    """Schema (database, dataset) of the tables and views, with its catalogue or project if the warehouse needs one.
    When not set: genretag, or hive.genretag for Trino."""
    access: str | None = None
    """Name that lets the warehouse read the bucket: Snowflake's storage integration (genretag when not set), Redshift's
    IAM role (its default role when not set), or BigQuery's connection (needed for s3:// only)."""

    format: str = "parquet"
    """What the warehouse reads: parquet (the part files), or the table that `tag --table` commits to: iceberg or delta.
    Failures are part files in any case."""
    table: str | None = None
    """For iceberg: the name of the table in the warehouse, such as films.genres."""
    form: str | None = None
    """Form of the predictions, as `tag --form` wrote them: columns or lists. When not set: columns for up to 1,000
    labels, else lists."""

    def __post_init__(self) -> None:
        if self.form not in (None, *FORMS):
            raise UsageError(f"form must be columns or lists, not {quoted(self.form)}")
        if self.format not in FORMATS:
            raise UsageError(f"format must be parquet, iceberg or delta, not {quoted(self.format)}")
        if (self.format == ICEBERG) != (self.table is not None):
            raise UsageError("--format iceberg and --table NAME go together: by which name does the warehouse know it?")
        if self.table is not None and not SCHEMA.fullmatch(self.table):
            raise UsageError(f"table must be a name such as films.genres, not {quoted(self.table)}")
        if self.schema is not None and not SCHEMA.fullmatch(self.schema):
            raise UsageError(f"schema must be a name such as genretag or films.genretag, not {quoted(self.schema)}")
        if self.access is not None and not ACCESS.fullmatch(self.access):
            raise UsageError(
                f"access must be the name of an integration, a connection or a role, not {quoted(self.access)}"
            )
