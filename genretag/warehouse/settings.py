"""The settings of `genretag warehouse`."""

import re
from dataclasses import dataclass

from genretag.errors import UsageError, quoted

SCHEMA = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,99}(\.[A-Za-z_][A-Za-z0-9_-]{0,99}){0,2}")
ACCESS = re.compile(r"[A-Za-z0-9_.:/@+=,-]{1,2048}")


@dataclass(frozen=True)
class WarehouseSettings:
    """Where the tables and views go, and how the warehouse reaches the bucket."""

    schema: str | None = None
    """Schema (database, dataset) of the tables and views, with its catalogue or project where needed: genretag when not
    set, hive.genretag for Trino."""
    access: str | None = None
    """The name by which the warehouse may read the bucket: Snowflake's storage integration (genretag when not set),
    Redshift's IAM role (its default role when not set), BigQuery's connection (which it needs for s3:// only)."""

    def __post_init__(self) -> None:
        if self.schema is not None and not SCHEMA.fullmatch(self.schema):
            raise UsageError(f"schema must be a name such as genretag or films.genretag, not {quoted(self.schema)}")
        if self.access is not None and not ACCESS.fullmatch(self.access):
            raise UsageError(
                f"access must be the name of an integration, a connection or a role, not {quoted(self.access)}"
            )
