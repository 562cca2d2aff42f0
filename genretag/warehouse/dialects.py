"""What the warehouses say differently: types, quoting, three functions, and how they reach a bucket.

The output has only types that all of them read from Parquet: flat columns of bool, float, int32, int64, string,
timestamp (UTC, microseconds), and one list of string.
"""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from genretag.errors import UsageError, quoted

PLAIN = re.compile(r"[a-z_][a-z0-9_]*")  # names that no warehouse folds or wants quoted
LIST = "list<item: string>"  # the one list of the output, as pyarrow names its type


class Sql(str):
    """Text that may stand in a statement as it is: quoted by a dialect, or ours. The templates print nothing else."""

    __slots__ = ()


@dataclass(frozen=True)
class Dialect:
    """One warehouse. The functions are templates for `str.format`; `p` is the table's name in them."""

    name: str
    types: Mapping[str, str]  # by the type's name in pyarrow
    days_between: str  # whole days from {first} to {last}
    array_length: str = ""
    array_contains: str = ""  # of {label}
    is_nan: str = "is_nan({column})"  # a comparison would not do: statistics of files leave NaN out, and it skips files
    schemes: tuple[str, ...] = ("s3://",)
    schema: str = "genretag"
    name_parts: tuple[int, int] = (1, 2)  # at least and at most, of a schema's name
    plain_names: bool = False  # names that need quotes are refused: DDL and queries quote differently
    quote: str = '"'
    escapes: Mapping[str, str] = field(default_factory=lambda: {"'": "''"})  # inside '…'
    longest_name: int = 255  # characters of a column's name
    takes_access: bool = False
    has_lists: bool = True  # that can be read as other columns are
    tables_suffix: str = ""  # of the schema of tables, where views cannot be in the same
    view_end: str = ""

    def literal(self, text: str) -> Sql:
        """Foreign text as a string literal."""
        return Sql("'" + "".join(self.escapes.get(letter, letter) for letter in text) + "'")

    def identifier(self, name: str) -> Sql:
        """A name, quoted where it must be."""
        return Sql(
            name if PLAIN.fullmatch(name) else self.quote + name.replace(self.quote, self.quote * 2) + self.quote
        )

    def qualified(self, *names: str) -> Sql:
        """Names with dots between them."""
        return Sql(".".join(self.identifier(part) for name in names for part in name.split(".")))


BACKSLASH = {"\\": "\\\\", "'": "\\'"}
LOCAL = "/"
# In Databricks and Spark `${env:HOME}` and `{{name}}` are replaced even inside a literal.
SPARK = BACKSLASH | {"$": "\\u0024", "{": "\\u007b"}


def _types(text: str, texts: str, truth: str, real: str, double: str, ints: tuple[str, str], at: str) -> dict[str, str]:
    integer, bigint = ints
    return {
        "string": text,
        LIST: texts,
        "bool": truth,
        "float": real,
        "double": double,
        "int32": integer,
        "int64": bigint,
        "timestamp[us, tz=UTC]": at,
        "date32[day]": "date",
    }


NAN_AS_TEXT = "lower(cast({column} as varchar)) = 'nan'"  # where there is no function for it
_INTS = ("integer", "bigint")
_ALL = (
    Dialect(
        name="duckdb",
        is_nan="isnan({column} + 0 * random())",  # it answers isnan(column) by the statistics; for this it has none
        types=_types("varchar", "varchar[]", "boolean", "float", "double", _INTS, "timestamptz"),
        array_length="len(p.genres)",
        array_contains="list_contains(p.genres, {label})",
        days_between="date_diff('day', {first}, {last})",
        schemes=("s3://", LOCAL),
    ),
    Dialect(
        name="athena",
        types=_types("string", "array<string>", "boolean", "float", "double", ("int", "bigint"), "timestamp"),
        name_parts=(1, 1),
        plain_names=True,
        array_length="cardinality(p.genres)",
        array_contains="contains(p.genres, {label})",
        days_between="date_diff('day', {first}, {last})",
    ),
    Dialect(
        name="trino",
        types=_types("varchar", "array(varchar)", "boolean", "real", "double", _INTS, "timestamp"),
        schema="hive.genretag",
        name_parts=(2, 2),
        array_length="cardinality(p.genres)",
        array_contains="contains(p.genres, {label})",
        days_between="date_diff('day', {first}, {last})",
    ),
    Dialect(
        name="bigquery",
        types=_types("string", "array<string>", "bool", "float64", "float64", ("int64", "int64"), "timestamp"),
        array_length="array_length(p.genres)",
        array_contains="{label} in unnest(p.genres)",
        days_between="date_diff({last}, {first}, day)",
        schemes=("gs://", "s3://"),
        quote="`",
        escapes=BACKSLASH,
        takes_access=True,
    ),
    Dialect(
        name="snowflake",
        is_nan=NAN_AS_TEXT,
        types=_types("varchar", "array", "boolean", "float", "double", _INTS, "timestamp_ntz"),
        array_length="array_size(p.genres)",
        array_contains="array_contains({label}::variant, p.genres)",
        days_between="datediff(day, {first}, {last})",
        escapes={"\\": "\\\\", "'": "''"},
        takes_access=True,
    ),
    Dialect(
        name="redshift",
        is_nan=NAN_AS_TEXT,
        # cut to size without a word where longer: an S3 key has at most 1,024 bytes
        types=_types(
            "varchar(4096)", "array<varchar(4096)>", "boolean", "real", "double precision", _INTS, "timestamp"
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
        types=_types("string", "array<string>", "boolean", "float", "double", ("int", "bigint"), "timestamp"),
        array_length="size(p.genres)",
        array_contains="array_contains(p.genres, {label})",
        days_between="datediff({last}, {first})",
        schemes=("s3://", "s3a://", LOCAL),
        quote="`",
        escapes=SPARK,
    ),
)
DIALECTS = {dialect.name: dialect for dialect in _ALL}
OTHER_NAMES = {"spark": "databricks", "presto": "trino", "spectrum": "redshift", "bq": "bigquery", "glue": "athena"}


def dialect_named(name: str) -> Dialect:
    """The dialect of that name. Raises `UsageError` for one that there is not, with the nearest."""
    if name in DIALECTS:
        return DIALECTS[name]
    close = difflib.get_close_matches(name.lower(), [*DIALECTS, *OTHER_NAMES], n=1)
    hint = (
        f"did you mean {OTHER_NAMES.get(close[0], close[0])}?" if close else f"known are {', '.join(sorted(DIALECTS))}"
    )
    raise UsageError(f"there is no dialect {quoted(name)}: {hint}")
