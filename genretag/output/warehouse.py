"""Differences between SQL warehouses: types, quoting, functions, and how each one reaches a bucket.

All warehouses read the types of the output: flat columns of bool, float, int32, int64, string, timestamp (UTC,
microseconds), and lists of string and float. This module checks all input that goes into statements: location, schema,
labels, and the role that reaches the bucket.
"""

import difflib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from genretag.data.labels import column_names
from genretag.errors import UsageError, quoted
from genretag.storage import resolve

PLAIN = re.compile(r"[a-z_][a-z0-9_]*")  # names that need no quotes in any warehouse
LIST = "list<item: string>"  # pyarrow's name for the type of `genres`, and of `labels` in the list form
FLOATS = "list<item: float>"  # of `probabilities` in the list form


class Sql(str):
    """SQL text that is safe in a statement: a dialect has quoted it, or it is part of this program.

    The templates of SQL files refuse to print a value that is not `Sql`.
    """

    __slots__ = ()


@dataclass(frozen=True)
class Dialect:
    """One warehouse: its types, its quoting, and what it allows.

    `days_between`, `array_length`, `array_contains` and `is_nan` are SQL templates for `str.format`. In them, and in
    `unnested`, `p` is the alias of the predictions table.
    """

    name: str
    types: Mapping[str, str]  # by the type's name in pyarrow
    days_between: str  # whole days from {first} to {last}
    array_length: str = ""
    array_contains: str = ""  # condition that the list contains {label}
    unnested: str = ""  # join of `p` with its lists: `s` has a row for each listed label
    listed: tuple[str, str] = ("s.genre", "s.probability")  # label and probability of a row of the join
    is_nan: str = "is_nan({column})"  # not a comparison: it may skip files, because file statistics lack NaN
    schemes: tuple[str, ...] = ("s3://",)
    schema: str = "genretag"
    name_parts: tuple[int, int] = (1, 2)  # least and most parts of a schema's name
    plain_names: bool = False  # refuse names that need quotes, because DDL and queries quote differently
    quote: str = '"'
    escapes: Mapping[str, str] = field(default_factory=lambda: {"'": "''"})  # inside '…'
    longest_name: int = 255  # characters of a column's name
    takes_access: bool = False
    has_lists: bool = True  # a list can be read like any other column
    tables_suffix: str = ""  # added to the schema of the tables, if views need another schema
    view_end: str = ""

    def literal(self, text: str) -> Sql:
        """Return any text as an SQL string literal."""
        return Sql("'" + "".join(self.escapes.get(letter, letter) for letter in text) + "'")

    def identifier(self, name: str) -> Sql:
        """Return a name as an SQL identifier, in quotes if it needs quotes."""
        return Sql(
            name if PLAIN.fullmatch(name) else self.quote + name.replace(self.quote, self.quote * 2) + self.quote
        )

    def qualified(self, *names: str) -> Sql:
        """Return names joined by dots as one SQL identifier. Each part between dots is in quotes if it needs quotes."""
        return Sql(".".join(self.identifier(part) for name in names for part in name.split(".")))


BACKSLASH = {"\\": "\\\\", "'": "\\'"}
LOCAL = "/"
# Databricks and Spark replace `${env:HOME}` and `{{name}}` even inside a literal.
SPARK = BACKSLASH | {"$": "\\u0024", "{": "\\u007b"}


def _types(
    text: str, lists: tuple[str, str], truth: str, real: str, double: str, ints: tuple[str, str], at: str
) -> dict[str, str]:
    """Return a dict from pyarrow's type names to the SQL types of a warehouse.

    Each argument is an SQL type: `lists` are those of a list of strings and of a list of float, `truth` is that of
    bool, `ints` are those of int32 and int64, and `at` is that of a timestamp.
    """
    (texts, reals), (integer, bigint) = lists, ints
    return {
        "string": text,
        LIST: texts,
        FLOATS: reals,
        "bool": truth,
        "float": real,
        "double": double,
        "int32": integer,
        "int64": bigint,
        "timestamp[us, tz=UTC]": at,
        "date32[day]": "date",
    }


