"""What a manifest's `uri` column may say, and the URIs that it means.

An `s3://` URI and an absolute path stay exactly as they are. All else is relative to the manifest. What the command
line would refuse is refused here too, before anything is scored: as a relative path it would only be not found.
"""

import duckdb

from genretag.errors import UsageError
from genretag.storage import S3

_SCHEME = r"^([A-Za-z][A-Za-z0-9+.-]*:)(/|\\|image/)"  # gs://, file:/, C:\, data:image/
_REFUSED = (  # SQL that is true for what cannot be meant, and what to say; the first that is true counts
    ("coalesce(trim({0}), '') in ('', '.', './')", "names no object"),
    ("contains({0}, chr(0))", "has a zero byte"),
    (rf"regexp_matches({{0}}, '^{S3}(/|[^/]*/*$)')", "names no object: write s3://BUCKET/KEY"),
    (rf"not starts_with({{0}}, '{S3}') and regexp_matches({{0}}, '{_SCHEME}')", "{hint}"),
    (r"starts_with({0}, '\\')", "is a Windows path: only local paths and s3:// can be read"),
)
_HINTS = {
    "s3a:": "write s3:// instead of s3a://",
    "s3n:": "write s3:// instead of s3n://",
    "s3:": "write s3:// in small letters",
    "file:": "write the path alone, without file://",
}
_SPACES = "regexp_matches({0}, '^\\s|\\s$')"


def require_uris(rows: duckdb.DuckDBPyRelation, column: str, source: str, *, exact: bool) -> None:
    """Raise `UsageError` for the first row whose URI cannot be meant. `column` is SQL.

    In a CSV (not `exact`) nobody can tell whether spaces at the ends of a relative path or a key belong to it.
    """
    value = _without_spaces_before(column)
    checks = [(check.format(value), says) for check, says in _REFUSED]
    if not exact:
        checks.append((_SPACES.format(value), "has spaces at its ends: remove them, or use Parquet if they are meant"))
    cases = " ".join(f"when {check} then {number}" for number, (check, _) in enumerate(checks))
    numbered = rows.select(f"row_number() over () as n, {column} as uri, case {cases} end as wrong")
    found = numbered.filter("wrong is not null").aggregate("count(*), min(n), arg_min(uri, n), arg_min(wrong, n)")
    count, row, uri, wrong = found.fetchall()[0]
    if not count:
        return
    says = checks[wrong][1].format(hint=_hint(uri))
    others = f" ({count - 1:,} other rows are no better)" if count > 1 else ""
    raise UsageError(f"the manifest {source}: row {row}, {repr(uri or '')[:200]}, {says}{others}")


def resolved(column: str, folder: str) -> str:
    """SQL for the URIs that a column means; relative ones are below `folder`, an SQL text."""
    value = _without_spaces_before(column)
    relative = rf"regexp_replace({value}, '^(\./+)+', '')"
    is_whole = f"starts_with({value}, '{S3}') or starts_with({value}, '/')"
    return f"case when {is_whole} then {value} else {folder} || {relative} end"


def _without_spaces_before(column: str) -> str:
    return rf"regexp_replace({column}, '^\s+({S3}|/)', '\1')"


def _hint(uri: str | None) -> str:
    scheme = (uri or "").strip().split(":")[0]
    hint = _HINTS.get(f"{scheme.lower()}:", "")
    return f"has the scheme {scheme}:, and only local paths and s3:// can be read" + (f": {hint}" if hint else "")
