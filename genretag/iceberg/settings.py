"""The settings of the Iceberg table that nights are committed to."""

from dataclasses import dataclass

from genretag.errors import UsageError, quoted


@dataclass(frozen=True)
class TableSettings:
    """Which table of which catalogue; without a table nothing of this happens."""

    table: str | None = None
    """Iceberg table that every finished night is committed to in one step, NAMESPACE.TABLE."""
    catalog: str | None = None
    """Catalogue of the table: a URI (https://, sqlite:///, postgresql://), or a name in pyiceberg's configuration,
    which is the place for tokens and passwords. OUTPUT/_catalog.db when not set and OUTPUT is a folder."""

    def __post_init__(self) -> None:
        if self.table is not None and not all(self.table.partition(".")):
            raise UsageError(f"table must be NAMESPACE.TABLE, such as films.genres, not {quoted(self.table)}")
        if self.catalog is not None and self.table is None:
            raise UsageError("a catalogue is of no use without a table: add --table NAMESPACE.TABLE")


NO_TABLE = TableSettings()