NAN_AS_TEXT = "lower(cast({column} as varchar)) = 'nan'"  # for warehouses without a function for NaN
_INTS = ("integer", "bigint")
_HIVE = _types(
    "string", ("array<string>", "array<float>"), "boolean", "float", "double", ("int", "bigint"), "timestamp"
)
_ALL = (
    Dialect(
        name="duckdb",
        is_nan="isnan({column} + 0 * random())",  # isnan(column) is answered from statistics; a sum has none
        types=_types("varchar", ("varchar[]", "float[]"), "boolean", "float", "double", _INTS, "timestamptz"),
        array_length="len(p.genres)",
        array_contains="list_contains(p.genres, {label})",
        unnested="cross join lateral (select unnest(p.labels) as genre, unnest(p.probabilities) as probability) s",
        days_between="date_diff('day', {first}, {last})",
        schemes=("s3://", "gs://", "az://", "abfss://", LOCAL),
    ),
    Dialect(
        name="athena",
        types=_HIVE,
        name_parts=(1, 1),
        plain_names=True,
        array_length="cardinality(p.genres)",
        array_contains="contains(p.genres, {label})",
        unnested="cross join unnest(p.labels, p.probabilities) as s (genre, probability)",
        days_between="date_diff('day', {first}, {last})",
    ),
    Dialect(
        name="trino",
        types=_types("varchar", ("array(varchar)", "array(real)"), "boolean", "real", "double", _INTS, "timestamp"),
        schema="hive.genretag",
        name_parts=(2, 2),
        array_length="cardinality(p.genres)",
        array_contains="contains(p.genres, {label})",
        unnested="cross join unnest(p.labels, p.probabilities) as s (genre, probability)",
        days_between="date_diff('day', {first}, {last})",
        schemes=("s3://", "gs://", "abfss://"),
    ),
    Dialect(
        name="bigquery",
        types=_types(
            "string", ("array<string>", "array<float64>"), "bool", "float64", "float64", ("int64", "int64"), "timestamp"
        ),
        array_length="array_length(p.genres)",
        array_contains="{label} in unnest(p.genres)",
        unnested="cross join unnest(p.labels) as genre with offset as place",
        listed=("genre", "p.probabilities[offset(place)]"),
        days_between="date_diff({last}, {first}, day)",
        schemes=("gs://", "s3://"),
        quote="`",
        escapes=BACKSLASH,
        takes_access=True,
    ),
    Dialect(
        name="snowflake",
        is_nan=NAN_AS_TEXT,
        types=_types("varchar", ("array", "array"), "boolean", "float", "double", _INTS, "timestamp_ntz"),
        array_length="array_size(p.genres)",
        array_contains="array_contains({label}::variant, p.genres)",
        unnested=", lateral flatten(input => p.labels) s",
        listed=("s.value::varchar", "p.probabilities[s.index]::double"),
        days_between="datediff(day, {first}, {last})",
        schemes=("s3://", "gs://", "abfss://"),
        escapes={"\\": "\\\\", "'": "''"},
        takes_access=True,
    ),
    Dialect(
        name="redshift",
        is_nan=NAN_AS_TEXT,
        # Redshift cuts longer text without an error; an S3 key has at most 1,024 bytes
        types=_types(
            "varchar(4096)",
            ("array<varchar(4096)>", "array<real>"),
            "boolean",
            "real",
            "double precision",
            _INTS,
            "timestamp",
        ),
        days_between="datediff(day, {first}, {last})",
        escapes={"\\": "\\\\", "'": "''"},
        longest_name=127,
        takes_access=True,
        name_parts=(1, 1),
        has_lists=False,
        tables_suffix="_files",
        view_end=" with no schema binding",
    ),
    Dialect(
        name="databricks",
        is_nan="isnan({column})",
        types=_HIVE,
        array_length="size(p.genres)",
        array_contains="array_contains(p.genres, {label})",
        unnested="lateral view posexplode(p.labels) s as place, genre",
        listed=("s.genre", "p.probabilities[s.place]"),
        days_between="datediff({last}, {first})",
        schemes=("s3://", "s3a://", "gs://", "abfss://", LOCAL),
        quote="`",
        escapes=SPARK,
    ),
)
DIALECTS = {dialect.name: dialect for dialect in _ALL}
OTHER_NAMES = {"spark": "databricks", "presto": "trino", "spectrum": "redshift", "bq": "bigquery", "glue": "athena"}


