"""What comes from outside and goes into statements, checked: the location, the schema, the access, the labels."""

import re
import unicodedata
from collections.abc import Sequence

from genretag.errors import UsageError, quoted
from genretag.labels import column_names
from genretag.storage import resolve
from genretag.warehouse.dialects import LOCAL, PLAIN, Dialect, Sql

# No quote, backslash, wildcard, percent, dollar or brace: SQL, globs or URIs would take them for something else.
IN_LOCATION = re.compile(r"[\w!.()=+@:,~ /-]+")
# DuckDB takes a local path as we write it for it, but reads a backslash as a slash.
IN_LOCAL_DUCKDB = re.compile(r"[^\\]+")
NO_TEXT = ("Cc", "Cs", "Zl", "Zp")  # categories of characters that not every warehouse takes in a literal


def checked_location(location: str, dialect: Dialect) -> str:
    """The location without a slash at its end; a local path is absolute. Raises `UsageError`."""
    if "://" not in location:
        if LOCAL not in dialect.schemes:
            raise UsageError(f"{dialect.name} cannot read {quoted(location)}: write {dialect.schemes[0]}BUCKET/PREFIX")
        place = resolve(location)
    else:
        place = location.rstrip("/")
        scheme = next((scheme for scheme in dialect.schemes if place.startswith(scheme)), None)
        if scheme is None or not place.removeprefix(scheme).strip("/"):
            forms = " or ".join(f"{scheme}BUCKET/PREFIX" for scheme in dialect.schemes if scheme != LOCAL)
            raise UsageError(f"{dialect.name} cannot read {quoted(location)}: write {forms}")
    local = dialect.name == "duckdb" and place.startswith(LOCAL)
    wrong = (IN_LOCAL_DUCKDB if local else IN_LOCATION).sub("", place)
    wrong += "".join(letter for letter in place if unicodedata.category(letter) in NO_TEXT)
    if wrong:
        raise UsageError(
            f"the location {quoted(location)} has {wrong[0]!r} in it, which warehouses take for something else: "
            "write the output to a prefix of letters, digits and - _ . = /"
        )
    return place


def checked_schema(schema: str | None, dialect: Dialect) -> str:
    """The schema's name, with its catalogue where the warehouse needs one. Raises `UsageError`."""
    schema = schema or dialect.schema
    parts = schema.split(".")
    least, most = dialect.name_parts
    if not least <= len(parts) <= most:
        forms = " or ".join(("SCHEMA", "CATALOG.SCHEMA")[least - 1 : most])
        raise UsageError(f"the schema for {dialect.name} must be {forms}, not {quoted(schema)}")
    if dialect.plain_names and not all(PLAIN.fullmatch(part) for part in parts):
        raise UsageError(f"the schema for {dialect.name} must be of a-z, 0-9 and _, not {quoted(schema)}")
    return schema


def checked_access(access: str | None, dialect: Dialect, place: str) -> Sql:
    """How the warehouse reaches the bucket, as its statement says it, or nothing. Raises `UsageError`."""
    if access is not None and not dialect.takes_access:
        raise UsageError(f"{dialect.name} reaches the bucket by its own configuration: leave out --access")
    if dialect.name == "redshift":
        return dialect.literal(access) if access else Sql("default")
    if dialect.name == "snowflake":
        return dialect.qualified(access or "genretag")
    if dialect.name == "bigquery" and access is None and place.startswith("s3://"):
        raise UsageError(
            "bigquery reads s3:// through a connection only: add --access aws-us-east-1.NAME, or give the location as "
            "gs://BUCKET/PREFIX where it is a bucket of Google's"
        )
    return dialect.qualified(access) if access else Sql("")


def check_labels(labels: Sequence[str], dialect: Dialect) -> None:
    """Raises `UsageError` for a label that this warehouse cannot have as text or as a column."""
    for label, name in zip(labels, column_names(labels), strict=True):
        if any(unicodedata.category(letter) in NO_TEXT for letter in label):
            raise UsageError(f"label {quoted(label)} has a control character: rename it and train again")
        if len(f"is_{name}") > dialect.longest_name:
            raise UsageError(
                f"label {quoted(label)} would be a column of {len(f'is_{name}')} characters, and {dialect.name} takes "
                f"{dialect.longest_name}: shorten it and train again"
            )
