"""Write outputs with chosen rows, and run the generated DuckDB SQL on them."""

import io
from datetime import UTC, date, datetime

import duckdb
import pyarrow as pa
import pyarrow.parquet

from genretag.commands.warehouse import generate
from genretag.output.schema import Run, failures_table, predictions_table
from genretag.storage import Storage, join

LABELS = ("Drama", "Comedy", "Sci-Fi")
HOSTILE = (
    "O'Hara'); drop table x; --",
    "back\\slash\\",
    '"quoted"',
    "`tick` /* x",
    "${env:HOME}{{ 1/0 }} 100%",
    "学 a",
)


def night(dt, model="model1", labels=LABELS):
    """Return a run on the day `dt`. The model version is part of its id."""
    return Run(f"{dt:%Y%m%d}T010203Z-{model}", dt, model, labels, "balanced", tuple(0.5 for _ in labels))


def scored(output, of, posters, hour=1):
    """Write a part file of predictions. `posters` are tuples of uri, etag and probabilities.

    `hour` is the hour of scoring, and numbers the file.
    """
    uris, etags, probabilities = zip(*posters, strict=True)
    width = len(of.labels)
    values = pa.array([value for row in probabilities for value in row], pa.float32())
    rows = pa.table(
        {
            **_who(of, uris, etags, hour),
            "probabilities": pa.FixedSizeListArray.from_arrays(values, width),
            "width": pa.array([100] * len(uris), pa.int32()),
            "height": pa.array([150] * len(uris), pa.int32()),
        }
    )
    return put(output, "predictions", of, hour, predictions_table(rows, of))


def failed(output, of, posters, hour=1):
    """Write a part file of failures. `posters` are tuples of uri, etag and reason.

    `hour` is the hour of the failure, and numbers the file.
    """
    uris, etags, reasons = zip(*posters, strict=True)
    words = {"stage": ["decode"] * len(uris), "reason": list(reasons), "message": ["says why"] * len(uris)}
    rows = pa.table({**_who(of, uris, etags, hour), "size": pa.array([7] * len(uris), pa.int64()), **words})
    return put(output, "failures", of, hour, failures_table(rows, of))


def write_some_nights(output):
    """Write three nights with two models, a changed poster, a row that is there twice, and failures."""
    first, second, third = night(date(2026, 11, 20)), night(date(2026, 11, 21)), night(date(2026, 11, 24), "model2")
    values = {"a": (0.9, 0.2, 0.1), "b": (0.6, 0.7, 0.4), "c": (0.1, 0.2, 0.9)}
    posters = [(f"s3://p/{name}.jpg", "1", probabilities) for name, probabilities in values.items()]
    scored(output, first, posters)
    scored(output, second, [("s3://p/a.jpg", "2", (0.2, 0.8, 0.7)), posters[1]])
    scored(output, third, [("s3://p/a.jpg", "2", (0.7, 0.8, 0.2)), ("s3://p/b.jpg", "1", (0.3, 0.3, 0.4))])
    failed(output, second, [(f"s3://p/broken-{n}.jpg", "1", "truncated") for n in range(12)])
    failed(output, third, [("s3://p/c.jpg", "2", "empty"), ("s3://p/d.jpg", "1", "empty")])


def put(output, kind, of, number, table):
    """Write a table as a part file with the name that the job would choose, and return the URI."""
    uri = join(str(output), kind, f"dt={of.dt}", f"part-{of.run_id}-{number:05d}.parquet")
    file = io.BytesIO()
    pyarrow.parquet.write_table(table, file, compression="zstd")
    Storage().put(uri, file.getvalue())
    return uri


def _who(of, uris, etags, hour):
    at = datetime(of.dt.year, of.dt.month, of.dt.day, hour, tzinfo=UTC)
    return {
        "poster_id": [uri.rpartition("/")[2] for uri in uris],
        "uri": list(uris),
        "etag": list(etags),
        "at": pa.array([at] * len(uris), pa.timestamp("us", "UTC")),
    }


def opened(output, labels=LABELS, storage=None, settings=None):
    """Return a DuckDB with the generated tables, views and checks of an output."""
    database = duckdb.connect()
    database.execute("set timezone = 'UTC'")
    if storage is not None:
        database.register_filesystem(storage.filesystem(str(output))[0])
    files = generate(labels, "duckdb", str(output), settings)
    for name in ("tables", "views", "checks"):
        database.execute(files[f"{name}.sql"]).fetchall()
    return database


def query_results(database, labels=LABELS, settings=None):
    """Return the rows of each query in queries.sql, in the order of the file."""
    statements = database.extract_statements(generate(labels, "duckdb", "/any/where", settings)["queries.sql"])
    return [database.execute(statement).fetchall() for statement in statements]


def findings(database):
    """Return the rows of the view `data_quality`, except missing nights after the newest night."""
    return database.sql(
        "select check_name, dt::varchar, found, detail from genretag.data_quality "
        "where check_name <> 'missing_nights' or dt < (select max(dt) from genretag.nights) order by all"
    ).fetchall()