def dialect_named(name: str) -> Dialect:
    """Return the SQL dialect `name`. If it is unknown, raise `UsageError` with a message that suggests a name."""
    if name in DIALECTS:
        return DIALECTS[name]
    close = difflib.get_close_matches(name.lower(), [*DIALECTS, *OTHER_NAMES], n=1)
    hint = (
        f"did you mean {OTHER_NAMES.get(close[0], close[0])}?" if close else f"known are {', '.join(sorted(DIALECTS))}"
    )
    raise UsageError(f"there is no dialect {quoted(name)}: {hint}")


# No quote, backslash, wildcard, percent, dollar or brace: these have a meaning in SQL, globs or URIs.
IN_LOCATION = re.compile(r"[\w!.()=+@:,~ /-]+")
# DuckDB reads a local path as written, except that a backslash becomes a slash.
IN_LOCAL_DUCKDB = re.compile(r"[^\\]+")
NO_TEXT = ("Cc", "Cs", "Zl", "Zp")  # categories of characters that some warehouses refuse in a literal


def checked_location(location: str, dialect: Dialect) -> str:
    """Return the location of the output for SQL: without a slash at its end, and absolute if it is a local path.

    Raises `UsageError` if the warehouse cannot read such a location, or if a character has a special meaning in SQL,
    wildcards or URIs.
    """
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


def bucket_url(place: str) -> str:
    """Return the location of an output as Snowflake writes it: `gcs://` for `gs://`, and `azure://` for Azure."""
    scheme, _, rest = place.partition("://")
    if scheme == "abfss":
        bucket, _, path = rest.partition("/")
        container, _, host = bucket.partition("@")
        return f"azure://{host.replace('.dfs.', '.blob.', 1)}/{container}/{path}".rstrip("/")
    return f"gcs://{rest}" if scheme == "gs" else place


def checked_schema(schema: str | None, dialect: Dialect) -> str:
    """Return the schema's name, with its catalogue if the warehouse needs one; None means the warehouse's default.

    Raises `UsageError` if the name has too few or too many parts, or needs quotes that the warehouse does not allow.
    """
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
    """Return the SQL name of the role, integration or connection by which the warehouse reaches the bucket.

    `access` is the option `--access`, or None, and `place` is the checked location. If the warehouse needs no such
    name, the result is empty. Raises `UsageError` if `--access` is missing, or given but not accepted.
    """
    if access is not None and not dialect.takes_access:
        raise UsageError(f"{dialect.name} reaches the bucket by its own configuration: leave out --access")
    if dialect.name == "redshift":
        return dialect.literal(access) if access else Sql("default")
    if dialect.name == "snowflake":
        return dialect.qualified(access or "genretag")
    if dialect.name == "bigquery" and access is None and place.startswith("s3://"):
        raise UsageError(
            "bigquery reads s3:// through a connection only: add --access aws-us-east-1.NAME, or give the location as "
            "gs://BUCKET/PREFIX if the bucket is in Google Cloud Storage"
        )
    return dialect.qualified(access) if access else Sql("")


def check_labels(labels: Sequence[str], dialect: Dialect, *, lists: bool) -> None:
    """Raise `UsageError` if a label has a control character, or a column name that is too long for the warehouse.

    If `lists` is true (the list form), labels are no columns, but the warehouse must be able to read lists.
    """
    if lists:
        if not dialect.has_lists:
            raise UsageError(f"{dialect.name} cannot read lists of labels: tag with --form columns")
        return
    for label, name in zip(labels, column_names(labels), strict=True):
        if any(unicodedata.category(letter) in NO_TEXT for letter in label):
            raise UsageError(f"label {quoted(label)} has a control character: rename it and train again")
        if len(f"is_{name}") > dialect.longest_name:
            raise UsageError(
                f"label {quoted(label)} would be a column of {len(f'is_{name}')} characters, and {dialect.name} takes "
                f"{dialect.longest_name}: shorten it and train again"
            )


@dataclass(frozen=True)
class Column:
    """A column of a table in the warehouse: its name, its SQL type, and whether it may be null."""

    name: Sql
    type: Sql
    nullable: bool
