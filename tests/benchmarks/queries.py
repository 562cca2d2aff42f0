"""Time the SQL of `genretag warehouse --dialect duckdb` after 10 and after 400 nights of 500 posters.

    python tests/benchmarks/queries.py [--nights 10 400] [--rounds 5]

One night of drawn posters is tagged. The part files of the other nights have its rows under other names. The first line
of the table is the time of whole processes: `genretag warehouse`, and Python with DuckDB. Then one process runs the
other steps in turn, each once. The table has the least of the rounds.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from datetime import date, timedelta
from pathlib import Path

FIRST = date(2025, 10, 1)
POSTERS = 500
QUERY = (
    "select count(*), max(dt) from genretag.predictions; "
    "select unnest(genres) as genre, count(*) from genretag.predictions group by 1"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nights", type=int, nargs="+", default=[10, 400])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=Path, help=argparse.SUPPRESS)  # run the steps once, for this output
    options = parser.parse_args()
    if options.steps:
        print(json.dumps(_steps(options.steps)))
        return
    found = []
    with tempfile.TemporaryDirectory(prefix="queries-") as folder:
        night = _tagged(Path(folder))
        for nights in options.nights:
            output = Path(folder) / f"genres-{nights}"
            _copy(night, output, nights)
            rounds = [_round(output) for _ in range(options.rounds)]
            found.append({step: min(one[step] for one in rounds) for step in rounds[0]})
    print("| what | " + " | ".join(f"after {nights} nights, s" for nights in options.nights) + " |")
    print("|---|" + "---|" * len(options.nights))
    for step in found[0]:
        print(f"| {step} | " + " | ".join(f"{one[step]:.2f}" for one in found) + " |")


def _tagged(folder: Path) -> Path:
    """Tag a night of drawn posters, and return its part file."""
    from genretag.commands.bench import drawn_folder

    drawn_folder(folder / "posters", POSTERS)
    genretag("tag", folder / "posters", folder / "one")
    (file,) = (folder / "one" / "predictions").rglob("*.parquet")
    return file


def _copy(night: Path, output: Path, nights: int) -> None:
    """Write as many nights as asked into an output, each with the rows of one night under other names."""
    import pyarrow as pa
    from pyarrow import parquet

    from genretag.output.schema import writer_options

    rows = parquet.read_table(night, partitioning=None)
    names = rows["poster_id"].to_pylist()
    for number in range(nights):
        keys = pa.array([f"/posters/{number:03d}/{name}.jpg" for name in names])
        for name in ("poster_id", "uri"):
            rows = rows.set_column(rows.schema.get_field_index(name), rows.schema.field(name), keys)
        folder = output / "predictions" / f"dt={FIRST + timedelta(days=number)}"
        folder.mkdir(parents=True)
        parquet.write_table(rows, folder / f"part-{number:05d}.parquet", **writer_options(rows.schema))


def _round(output: Path) -> dict[str, float]:
    """Return the seconds of `views_and_query`, and of each step in a new process."""
    whole = views_and_query(output)
    done = subprocess.run([sys.executable, __file__, "--steps", output], check=True, capture_output=True, text=True)
    return {"warehouse views and a query, with start": whole} | json.loads(done.stdout)


def genretag(*arguments: object) -> float:
    """Run a command as a process, and return the seconds it took."""
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "genretag.cli", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{arguments} ended with {done.returncode}: {done.stderr[-3000:]}")
    return time.monotonic() - started


def views_and_query(output: Path) -> float:
    """Make the views of an output in DuckDB and run `QUERY`, and return the seconds with the start of each process."""
    with tempfile.TemporaryDirectory() as sql:
        asked = [sys.executable, "-c", "import duckdb, sys; print(duckdb.sql(sys.stdin.read()))"]
        started = time.monotonic()
        genretag("warehouse", "--dialect", "duckdb", "--location", output, "--output", sql)
        views = "".join(Path(sql, name).read_text() for name in ("tables.sql", "views.sql"))
        subprocess.run(asked, input=f"{views}\n{QUERY}", check=True, capture_output=True, text=True)
        return time.monotonic() - started


def _steps(output: Path) -> dict[str, float]:
    """Return the seconds that each step takes in DuckDB."""
    import duckdb

    from genretag.commands.warehouse import generate
    from genretag.model.bundle import DEFAULT_BUNDLE, load_bundle
    from genretag.storage import Storage

    files = generate(load_bundle(str(DEFAULT_BUNDLE), Storage()).labels, "duckdb", str(output))
    checks, found = duckdb.extract_statements(files["checks.sql"])
    shares, drift, uncertain, together, of_a_genre, failed = duckdb.extract_statements(files["queries.sql"])
    steps = {
        "tables and views": files["tables.sql"] + files["views.sql"] + checks.query,
        "number of rows, and rows by genre": QUERY,
        "`data_quality`": found.query,
        "share of each genre by night": shares.query,
        "drift between models": drift.query,
        "most uncertain posters": uncertain.query,
        "genres that occur together": together.query,
        "posters of a genre": of_a_genre.query,
        "why posters failed": failed.query,
    }
    seconds = {}
    for step, statements in steps.items():
        started = time.monotonic()
        duckdb.execute(statements).fetchall()
        seconds[step] = time.monotonic() - started
    return seconds


if __name__ == "__main__":
    main()
